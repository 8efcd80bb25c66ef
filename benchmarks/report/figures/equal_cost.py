"""Accuracy against the budget, and SGPO's difference to each other method at the same budget."""

from __future__ import annotations

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
from benchmarks.store.records import Study

MODEL = experiments.BUDGET_MODEL
METHODS = experiments.BUDGET_METHODS
BUDGETS = experiments.BUDGETS


def needs(study: Study) -> list[Need]:
    """Every method; none where the study does not plan them all."""
    found = [(MODEL, method) for method in METHODS]
    return found if all(study.cells_of(*need) for need in found) else []


def seeds_of(study: Study) -> list[int]:
    """The seeds that every method has."""
    return estimates.common_seeds(study, MODEL, METHODS)


def score(study: Study, method: str, budget: float) -> Score | None:
    """Average accuracy at a budget over the seeds that every method has."""
    seeds = seeds_of(study)
    return estimates.accuracy(study, MODEL, method, AVERAGE, seeds, budget) if seeds else None


def difference(study: Study, other: str, budget: float) -> Score | None:
    """SGPO's accuracy minus another's at a budget, paired over seeds and problems."""
    ours, theirs = (score(study, method, budget) for method in (REFERENCE, other))
    return None if ours is None or theirs is None else ours - theirs


def at_cost(study: Study, method: str, budget: float) -> tuple[float, Score] | None:
    """Mean tokens scored in training up to a budget, and the accuracy there; None where a run lacks
    either."""
    found = score(study, method, budget)
    runs = estimates.select(study.runs_of(MODEL, method, scored=True), seeds_of(study))
    tokens = [run.spent(budget, "scored_tokens") for run in runs]
    return None if found is None or None in tokens else (float(np.mean(tokens)), found)


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 2, width=7.2, height=3.5)
    left, right = axes[0]
    left.set(title="Accuracy", ylabel="average accuracy, %")
    for method in METHODS:
        found = {budget: score(study, method, budget) for budget in BUDGETS}
        known = {budget: s.mean for budget, s in found.items() if s}
        left.plot([*known], [*known.values()], label=study.method_label(method),
                  **look(method, marker=True))  # fmt: skip
        for budget in (budget for budget, s in found.items() if s is None):
            absent(left, f"{study.method_label(method)}, {budget:g}")
    right.set(title="SGPO minus the other, paired", ylabel="points")
    others = [method for method in METHODS if method != REFERENCE]
    for method, shift in zip(others, (0.93, 1.0, 1.075), strict=True):
        places = [budget * shift for budget in BUDGETS]
        scores = [difference(study, method, budget) for budget in BUDGETS]
        points(right, places, scores, **marks(method))
    zero(right)
    for axis in axes[0]:
        _budget_axis(axis)
    legend(drawn, [left])
    return drawn


def _budget_axis(axis: Axes) -> None:
    axis.set_xscale("log")
    axis.set_xticks(BUDGETS, [f"{budget:g}" for budget in BUDGETS])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(BUDGETS[0] / 1.3, BUDGETS[-1] * 1.3)
    axis.set_xlabel("budget, times the study's steps (log scale)")


def spent(study: Study) -> str:
    """What a run of the study's own length costs each method, in words."""
    costs = []
    for method in METHODS:
        runs = study.runs_of(MODEL, method, scored=False)
        tokens = [run.spent(1.0, "scored_tokens") for run in runs]
        if runs and None not in tokens:
            seconds = np.mean([run.train_seconds for run in runs])
            label = study.method_label(method)
            costs.append(f"{label} {np.mean(tokens) / 1000:.0f} thousand, {seconds:.1f} s")
    return "; ".join(costs) or "not recorded"


def caption(study: Study) -> str:
    over = estimates.units_text(study, len(seeds_of(study)))
    return (
        f"Accuracy at equal budget ({study.profile} profile, {study.model(MODEL).label}): the "
        f"weights of the same runs after {', '.join(f'{b:g}' for b in BUDGETS)} times the study's "
        f"number of steps, over the {over} that all methods have; at budgets other than "
        f"1 with half the samples a problem. Right: SGPO minus each other "
        f"method at the same budget, paired over seeds and problems, 95% intervals, in the other's "
        f"colour and mark. Every method samples the same number of completions a step; tokens "
        f"scored in a loss or a choice, and training time beside other runs on one machine, at "
        f"budget 1: {spent(study)}."
    )


EQUAL_COST = Artefact(
    "equal_cost",
    "Past the paper: accuracy at equal budget",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Average accuracy of four methods at a quarter to twice the budget, and SGPO's paired "
    "difference to each of the others",
)
