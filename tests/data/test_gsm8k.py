"""GSM8K as a prepared training set with a development split and a benchmark of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.data.gsm8k import Gsm8k, make_gsm8k, problem_of_row
from benchmarks.data.problems import (
    data_source,
    file_hashes,
    prepared_problems,
    problems_to_guide,
    read_problems,
    source_problems,
)
from sgpo.core.verifier import grade

NOUNS = "apples pens books coins shells cards stamps marbles buttons beads plums kites".split()
SIZES = {"dev": 2, "warmup_guided": 3, "warmup": 7, "test": 4, "test_sets": ()}


def row(i: int, name: str = "Anna") -> dict[str, str]:
    question = f"{name} has {i} {NOUNS[i % 12]} and buys {2 * i} more. How many are there?"
    solution = f"{name} buys 2*{i} = <<2*{i}={2 * i}>>{2 * i}.\n\nIn all <<{i}*3={3 * i}>>{3 * i}"
    return {"question": question, "answer": f"{solution}\n#### {3 * i:,}"}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write(folder / "train.jsonl", [row(i) for i in range(400, 424)])
    write(folder / "test.jsonl", [row(i, "Bo") for i in range(900, 909)])
    return folder


@pytest.fixture
def strategies(tmp_path):
    rows = [{"index": i, "strategy": f"Treble it ({i})."} for i in range(0, 20, 2)]
    return write(tmp_path / "strategies.jsonl", rows)


def test_a_worked_solution_becomes_a_trace_that_ends_in_its_boxed_answer():
    problem = problem_of_row("p", "there", row(500))
    assert problem.answer == "1500"
    assert problem.expert == ("Anna buys 2*500 = 1000.\nIn all 1500\nThe answer is \\boxed{1500}.")
    assert grade("1500", problem.expert).correct
    for broken in ({"question": "Q"}, row(1) | {"answer": "It is 3."}, row(1) | {"question": " "}):
        with pytest.raises(ValueError, match="there: no row of GSM8K"):
            problem_of_row("p", "there", broken)


def test_problems_with_a_strategy_are_split_in_three_and_others_fill_the_warm_up(
    tmp_path, source, strategies
):
    out = tmp_path / "out"
    summary = make_gsm8k(Gsm8k(str(source), strategies, **SIZES), out)
    assert summary["counts"] == {"warmup": 7, "rl": 5, "dev": 2, "gsm8k": 4}
    parts = {name: prepared_problems(out, name) for name in ("warmup", "rl", "dev")}
    texts = {f"gsm8k/train/{i:04d}": f"Treble it ({i})." for i in range(0, 20, 2)}
    found = {p.id: p.strategy for part in parts.values() for p in part}
    assert len(found) == 14 and {k: v for k, v in found.items() if v} == texts
    assert sum(p.strategy is not None for p in parts["warmup"]) == 3
    assert all(p.strategy for p in parts["rl"] + parts["dev"])
    test = read_problems(out / "gsm8k.jsonl")
    assert len(test) == 4 and all(p.id.startswith("gsm8k/test/") for p in test)
    assert source_problems(data_source(out), "dev") == parts["dev"]
    again = make_gsm8k(Gsm8k(str(source), strategies, **SIZES), tmp_path / "again")
    assert again["files"] == summary["files"] == file_hashes(out) and len(again["files"]) == 4
    other = make_gsm8k(Gsm8k(str(source), strategies, seed=1, **SIZES), tmp_path / "other")
    assert other["files"]["dev.jsonl"] != summary["files"]["dev.jsonl"]


def test_overlaps_with_the_benchmark_and_repeated_questions_are_removed(tmp_path, source):
    rows = [row(i) for i in range(400, 424)]
    copies = [row(i, "Bo") for i in range(900, 909)]
    write(source / "train.jsonl", [*rows, rows[3], *copies])
    summary = make_gsm8k(Gsm8k(str(source), guided=10, **SIZES), tmp_path / "out")
    removed = {rule: entry["items"] for rule, entry in summary["removed"].items()}
    assert removed["duplicates"] == ["gsm8k/train/0024"]
    benchmark = {p.question for p in read_problems(tmp_path / "out" / "gsm8k.jsonl")}
    dirty = {o["problem_id"] for o in removed["contamination"]}
    places = {f"gsm8k/train/{25 + i:04d}": c["question"] for i, c in enumerate(copies)}
    shown = {name for name, question in places.items() if question in benchmark}
    assert dirty == shown and len(shown) == 4
    asked = [p.id for p in problems_to_guide(tmp_path / "out")]  # by `sgpo strategies`
    assert len(asked) == 10 == len({*asked})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"index": 24, "strategy": "S"}', "index 24 is no row of the 24"),
        ('{"index": 0, "strategy": "S"}', "index 0 was there before"),
        ('{"index": 1, "strategy": " "}', "and strategy, a text"),
    ],
)
def test_a_strategies_file_of_another_set_is_refused_in_one_line(
    tmp_path, source, strategies, line, message
):
    with strategies.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=message):
        make_gsm8k(Gsm8k(str(source), strategies, **SIZES), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_command_are_one_line(tmp_path, source, strategies, refused):
    here = ["data", "gsm8k", "--source", str(source), "--test-sets", "none"]
    there, absent, out = (str(tmp_path / name) for name in ("there", "absent", "out"))
    Path(there).mkdir()
    for arguments, message in (
        ([*here, "--out", there], "exists already"),
        ([*here, "--strategies", absent, "--out", out], "no such file"),
        ([*here, "--out", out], "more than 318 and at least 960 are needed"),
        ([*here, "--source", absent, "--out", out], "must be a directory with train.jsonl"),
    ):
        refused(arguments, message)
