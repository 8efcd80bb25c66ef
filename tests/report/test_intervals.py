"""Statistics: the t intervals on simulated studies that vary as the stored one does, tests, power,
and pass@k and votes against counts and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from benchmarks.store import stats
from benchmarks.store.stats import Clusters, Mean

TRIALS = 1500
NUM_TYPES = 16
# Standard deviations in points of one problem's value by source: seed, type, seed x type, problem,
# seed x problem (sampling included). Of seeds that share their problems: estimated by the method of
# moments on the first edition of the world (5 seeds, 16 types, 500 problems).
COMPONENTS = {
    "SGPO, mini-Qwen2-S": (5.1, 35.7, 6.7, 7.7, 18.5),
    "SGPO - SFT+GRPO, mini-Qwen2-M": (1.7, 9.2, 6.6, 2.6, 20.9),
    "SGPO - LUFFY, mini-Llama-M": (0.0, 6.0, 9.1, 1.2, 12.5),
}
# The same of worlds with problems of their own: the method of moments on the single types of each
# world of results/worlds (20 worlds, 64 types), the world's part what they leave of the standard
# deviation of its average (3.0, 4.2 and 4.8 points).
OF_WORLDS = {
    "SGPO - SFT+GRPO, mini-Qwen2-M": (2.2, 21.9, 0.0, 0.0, 25.4),
    "SGPO - SFT+GRPO, mini-Llama-M": (3.7, 22.0, 0.0, 0.0, 24.6),
    "SGPO, mini-Qwen2-M": (3.5, 33.2, 0.0, 0.0, 21.6),
}


def exam(rng: np.random.Generator, kinds: int) -> tuple[list[list[int]], list[int]]:
    """Types of the problems of two sets of single types and two of compositions, as in the world:
    every (outer) type in turn, the inner one at random; and the sizes of the sets."""
    single = [[i % kinds] for i in range(80)]
    composed = [[i % kinds, int(rng.integers(kinds))] for i in range(80)]
    return [*single, *single[:32], *composed, *composed[:32]], [80, 32, 80, 32]


def simulated(
    components: tuple[float, ...], num_units: int, *, own: bool = False
) -> tuple[np.ndarray, Clusters]:
    """Studies [TRIALS, units, problems] with a true mean of 0; ``own``: every unit is a world with
    types and problems of its own."""
    rng, kinds = np.random.default_rng([num_units, own]), 64 if own else NUM_TYPES
    named, sizes = exam(rng, kinds)
    clusters = Clusters.of([[str(t) for t in types] for types in named], sizes)
    holds = np.zeros((len(named), kinds), dtype=np.float32)
    for row, types in zip(holds, named, strict=True):
        np.add.at(row, types, 1.0)
    unit, kind, both, problem, rest = components
    shape = (TRIALS, num_units if own else 1)

    def normal(*size: int) -> np.ndarray:
        return rng.standard_normal(size, dtype=np.float32)

    by_type = kind * normal(*shape, kinds) + both * normal(TRIALS, num_units, kinds)
    scores = unit * normal(TRIALS, num_units, 1) + by_type @ holds.T
    scores += problem * normal(*shape, len(named)) + rest * normal(*scores.shape)
    return scores, clusters


def means(scores: np.ndarray, clusters: Clusters, *, shared: bool = True) -> list[Mean]:
    trials, units, problems = scores.shape
    flat = np.split(scores.reshape(-1, problems), np.cumsum(clusters.sizes)[:-1], axis=1)
    whole = Mean.over_problems(flat, clusters)
    rows = whole.units.reshape(trials, units), whole.parts.reshape(trials, units, -1)
    return [Mean(u, p, clusters) if shared else Mean(u) for u, p in zip(*rows, strict=True)]


def coverage(found: list[Mean]) -> float:
    return float(np.mean([m.interval().low <= 0 <= m.interval().high for m in found]))


@pytest.mark.parametrize("num_units", [5, 8, 20])
@pytest.mark.parametrize("name", COMPONENTS)
def test_a_95_percent_interval_covers_in_95_of_100_studies(name, num_units):
    assert 0.93 <= coverage(means(*simulated(COMPONENTS[name], num_units))) <= 0.97


@pytest.mark.parametrize("num_units", [5, 8, 20])
@pytest.mark.parametrize("name", OF_WORLDS)
def test_worlds_with_problems_of_their_own_are_covered_by_their_spread(name, num_units):
    scores, clusters = simulated(OF_WORLDS[name], num_units, own=True)
    assert 0.93 <= coverage(means(scores, clusters, shared=False)) <= 0.97


def test_one_unit_covers_over_problems_and_a_difference_to_it_too():
    components = COMPONENTS["SGPO, mini-Qwen2-S"]
    scores, clusters = simulated((0.0, *components[1:]), 1)
    assert 0.93 <= coverage(means(scores, clusters)) <= 0.97


# Formulas -----------------------------------------------------------------------------------------

SCORES = np.random.default_rng(1).random((4, 30)) * 100
APART = Clusters.apart([30])


def test_variance_and_freedom_are_those_of_the_crossed_two_way_layout():
    found = Mean.over_problems([SCORES], APART)
    units, problems = SCORES.mean(axis=1), SCORES.mean(axis=0)
    rest = SCORES - units[:, None] - problems + SCORES.mean()
    parts = np.array([units.var(ddof=1) / 4, problems.var(ddof=1) / 30,
                      (rest**2).sum() / (3 * 29) / (4 * 30)])  # fmt: skip
    expected = parts @ [1, 1, -1] if parts[1] > parts[2] else parts[0]
    assert found.variance == pytest.approx(expected)
    if parts[1] > parts[2]:
        assert found.freedom == pytest.approx(expected**2 / (parts**2 / [3, 29, 87]).sum())
    half = scipy.stats.t.ppf(0.975, found.freedom) * expected**0.5
    interval = found.interval()
    assert (interval.low, interval.high) == pytest.approx(
        (SCORES.mean() - half, SCORES.mean() + half)
    )


def test_one_unit_is_a_t_interval_over_problems_and_no_problems_one_over_units():
    for found, values in (
        (Mean.over_problems([SCORES[:1]], APART), SCORES[0]),
        (Mean.over_units(SCORES[:, 0]), SCORES[:, 0]),
        (Mean.over_problems([SCORES], APART, shared=False), SCORES.mean(axis=1)),
    ):
        test = scipy.stats.ttest_1samp(values, 40.0)
        assert found.p_zero(40.0) == pytest.approx(test.pvalue)
        low, high = test.confidence_interval()
        assert (found.interval().low, found.interval().high) == pytest.approx((low, high))


def test_a_difference_is_paired_over_units_and_problems():
    other = SCORES * 0.9 + np.random.default_rng(2).random((4, 30))
    ours, theirs = (Mean.over_problems([s], APART) for s in (SCORES, other))
    direct = Mean.over_problems([SCORES - other], APART)
    assert (ours - theirs).variance == pytest.approx(direct.variance)
    assert ((ours - theirs) * 2.0).interval().high == pytest.approx(2 * direct.interval().high)
    untrained = Mean.over_problems([other[:1]], APART)
    direct = Mean.over_problems([SCORES - other[:1]], APART)
    assert (ours - untrained).variance == pytest.approx(direct.variance)


def test_problems_of_one_type_are_one_problem_and_one_type_alone_says_nothing_of_others():
    types = [[str(i // 3)] for i in range(30)]
    typed = Mean.over_problems([np.repeat(SCORES[:1, ::3], 3, axis=1)], Clusters.of(types, [30]))
    alone = Mean.over_problems([SCORES[:1, ::3]], Clusters.apart([10]))
    assert (typed.variance, typed.freedom) == pytest.approx((alone.variance, alone.freedom))
    # Sevenths do not sum to 0 but for rounding, which must not pass for a spread of types.
    for number in (7, 30, 49):
        assert Clusters.of([["a"]] * number, [number]).small_sample == (1.0, 1.0)


def test_two_types_of_a_problem_are_counted_once():
    # Pairs of problems that share a type, listed one by one.
    types = [["a"], ["b"], ["a", "b"], ["b", "a"], ["a", "c"], ["c", "c"], ["b", "c"]]
    clusters = Clusters.of(types, [7])
    values = np.random.default_rng(3).random((1, 7))
    rest = (values[0] - values.mean()) / 7
    together = [[bool(set(one) & set(other)) for other in types] for one in types]
    expected = rest @ np.array(together) @ rest
    parts = clusters.parts([values])
    assert float((parts**2 @ clusters.signs)[0]) == pytest.approx(expected)


# Tests and power ----------------------------------------------------------------------------------


def test_holm_steps_down():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_equivalence_is_two_one_sided_tests():
    values = np.array([-0.2, 0.1, 0.3, 0.0, 0.1])
    found = Mean.over_units(values)
    edge = abs(values.mean()) + scipy.stats.t.ppf(0.95, 4) * scipy.stats.sem(values)
    assert stats.equivalent(found, edge * 1.01) and not stats.equivalent(found, edge * 0.99)
    nothing = Mean.over_units(np.zeros(5))
    assert stats.equivalent(nothing, 0.1) and nothing.p_zero() == 1.0


def test_power_is_that_of_the_noncentral_t():
    found = Mean.over_problems([SCORES / 10], APART)

    def power(units: int) -> float:
        """Of worlds, each with problems of its own."""
        variance = (found.unit_variance + found.problem_variance) / units
        limit = scipy.stats.t.ppf(0.975, units - 1)
        return scipy.stats.nct.sf(limit, units - 1, 0.5 / variance**0.5)

    needed = stats.units_needed(found, 0.5, own_problems=True)
    assert power(needed) >= 0.8 > power(needed - 1)
    assert stats.units_needed(found, 1e-6, own_problems=True) is None
    # Problems that stay can hide an effect from any number of seeds.
    by_problem = np.tile(np.linspace(-9, 9, 30), (4, 1)) + np.array([[0.1], [0.0], [-0.1], [0.2]])
    found = Mean.over_problems([by_problem], APART)
    assert stats.units_needed(found, 1.0, own_problems=False) is None
    assert stats.units_needed(found, 1.0, own_problems=True) is not None


def test_the_detectable_difference_is_found_in_80_of_100_studies():
    rng = np.random.default_rng(4)
    true = float(np.mean([Mean.over_units(v).detectable() for v in rng.standard_normal((400, 8))]))
    found = np.mean(
        [Mean.over_units(v + true).p_zero() < 0.05 for v in rng.standard_normal((2000, 8))]
    )
    assert 0.75 <= found <= 0.85


# Verdict letters, answers and pass@k --------------------------------------------------------------


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
