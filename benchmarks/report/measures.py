"""Numbers read off stored runs beyond accuracy: speed to equal reward, pass@k and maj@k, plan
probabilities, and shares of tokens and KL by class.

Figures and claims take them from here, so that both show the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.report import estimates
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.store import stats
from benchmarks.store.records import Analysis, Benchmark, Run, Study

NUM_ORDERS = 64  # of the samples, for majority votes
RNG_SEED = 20260624
WINDOW = 5  # steps that a curve is smoothed over
FEWEST = 8  # samples a problem, below which a benchmark says nothing about k
_CHUNK = 1_000_000

# Keys of the analyses, and what they hold.
STEPS, PLANS = "steps", "plans"
BEFORE = "sft"
PLAN_METHODS = (BEFORE, "grpo", "sgpo", "sgpo_reverse")  # as the analysis reads them
CLASSES = ("choice", "commitment", "style", "routine")  # in the order in which they are stored
DECISIONS = ("choice", "commitment")


def model_of(study: Study, analysis: str) -> str | None:
    """The model that the analyses of a kind were planned on; None when there are none."""
    return next((a.model for a in study.analyses if a.key == analysis), None)


# Speed to equal reward ----------------------------------------------------------------------------


@dataclass(frozen=True)
class EqualReward:
    """Two methods at equal reward.

    ``log_factor``: natural logarithm of how many times sooner the first reaches what the second
    ends with; negative where the second is the faster one. ``gain_percent``: by how much the
    first's final reward is above the second's, in percent of the second's. ``level``: the lower of
    the two final rewards, in [0, 1]. ``steps``: after how many steps the first and the second
    are there.
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
    runs is missing or has no rewards. Draws resample seeds, the same for both.

    Reward curves of 16 problems a step are noisy, and the first step at which a noisy curve touches
    a level comes too early. So curves are averaged over seeds, smoothed as in the figures and
    fitted by the nearest rising curve before anything is read off them.
    """
    seeds = estimates.common_seeds(study, model, (first, second))
    tables = []
    ids: tuple[str, ...] = ()
    for method in (first, second):
        runs = estimates.select(study.runs_of(model, method, scored=False), seeds)
        curves = [run.metrics.get("reward", np.array([])) for run in runs]
        # A run that diverged is shorter: its curve has no end that could be compared.
        if not curves or len({len(c) for c in curves}) > 1 or not len(curves[0]):
            return None
        tables.append(np.stack([smooth(c) for c in curves]))
        ids += tuple(run.cell.run_id for run in runs)
    if tables[0].shape != tables[1].shape or not all(np.isfinite(t).all() for t in tables):
        return None
    weights = study.resamples.seed_weights(len(tables[0]))
    rising = [isotonic(table.mean(axis=0)[None])[0] for table in tables]
    drawn = [isotonic(weights @ table) for table in tables]
    steps = reach_steps(*(curve[None] for curve in rising))
    return EqualReward(
        log_factor=Score(
            mean=float(log_factor(rising[0][None], rising[1][None])[0]),
            draws=log_factor(*drawn),
            num_seeds=len(seeds),
            run_ids=ids,
        ),
        gain_percent=float(100 * (rising[0][-1] / rising[1][-1] - 1)),
        level=float(min(rising[0][-1], rising[1][-1])),
        steps=(float(steps[0][0]), float(steps[1][0])),
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


def isotonic(curves: np.ndarray) -> np.ndarray:
    """The nearest rising curve (least squares) to each row of float [D, T], same shape.

    The max-min formula of isotonic regression (Barlow et al. 1972, Theorem 1.9):
    max over j <= i of min over k >= i of the mean of entries j..k.
    """
    num_steps = curves.shape[1]
    sums = np.concatenate([np.zeros((len(curves), 1)), curves.cumsum(axis=1)], axis=1)
    starts, stops = np.arange(num_steps)[:, None], np.arange(num_steps)[None, :]
    inside = stops >= starts
    lengths = np.where(inside, stops - starts + 1, 1)
    fitted = np.empty_like(curves)
    rows = max(1, _CHUNK // num_steps**2)  # a few at a time: [rows, T, T] must stay small
    for at in range(0, len(curves), rows):
        part = sums[at : at + rows]
        means = (part[:, None, 1:] - part[:, :-1, None]) / lengths
        means = np.where(inside, means, np.inf)
        # least[j, i]: min over k >= i of the mean of j..k
        least = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
        fitted[at : at + rows] = np.where(inside, least, -np.inf).max(axis=1)
    return fitted


def reach_steps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps float [D], counted from 1, after which each of two sets of rising curves [D, T] is at
    the lower of their two final values; between steps by linear interpolation."""
    level = np.minimum(first[:, -1], second[:, -1])
    return _first_step(first, level), _first_step(second, level)


