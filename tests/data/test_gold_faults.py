"""Every listed fault of a gold is a fault: the gold as listed is in the data set, and what is said
of its grading is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.data import suites
from benchmarks.data.suites import load_suite, local_file
from sgpo.core.files import read_jsonl
from sgpo.core.verifier import grade

FAULTS = read_jsonl(Path(suites.__file__).with_name("gold_faults.jsonl"))


def test_the_list_names_each_gold_once_and_what_is_wrong_with_it():
    assert len({fault["id"] for fault in FAULTS}) == len(FAULTS) >= 6
    assert all(fault["fault"] and fault["suite"] in suites.SUITES for fault in FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault["id"])
def test_the_gold_is_in_the_data_set_and_graded_as_it_says(fault):
    right = grade(fault["gold"], f"\\boxed{{{fault['right_answer']}}}").correct
    assert right == fault["handled"].endswith("answers match")
    if local_file(fault["suite"]) is None:
        pytest.skip("the benchmark files are absent: set SGPO_DATA_DIR to their folder")
    assert {p.id: p.answer for p in load_suite(fault["suite"])}[fault["id"]] == fault["gold"]
