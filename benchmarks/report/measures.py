"""Numbers read off stored runs beyond accuracy: speed to equal reward, pass@k and maj@k, plan
probabilities, and shares of tokens and KL by class.

Figures and claims take them from here, so that both show the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from benchmarks.report import estimates
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.store import stats
from benchmarks.store.records import Analysis, Benchmark, Run, Study
from benchmarks.store.stats import Clusters, Mean

WINDOW = 5  # steps that a curve is smoothed over
FEWEST = 8  # samples a problem, below which a benchmark says nothing about k

# Keys of the analyses, and what they hold.
STEPS, PLANS = "steps", "plans"
BEFORE = "sft"
PLAN_GROUPS = 8  # of a world's types, by how hard they are
PLAN_METHODS = (BEFORE, "grpo", "sgpo", "sgpo_reverse")  # as the analysis reads them
CLASSES = ("choice", "commitment", "style", "routine")  # in the order in which they are stored
DECISIONS = ("choice", "commitment")


def models_of(study: Study, analysis: str) -> list[str]:
    """The model that the analyses of a kind were planned on; [] when there are none."""
    return [a.model for a in study.analyses if a.key == analysis][:1]


# Speed to equal reward ----------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualReward:
    """Two methods at equal reward, seed by seed; everything is a mean over seeds.

    ``log_factor``: natural logarithm of how many times sooner the first reaches what the second
    ends with; negative where the second is the faster one. ``gain_percent``: by how much the
    first's final reward is above the second's, in percent of the second's. ``level``: the lower of
    the two final rewards, in [0, 1]. ``steps``: after how many steps the first and the second
    are there (geometric means, so that their ratio is the factor).
    """

    log_factor: Score
    gain_percent: float
    level: float
    steps: tuple[float, float]

    @property
    def factor(self) -> float:
        return float(np.exp(self.log_factor.mean))


@estimates.once
def equal_reward(study: Study, model: str, first: str, second: str) -> EqualReward | None:
    """``first`` against ``second`` over the seeds that both are planned on; None where one of the
    runs is missing or has no rewards.

    Reward curves are noisy, and the first step at which a noisy curve touches
    a level comes too early. So each curve is smoothed as in the figures and fitted by the nearest
    rising curve before anything is read off it.
    """
    seeds = estimates.common_seeds(study, model, (first, second))
    rising, ids = [], ()
    for method in (first, second):
        runs = estimates.select(study.runs_of(model, method, scored=False), seeds)
        curves = [smooth(run.metrics.get("reward", np.array([]))) for run in runs]
        # A run that diverged is shorter: its curve has no end that could be compared.
        if len({len(c) for c in curves}) != 1 or not all(len(c) and all(c >= 0) for c in curves):
            return None
        rising.append(np.stack([isotonic_regression(c).x for c in curves]))
        ids += tuple(run.cell.run_id for run in runs)
    if rising[0].shape != rising[1].shape:
        return None
    ours, theirs = map(np.log, reach_steps(*rising))
    last = [curves[:, -1] for curves in rising]
    return EqualReward(
        log_factor=Score(Mean.over_units(theirs - ours), ids),
        gain_percent=float(100 * (last[0].mean() / last[1].mean() - 1)),
        level=float(np.minimum(*last).mean()),
        steps=(float(np.exp(ours.mean())), float(np.exp(theirs.mean()))),
    )


def smooth(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Centred moving mean of ``values`` [T] over ``window`` steps, fewer at the ends and where some
    are NaN; NaN where all are."""
    rolling = pd.Series(values, dtype=float).rolling(window, center=True, min_periods=1)
    return rolling.mean().to_numpy()


