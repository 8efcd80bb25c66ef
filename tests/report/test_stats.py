"""Verdict letters, stored answers and pass@k against counts and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from benchmarks.store import stats
from benchmarks.store.stats import StatsError


@pytest.mark.parametrize(
    ("verdicts", "message"),
    [
        (["ccw", "ccww"], "problem 0 has 3 verdicts, avg@4 needs exactly 4"),
        (["ccww"], "1 problems are scored, the benchmark has 2"),
        (["ccww", "ccwx"], "verdict letter 'x' is unknown"),
    ],
)
def test_unequal_sample_counts_are_an_error(verdicts, message):
    correct = stats.correct_matrix(["ccwn", "ctoe"], num_problems=2, k=4, where="run")
    assert correct.tolist() == [[True, True, False, False], [True] + [False] * 3]
    with pytest.raises(StatsError, match=message):
        stats.correct_matrix(verdicts, num_problems=2, k=4, where="run r")


def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample():
    n = 8
    for k, num_correct in itertools.product((1, 2, 5, 8), range(n + 1)):
        samples = [True] * num_correct + [False] * (n - num_correct)
        expected = np.mean([any(subset) for subset in itertools.combinations(samples, k)])
        found = stats.pass_at_k(np.array([num_correct]), num_samples=n, k=k)
        assert found == pytest.approx([expected], abs=1e-12)
    counts = np.array([[0, 1, 40], [199, 200, 7]])  # where binomials are huge
    expected = 1 - scipy.stats.hypergeom.pmf(0, 200, counts, 100)
    assert stats.pass_at_k(counts, num_samples=200, k=100) == pytest.approx(expected, abs=1e-12)


def test_the_majority_counts_ties_and_silence():
    words = ["aabbc", "abbb.", "a....", ".....", "abcde"]
    correct = np.array([[symbol == "a" for symbol in word] for word in words])
    codes = stats.answer_codes(" ".join(words), correct.shape, where="x")
    assert stats.majority(codes, correct) == pytest.approx([0.5, 0.0, 1.0, 0.0, 0.2])
    for text in ("aab bc", "aa bb cc", "aaabbb"):  # a shifted, a third and a joined word
        with pytest.raises(stats.StatsError, match="run, trained: .* not 2 words of 3 symbols"):
            stats.answer_codes(text, (2, 3), where="run, trained")
