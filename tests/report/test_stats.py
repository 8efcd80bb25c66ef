"""Verdict letters and pass@k against counts and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from benchmarks.store import stats
from benchmarks.store.stats import StatsError


def test_letters_are_counted_by_hand():
    correct = stats.correct_matrix(["ccwn", "wwww", "ctoe"], num_problems=3, k=4, where="run")
    assert correct.tolist() == [[True, True, False, False], [False] * 4, [True] + [False] * 3]


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (["ccw", "ccww"], "problem 0 has 3 verdicts, avg@4 needs exactly 4"),
        (["ccww", "ccwww"], "problem 1 has 5 verdicts"),
        (["ccww"], "1 problems are scored, the benchmark has 2"),
        (["ccww", "ccwx"], "verdict letter 'x' is unknown"),
    ],
)
def test_unequal_sample_counts_are_an_error(verdicts, message):
    with pytest.raises(StatsError, match=message):
        stats.correct_matrix(verdicts, num_problems=2, k=4, where="run r")


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(k):
    n = 8
    for num_correct in range(n + 1):
        samples = [True] * num_correct + [False] * (n - num_correct)
        subsets = list(itertools.combinations(samples, k))
        expected = sum(any(subset) for subset in subsets) / len(subsets)
        found = stats.pass_at_k(np.array([num_correct]), num_samples=n, k=k)
        assert found == pytest.approx([expected], abs=1e-12)


def test_pass_at_k_is_the_hypergeometric_tail_at_sizes_where_binomials_are_huge():
    counts = np.array([[0, 1, 40], [199, 200, 7]])
    expected = 1 - scipy.stats.hypergeom.pmf(0, 200, counts, 100)
    found = stats.pass_at_k(counts, num_samples=200, k=100)
    assert found == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_needs_k_samples():
    with pytest.raises(StatsError, match="pass@5 needs at least 5 samples a problem, there are 4"):
        stats.pass_at_k(np.array([1]), num_samples=4, k=5)
    with pytest.raises(StatsError, match="0..4"):
        stats.pass_at_k(np.array([5]), num_samples=4, k=2)