def reach_steps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps float [S], counted from 1, after which each of two sets of rising curves [S, T] is at
    the lower of their two final values; between steps by linear interpolation. Whichever ends lower
    has used all its steps or reached its end before."""
    level = np.minimum(first[:, -1], second[:, -1])
    return _first_step(first, level), _first_step(second, level)


def _first_step(curves: np.ndarray, level: np.ndarray) -> np.ndarray:
    there = curves >= level[:, None] - 1e-12
    index = there.argmax(axis=1)
    rows = np.arange(len(curves))
    after, before = curves[rows, index], curves[rows, np.maximum(index - 1, 0)]
    rise = after - before
    part = np.divide(level - before, rise, out=np.ones(len(curves)), where=rise > 1e-12)
    return np.where(index == 0, 1.0, index + np.clip(part, 0.0, 1.0))


# pass@k and maj@k ---------------------------------------------------------------------------------

KINDS = ("pass@k", "maj@k")


def benchmarks_of(study: Study) -> list[Benchmark]:
    """Those with so many samples a problem that k says something."""
    return [b for b in study.benchmarks if b.k >= FEWEST]


def largest_k(study: Study) -> int:
    """The most samples that all of them have; 0 where there are none."""
    return min((b.k for b in benchmarks_of(study)), default=0)


def of_samples(
    study: Study, model: str, method: str, kind: str, seeds: Sequence[int] | None = None
) -> Score | None:
    """One of ``KINDS`` in percent, mean over the benchmarks of :func:`benchmarks_of`: pass@k,
    unbiased, at :func:`largest_k`; maj@k over all samples. None where runs or their answers are
    missing."""

    def of_problems(run: Run, key: str) -> np.ndarray | None:
        correct, answers = run.correct[key], run.answers.get(key)
        if kind == "maj@k":
            return None if answers is None else stats.majority(answers, correct)
        counts, k = correct.sum(axis=1), largest_k(study)
        return stats.pass_at_k(counts, num_samples=correct.shape[1], k=k)

    keys = [b.key for b in benchmarks_of(study)]
    return estimates.problem_statistic(study, model, method, keys, of_problems, seeds)


# Plan probabilities -------------------------------------------------------------------------------


def plan_groups(study: Study) -> list[list[list[str]]]:
    """Of each seed its types in groups of equal size, from those whose right plan is least likely
    before training: a world has types of its own, and a name says nothing across worlds."""
    grouped = []
    for analysis in study.analyses_of(PLANS):
        before = analysis.result["methods"][BEFORE]
        names = sorted(before, key=lambda name: before[name]["right"])
        parts = np.array_split(names, min(PLAN_GROUPS, len(names)))
        grouped.append([part.tolist() for part in parts])
    return grouped


def plan_quantity(
    study: Study, method: str, quantity: str, group: int | None = None
) -> Score | None:
    """Mean over seeds of ``right``, ``entropy`` (nats) or ``go_on`` of one group of types, by
    default over seeds and types. None where an analysis is missing."""
    found = study.analyses_of(PLANS)
    if not found:
        return None
    tables = [a.result["methods"][method] for a in found]
    if group is None:
        values = np.array([[kind[quantity] for kind in table.values()] for table in tables])
        apart = Clusters.apart(values.shape[1:])
        of = Mean.over_problems([values], apart, shared=not study.own_problems)
    else:
        of = Mean.over_units(
            [
                np.mean([table[kind][quantity] for kind in groups[group]])
                for table, groups in zip(tables, plan_groups(study), strict=True)
            ]
        )
    return Score(of, tuple(_run_of(study, a, method) for a in found))


def _run_of(study: Study, analysis: Analysis, method: str) -> str:
    return next(i for i in analysis.inputs if study.runs[i].cell.method == method)


# Shares by token class ----------------------------------------------------------------------------


def step_example(study: Study) -> Mapping[str, Any] | None:
    """The example of seed 0 (the first seed of the study), None where there is none."""
    found = study.analyses_of(STEPS)
    return found[0].result["example"] if found else None


@estimates.once
def token_share(study: Study, quantity: str, classes: Sequence[str]) -> Score | None:
    """Share in percent that ``classes`` have of a quantity (tokens, kl, kl_kept or nll), mean over
    seeds: every seed pools problems of its own, which its own warm-up failed."""
    found = study.analyses_of(STEPS)
    if not found or not all(a.result["problems"] for a in found):
        return None
    columns = [CLASSES.index(name) for name in classes]
    shares = []
    for analysis in found:
        totals = np.sum([row[quantity] for row in analysis.result["problems"]], axis=0)
        if not totals.sum() > 0:
            raise stats.StatsError(
                f"analyses/{analysis.run_id}.json: no {quantity} on any problem, so no share of it"
            )
        shares.append(PERCENT * totals[columns].sum() / totals.sum())
    return Score(Mean.over_units(shares), tuple(i for a in found for i in a.inputs))


def guidance_text(found: Mapping[str, Any]) -> str:
    """What ``benchmarks.run.guidance`` measured on a development split, in one line."""
    parts = [
        f"{name} {found[name]['pass_rate']:.2f} ({found[name]['cut_off']:.0%} cut off)"
        for name in ("unguided", "guided")
    ]
    low, high = (math.nan if bound is None else bound for bound in found["interval"])
    helps = "guidance helps" if low > 0 else "guidance harms" if high < 0 else "no gain is shown"
    gain = f"{found['difference']:+.2f}{stats.interval_text(low, high, '{:.2f}'.format)}"
    return f"{', '.join(parts)}, {helps}: {gain} over {found['problems']} problems, one run"
