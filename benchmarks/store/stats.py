"""Statistics of accuracies: avg@k, unbiased pass@k, two-level bootstrap, paired differences.

Everything here is a pure function of arrays. Conventions: ``correct`` is bool [N, K] (N problems,
K samples each), ``scores`` is float [S, N] (S training seeds, N problems; a problem's share of
correct samples), both in [0, 1]. Randomness comes from one ``numpy.random.Generator`` passed in,
so equal generators give equal intervals.

The two-level bootstrap resamples seeds and problems, because both are samples of something larger.
Problems are *crossed* with seeds (every seed is evaluated on the same problems), so one draw takes
one set of seeds and one set of problems and uses every pair of them (the "pigeonhole bootstrap",
Owen 2007, arXiv 0712.1111). Drawing other problems for each seed would treat one problem seen by
three models as three problems and make the intervals too narrow.

Few seeds make the seed level coarse: the bootstrap knows only the S runs it was given, so its
variance over seeds is (S-1)/S of the truth and its quantiles lie inside the observed runs.
``seed_level_coverage`` says how often a nominal 95% interval then covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
MIN_SEEDS_FOR_VERDICT = 3
NO_VOTE = "."  # symbol of a sample without an answer
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


class StatsError(ValueError):
    """Numbers that must not be averaged: the message names them in one line."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, in the unit of what was averaged."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """Bootstrap draws shared by every method and model, so that differences are paired.

    ``seed_uniforms``: float [D, S_max] in [0, 1); ``problem_weights``: benchmark key -> float
    [D, N], rows sum to one. Made once by :func:`draw_resamples`.
    """

    seed_uniforms: np.ndarray
    problem_weights: Mapping[str, np.ndarray]

    @property
    def num_draws(self) -> int:
        return int(self.seed_uniforms.shape[0])

    def seed_weights(self, num_seeds: int) -> np.ndarray:
        """Weights float [D, S] of the first ``num_seeds`` runs; rows sum to one."""
        assert 1 <= num_seeds <= self.seed_uniforms.shape[1], num_seeds
        index = (self.seed_uniforms[:, :num_seeds] * num_seeds).astype(np.int64)
        return (index[:, :, None] == np.arange(num_seeds)).mean(axis=1)


def correct_matrix(verdicts: Sequence[str], *, num_problems: int, k: int, where: str) -> np.ndarray:
    """Verdict letters (one string per problem, one letter per sample) as bool [N, K].

    Raises StatsError unless there are exactly ``num_problems`` strings of exactly ``k`` letters of
    "cwntoe" (correct, wrong, no answer, truncated, timeout, error): a shorter row would silently
    change the denominator. ``where`` names the run and benchmark in the message.
    """
    if len(verdicts) != num_problems:
        raise StatsError(
            f"{where}: {len(verdicts)} problems are scored, the benchmark has {num_problems}; "
            "evaluate the run again"
        )
    for index, row in enumerate(verdicts):
        if len(row) != k:
            raise StatsError(
                f"{where}: problem {index} has {len(row)} verdicts, avg@{k} needs exactly {k}; "
                "evaluate the run again"
            )
    letters = np.frombuffer("".join(verdicts).encode(), dtype=np.uint8).reshape(num_problems, k)
    unknown = set(np.unique(letters).tolist()) - set(b"cwntoe")
    if unknown:
        raise StatsError(
            f"{where}: verdict letter {chr(min(unknown))!r} is unknown; allowed are c w n t o e"
        )
    return letters == ord("c")


def answer_codes(text: str, correct: np.ndarray, *, where: str) -> np.ndarray:
    """Stored answers as int [N, K]: equal numbers in a row are equal answers of that problem.

    Args:
        text: words joined by spaces, one a problem, one symbol a sample, as
            ``benchmarks.run.evaluate.summarize`` writes them.
        correct: bool [N, K], the verdicts of the same samples.

    Raises:
        StatsError: number and length of the words differ from the verdicts', or the correct
            samples of a problem are not exactly those under one symbol.
    """
    words = text.split(" ")
    num_problems, k = correct.shape
    if len(words) != num_problems or any(len(word) != k for word in words):
        raise StatsError(
            f"{where}: the answers are not {num_problems} words of {k} symbols; "
            "evaluate the run again"
        )
    codes = np.frombuffer("".join(words).encode("utf-32-le"), dtype="<u4").astype(np.int64)
    codes = codes.reshape(num_problems, k)
    gold = gold_codes(codes, correct)
    expected = (codes == gold[:, None]) & correct.any(axis=1)[:, None]
    bad = np.flatnonzero((expected != correct).any(axis=1) | (gold == ord(NO_VOTE)))
    if len(bad):
        raise StatsError(
            f"{where}: answers of problem {bad[0]} do not fit its verdicts; evaluate the run again"
        )
    return codes


