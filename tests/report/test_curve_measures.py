"""Measures behind the figures of the paper: speed to equal reward, pass@k and maj@k, shares."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import isotonic_regression

from benchmarks.report import measures
from benchmarks.report.measures import nested_ratio_draws
from benchmarks.store import stats


def ramp(*, slope: float, num_steps: int = 20) -> np.ndarray:
    """A reward that rises by ``slope`` a step from the first, [1, T]."""
    return slope * np.arange(1, num_steps + 1)[None]


# Speed to equal reward ----------------------------------------------------------------------------


def test_isotonic_is_scipys(monkeypatch):
    rng = np.random.default_rng(0)
    curves = np.concatenate([rng.normal(size=(20, 13)), rng.normal(size=(5, 13)).cumsum(axis=1)])
    expected = np.stack([isotonic_regression(c).x for c in curves])
    assert measures.isotonic(curves) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(measures, "_CHUNK", 1)  # one curve at a time
    assert measures.isotonic(curves) == pytest.approx(expected, abs=1e-12)


def test_twice_the_slope_is_twice_as_fast_and_the_measure_is_antisymmetric():
    fast, slow = ramp(slope=0.04), ramp(slope=0.02)
    assert np.exp(measures.log_factor(fast, slow)) == pytest.approx(2.0)
    assert np.exp(measures.log_factor(slow, fast)) == pytest.approx(0.5)
    assert measures.log_factor(fast, fast) == pytest.approx(0.0)
    assert [s[0] for s in measures.reach_steps(fast, slow)] == pytest.approx([10.0, 20.0])


def test_a_level_between_two_steps_is_interpolated_and_the_first_step_counts_as_one():
    ours, theirs = np.array([[0.0, 0.4, 1.0]]), np.array([[0.0, 0.0, 0.6]])
    # 0.6 lies a third of the way from step 2 to step 3.
    assert [s[0] for s in measures.reach_steps(ours, theirs)] == pytest.approx([2 + 1 / 3, 3.0])
    flat = np.full((1, 3), 0.5)
    assert [s[0] for s in measures.reach_steps(flat, flat)] == [1.0, 1.0]


def test_one_lucky_step_is_no_arrival():
    curve = ramp(slope=0.02)[0].copy()
    curve[3] = 0.39  # as high as the very end
    rising = measures.isotonic(curve[None])
    steps, _ = measures.reach_steps(rising, ramp(slope=0.02))
    assert steps[0] > 18


# pass@k and maj@k ---------------------------------------------------------------------------------


def codes_of(words: list[str], correct: np.ndarray) -> np.ndarray:
    return stats.answer_codes(" ".join(words), correct, where="here")


def test_pass_curve_is_the_share_of_subsets_with_a_correct_sample():
    rng = np.random.default_rng(1)
    correct = rng.random((6, 7)) < 0.3
    found = measures.pass_curve(correct, (1, 2, 5, 7))
    for row, k in zip(found, (1, 2, 5, 7), strict=True):
        subsets = list(itertools.combinations(range(7), k))
        expected = [np.mean([line[list(s)].any() for s in subsets]) for line in correct]
        assert row == pytest.approx(expected)


def majority(word: str, gold: str) -> float:
    """Whether the commonest answer of all samples is ``gold``, a tie by its share."""
    counts = Counter(symbol for symbol in word if symbol != stats.NO_VOTE)
    top = [s for s, n in counts.items() if n == max(counts.values())]
    return top.count(gold) / len(top) if top else 0.0


def test_majority_over_all_samples_counts_ties_and_silence():
    words = ["aabbc", "abbb.", "a....", ".....", "abcde"]
    gold = "a"
    correct = np.array([[symbol == gold for symbol in word] for word in words])
    codes = codes_of(words, correct)
    found = measures.majority_curve(codes, correct, (1, 5))
    assert found[1] == pytest.approx([0.5, 0.0, 1.0, 0.0, 0.2])
    assert found[1] == pytest.approx([majority(word, gold) for word in words])
    assert found[0] == pytest.approx([0.4, 0.2, 0.2, 0.0, 0.2])


def test_majority_of_some_samples_is_near_the_mean_over_all_subsets():
    rng = np.random.default_rng(2)
    words = ["".join(rng.choice(list("aabc."), size=8)) for _ in range(60)]
    correct = np.array([[symbol == "a" for symbol in word] for word in words])
    found = measures.majority_curve(codes_of(words, correct), correct, (4,))[0]
    expected = np.array(
        [
            np.mean([majority("".join(s), "a") for s in itertools.combinations(word, 4)])
            for word in words
        ]
    )
    # 64 orders: standard error of a problem at most 0.0625.
    assert np.abs(found - expected).max() < 0.25
    assert abs(found.mean() - expected.mean()) < 0.02


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ab"], "not 2 words of 2 symbols"),
        (["abc", "ab"], "not 2 words of 2 symbols"),
        (["aa", "ab"], "answers of problem 0 do not fit"),  # a wrong sample votes as a correct one
        (["ab", "b."], "answers of problem 1 do not fit"),  # a correct sample casts no vote
    ],
)
def test_answers_that_do_not_fit_the_verdicts_are_refused(words, message):
    correct = np.array([[True, False], [False, True]])
    with pytest.raises(stats.StatsError, match=message):
        codes_of(words, correct)


# Shares -------------------------------------------------------------------------------------------


def test_nested_draws_spread_as_seeds_and_members_do():
    rng = np.random.default_rng(3)
    size, groups = 40, 6
    means = rng.normal(10, 2, size=groups)
    tops = [rng.normal(m, 3, size=size) for m in means]
    bottoms = [np.ones(size) for _ in range(groups)]
    draws = nested_ratio_draws(tops, bottoms, rng, num_draws=20_000)
    # With equal sizes the ratio is the mean of group means: the variance of the nested bootstrap
    # is the groups' (biased, S-1 over S) plus the members' within groups, both over S.
    observed = np.array([t.mean() for t in tops])
    within = np.mean([t.var() / size for t in tops])
    expected = (observed.var() + within) / groups
    assert draws.mean() == pytest.approx(observed.mean(), abs=0.03)
    assert draws.var() == pytest.approx(expected, rel=0.05)


def test_a_share_of_nothing_is_an_error():
    with pytest.raises(stats.StatsError, match="a share of nothing"):
        nested_ratio_draws([np.zeros(3)], [np.zeros(3)], np.random.default_rng(0), num_draws=5)
