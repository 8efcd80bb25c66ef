"""A problem file is read as written, and every fault in it is named with its line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.data.problems import read_problems
from sgpo.core.types import Problem

GOOD = {"id": "a", "question": "1 + 1?", "answer": "2"}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def test_fields_are_read_and_blank_lines_passed_over(tmp_path):
    path = write(
        tmp_path / "p.jsonl",
        GOOD,
        "",
        {"id": "b", "problem": "2 + 2?", "answer": "4", "strategy": "add", "level": 3},
    )
    assert read_problems(path) == [
        Problem("a", "1 + 1?", "2"),
        Problem("b", "2 + 2?", "4", strategy="add", level=3),
    ]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"id": "b", "question": "?"}, "line 2: field 'answer' is missing"),
        ({"id": "b", "answer": "1"}, "line 2: field 'problem' is missing"),
        ({"question": "?", "answer": "1"}, "line 2: field 'id' is missing"),
        ({"id": "b", "question": "?", "answer": "  "}, "line 2: field 'answer' is empty"),
        ({"id": "b", "question": "?", "answer": 7}, "line 2: field 'answer' must be a text, is 7"),
        ({"id": "b", "question": "?", "answer": "7", "level": "x"}, "'level' must be a whole"),
        (GOOD, "line 2: id 'a' was used before"),
        ('{"id": "b", ', "line 2: not valid JSON"),
        ("[1, 2]", "line 2: must be a JSON object, is list"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, second, message):
    with pytest.raises(ValueError, match=message):
        read_problems(write(tmp_path / "p.jsonl", GOOD, second))


def test_no_file_and_no_problems(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_problems(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="holds no problems"):
        read_problems(write(tmp_path / "p.jsonl", ""))


@pytest.mark.parametrize(
    ("name", "count"), [("math500", 500), ("amc23", 40), ("olympiadbench", 674), ("aime24", 30)]
)
def test_the_real_benchmarks_can_be_read(name, count):
    data = Path(os.environ.get("SGPO_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
    path = data / "benchmarks" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{name}.jsonl is absent: set SGPO_DATA_DIR to the folder with benchmarks/")
    assert len(read_problems(path)) == count
