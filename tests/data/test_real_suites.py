"""The four real benchmarks: the right sets, or an error; never a similar one."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.config import EvalConfig
from benchmarks.data import suites
from benchmarks.data.sources import evaluation_problems
from benchmarks.data.suites import SUITES, content_sha256, load_suite, local_file
from sgpo.core.files import read_jsonl
from sgpo.core.types import Problem
from sgpo.core.verifier import grade
from sgpo.core.verifier.extract import unwrap_box

COUNTS = {"math500": (500, 4), "amc23": (40, 32), "olympiadbench": (674, 4), "aime24": (30, 32)}


def data_folder() -> Path:
    shared = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SGPO_DATA_DIR", shared))
    if not (folder / "benchmarks" / "aime24.jsonl").exists():
        pytest.skip("the benchmark files are absent: set SGPO_DATA_DIR to their folder")
    return folder


@pytest.mark.parametrize("key", COUNTS)
def test_the_stored_files_are_the_sets(key):
    data_folder()
    problems, k = evaluation_problems(key, EvalConfig(suites=(key,), max_tokens=8))
    assert (len(problems), k) == COUNTS[key]
    assert all(p.strategy is None and p.expert is None for p in problems)
    if key == "aime24":
        assert all(0 <= int(unwrap_box(p.answer)) <= 999 for p in problems)


@pytest.mark.parametrize("key", COUNTS)
def test_gold_answers_are_recognised_but_for_the_listed_ones(key):
    data_folder()
    failed = {name for name, _ in suites.failed_golds(load_suite(key))}
    assert failed <= set(SUITES[key].exceptions)


def test_a_gold_that_is_not_recognised_is_found():
    bad = Problem("x", "q", "\\frac{1}{")  # an open brace: the box around it never ends
    assert ("x", "\\boxed{%s}") in suites.failed_golds([bad, Problem("y", "q", "7")])


def test_another_set_of_the_same_name_is_refused(tmp_path, monkeypatch):
    rows = (data_folder() / "benchmarks" / "amc23.jsonl").read_text().splitlines()
    (tmp_path / "benchmarks").mkdir()
    path = tmp_path / "benchmarks" / "amc23.jsonl"
    monkeypatch.setenv("SGPO_DATA_DIR", str(tmp_path))
    path.write_text("\n".join(rows[:-1]))
    with pytest.raises(ValueError, match=r"amc23.jsonl: AMC23 has 40 problems, this has 39"):
        load_suite("amc23")
    changed = json.loads(rows[0]) | {"answer": "28"}
    path.write_text("\n".join([json.dumps(changed), *rows[1:]]))
    with pytest.raises(ValueError, match="amc23.jsonl: not the AMC23 that scores are about"):
        load_suite("amc23")
    path.write_text("\n".join(reversed(rows)))
    assert len(load_suite("amc23")) == 40  # the order is not the content
    monkeypatch.setenv("SGPO_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="SGPO_DATA_DIR=.*no such directory"):
        load_suite("amc23")


def test_the_hash_sees_text_and_answer_but_not_their_wrapping():
    problem = Problem("a", "What is  it?", "\\boxed{5}")
    same = [Problem("b", "What is\nit?", "$5$"), Problem("c", "What is it?", "5")]
    assert {content_sha256([p]) for p in same} == {content_sha256([problem])}
    assert content_sha256([replace(problem, answer="6")]) != content_sha256([problem])
    assert content_sha256([replace(problem, question="What?")]) != content_sha256([problem])


def test_hub_rows_become_the_same_problems(tmp_path, monkeypatch):
    """The columns that the hub's copies have, read from local files in their place."""
    local = {key: load_suite(key) for key in COUNTS if data_folder()}
    for key, problems in local.items():
        repository, id_column, question, answer = SUITES[key].hub
        path = tmp_path / key / "test.jsonl"
        path.parent.mkdir()
        rows = []
        for p in problems:
            gold = [p.answer] if answer == "final_answer" else p.answer
            rows.append(
                {question: p.question, answer: gold, **({id_column: p.id} if id_column else {})}
            )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(suites, "local_file", lambda key: None)
        monkeypatch.setattr(suites, "fetch_dataset", lambda *a, path=path.parent: (path, "commit"))
        assert load_suite(key) == problems
    with pytest.raises(ValueError, match="unknown benchmark 'amc24': must be one of math500"):
        load_suite("amc24")


def test_without_file_and_hub_the_way_out_is_named(monkeypatch):
    def unreachable(*arguments, **options):
        raise ValueError("data set 'x': the hub cannot be reached")

    monkeypatch.setattr(suites, "local_file", lambda key: None)
    monkeypatch.setattr(suites, "fetch_dataset", unreachable)
    with pytest.raises(ValueError, match="cannot be reached; or set SGPO_DATA_DIR to a folder"):
        load_suite("aime24")


# Faults of golds: the gold as listed is in the data set, and graded as it is said -----------------


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
