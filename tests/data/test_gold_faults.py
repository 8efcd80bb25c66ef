"""Every listed fault of a gold is a fault: the gold as listed is in the data set, and what is said
of its grading is true."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.data.gold_faults import gold_faults
from sgpo.core.verifier import grade

FOLDER = Path(os.environ.get("SGPO_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))


def test_the_list_names_each_gold_once():
    faults = gold_faults()
    assert len({fault.id for fault in faults}) == len(faults) >= 6
    assert {fault.suite for fault in gold_faults("math500")} == {"math500"}


@pytest.mark.parametrize("fault", gold_faults(), ids=lambda fault: fault.id)
def test_the_gold_is_in_the_data_set_and_graded_as_it_says(fault):
    right = grade(fault.gold, f"\\boxed{{{fault.right_answer}}}").correct
    assert right == fault.handled.endswith("answers match")
    path = FOLDER / "benchmarks" / f"{fault.suite}.jsonl"
    if not path.exists():
        pytest.skip(f"benchmark file {path.name} is absent (looked in SGPO_DATA_DIR)")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row["id"]: row["answer"] for row in rows}[fault.id] == fault.gold
