"""Numbers read off stored runs beyond accuracy: speed to equal reward, pass@k and maj@k, plan
probabilities, and shares of tokens and KL by class.

Figures and claims take them from here, so that both show the same ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import isotonic_regression

from benchmarks.report import estimates
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.store import stats
from benchmarks.store.records import Analysis, Benchmark, Run, Study
from benchmarks.store.stats import Clusters, Mean

NUM_ORDERS = 64  # of the samples, for majority votes
RNG_SEED = 20260624
WINDOW = 5  # steps that a curve is smoothed over
FEWEST = 8  # samples a problem, below which a benchmark says nothing about k

# Keys of the analyses, and what they hold.
STEPS, PLANS = "steps", "plans"
BEFORE = "sft"
PLAN_GROUPS = 8  # of a world's types, by how hard they are
PLAN_METHODS = (BEFORE, "grpo", "sgpo", "sgpo_reverse")  # as the analysis reads them
CLASSES = ("choice", "commitment", "style", "routine")  # in the order in which they are stored
DECISIONS = ("choice", "commitment")


def model_of(study: Study, analysis: str) -> str | None:
    """The model that the analyses of a kind were planned on; None when there are none."""
    return next((a.model for a in study.analyses if a.key == analysis), None)


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
    """Centred moving mean of ``values`` [T] over ``window`` (odd) steps, fewer at the ends.

    NaN entries are left out of the means; where a whole window is NaN the result is NaN.
    """
    assert window % 2 == 1, window
    known = np.isfinite(values)
    kernel = np.ones(window)
    half = window // 2
    totals = np.convolve(np.where(known, values, 0.0), kernel)[half : half + len(values)]
    counts = np.convolve(known.astype(float), kernel)[half : half + len(values)]
    return np.divide(totals, counts, out=np.full(len(values), np.nan), where=counts > 0)


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


def benchmarks_of(study: Study) -> list[Benchmark]:
    """Those with many samples a problem, with the common number of them last in :func:`ks_of`."""
    return [b for b in study.benchmarks if b.k >= FEWEST]


def ks_of(study: Study) -> list[int]:
    """Powers of two up to the smallest number of samples that the benchmarks have."""
    most = min((b.k for b in benchmarks_of(study)), default=0)
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def pass_at(
    study: Study, model: str, method: str, k: int, seeds: Sequence[int] | None = None
) -> Score | None:
    """Unbiased pass@k in percent, mean over the benchmarks of :func:`benchmarks_of`."""
    keys = [b.key for b in benchmarks_of(study)]
    return estimates.problem_statistic(
        study, model, method, keys, lambda run, key: pass_curve(run.correct[key], (k,))[0], seeds
    )


def sample_curve(study: Study, model: str, method: str, kind: str) -> list[Score] | None:
    """pass@k or maj@k at every k of :func:`ks_of`; None where runs or their answers are missing."""
    ks, keys = ks_of(study), [b.key for b in benchmarks_of(study)]

    @functools.cache
    def curve(run_id: str, key: str) -> np.ndarray | None:
        run = study.runs[run_id]
        if kind == "pass@k":
            return pass_curve(run.correct[key], ks)
        found = run.answers.get(key)
        return None if found is None else majority_curve(found, run.correct[key], ks)

    def at(index: int, run: Run, key: str) -> np.ndarray | None:
        found = curve(run.cell.run_id, key)
        return None if found is None else found[index]

    scores = [
        estimates.problem_statistic(study, model, method, keys, functools.partial(at, index))
        for index in range(len(ks))
    ]
    return scores if scores and all(scores) else None


def pass_curve(correct: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Unbiased pass@k of every problem, float [len(ks), N], from ``correct`` bool [N, K]."""
    counts = correct.sum(axis=1)
    return np.stack([stats.pass_at_k(counts, num_samples=correct.shape[1], k=k) for k in ks])


def majority_curve(codes: np.ndarray, correct: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """maj@k of every problem, float [len(ks), N]: the chance that the commonest answer among k of
    its samples is the correct one.

    The mean over ``NUM_ORDERS`` random orders of the samples, the same for every run, of the first
    k; exact for k = 1 and k = K, and close to the mean over all subsets between. A tie counts by
    the share of tied answers that is correct; samples without an answer cast no vote, and without
    any vote the problem is lost.

    Args:
        codes: int [N, K] of ``stats.answer_codes``. correct: bool [N, K]. ks: each in 1..K.
    """
    num_problems, num_samples = correct.shape
    assert all(1 <= k <= num_samples for k in ks), ks
    orders = _orders(num_samples)
    places = np.array(ks) - 1
    gold = stats.gold_codes(codes, correct)
    out = np.zeros((len(ks), num_problems))
    for index in np.flatnonzero(correct.any(axis=1)):
        row = codes[index]
        symbols = np.unique(row[row != ord(stats.NO_VOTE)])
        votes = row == symbols[:, None]  # [S, K]
        running = votes[:, orders].cumsum(axis=-1)[:, :, places]  # [S, orders, ks]
        top = running.max(axis=0)
        leading = running == top
        won = leading[symbols == gold[index]][0] & (top > 0)
        out[:, index] = (won / leading.sum(axis=0)).mean(axis=0)
    # With one sample the majority is that sample: no need to leave it to the drawn orders.
    for place, k in enumerate(ks):
        if k == 1:
            out[place] = correct.mean(axis=1)
    return out


def _orders(num_samples: int) -> np.ndarray:
    """int [NUM_ORDERS, num_samples]: the same random orders wherever they are needed."""
    generator = np.random.default_rng([RNG_SEED, num_samples])
    return np.stack([generator.permutation(num_samples) for _ in range(NUM_ORDERS)])


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
