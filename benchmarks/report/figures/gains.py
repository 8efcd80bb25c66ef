"""What SGPO gains over the others: at equal budget, and when it wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.report import estimates, worlds
from benchmarks.report.artefact import Need, described
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import absent, legend, look, marks, new_figure, points, zero
from benchmarks.report.tables.accuracy import REFERENCE
from benchmarks.store.experiments import BUDGET_METHODS, BUDGET_MODEL, BUDGETS, INITIAL
from benchmarks.store.records import Run, Study
from benchmarks.store.stats import Estimate, Mean, slope

MODEL = BUDGET_MODEL

# Accuracy at equal budget -------------------------------------------------------------------------


def budget_needs(study: Study) -> list[Need]:
    """SGPO, what it is compared with and, where that is not all of it, its other teacher; none
    without SFT+GRPO."""
    planned = [m for m in (*BUDGET_METHODS, INITIAL) if study.cells_of(MODEL, m)]
    if not {BASELINES[0], REFERENCE} <= {*planned}:
        return []
    whole = {*BUDGET_METHODS} <= {*planned}
    return [(MODEL, method) for method in (BUDGET_METHODS if whole else planned)]


def budget_methods(study: Study) -> list[str]:
    return [method for _, method in budget_needs(study)]


def budget_seeds(study: Study) -> list[int]:
    """The seeds that every method has."""
    return estimates.common_seeds(study, MODEL, budget_methods(study))


def at_budget(study: Study, method: str, budget: float) -> Score | None:
    """A method's average accuracy over those seeds."""
    return estimates.accuracy(study, MODEL, method, AVERAGE, budget_seeds(study), budget)


def at_cost(study: Study, method: str, budget: float) -> tuple[float, Score] | None:
    """Mean tokens scored in training up to a budget, and the accuracy there; None where a run lacks
    either."""
    found = at_budget(study, method, budget)
    runs = estimates.select(study.runs_of(MODEL, method, scored=True), budget_seeds(study))
    tokens = [run.spent(budget, "scored_tokens") for run in runs]
    return None if found is None or None in tokens else (float(np.mean(tokens)), found)


def _draw_budgets(study: Study) -> Figure:
    drawn, axes = new_figure(1, 2, height=3.4)
    left, right = axes[0]
    scores = {m: {b: at_budget(study, m, b) for b in BUDGETS} for m in budget_methods(study)}
    for method, at in scores.items():
        label, known = study.method_label(method), {b: s.mean for b, s in at.items() if s}
        for budget in (budget for budget in BUDGETS if budget not in known):
            absent(left, f"{label}, {budget:g}")
        left.plot([*known], [*known.values()], label=label, **look(method, marker=True))
    others = [method for method in scores if method != REFERENCE]
    for number, method in enumerate(others):
        shift = 1.075 ** (number - (len(others) - 1) / 2)
        gaps = [estimates.minus(scores[REFERENCE][b], scores[method][b]) for b in BUDGETS]
        points(right, [budget * shift for budget in BUDGETS], gaps, **marks(method))
    zero(right)
    left.set(title="Accuracy", ylabel="average accuracy, %")
    right.set(title="SGPO minus the other, paired", ylabel="points")
    for axis in axes[0]:
        axis.set_xscale("log")
        axis.set_xticks(BUDGETS, [f"{budget:g}" for budget in BUDGETS])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlim(BUDGETS[0] / 1.3, BUDGETS[-1] * 1.3)
        axis.set_xlabel("budget, × steps (log scale)")
    legend(drawn, [left])
    return drawn


def spent(study: Study) -> str:
    """What a run of the study's own length costs each method, in words."""
    costs = []
    for method in budget_methods(study):
        runs = study.runs_of(MODEL, method, scored=False)
        tokens = [run.spent(1.0, "scored_tokens") for run in runs]
        if runs and None not in tokens:
            seconds = np.mean([run.train_seconds for run in runs])
            label = study.method_label(method)
            costs.append(f"{label} {np.mean(tokens) / 1000:.0f} thousand, {seconds:.1f} s")
    return "; ".join(costs) or "not recorded"


def _budgets_known(study: Study) -> dict[str, str]:
    return {
        "model": study.model(MODEL).label,
        "budgets": ", ".join(f"{b:g}" for b in BUDGETS),
        "over": estimates.units_text(study, len(budget_seeds(study))),
        "spent": spent(study),
    }


EQUAL_COST = described("equal_cost", budget_needs, _budgets_known, draw=_draw_budgets)


# When does SGPO win? Its gain against what problems, budgets and worlds are like ------------------

BASELINES = ("grpo", "sgpo_nll")
FEWEST = 5  # worlds, below which nothing is drawn


def _when_needs(study: Study) -> list[Need]:
    """SGPO, the baselines that the study has, and the base models; none with too few worlds."""
    found = [(MODEL, m) for m in ("base", REFERENCE, *BASELINES) if study.cells_of(MODEL, m)]
    return found if _enough(study, BASELINES[0]) else []


