"""A training set: what is removed from the rows and why, and where they come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import standin
from fake_hub import COMMIT, GATED, fake_hub

from benchmarks.cli import main
from benchmarks.data import prepare as prepare_data
from benchmarks.data.hub import fetch_dataset
from benchmarks.data.prepare import (
    Preparation,
    find_overlaps,
    prepare,
    split,
)
from benchmarks.data.problems import (
    data_source,
    prepared_problems,
    problem_of,
    question_id,
    source_problems,
)
from benchmarks.data.suites import local_file
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Problem
from sgpo.mini.models import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SPEC = PROMPT_SPECS["qwen2.5-instruct"]
TOKENIZER = standin.build_tokenizer(small=True)
TEST_QUESTION = "Find the sum of all positive integers n such that n squared plus 12n is a square."


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(question: str = "What is 1 + 1?", trace: str = "\\boxed{2}", answer: str = "2") -> dict:
    return {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": question}],
        "target": [{"role": "assistant", "content": trace}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Prepare ``rows`` as ``tmp_path / out`` beside one test problem in place of the real
    benchmarks; the report."""
    tests = [Problem("t/0", TEST_QUESTION, "1")]
    monkeypatch.setattr(prepare_data, "load_suite", lambda key: tests)

    def make(rows: list[dict], out: str = "out", tokenizer=TOKENIZER, spec=SPEC, **changes) -> dict:
        source = write_jsonl(tmp_path / f"{out}.jsonl", rows)
        settings = {"source": str(source), "max_tokens": 2000, "test_sets": ("amc23",)}
        return prepare(Preparation(**(settings | changes)), tokenizer, spec, tmp_path / out)

    return make


def test_overlaps_are_found_by_thirteen_words_or_by_the_same_text():
    words = [f"w{chr(97 + i)}" for i in range(20)]
    tests = {"a": [Problem("a/0", " ".join(words), "1")], "b": [Problem("b/0", "Find $x$.", "1")]}
    cases = {
        "x " + " ".join(words[3:16]) + " y": ("a/0", "13-gram"),  # 13 in a row
        "x " + " ".join(words[3:15]) + " y": None,  # 12
        " ".join([*words[:12], "other", *words[12:]]): None,
        "find x": ("b/0", "same text"),
        "find x and y": None,  # a short question is not looked for inside a longer one
    }
    problems = [Problem(f"p{i}", question, "1") for i, question in enumerate(cases)]
    found = {o["problem_id"]: (o["test_id"], o["rule"]) for o in find_overlaps(problems, tests)}
    assert found == {f"p{i}": wanted for i, wanted in enumerate(cases.values()) if wanted}


def test_every_rule_removes_what_it_states_and_lists_the_id(tmp_path, make):
    rows = [
        *standin.training_rows(9),
        row("What is 3+1?"),  # a duplicate, spaces aside
        row("A <|im_end|> B"),
        row("long", trace="x" * 3000),
        row("Now f" + TEST_QUESTION[1:].replace("n squared", "$n$ squared"), trace="\\boxed{9}"),
        row("Trace is wrong", trace="\\boxed{3}"),
    ]
    summary = make(rows)
    removed = {rule: entry["items"] for rule, entry in summary["removed"].items()}
    assert removed["duplicates"] == [question_id("What is 3 + 1?")]
    assert removed["special_tokens"] == [question_id("A <|im_end|> B")]
    (long,) = removed["over_long"]
    assert long["id"] == question_id("long") and long["tokens"] > 3000
    (dirty,) = removed["contamination"]
    assert (dirty["benchmark"], dirty["test_id"], dirty["rule"]) == ("amc23", "t/0", "13-gram")
    unconfirmed = summary["unconfirmed_traces"]["items"]
    assert [x["id"] for x in unconfirmed] == [question_id("Trace is wrong")]
    assert removed["unconfirmed_traces"] == unconfirmed
    assert summary["rows"] == 14 and summary["counts"] == {"warmup": 3, "rl": 6}
    everything = prepared_problems(tmp_path / "out", "all")
    assert len({p.id for p in everything}) == 9 and all(p.expert for p in everything)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == summary
    kept = make(rows, "kept", keep_unconfirmed=True)
    assert kept["counts"] == {"warmup": 3, "rl": 7} and kept["unconfirmed_traces"]["kept"]
    assert kept["unconfirmed_traces"]["items"] == unconfirmed


