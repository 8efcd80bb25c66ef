"""Measures behind the figures of the paper: speed to equal reward, pass@k and maj@k, shares."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import dump, load, run_dir

from benchmarks.report import measures
from benchmarks.store import stats
from benchmarks.store.load import load_study


def ramp(*, slope: float, num_steps: int = 20) -> np.ndarray:
    """A reward that rises by ``slope`` a step from the first, [1, T]."""
    return slope * np.arange(1, num_steps + 1)[None]


# Speed to equal reward ----------------------------------------------------------------------------


def test_twice_the_slope_is_half_the_steps():
    fast, slow = ramp(slope=0.04), ramp(slope=0.02)
    assert [s[0] for s in measures.reach_steps(fast, slow)] == pytest.approx([10.0, 20.0])
    assert [s[0] for s in measures.reach_steps(slow, fast)] == pytest.approx([20.0, 10.0])


def write_rewards(root: Path, method: str, seed: int, rewards: list[float]) -> None:
    path = run_dir(root, "qwen-m", method, seed) / "metrics.jsonl"
    rows = [{"step": i, "reward": reward} for i, reward in enumerate(rewards)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_speed_is_the_geometric_mean_of_each_seeds_own_factor(variant_copy):
    """Seed s of SGPO rises (2 + s) times as steeply as its variant, without noise."""
    for seed in (0, 1, 2):
        for method, slope in (("sgpo", 0.01 * (2 + seed)), ("sgpo_nll", 0.01)):
            write_rewards(variant_copy, method, seed, [slope * (i + 1) for i in range(20)])
    found = measures.equal_reward(load_study(variant_copy), "qwen-m", "sgpo", "sgpo_nll")
    assert found.log_factor.num_seeds == 3
    assert found.factor == pytest.approx(found.steps[1] / found.steps[0])
    assert found.factor == pytest.approx(24 ** (1 / 3), rel=0.06)  # the ends are smoothed
    assert found.gain_percent == pytest.approx(200.0)


def test_one_lucky_step_is_no_arrival(variant_copy):
    for seed in (0, 1, 2):
        for method in ("sgpo", "sgpo_nll"):
            rewards = [0.02 * (i + 1) for i in range(20)]
            rewards[3] = 0.39 if method == "sgpo" else rewards[3]  # as high as the very end
            write_rewards(variant_copy, method, seed, rewards)
    found = measures.equal_reward(load_study(variant_copy), "qwen-m", "sgpo", "sgpo_nll")
    assert found.steps == pytest.approx((20.0, 20.0), abs=0.5)


def test_a_level_between_two_steps_is_interpolated_and_the_first_step_counts_as_one():
    ours, theirs = np.array([[0.0, 0.4, 1.0]]), np.array([[0.0, 0.0, 0.6]])
    # 0.6 lies a third of the way from step 2 to step 3.
    assert [s[0] for s in measures.reach_steps(ours, theirs)] == pytest.approx([2 + 1 / 3, 3.0])
    flat = np.full((1, 3), 0.5)
    assert [s[0] for s in measures.reach_steps(flat, flat)] == [1.0, 1.0]


# pass@k and maj@k ---------------------------------------------------------------------------------


def codes_of(words: list[str], correct: np.ndarray) -> np.ndarray:
    return stats.answer_codes(" ".join(words), correct, where="here")


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


def test_a_share_of_nothing_is_one_line(variant_copy):
    path = next((variant_copy / "analyses").glob("steps-*-s1.json"))
    stored = load(path)
    for row in stored["result"]["problems"]:
        row["kl"] = [0.0] * 4
    dump(path, stored)
    with pytest.raises(stats.StatsError, match="steps-qwen-m-s1.json: no kl on any problem"):
        measures.token_share(load_study(variant_copy), "kl", measures.DECISIONS)
