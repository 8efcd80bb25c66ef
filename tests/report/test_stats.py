"""Statistics against closed forms and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.store import stats
from benchmarks.store.stats import Estimate, StatsError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_avg_at_k_of_hand_counted_verdicts():
    correct = stats.correct_matrix(["ccwn", "wwww", "ctoe"], num_problems=3, k=4, where="run")
    assert correct.tolist() == [[True, True, False, False], [False] * 4, [True] + [False] * 3]
    assert stats.avg_at_k(correct) == pytest.approx((2 + 0 + 1) / 12)


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


def test_one_seed_bootstrap_agrees_with_scipy_and_the_normal_approximation():
    scores = rng(1).random((1, 400))
    draws = stats.two_level_bootstrap(scores, rng=rng(2), num_draws=4000)
    standard_error = scores.std() / np.sqrt(400)
    assert draws.std() == pytest.approx(standard_error, rel=0.05)
    found = stats.estimate(scores.mean(), draws)
    reference = scipy.stats.bootstrap(
        (scores[0],), np.mean, n_resamples=4000, method="percentile", rng=rng(3)
    ).confidence_interval
    assert found.low == pytest.approx(reference.low, abs=0.1 * standard_error * 1.96)
    assert found.high == pytest.approx(reference.high, abs=0.1 * standard_error * 1.96)


def test_two_level_variance_is_the_sum_of_both_levels_for_additive_scores():
    # scores[s, n] = a_s + b_n: resampling seeds and problems gives var(a)/S + var(b)/N exactly.
    seed_effect = np.array([0.0, 0.3, 0.9, 0.4])[:, None]
    problem_effect = rng(4).random((1, 50))
    draws = stats.two_level_bootstrap(seed_effect + problem_effect, rng=rng(5), num_draws=40000)
    expected = seed_effect.var() / 4 + problem_effect.var() / 50
    assert draws.var() == pytest.approx(expected, rel=0.03)
    assert draws.mean() == pytest.approx(seed_effect.mean() + problem_effect.mean(), abs=0.005)


def test_problems_are_resampled_once_for_all_seeds():
    # Equal rows are one row seen S times: S runs of the same model add no information.
    row = rng(6).random((1, 80))
    once = stats.two_level_bootstrap(row, rng=rng(7), num_draws=20000)
    thrice = stats.two_level_bootstrap(np.repeat(row, 3, axis=0), rng=rng(8), num_draws=20000)
    assert thrice.std() == pytest.approx(once.std(), rel=0.03)


def test_every_row_of_weights_sums_to_one_and_uses_every_seed():
    drawn = stats.draw_resamples(rng(), num_seeds=5, num_problems={"a": 30, "b": 7}, num_draws=500)
    for weights in (drawn.seed_weights(3), drawn.seed_weights(5), *drawn.problem_weights.values()):
        assert weights.sum(axis=1) == pytest.approx(np.ones(500))
        assert weights.mean(axis=0) == pytest.approx(1 / weights.shape[1], rel=0.25)
    assert set(np.unique((3 * drawn.seed_weights(3)).round(9))) == {0.0, 1.0, 2.0, 3.0}


def test_equal_generators_give_equal_draws_and_others_do_not():
    scores = rng(9).random((3, 40))
    first = stats.two_level_bootstrap(scores, rng=rng(10), num_draws=100)
    assert np.array_equal(first, stats.two_level_bootstrap(scores, rng=rng(10), num_draws=100))
    assert not np.array_equal(first, stats.two_level_bootstrap(scores, rng=rng(11), num_draws=100))


def test_the_result_does_not_depend_on_the_global_generator():
    scores = rng(9).random((3, 40))
    np.random.seed(1)
    first = stats.two_level_bootstrap(scores, rng=rng(10), num_draws=50)
    np.random.seed(2)
    assert np.array_equal(first, stats.two_level_bootstrap(scores, rng=rng(10), num_draws=50))


def test_an_empty_matrix_is_refused():
    with pytest.raises(StatsError, match="non-empty"):
        stats.two_level_bootstrap(np.zeros((0, 4)), rng=rng())


def test_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for trial in range(300):
        source = rng(1000 + trial)
        scores = (source.random((1, 100)) < 0.4).astype(float)
        interval = stats.estimate(0.0, stats.two_level_bootstrap(scores, rng=source, num_draws=400))
        covered += interval.low <= 0.4 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_coverage_of_three_seeds_is_what_the_exact_bootstrap_gives():
    # Three runs: all 27 resamples can be listed, so the quantiles need no simulation.
    source = rng(20)
    index = np.array(list(itertools.product(range(3), repeat=3)))
    means = source.standard_normal((4000, 3))[:, index].mean(axis=2)
    low, high = np.quantile(means, [0.025, 0.975], axis=1, method="inverted_cdf")
    exact = ((low <= 0) & (high >= 0)).mean()
    found = stats.seed_level_coverage(3, rng=rng(21), num_trials=4000)
    assert found == pytest.approx(exact, abs=0.03)
    assert found < 0.80 < stats.seed_level_coverage(10, rng=rng(22))
    assert stats.seed_level_coverage(1, rng=rng()) == 0.0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
)
def test_probability_of_improvement_is_mann_whitney(x, y):
    statistic = scipy.stats.mannwhitneyu(x, y).statistic
    found = stats.probability_of_improvement(np.array(x), np.array(y))
    assert found == pytest.approx(statistic / (len(x) * len(y)))


@pytest.mark.parametrize(
    ("low", "high", "num_seeds", "expected"),
    [
        (0.1, 0.5, 3, stats.HOLDS),
        (-0.5, -0.1, 3, stats.FAILS),
        (-0.1, 0.5, 3, stats.UNDECIDED),
        (0.0, 0.5, 3, stats.UNDECIDED),
        (0.1, 0.5, 2, stats.UNDECIDED),
        (-0.5, -0.1, 1, stats.UNDECIDED),
    ],
)
def test_verdict(low, high, num_seeds, expected):
    effect = Estimate(mean=(low + high) / 2, low=low, high=high)
    assert stats.verdict(effect, num_seeds=num_seeds) == expected
