"""Accuracy at equal cost: against sampled tokens, scored tokens and seconds of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.report import estimates
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures import style
from benchmarks.report.figures.lines import arms, last_values
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study

NAME = "equal_cost"
TITLE = "Past the paper: accuracy at equal cost"
USES = "scores"
MODEL = experiments.BUDGET_MODEL
MARKERS = dict(zip(experiments.BUDGET_METHODS, ("o", "^", "s", "D"), strict=True))


def _sampled(runs: tuple[Run, ...]) -> list[float]:
    return [run.sampled_tokens / 1000 for run in runs]


def _scored(runs: tuple[Run, ...]) -> list[float]:
    return [tokens / 1000 for tokens in last_values(runs, "scored_tokens")]


def _seconds(runs: tuple[Run, ...]) -> list[float]:
    return [run.train_seconds for run in runs]


PANELS: tuple[tuple[str, Callable[[tuple[Run, ...]], list[float]]], ...] = (
    ("sampled tokens, thousands", _sampled),
    ("scored tokens, thousands", _scored),
    ("training time, s", _seconds),
)


def keys(study: Study, method: str) -> list[str]:
    """The method at every budget, the study's own among them, in the order of steps."""
    own = [(experiments.budget_method(method, steps), steps) for steps in experiments.BUDGETS]
    runs = study.runs_of(MODEL, method, scored=False)
    steps = runs[0].num_steps if runs else 28  # only the order depends on it
    return [key for key, _ in sorted([*own, (method, steps)], key=lambda pair: pair[1])]


def needs(study: Study) -> list[tuple[str, str]]:
    """Every method at every budget; none where the study does not plan the experiment."""
    first = experiments.budget_method(experiments.BUDGET_METHODS[0], experiments.BUDGETS[0])
    if not study.cells_of(MODEL, first):
        return []
    return [(MODEL, key) for method in experiments.BUDGET_METHODS for key in keys(study, method)]


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/equal_cost.{png,pdf}."""
    figure, axes = style.new_figure(1, len(PANELS), width=10.5, height=3.4)
    for column, (label, cost) in enumerate(PANELS):
        axis = axes[0, column]
        axis.set_xscale("log")
        axis.set_xlabel(f"{label} (log scale)")
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 6.0)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        costs = [x for m in experiments.BUDGET_METHODS for x in _draw(axis, study, m, cost)]
        if len(set(costs)) < 2:  # a log axis of one place has no limits of its own
            place = max(costs, default=0.0) or 30.0
            axis.set_xlim(place / 2, place * 2)
        if column == 0:
            axis.set_ylabel("average accuracy, %")
            axis.legend(loc="best")
    return style.save(figure, out_dir / "figures" / NAME)


def _draw(axis, study: Study, method: str, cost: Callable) -> list[float]:
    """Draw one method; the costs of its points."""
    look = {"color": style.COLOURS[method], "linestyle": style.LINES[method]}
    label, points = study.method_label(method), []
    for key in keys(study, method):
        point = _point(study, key, cost)
        if point:
            points.append(point)
    state = "" if len(points) == len(keys(study, method)) else " (partly not run)"
    marker = MARKERS[method]
    axis.plot([x for x, _ in points], [i.mean for _, i in points], marker=marker, **look)
    for x, interval in points:
        axis.errorbar([x], [interval.mean], yerr=arms(interval), capsize=2.5, elinewidth=1.0,
                      color=look["color"], linestyle="none")  # fmt: skip
    axis.plot([], [], label=label + (state if points else " (not run)"), marker=marker, **look)
    return [x for x, _ in points]


def _point(study: Study, key: str, cost: Callable):
    """(mean cost, accuracy interval) over the first seeds, or None."""
    seeds = estimates.common_seeds(study, MODEL, [key])[: experiments.SEEDS]
    score = estimates.accuracy(study, MODEL, key, AVERAGE, seeds) if seeds else None
    runs = estimates.select(study.runs_of(MODEL, key, scored=True), seeds)
    spent = cost(runs)
    if score is None or len(spent) != len(runs):
        return None
    return float(np.mean(spent)), score.interval


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Average accuracy of four methods against sampled tokens, scored tokens and "
            "training time at four budgets",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    steps = ", ".join(str(n) for n in experiments.BUDGETS)
    return (
        f"Accuracy at equal cost ({study.profile} profile, {_label(study)}): the same methods "
        f"trained for {steps} steps and the study's own number, {experiments.SEEDS} seeds, 95% "
        f"intervals over seeds and problems. Sampled tokens: everything drawn in training, guided "
        f"samples included. Scored tokens: completion tokens that went through a pass of the "
        f"network for a loss or a choice; SGPO's teacher passes and its ranking of Eq. 4 count. "
        f"Training time is that of the machine of the runs with as many runs at a time as its "
        f"launch had; warm-up and evaluation are not in it. Learning rates are those tuned at the "
        f"study's own number of steps. Made by: {study.command(NAME)}"
    )


def _label(study: Study) -> str:
    return next((m.label for m in study.models if m.key == MODEL), MODEL)