def gold_codes(codes: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """The symbol of each problem's correct answer, int [N]; 0 where no sample is correct."""
    first = codes[np.arange(len(codes)), correct.argmax(axis=1)]
    return np.where(correct.any(axis=1), first, 0)


def avg_at_k(correct: np.ndarray) -> float:
    """Mean accuracy in [0, 1] of bool [N, K]: the mean over problems of the share correct of K."""
    assert correct.ndim == 2, correct.shape
    return float(correct.mean(axis=1).mean())


def pass_at_k(num_correct: np.ndarray, *, num_samples: int, k: int) -> np.ndarray:
    """Unbiased pass@k per problem: 1 - C(n-c, k) / C(n, k), float, shape of ``num_correct``.

    Implements Eq. 1 of arXiv 2107.03374 as the product of (1 - k/i) for i in n-c+1..n, which
    neither overflows nor loses digits.

    Args:
        num_correct: int, any shape, correct samples c of each problem, 0..n.
        num_samples: n, samples of each problem.
        k: 1..n. The estimator does not exist for k > n.

    Raises:
        StatsError: k outside 1..n, or a count outside 0..n.
    """
    if not 1 <= k <= num_samples:
        raise StatsError(f"pass@{k} needs at least {k} samples a problem, there are {num_samples}")
    counts = np.asarray(num_correct)
    if counts.size and (counts.min() < 0 or counts.max() > num_samples):
        raise StatsError(f"correct counts must lie in 0..{num_samples}, got {counts.max()}")
    factors = 1.0 - k / np.arange(num_samples, 0, -1)
    by_count = 1.0 - np.concatenate([[1.0], np.cumprod(factors)])
    return by_count[counts]


def draw_resamples(
    rng: np.random.Generator,
    *,
    num_seeds: int,
    num_problems: Mapping[str, int],
    num_draws: int,
) -> Resamples:
    """All bootstrap draws of a study, taken from ``rng`` in the order of ``num_problems``.

    Drawn once, up front: which tables are built, and in what order, cannot change an interval.
    """
    seed_uniforms = rng.random((num_draws, max(num_seeds, 1)))
    problem_weights = {
        key: rng.multinomial(n, np.full(n, 1.0 / n), size=num_draws) / n
        for key, n in num_problems.items()
    }
    return Resamples(seed_uniforms=seed_uniforms, problem_weights=problem_weights)


def weighted_means(
    scores: np.ndarray, *, seed_weights: np.ndarray, problem_weights: np.ndarray
) -> np.ndarray:
    """Mean of ``scores`` [S, N] under each draw's weights [D, S] and [D, N]: float [D]."""
    return np.einsum("ds,ds->d", problem_weights @ scores.T, seed_weights)


def two_level_bootstrap(
    scores: np.ndarray, *, rng: np.random.Generator, num_draws: int = 2000
) -> np.ndarray:
    """Bootstrap means float [D] of ``scores`` [S, N], resampling seeds and problems (crossed).

    With S = 1 (the base model, which is not trained) only problems are resampled.
    """
    if scores.ndim != 2 or 0 in scores.shape:
        raise StatsError(f"scores must be [seeds, problems], both non-empty, got {scores.shape}")
    num_seeds, num_problems = scores.shape
    drawn = draw_resamples(
        rng, num_seeds=num_seeds, num_problems={"": num_problems}, num_draws=num_draws
    )
    return weighted_means(
        scores,
        seed_weights=drawn.seed_weights(num_seeds),
        problem_weights=drawn.problem_weights[""],
    )


def estimate(mean: float, draws: np.ndarray, level: float = LEVEL) -> Estimate:
    """``mean`` with the percentile interval of its bootstrap ``draws`` [D]."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    return Estimate(mean=float(mean), low=float(low), high=float(high))


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> float:
    """P(X > Y) + P(X = Y)/2 over all pairs of runs of ``x`` [S] and ``y`` [S'], in [0, 1].

    The Mann-Whitney statistic over its maximum, as in Sec. 4.3 of arXiv 2108.13264.
    """
    x, y = np.asarray(x)[:, None], np.asarray(y)[None, :]
    return float(((x > y) + 0.5 * (x == y)).mean())


def verdict(effect: Estimate, *, num_seeds: int) -> str:
    """ "holds" if the whole interval is above 0, "does not hold" if below, else "undecided".

    Below ``MIN_SEEDS_FOR_VERDICT`` seeds the answer is always "undecided": an interval over
    problems alone says nothing about another training run.
    """
    if num_seeds < MIN_SEEDS_FOR_VERDICT:
        return UNDECIDED
    if effect.low > 0:
        return HOLDS
    if effect.high < 0:
        return FAILS
    return UNDECIDED


def seed_level_coverage(
    num_seeds: int, *, rng: np.random.Generator, num_trials: int = 400, num_draws: int = 500
) -> float:
    """How often the nominal 95% interval covers when only (Gaussian) seed noise is present.

    The worst case for few seeds; problems pull the coverage back up where they dominate.
    """
    if num_seeds < 2:
        return 0.0
    runs = rng.standard_normal((num_trials, num_seeds))
    index = rng.integers(num_seeds, size=(num_trials, num_draws, num_seeds))
    means = np.take_along_axis(runs[:, None, :], index, axis=2).mean(axis=2)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return float(((low <= 0) & (high >= 0)).mean())