def _baselines(study: Study) -> list[str]:
    """Those that the study plans."""
    return [method for method in BASELINES if study.cells_of(MODEL, method)]


def _seeds(study: Study, baseline: str) -> list[int]:
    return estimates.common_seeds(study, MODEL, (REFERENCE, baseline))


def _enough(study: Study, baseline: str) -> bool:
    return worlds.planned(study) and len(_seeds(study, baseline)) >= FEWEST


def _hardest_minus_easiest(study: Study, baseline: str) -> Estimate | None:
    """The gain on the hardest third of a world's problems minus that on the easiest."""

    def gap(run: Run) -> float:
        hard, easy = (worlds.accuracy_of_third(study, run, third) for third in (0, -1))
        return hard - easy

    found = estimates.run_gain(study, MODEL, REFERENCE, baseline, gap)
    return found and found.interval


def _twice_the_budget(study: Study, baseline: str) -> Estimate | None:
    """The least-squares slope of the gain over log2 of the budget, world by world."""
    gains = {b: estimates.gain(study, MODEL, REFERENCE, baseline, budget=b) for b in BUDGETS}
    units = {np.log2(b): gain.of.units for b, gain in gains.items() if gain}
    if len(units) < 2:
        return None
    slopes = np.polyfit([*units], np.stack([*units.values()]), 1)[0]
    return Mean.over_units(slopes).interval()


def _over_worlds(
    values_of: Callable[[Study, list[int]], Sequence[float] | None],
) -> Callable[[Study, str], Estimate | None]:
    """The slope of the gain over worlds, a standard deviation of what each of them has."""

    def effect(study: Study, baseline: str) -> Estimate | None:
        gain = estimates.gain(study, MODEL, REFERENCE, baseline)
        values = values_of(study, _seeds(study, baseline))
        return None if gain is None or values is None else slope(values, gain.of.units)

    return effect


def _drawn(column: str) -> Callable[[Study, list[int]], list[float]]:
    return lambda study, seeds: [study.problems.loc[seed][column].iloc[0] for seed in seeds]


def _prior(study: Study, seeds: list[int]) -> list[float]:
    return [np.log(study.problems.loc[seed]["prior"]).mean() for seed in seeds]


def _base(study: Study, seeds: list[int]) -> Sequence[float] | None:
    found = estimates.accuracy(study, MODEL, "base", AVERAGE, seeds)
    return None if found is None else found.of.units


FACTORS: dict[str, Callable[[Study, str], Estimate | None]] = {
    "hardest third of problems\nminus easiest": _hardest_minus_easiest,
    "twice the budget": _twice_the_budget,
    "plans easier to find, +1 SD": _over_worlds(_prior),
    "teacher more faithful, +1 SD": _over_worlds(_drawn("fidelity")),
    "more style, +1 SD": _over_worlds(_drawn("style")),
    "stronger base, +1 SD": _over_worlds(_base),
}


@estimates.once
def when(study: Study, baseline: str) -> dict[str, Estimate]:
    """Factor -> how much SGPO's gain over ``baseline`` changes with it; {} with too few worlds."""
    if not _enough(study, baseline):
        return {}
    found = {name: effect(study, baseline) for name, effect in FACTORS.items()}
    return {name: value for name, value in found.items() if value is not None}


def _draw_when(study: Study) -> Figure:
    """A row a factor that is known for a baseline, a mark a baseline."""
    shown = _baselines(study)
    found = {baseline: when(study, baseline) for baseline in shown}
    names = [name for name in FACTORS if any(name in known for known in found.values())]
    drawn, axes = new_figure(1, 1, height=1.2 + 0.42 * len(names))
    axis, places = axes[0, 0], np.arange(len(names))
    for number, (baseline, known) in enumerate(found.items()):
        shift = 0.22 * (number - (len(shown) - 1) / 2)
        points(axis, [known.get(name) for name in names], places + shift,
               label=f"gain over {study.method_label(baseline)}", **marks(baseline))  # fmt: skip
    zero(axis, upright=True)
    axis.set(xlabel="change of SGPO's gain, points")
    axis.set_yticks(places, names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    legend(drawn, [axis])
    return drawn


def when_message(study: Study) -> str:
    """What changes the gain, and that nothing else can be told to."""
    texts = []
    for baseline in _baselines(study):
        found = when(study, baseline)
        told = [
            f"{name.replace(chr(10), ' ')}: {e.mean:+.1f} [{e.low:.1f}, {e.high:.1f}] points"
            for name, e in found.items()
            if e.low > 0 or e.high < 0
        ]
        if found:
            said = "; ".join(told) or "nothing measured here can be told to change it"
            over = estimates.units_text(study, len(_seeds(study, baseline)))
            rest = f" ({len(told)} of {len(found)} factors; {over})"
            texts.append(f"SGPO's gain over {study.method_label(baseline)}: {said}{rest}. ")
    return "".join(texts)


WHEN = described(
    "when",
    _when_needs,
    lambda study: {"message": when_message(study), "model": study.model(MODEL).label},
    draw=_draw_when,
)
