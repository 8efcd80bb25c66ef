"""When does SGPO win? Its gain over SFT+GRPO and over direct SFT against what problems, budgets and
worlds are like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import estimates, worlds
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import LOOKS, WARNING, new_figure, zero
from benchmarks.report.tables.accuracy import REFERENCE
from benchmarks.store import experiments
from benchmarks.store.records import NOT_RUN, Study
from benchmarks.store.stats import Estimate, slope

MODEL = experiments.BUDGET_MODEL
BASELINES = ("grpo", "sgpo_nll")
FEWEST = 5  # worlds, below which nothing is drawn


def needs(study: Study) -> list[Need]:
    """SGPO, the baselines that the study has, and the base models; none with too few worlds."""
    found = [(MODEL, m) for m in ("base", REFERENCE, *BASELINES) if study.cells_of(MODEL, m)]
    return found if _enough(study, BASELINES[0]) else []


def baselines(study: Study) -> list[str]:
    """Those that the study plans."""
    return [method for method in BASELINES if study.cells_of(MODEL, method)]


def seeds_of(study: Study, baseline: str) -> list[int]:
    return estimates.common_seeds(study, MODEL, (REFERENCE, baseline))


# What the gain is held against -------------------------------------------------------------------


def hardest_minus_easiest(study: Study, baseline: str) -> Estimate | None:
    """The gain on the hardest third of a world's problems minus that on the easiest."""
    gaps = []
    for third in (0, -1):
        scores = [
            estimates.run_statistic(
                study,
                MODEL,
                method,
                lambda run, third=third: worlds.accuracy_of_third(study, run, third),
                seeds_of(study, baseline),
            )
            for method in (REFERENCE, baseline)
        ]
        gaps.append(None if None in scores else scores[0] - scores[1])
    return None if None in gaps else (gaps[0] - gaps[1]).interval


def twice_the_budget(study: Study, baseline: str) -> Estimate | None:
    """The slope of the gain over log2 of the budget, world by world."""
    gains, seeds = {}, seeds_of(study, baseline)
    for budget in experiments.BUDGETS:
        scores = [
            estimates.accuracy(study, MODEL, method, AVERAGE, seeds, budget)
            for method in (REFERENCE, baseline)
        ]
        if None not in scores:
            gains[np.log2(budget)] = scores[0] - scores[1]
    if len(gains) < 2:
        return None
    places = np.array([*gains]) - np.mean([*gains])
    first, *rest = (g.of * float(w) for g, w in zip(gains.values(), places, strict=True))
    total = sum(rest, first) * float(1 / (places**2).sum())
    return Score(total, ()).interval


def _over_worlds(
    values_of: Callable[[Study, list[int]], Sequence[float] | None],
) -> Callable[[Study, str], Estimate | None]:
    """The slope of the gain over worlds, a standard deviation of what each of them has."""

    def effect(study: Study, baseline: str) -> Estimate | None:
        gain, seeds = estimates.gain(study, MODEL, REFERENCE, baseline), seeds_of(study, baseline)
        values = values_of(study, seeds)
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
    "hardest third of problems\nminus easiest": hardest_minus_easiest,
    "twice the budget": twice_the_budget,
    "plans easier to find, +1 SD": _over_worlds(_prior),
    "teacher more faithful, +1 SD": _over_worlds(_drawn("fidelity")),
    "more style, +1 SD": _over_worlds(_drawn("style")),
    "stronger base, +1 SD": _over_worlds(_base),
}


def _enough(study: Study, baseline: str) -> bool:
    return worlds.planned(study) and len(seeds_of(study, baseline)) >= FEWEST


@estimates.once
def effects(study: Study, baseline: str) -> dict[str, Estimate]:
    """Factor -> how much SGPO's gain over ``baseline`` changes with it; {} with too few worlds."""
    if not _enough(study, baseline):
        return {}
    found = {name: effect(study, baseline) for name, effect in FACTORS.items()}
    return {name: value for name, value in found.items() if value is not None}


def figure(study: Study) -> Figure:
    shown = baselines(study)
    drawn, axes = new_figure(1, len(shown), width=7.2, height=3.0, sharey=True, sharex=True)
    for axis, baseline in zip(axes[0], shown, strict=True):
        found = effects(study, baseline)
        for place, name in enumerate(FACTORS):
            if name not in found:
                why = NOT_RUN if _enough(study, baseline) else f"takes {FEWEST} worlds"
                axis.text(0.02, place, why, va="center", fontsize=8, color=WARNING,
                          transform=axis.get_yaxis_transform())  # fmt: skip
                continue
            value = found[name]
            arms = [[value.mean - value.low], [value.high - value.mean]]
            colour, _, mark = LOOKS[REFERENCE]
            axis.errorbar(value.mean, place, xerr=arms, color=colour, marker=mark, capsize=2.5)
        zero(axis, upright=True)
        axis.set(title=f"gain over {study.method_label(baseline)}", xlabel="change, points")
    axes[0, 0].set_yticks(range(len(FACTORS)), [*FACTORS])
    axes[0, 0].set_ylim(len(FACTORS) - 0.5, -0.5)
    return drawn


def message(study: Study) -> str:
    """What changes the gain, and that nothing else can be told to."""
    texts = []
    for baseline in baselines(study):
        found = effects(study, baseline)
        told = [
            f"{name.replace(chr(10), ' ')}: {e.mean:+.1f} [{e.low:.1f}, {e.high:.1f}] points"
            for name, e in found.items()
            if e.low > 0 or e.high < 0
        ]
        if found:
            said = "; ".join(told) or "nothing measured here can be told to change it"
            over = estimates.units_text(study, len(seeds_of(study, baseline)))
            rest = f" ({len(told)} of {len(found)} factors; {over})"
            texts.append(f"SGPO's gain over {study.method_label(baseline)}: {said}{rest}. ")
    return "".join(texts)


def caption(study: Study) -> str:
    return (
        f"{message(study)}How SGPO's gain changes with what problems, budgets and worlds are like, "
        f"{study.model(MODEL).label}. The first two are differences and slopes within each world, "
        "paired; the others slopes over worlds, each factor by itself, a standard deviation of "
        "worlds. 95% intervals, none corrected for their number."
    )


WHEN = Artefact(
    "when",
    "Past the paper: when SGPO wins",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="How SGPO's gain over SFT+GRPO and over direct SFT changes with difficulty, budget, "
    "teacher fidelity, style and base strength, with intervals",
    miniature=True,
)
