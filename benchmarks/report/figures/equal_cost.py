"""Accuracy against the budget, and SGPO's difference to each other method at the same budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import absent, legend, look, marks, new_figure, points, zero
from benchmarks.report.tables.accuracy import REFERENCE
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study

MODEL = experiments.BUDGET_MODEL
METHODS = experiments.BUDGET_METHODS
OWN_STEPS = 28  # of the study's runs, where there is none to ask


def last_values(runs: Sequence[Run], metric: str) -> list[float]:
    """The value of ``metric`` at each run's last step; a run without it is left out."""
    return [float(r.metrics[metric][-1]) for r in runs if metric in r.metrics]


def budgets(study: Study) -> list[int]:
    """Numbers of steps that the methods were trained for, the study's own among them."""
    runs = study.runs_of(MODEL, REFERENCE, scored=False)
    return sorted({*experiments.BUDGETS, runs[0].num_steps if runs else OWN_STEPS})


def key_at(method: str, steps: int) -> str:
    """Key of the method at a budget: its own key at the study's own."""
    return experiments.budget_method(method, steps) if steps in experiments.BUDGETS else method


def keys(study: Study, method: str) -> list[str]:
    """The method at every budget in the order of steps."""
    return [key_at(method, steps) for steps in budgets(study)]


def needs(study: Study) -> list[Need]:
    """Every method at every budget; none where the study does not plan the experiment."""
    if not study.cells_of(MODEL, key_at(METHODS[0], experiments.BUDGETS[0])):
        return []
    return [(MODEL, key) for method in METHODS for key in keys(study, method)]


def score(study: Study, key: str) -> Score | None:
    """Average accuracy over the seeds that every method has at every budget."""
    seeds = estimates.common_seeds(study, MODEL, [other for _, other in needs(study)])
    return estimates.accuracy(study, MODEL, key, AVERAGE, seeds) if seeds else None


def difference(study: Study, other: str, steps: int) -> Score | None:
    """SGPO's accuracy minus another's after as many steps, paired over seeds and problems."""
    ours, theirs = (score(study, key_at(method, steps)) for method in (REFERENCE, other))
    return None if ours is None or theirs is None else ours - theirs


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 2, width=7.2, height=3.5)
    left, right = axes[0]
    left.set(title="Accuracy", ylabel="average accuracy, %")
    for method in METHODS:
        found = {steps: score(study, key_at(method, steps)) for steps in budgets(study)}
        known = {steps: s.mean for steps, s in found.items() if s}
        left.plot([*known], [*known.values()], label=study.method_label(method),
                  **look(method, marker=True))  # fmt: skip
        for steps in (steps for steps, s in found.items() if s is None):
            absent(left, f"{study.method_label(method)}, {steps} steps")
    right.set(title="SGPO minus the other, paired", ylabel="points")
    others = [method for method in METHODS if method != REFERENCE]
    for method, shift in zip(others, (0.93, 1.0, 1.075), strict=True):
        places = [steps * shift for steps in budgets(study)]
        scores = [difference(study, method, steps) for steps in budgets(study)]
        points(right, places, scores, **marks(method))
    zero(right)
    for axis in axes[0]:
        _budget_axis(axis, budgets(study))
    legend(drawn, [left])
    return drawn


def _budget_axis(axis: Axes, steps: Sequence[int]) -> None:
    axis.set_xscale("log")
    axis.set_xticks(steps, [str(n) for n in steps])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(steps[0] / 1.3, steps[-1] * 1.3)
    axis.set_xlabel("budget: training steps (log scale)")


def spent(study: Study) -> str:
    """What a run of the study's own length costs each method, in words."""
    costs = []
    for method in METHODS:
        runs = study.runs_of(MODEL, method, scored=False)
        tokens = last_values(runs, "scored_tokens")
        if runs and len(tokens) == len(runs):
            seconds = np.mean([run.train_seconds for run in runs])
            label = study.method_label(method)
            costs.append(f"{label} {np.mean(tokens) / 1000:.0f} thousand, {seconds:.1f} s")
    return "; ".join(costs) or "not recorded"


def caption(study: Study) -> str:
    steps = budgets(study)
    return (
        f"Accuracy at equal budget ({study.profile} profile, {study.model(MODEL).label}): the same "
        f"methods trained for {', '.join(map(str, steps))} steps, over the seeds "
        f"that all have. "
        f"Right: SGPO minus each other method after as many steps, paired over seeds and problems, "
        f"95% intervals, in the other's colour and mark. Every method samples the same number of "
        f"completions a step; tokens scored in a loss or a choice, and training time beside other "
        f"runs on one machine, over the study's own number of steps: {spent(study)}. Learning "
        f"rates are those tuned at the study's own number of steps."
    )


EQUAL_COST = Artefact(
    "equal_cost",
    "Past the paper: accuracy at equal budget",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Average accuracy of four methods after 7 to 56 training steps, and SGPO's paired "
    "difference to each of the others",
    extended=True,
)