def test_the_length_rule_counts_prompt_and_trace(make):
    problem = problem_of(row(), "")
    length = len(SPEC.prompt_ids(TOKENIZER, problem)) + len(standin.byte_ids("\\boxed{2}")) + 1
    assert sum(make([row()], max_tokens=length)["counts"].values()) == 1
    with pytest.raises(ValueError, match="no problem is left of 1; removed: over_long 1"):
        make([row()], "b", max_tokens=length - 1)


def test_the_split_depends_on_seed_and_ids_alone(make):
    problems = [Problem(f"p{i}", "q", "1", expert="t") for i in range(100)]
    parts = split(problems, 0)
    assert (len(parts["warmup"]), len(parts["rl"])) == (33, 67)
    assert split(problems[::-1], 0) == parts != split(problems, 1)
    rows = standin.training_rows(30)
    made = [make(r, n, seed=3) for n, r in (("a", rows), ("b", rows[::-1]))]
    assert made[0]["files"] == made[1]["files"]
    with pytest.raises(ValueError, match="exists already"):
        make(rows, "a")


def test_a_run_names_its_data_by_content(tmp_path, make):
    make(standin.training_rows(9))
    out = tmp_path / "out"
    source = data_source(out)
    assert len(source_problems(source, "warmup")) == 3
    ids = [p.id for p in source_problems(source, "rl")]
    rows = [{"id": name, "strategy": f"use {name}"} for name in ids[1:]]
    write_jsonl(out / "strategies.jsonl", rows)
    with pytest.raises(ValueError, match="were changed .strategies added"):
        source_problems(source, "rl")
    rl = source_problems(data_source(out), "rl")
    assert [p.id for p in rl] == ids[1:]  # one has no strategy: no method trains on it
    assert all(p.strategy == f"use {p.id}" for p in rl)
    assert len(source_problems(data_source(out), "warmup")) == 3
    with pytest.raises(ValueError, match="must be mini, or a prepared training set as DIRECTORY@"):
        source_problems(str(out), "rl")
    with pytest.raises(ValueError, match="not a prepared directory"):
        source_problems(f"{tmp_path}@0", "rl")


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Python with ``arguments`` in a process of its own: the hub's client reads the environment
    once, when it is imported."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SGPO_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT, env=variables | environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# The command four times in one process, after the first time without a network.
COMMAND = """
import socket
import sys
from benchmarks.cli import main
def refuse(*arguments, **options):
    raise AssertionError("a connection was opened")
fixed = ["--tokenizer", sys.argv[2], "--revision", sys.argv[3]]
def prepare(name, out, *more):
    where = f"{sys.argv[1]}/{out}"
    return main(["data", "prepare", "--source", name, "--out", where, *fixed, *more])
codes = [prepare("some/set", "a")]
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
codes += [prepare("some/set", "b", "--offline"), prepare("some/new", "c", "--offline")]
codes += [prepare("some/set", "d", "--offline", "--tokenizer", "some/model")]
print(codes)
"""
FETCH = """
import sys
from benchmarks.data.hub import fetch_dataset, rows_of
for item in sys.argv[1:]:
    name, _, revision = item.partition("@")
    try:
        folder, commit = fetch_dataset(name, revision=revision or None)
        print(len(list(rows_of(folder, "train"))), commit)
    except ValueError as error:
        print(error)
"""
TRAIN = "".join(json.dumps(r) + "\n" for r in standin.training_rows(9)).encode()
DATASETS = {
    "some/set": {"data/train-0.jsonl": TRAIN, "data/test-0.jsonl": TRAIN[:0], "README.md": b"x",
                 "weights.bin": b"x"},
    "some/empty": {"README.md": b"x"},
    GATED: {},
}  # fmt: skip


