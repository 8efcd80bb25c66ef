"""The conditions of the miniature on windows written by hand: each fails on its own number."""

import pytest

from benchmarks.run.regime import CONDITIONS, conditions_of

GOOD = {
    "base": {"hard": 0.5, "mean_unguided": 0.1, "mean_guided": 0.7, "mean_foreign": 0.05},
    "sft": {"mean_unguided": 0.12, "mean_guided": 0.7},
    "grpo": {"open": 0.6, "mean_unguided": 0.5},
}


def windows(stage=None, **changes):
    names = ("hard", "easy", "open", "mean_unguided", "mean_guided", "mean_foreign")
    blank = dict.fromkeys(names, 0.0)
    whole = {s: blank | given | (changes if s == stage else {}) for s, given in GOOD.items()}
    return {s: [window, window] for s, window in whole.items()}


@pytest.mark.parametrize(
    ("stage", "changes", "failing"),
    [
        (None, {}, ""),
        ("base", {"hard": 0.2}, "1"),
        ("base", {"mean_unguided": 0.4}, "26"),
        ("sft", {"mean_guided": 0.5}, "3"),
        ("base", {"mean_foreign": 0.4}, "4"),
        ("grpo", {"open": 0.4}, "5"),
        ("sft", {"mean_unguided": 0.2}, "6"),
    ],
)
def test_each_condition_fails_on_its_own_number(stage, changes, failing):
    found = conditions_of(windows(stage, **changes))["conditions"]
    assert "".join(c["name"][0] for c in found if not c["passed"]) == failing
    assert len(found) == len(CONDITIONS)


def test_a_mean_over_worlds_is_judged_and_every_world_is_told():
    found = windows()
    found["grpo"] = [found["grpo"][0] | {"open": value} for value in (0.3, 0.8)]
    record = conditions_of(found)
    (fifth,) = [c for c in record["conditions"] if c["name"].startswith("5")]
    assert fifth["value"] == pytest.approx(0.55) and fifth["passed"]
    assert record["reported"]["grpo, open"] == {"0": 0.3, "1": 0.8}
    assert conditions_of(found | {"sft": []})["conditions"] == []
