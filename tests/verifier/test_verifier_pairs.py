"""Right and wrong spellings of one gold answer after another, decided by hand.

verifier_pairs.jsonl holds what a box may hold, verifier_completions.jsonl whole completions.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgpo.core.verifier import grade_many

DATA = Path(__file__).parents[1] / "data"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def verdicts() -> dict[tuple[str, str], bool]:
    pairs = [(r["gold"], p) for r in rows("verifier_pairs.jsonl") for p in r["right"] + r["wrong"]]
    found = grade_many([(gold, f"\\boxed{{{text}}}") for gold, text in pairs])
    assert {v.reason for v in found} <= {"correct", "wrong", "no_answer"}
    return {pair: v.correct for pair, v in zip(pairs, found, strict=True)}


@pytest.mark.parametrize("row", rows("verifier_pairs.jsonl"), ids=lambda row: row["gold"])
def test_right_spellings_are_right_and_wrong_answers_wrong(row, verdicts):
    missed = [p for p in row["right"] if not verdicts[row["gold"], p]]
    fooled = [p for p in row["wrong"] if verdicts[row["gold"], p]]
    assert (missed, fooled) == ([], [])


def test_the_file_holds_both_kinds_in_number():
    found = rows("verifier_pairs.jsonl")
    assert sum(len(r["right"]) for r in found) > 400
    assert sum(len(r["wrong"]) for r in found) > 400
    assert all(not set(r["right"]) & set(r["wrong"]) for r in found)


def test_whole_completions():
    found = rows("verifier_completions.jsonl")
    judged = grade_many([(r["gold"], r["completion"]) for r in found])
    other = [r for r, v in zip(found, judged, strict=True) if v.correct != r["correct"]]
    assert len(found) > 100 and other == []
