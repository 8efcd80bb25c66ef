"""Accuracy at equal cost: against sampled tokens, scored tokens and seconds of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures.axes import COLOURS, LINES, new_figure, points
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study
from benchmarks.store.stats import Estimate

MODEL = experiments.BUDGET_MODEL
MARKERS = dict(zip(experiments.BUDGET_METHODS, ("o", "^", "s", "D"), strict=True))
Cost = Callable[[Sequence[Run]], list[float]]  # of each run that has it


def last_values(runs: Sequence[Run], metric: str) -> list[float]:
    """The value of ``metric`` at each run's last step; a run without it is left out."""
    return [float(r.metrics[metric][-1]) for r in runs if metric in r.metrics]


COSTS: dict[str, Cost] = {
    "sampled tokens, thousands": lambda runs: [run.sampled_tokens / 1000 for run in runs],
    "scored tokens, thousands": lambda runs: [
        tokens / 1000 for tokens in last_values(runs, "scored_tokens")
    ],
    "training time, s": lambda runs: [run.train_seconds for run in runs],
}


def keys(study: Study, method: str) -> list[str]:
    """The method at every budget, the study's own among them, in the order of steps."""
    own = [(experiments.budget_method(method, steps), steps) for steps in experiments.BUDGETS]
    runs = study.runs_of(MODEL, method, scored=False)
    steps = runs[0].num_steps if runs else 28  # only the order depends on it
    return [key for key, _ in sorted([*own, (method, steps)], key=lambda pair: pair[1])]


def needs(study: Study) -> list[Need]:
    """Every method at every budget; none where the study does not plan the experiment."""
    first = experiments.budget_method(experiments.BUDGET_METHODS[0], experiments.BUDGETS[0])
    if not study.cells_of(MODEL, first):
        return []
    return [(MODEL, key) for method in experiments.BUDGET_METHODS for key in keys(study, method)]


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, len(COSTS), width=10.5, height=3.4)
    for axis, (label, cost) in zip(axes[0], COSTS.items(), strict=True):
        axis.set_xscale("log")
        axis.set_xlabel(f"{label} (log scale)")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 6.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        spent = [x for m in experiments.BUDGET_METHODS for x in _draw(axis, study, m, cost)]
        if len(set(spent)) < 2:  # a log axis of one place has no limits of its own
            place = max(spent, default=0.0) or 30.0
            axis.set_xlim(place / 2, place * 2)
    axes[0, 0].set_ylabel("average accuracy, %")
    axes[0, 0].legend(loc="best")
    return drawn


def _draw(axis: Axes, study: Study, method: str, cost: Cost) -> list[float]:
    """Draw one method; the costs of its points."""
    planned = keys(study, method)
    found = [point for key in planned if (point := at_cost(study, key, cost))]
    spent, intervals = [x for x, _ in found], [i for _, i in found]
    look = {"color": COLOURS[method], "linestyle": LINES[method], "marker": MARKERS[method]}
    axis.plot(spent, [i.mean for i in intervals], **look)
    for x, interval in found:
        points(axis, [x], [interval], capsize=2.5, elinewidth=1.0, color=look["color"])
    state = "" if len(found) == len(planned) else " (partly not run)" if found else " (not run)"
    axis.plot([], [], label=study.method_label(method) + state, **look)
    return spent


def at_cost(study: Study, key: str, cost: Cost) -> tuple[float, Estimate] | None:
    """Mean cost and accuracy over the first seeds, or None where a run lacks either."""
    seeds = estimates.common_seeds(study, MODEL, [key])[: experiments.SEEDS]
    score = estimates.accuracy(study, MODEL, key, AVERAGE, seeds) if seeds else None
    runs = estimates.select(study.runs_of(MODEL, key, scored=True), seeds)
    spent = cost(runs)
    if score is None or len(spent) != len(runs):
        return None
    return float(np.mean(spent)), score.interval


def caption(study: Study) -> str:
    steps = ", ".join(str(n) for n in experiments.BUDGETS)
    return (
        f"Accuracy at equal cost ({study.profile} profile, {study.model(MODEL).label}): the same "
        f"methods trained for {steps} steps and the study's own number, {experiments.SEEDS} seeds, "
        f"95% intervals over seeds and problems. Sampled tokens: everything drawn in training, "
        f"guided samples included. Scored tokens: completion tokens that went through a pass of "
        f"the network for a loss or a choice; SGPO's teacher passes and its ranking of Eq. 4 "
        f"count. Training time is that of the machine of the runs with as many runs at a time as "
        f"its launch had; warm-up and evaluation are not in it. Learning rates are those tuned at "
        f"the study's own number of steps. Made by: {study.command('equal_cost')}"
    )


EQUAL_COST = Artefact(
    "equal_cost",
    "Past the paper: accuracy at equal cost",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Average accuracy of four methods against sampled tokens, scored tokens and training time "
    "at four budgets",
    extended=True,
)
