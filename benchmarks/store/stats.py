"""Statistics of accuracies: avg@k, unbiased pass@k, intervals over units and problems, tests.

Everything here is a pure function of arrays. ``correct`` is bool [N, K] (N problems, K samples
each), ``scores`` is float [S, N] (S units, N problems). A *unit* is one replication of the study: a
training seed, or a world where each has its own.

All units may have answered the same problems. Then both are samples of something larger, and the
variance of the mean is that of the unit means, plus that of the problem means, minus the
interaction, which both contain (the crossed two-way layout; Searle, Casella and McCulloch 1992,
Sec. 4.3), with Satterthwaite's degrees of freedom. Problems of one type succeed and fail together,
so the problem part sums over pairs of problems that share a type: cluster-robust, by inclusion and
exclusion for problems of two types (Cameron, Gelbach and Miller 2011, JBES 29).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from scipy.special import nctdtr, stdtr, stdtrit  # Student's t; scipy.stats takes long to import

LEVEL = 0.95
POWER = 0.8  # at which a difference counts as detectable
NO_VOTE = "."  # symbol of a sample without an answer
HOLDS, FAILS, EQUIVALENT = "holds", "fails", "equivalent within the margin"
TOO_LITTLE, BUILT_IN = "too little data", "built in"


class StatsError(ValueError):
    """Numbers that must not be averaged: the message names them in one line."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval, in the unit of what was averaged; the bounds of a mean alone are
    NaN."""

    mean: float
    low: float
    high: float


def interval_text(low: float, high: float, number: Callable[[float], str]) -> str:
    """ " [1.0, 5.2]", or nothing for bounds that are NaN."""
    return "" if math.isnan(low) else f" [{number(low)}, {number(high)}]"


@dataclass(frozen=True)
class Clusters:
    """The problems of benchmarks that count equally, and which succeed and fail together.

    ``sizes``: problems of each benchmark, in order. ``members``: float [N, G], 1 where a problem
    belongs to a group: first the types, then the pairs of types, whose problems both types count.
    """

    sizes: tuple[int, ...]
    members: np.ndarray
    number: int

    @classmethod
    def of(cls, types: Sequence[Sequence[str]], sizes: Sequence[int]) -> Clusters:
        """From the types that each problem names, one or two; repeated ones count once."""
        sets = [sorted(set(named)) for named in types]
        # Of three, what is in all of them would have to be added again.
        assert all(1 <= len(named) <= 2 for named in sets), "a problem is of one type or two"
        names = sorted({name for named in sets for name in named})
        pairs = sorted({pair for named in sets for pair in combinations(named, 2)})
        columns = {group: i for i, group in enumerate([*names, *pairs])}
        members = np.zeros((len(sets), len(columns)))
        for row, named in zip(members, sets, strict=True):
            row[[columns[group] for group in (*named, *combinations(named, 2))]] = 1.0
        return cls(tuple(sizes), members, len(names))

    @classmethod
    def apart(cls, sizes: Sequence[int]) -> Clusters:
        """Every problem by itself."""
        return cls(tuple(sizes), np.eye(sum(sizes)), sum(sizes))

    @cached_property
    def signs(self) -> np.ndarray:
        """[G]: a pair of types is subtracted, for it is in the sums of both."""
        return np.where(np.arange(self.members.shape[1]) < self.number, 1.0, -1.0)

    def parts(self, tables: Sequence[np.ndarray]) -> np.ndarray:
        """What each group adds to the mean above the average of its benchmark, [S, G], from scores
        [S, N_b] of each benchmark."""
        assert tuple(table.shape[1] for table in tables) == self.sizes, self.sizes
        weighted = [
            (table - table.mean(axis=1, keepdims=True)) / (table.shape[1] * len(tables))
            for table in tables
        ]
        return np.concatenate(weighted, axis=1) @ self.members

    @cached_property
    def small_sample(self) -> tuple[float, float]:
        """What the sum of squares has to be multiplied by, and its degrees of freedom, if types
        were independent draws of equal variance (after Bell and McCaffrey 2002, Survey
        Methodology 28)."""
        effects = self.members[:, : self.number].T
        tables = np.split(effects, np.cumsum(self.sizes)[:-1], axis=1)
        of_mean = np.mean([table.mean(axis=1) for table in tables], axis=0)
        parts = self.parts(tables)
        square = (parts * self.signs) @ parts.T
        trace = float(np.trace(square))
        # One type alone says nothing about others; its parts are 0 but for rounding.
        if trace <= 1e-12 * float(of_mean @ of_mean):
            return 1.0, 1.0
        return float(of_mean @ of_mean) / trace, trace**2 / float((square**2).sum())


@dataclass(frozen=True)
class Mean:
    """A mean over units and problems, and what its variance follows from; linear in the scores, so
    that differences are paired over units and problems.

    ``units``: float [S], the mean of each unit. ``parts``: [S, G] of ``clusters``; None where the
    problems say nothing further, because each unit has its own.
    """

    units: np.ndarray
    parts: np.ndarray | None = None
    clusters: Clusters | None = None

    @classmethod
    def over_units(cls, values: Sequence[float]) -> Mean:
        """Of one number a unit."""
        return cls(np.asarray(values, dtype=float))

    @classmethod
    def over_problems(
        cls, tables: Sequence[np.ndarray], clusters: Clusters, *, shared: bool = True
    ) -> Mean:
        """Of benchmarks that count equally.

        Args:
            tables: scores float [S, N_b] of each.
            shared: all units answered the same problems; where each has its own, the spread of
                units has that of problems in it already.
        """
        units = np.mean([table.mean(axis=1) for table in tables], axis=0)
        if not shared and len(units) > 1:
            return cls(units)
        return cls(units, clusters.parts(tables), clusters)

    def __add__(self, other: Mean) -> Mean:
        return self.plus(other, 1.0)

    def __sub__(self, other: Mean) -> Mean:
        return self.plus(other, -1.0)

    def __mul__(self, factor: float) -> Mean:
        parts = None if self.parts is None else self.parts * factor
        return Mean(self.units * factor, parts, self.clusters)

    def plus(self, other: Mean, factor: float) -> Mean:
        """``self + factor * other``; a single unit (an untrained model) counts beside each."""
        ours, theirs = len(self.units), len(other.units)
        assert ours == theirs or 1 in (ours, theirs), (ours, theirs)
        assert (self.parts is None) == (other.parts is None), "means over different problems"
        parts = None if self.parts is None else self.parts + factor * other.parts
        return Mean(self.units + factor * other.units, parts, self.clusters)

    @cached_property
    def mean(self) -> float:
        return float(self.units.mean())

    @cached_property
    def unit_variance(self) -> float:
        """Of one unit's mean, interaction and sampling included; 0 for a single unit, whose
        problems alone can say something."""
        return float(self.units.var(ddof=1)) if len(self.units) > 1 else 0.0

    @cached_property
    def _problem_parts(self) -> tuple[float, float]:
        """Variance of the mean that problems bring, and the interaction's share of it."""
        if self.parts is None:
            return 0.0, 0.0
        factor, _ = self.clusters.small_sample
        average, num_units = self.parts.mean(axis=0), len(self.units)
        problems = factor * float(self.clusters.signs @ average**2)
        if num_units == 1:
            return problems, 0.0
        rest = ((self.parts - average) ** 2).sum(axis=0) / (num_units * (num_units - 1))
        return problems, factor * float(self.clusters.signs @ rest)

    @property
    def problem_variance(self) -> float:
        """What problems add to the variance of the mean and more units do not take away."""
        problems, interaction = self._problem_parts
        return max(problems - interaction, 0.0)

    @cached_property
    def variance(self) -> float:
        """Of the mean; NaN, and with it all that follows, where nothing says what it varies by: one
        unit of one number."""
        if self.parts is None and len(self.units) < 2:
            return float("nan")
        return self.unit_variance / len(self.units) + self.problem_variance

    @cached_property
    def freedom(self) -> float:
        """Degrees of freedom after Satterthwaite; at least 1."""
        num_units, units = len(self.units), self.unit_variance / len(self.units)
        problems, interaction = self._problem_parts
        if problems <= interaction:
            return max(num_units - 1, 1)
        _, more = self.clusters.small_sample
        spread = problems**2 / more
        if num_units > 1:
            spread += units**2 / (num_units - 1) + interaction**2 / (more * (num_units - 1))
        return max(self.variance**2 / spread, 1.0)

    def interval(self, level: float = LEVEL) -> Estimate:
        """The mean with its t interval."""
        half = self.variance**0.5 * stdtrit(self.freedom, (1 + level) / 2)
        return Estimate(self.mean, self.mean - float(half), self.mean + float(half))

    def p_above(self, value: float) -> float:
        """One-sided p of "the mean is above ``value``": small where the data say so."""
        if not self.variance:
            return 0.0 if self.mean > value else 1.0
        return float(stdtr(self.freedom, (value - self.mean) / self.variance**0.5))

    def p_zero(self, value: float = 0.0) -> float:
        """Two-sided p of "the mean is ``value``"."""
        above = self.p_above(value)
        if not self.variance:
            return float(self.mean == value)
        return float(np.minimum(1.0, 2 * np.minimum(above, 1 - above)))

    def detectable(self) -> float:
        """The true difference from 0 that would be found with a chance of ``POWER``."""
        quantiles = stdtrit(self.freedom, np.array([(1 + LEVEL) / 2, POWER]))
        return float(quantiles.sum() * self.variance**0.5)