def log_factor(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logarithm, float [D], of the second's steps over the first's, for rising curves [D, T].

    Whichever ends lower has used all its steps or reached its end before; the measure is
    antisymmetric, and defined for every pair of curves.
    """
    ours, theirs = reach_steps(first, second)
    return np.log(theirs) - np.log(ours)


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
    return _score(study, model, method, lambda run, key: _curve_of(run, key, "pass@k", (k,))[0],
                  seeds)  # fmt: skip


def sample_curve(study: Study, model: str, method: str, kind: str) -> list[Score] | None:
    """pass@k or maj@k at every k of :func:`ks_of`; None where runs or their answers are missing."""
    ks = ks_of(study)
    made: dict[tuple[str, str], np.ndarray | None] = {}

    def at(index: int) -> Callable[[Run, str], np.ndarray | None]:
        def statistic(run: Run, key: str) -> np.ndarray | None:
            place = (run.cell.run_id, key)
            if place not in made:
                made[place] = _curve_of(run, key, kind, ks)
            return None if made[place] is None else made[place][index]

        return statistic

    scores = [_score(study, model, method, at(index)) for index in range(len(ks))]
    return [s for s in scores if s] if scores and all(scores) else None


def _curve_of(run: Run, key: str, kind: str, ks: Sequence[int]) -> np.ndarray | None:
    if kind == "pass@k":
        return pass_curve(run.correct[key], ks)
    found = run.answers.get(key)
    return None if found is None else majority_curve(found, run.correct[key], ks)


def _score(
    study: Study,
    model: str,
    method: str,
    statistic: Callable[[Run, str], np.ndarray | None],
    seeds: Sequence[int] | None = None,
) -> Score | None:
    keys = [b.key for b in benchmarks_of(study)]
    return estimates.problem_statistic(study, model, method, keys, statistic, seeds)


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


def plan_types(study: Study) -> list[str]:
    """Types from the one whose right plan is least likely before training to the likeliest."""
    found = study.analyses_of(PLANS)
    if not found:
        return []
    names = list(found[0].result["methods"][BEFORE])
    means = {n: np.mean([a.result["methods"][BEFORE][n]["right"] for a in found]) for n in names}
    return sorted(names, key=lambda name: float(means[name]))


def plan_quantity(
    study: Study, method: str, quantity: str, kind: str | None = None
) -> Score | None:
    """Mean over seeds of ``right``, ``entropy`` (nats) or ``go_on`` of one type, by default
    averaged over the types. Draws resample seeds only; None where an analysis is missing."""
    found = study.analyses_of(PLANS)
    if not found:
        return None
    types = [a.result["methods"][method] for a in found]
    kinds = [[kind] if kind else list(t) for t in types]
    values = np.array(
        [np.mean([t[k][quantity] for k in ks]) for t, ks in zip(types, kinds, strict=True)]
    )
    return Score(
        mean=float(values.mean()),
        draws=study.resamples.seed_weights(len(values)) @ values,
        num_seeds=len(values),
        run_ids=tuple(_run_of(study, a, method) for a in found),
    )


def plan_mass(study: Study, method: str) -> np.ndarray | None:
    """Probability of the likeliest, second likeliest, ... plan of a type, float [seeds, 64]: each
    type's plans are sorted by themselves, then averaged over the types."""
    found = study.analyses_of(PLANS)
    if not found:
        return None
    rows = [
        np.mean([np.sort(t["plans"])[::-1] for t in a.result["methods"][method].values()], axis=0)
        for a in found
    ]
    return np.array(rows)


def _run_of(study: Study, analysis: Analysis, method: str) -> str:
    return next(i for i in analysis.inputs if study.runs[i].cell.method == method)


# Shares by token class ----------------------------------------------------------------------------


def step_example(study: Study) -> Mapping[str, Any] | None:
    """The example of seed 0 (the first seed of the study), None where there is none."""
    found = study.analyses_of(STEPS)
    return found[0].result["example"] if found else None


@estimates.once
def token_share(study: Study, quantity: str, classes: Sequence[str]) -> Score | None:
    """Share in percent that ``classes`` have of a quantity (tokens, kl, kl_kept or nll), pooled
    over the problems of every seed. Seeds and, within each, its problems are resampled: every
    seed has problems of its own, which its own warm-up failed."""
    found = study.analyses_of(STEPS)
    tables = [_table(a, quantity) for a in found]
    if not tables or not all(len(t) for t in tables):
        return None
    columns = [CLASSES.index(name) for name in classes]
    tops = [t[:, columns].sum(axis=1) for t in tables]
    bottoms = [t.sum(axis=1) for t in tables]
    generator = np.random.default_rng(RNG_SEED)
    draws = nested_ratio_draws(tops, bottoms, generator, num_draws=study.resamples.num_draws)
    return Score(
        mean=PERCENT * float(sum(t.sum() for t in tops) / sum(b.sum() for b in bottoms)),
        draws=PERCENT * draws,
        num_seeds=len(tables),
        run_ids=tuple(run_id for a in found for run_id in a.inputs),
    )


def nested_ratio_draws(
    tops: Sequence[np.ndarray],
    bottoms: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    num_draws: int,
) -> np.ndarray:
    """Bootstrap draws float [D] of sum(top) / sum(bottom), for groups that share no members.

    A draw takes groups with replacement and members with replacement within each taken group: the
    nested two-level bootstrap, as against the crossed one of ``benchmarks.store.stats``.

    Args:
        tops, bottoms: one float array [N_g] a group, of equal lengths.
    """
    group_sums = np.empty((2, num_draws, len(tops)))
    for g, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):
        size = len(top)
        weights = rng.multinomial(size, np.full(size, 1.0 / size), size=num_draws)
        group_sums[0, :, g] = weights @ top
        group_sums[1, :, g] = weights @ bottom
    # A group that is taken twice brings the same members twice; its own noise is not halved.
    taken = rng.multinomial(len(tops), np.full(len(tops), 1.0 / len(tops)), size=num_draws)
    top, bottom = (taken * group_sums).sum(axis=-1)
    if not (bottom > 0).all():
        raise stats.StatsError("a share of nothing: the quantity is zero on all problems drawn")
    return top / bottom


def _table(analysis: Analysis, quantity: str) -> np.ndarray:
    rows = analysis.result["problems"]
    return np.array([row[quantity] for row in rows], dtype=float).reshape(len(rows), len(CLASSES))