def test_what_the_hub_answers_becomes_one_clear_line(tmp_path):
    asked = {
        f"some/set@{COMMIT}": f"9 {COMMIT}",
        GATED: "is gated: accept its terms on the hub and set HF_TOKEN",
        "some/other": "the hub knows no such data set",
        f"some/set@{'f' * 40}": "the hub knows no such revision",
        "some/empty": "cannot be read as a data set with split 'train'",
        "!": "nor a name of a data set",
    }
    with fake_hub(DATASETS) as (url, requests):
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        lines = in_a_process("-c", FETCH, *asked, **environment).stdout.splitlines()
    assert not any("weights" in request for request in requests)
    for line, message in zip(lines, asked.values(), strict=True):
        assert message in line


def test_prepare_from_the_hub_then_from_its_cache_without_a_network(tmp_path):
    """As a user runs it; the second time every connection raises an error."""
    benchmark = local_file("aime24")
    if benchmark is None:
        pytest.skip("the benchmark files are absent: set SGPO_DATA_DIR to their folder")
    TOKENIZER.save_pretrained(tmp_path / "tok")
    with fake_hub(DATASETS) as (url, _):
        done = in_a_process(
            "-c", COMMAND, str(tmp_path), str(tmp_path / "tok"), COMMIT, HF_ENDPOINT=url,
            HF_HOME=str(tmp_path / "hf"), SGPO_DATA_DIR=str(benchmark.parents[1]),
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[0, 0, 2, 2]", done.stderr
    a, b = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    assert a["origin"]["commit"] == COMMIT and a["counts"] == {"warmup": 3, "rl": 6}
    assert a["files"] == b["files"]
    data_set, tokenizer = done.stderr.splitlines()[-2:]
    assert data_set.startswith("sgpo: error: data set 'some/new'")
    assert "is not in the local cache (offline)" in data_set
    assert tokenizer.startswith("sgpo: error: checkpoint 'some/model': not in the cache")


def test_the_ten_lines_of_the_readme_are_prepared_at_the_first_try(tmp_path, capsys):
    readme = (ROOT / "benchmarks" / "data" / "README.md").read_text()
    (tmp_path / "mine.jsonl").write_text(readme.split("```jsonl\n")[1].split("```")[0])
    TOKENIZER.save_pretrained(tmp_path / "tok")
    command = ["data", "prepare", "--source", str(tmp_path / "mine.jsonl"), "--offline",
               "--tokenizer", str(tmp_path / "tok"), "--prompt", SPEC.name,
               "--test-sets", "none", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    assert data_source(tmp_path / "out") in out
    problems = {p.id: p for p in prepared_problems(tmp_path / "out", "all")}
    assert len(problems) == 10 and {"3", "half"} < set(problems)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"warmup": 3, "rl": 7} and report["without_trace"] == 0
    assert all(entry["count"] == 0 for entry in report["removed"].values())


def test_own_test_sets_problems_without_a_trace_and_mistakes(tmp_path, make):
    rows = [{"question": f"What is {i}?", "answer": i} for i in range(6)]
    rows[3]["expert"] = "\\boxed{3}"
    tests = write_jsonl(tmp_path / "t.jsonl", [{"question": "what is 4?", "answer": 4}])
    summary = make(rows, test_sets=(str(tests),))
    assert summary["removed"]["contamination"]["items"][0]["benchmark"] == str(tests)
    assert summary["counts"] == {"warmup": 1, "rl": 4} and summary["without_trace"] == 4
    assert prepared_problems(tmp_path / "out", "warmup")[0].answer == "3"
    with pytest.raises(ValueError, match="test set 'math50': must be none, one of math500, "):
        make(rows, "b", test_sets=("math50",))
    with pytest.raises(ValueError, match="the tokenizer keeps 1 of its question's 8 characters"):
        make(rows, "b", tokenizer=build_tokenizer(), spec=PROMPT_SPECS["mini"])
    two = [{"id": 1, "question": "a", "answer": 1}, {"id": 1, "question": "b", "answer": 1}]
    with pytest.raises(ValueError, match="line 2: id '1' is that of another question .*line 1"):
        make(two, "b")


def test_a_hub_that_is_not_there_becomes_one_clear_line(monkeypatch):
    def gone(*arguments, **options):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gone)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ValueError, match="'some/new': the hub cannot be reached"):
        fetch_dataset("some/new")