def slope(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """By how much ``y`` rises with a standard deviation of ``x``: least squares, t interval.

    NaN where ``x`` does not vary or there are fewer than three points.
    """
    x, y = (np.asarray(values, dtype=float) for values in (x, y))
    if len(x) < 3 or not x.std() > 0:
        return Estimate(*[float("nan")] * 3)
    x, y = (x - x.mean()) / x.std(ddof=1), y - y.mean()
    square = float(x @ x)
    rise = float(x @ y) / square
    error = (((y - rise * x) ** 2).sum() / (len(x) - 2) / square) ** 0.5
    half = float(error * stdtrit(len(x) - 2, (1 + LEVEL) / 2))
    return Estimate(rise, rise - half, rise + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values after Holm's step-down correction for their number, in their order. By hand: the
    one library here that has it, statsmodels, is no dependency of the report."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return out.tolist()


def equivalent(mean: Mean, margin: float) -> bool:
    """Two one-sided tests at 5% each: is the mean above ``-margin`` and below ``margin``?"""
    alpha = 1 - LEVEL
    return mean.p_above(-margin) < alpha and 1 - mean.p_above(margin) < alpha


def units_needed(
    mean: Mean, effect: float, *, own_problems: bool, most: int = 10_000
) -> int | None:
    """The fewest units with which a true difference ``effect`` is found with a chance of ``POWER``.

    ``own_problems``: every further unit brings problems of its own, as a world does; else the
    problems stay the same, and so does their share of the variance. None where ``most`` are too
    few, or where one unit says nothing about others.
    """
    if len(mean.units) < 2:
        return None
    units = np.arange(2, most + 1)
    ours = (mean.unit_variance + own_problems * mean.problem_variance) / units
    stays = 0.0 if own_problems else mean.problem_variance
    if not mean.variance:
        return 2
    spread = ours**2 / (units - 1)
    if stays:
        spread += stays**2 / mean.clusters.small_sample[1]
    freedom = (ours + stays) ** 2 / spread
    limit = stdtrit(freedom, (1 + LEVEL) / 2)
    enough = 1 - nctdtr(freedom, effect / np.sqrt(ours + stays), limit) >= POWER
    return int(units[enough.argmax()]) if enough.any() else None


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


def answer_codes(text: str, shape: tuple[int, int], *, where: str) -> np.ndarray:
    """Stored answers as int [N, K]: equal numbers in a row are equal answers of that problem.

    ``text``: words joined by spaces, one a problem, one symbol a sample, as
    ``benchmarks.run.evaluate.summarize`` writes them; StatsError, which begins with ``where``, if
    they are not as many and as long as ``shape`` says.
    """
    words, (num_problems, k) = text.split(" "), shape
    if [len(word) for word in words] != [k] * num_problems:
        raise StatsError(
            f"{where}: the stored answers are not {num_problems} words of {k} symbols; "
            "evaluate the run again"
        )
    symbols = "".join(words).encode("utf-32-le")
    return np.frombuffer(symbols, dtype="<u4").astype(np.int64).reshape(shape)


def majority(codes: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """maj@K of each problem, float [N]: whether the commonest of its K answers is the correct one,
    a tie by the share of tied answers that is.

    A sample without an answer casts no vote, and without any vote the problem is lost.

    Args:
        codes: int [N, K] of :func:`answer_codes`. correct: bool [N, K].
    """
    won = np.zeros(len(codes))
    for index, row in enumerate(codes):
        symbols, votes = np.unique(row[row != ord(NO_VOTE)], return_counts=True)
        leading = symbols[votes == votes.max(initial=0)]
        if len(leading):
            won[index] = np.isin(leading, row[correct[index]]).mean()
    return won


def pass_at_k(num_correct: np.ndarray, *, num_samples: int, k: int) -> np.ndarray:
    """Unbiased pass@k per problem: 1 - C(n-c, k) / C(n, k), float, shape of ``num_correct``.

    Implements Eq. 1 of arXiv 2107.03374 as the product of (1 - k/i) for i in n-c+1..n, which
    neither overflows nor loses digits.

    Args:
        num_correct: int, any shape, correct samples c of each problem, 0..n.
        num_samples: n, samples of each problem.
        k: 1..n. The estimator does not exist for k > n.
    """
    assert 1 <= k <= num_samples, (k, num_samples)
    counts = np.asarray(num_correct)
    factors = 1.0 - k / np.arange(num_samples, 0, -1)
    by_count = 1.0 - np.concatenate([[1.0], np.cumprod(factors)])
    return by_count[counts]
