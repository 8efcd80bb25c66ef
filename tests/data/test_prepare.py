"""A training set: what is removed from the rows and why, and where they come from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import standin
from fake_hub import COMMIT, GATED, fake_hub

from benchmarks.cli import main
from benchmarks.data import prepare as prepare_data
from benchmarks.data.prepare import (
    Preparation,
    find_overlaps,
    prepare,
    shared_suffix,
    split,
    words_of,
)
from benchmarks.data.problems import (
    data_sha256,
    data_source,
    prepared_problems,
    problem_of,
    question_id,
    source_problems,
)
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Problem
from sgpo.mini.models import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SPEC = PROMPT_SPECS["qwen2.5-instruct"]
TOKENIZER = standin.build_tokenizer(small=True)


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(question: str = "What is 1 + 1?", trace: str = "\\boxed{2}", answer: str = "2") -> dict:
    return {
        "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": question}],
        "target": [{"role": "assistant", "content": trace}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


def quiet(stage: str, done: int, total: int) -> None:
    assert 0 <= done <= total


def plan(source: Path, **changes) -> Preparation:
    settings = {"source": str(source), "max_tokens": 2000, "test_sets": ("amc23",)}
    return Preparation(**(settings | changes))


@pytest.fixture
def one_test_set(monkeypatch):
    """One test problem in place of the real benchmarks."""
    question = "Find the sum of all positive integers n such that n squared plus 12n is a square."
    problem = Problem("t/0", question, "1")
    monkeypatch.setattr(prepare_data, "load_suite", lambda key: [problem])
    return question


def test_words_ignore_typesetting_and_keep_numbers():
    assert words_of(r"Find $\left(\dfrac{12}{x}\right)$, \text{then} STOP.") == (
        "find", "frac", "12", "x", "then", "stop",
    )  # fmt: skip
    assert words_of("x ≤ 2") == words_of(r"x  2")  # symbols that are no words count for nothing


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
    found = {o.problem_id: (o.test_id, o.rule) for o in find_overlaps(problems, tests)}
    expected = {f"p{i}": wanted for i, wanted in enumerate(cases.values()) if wanted}
    assert found == expected


def test_every_rule_removes_what_it_states_and_lists_the_id(tmp_path, one_test_set):
    rows = [
        *standin.training_rows(9),
        row("What is 3+1?"),  # a duplicate, spaces aside
        row("A <|im_end|> B"),
        row("long", trace="x" * 3000),
        row("Now f" + one_test_set[1:].replace("n squared", "$n$ squared"), trace="\\boxed{9}"),
        row("Trace is wrong", trace="\\boxed{3}"),
    ]
    summary = prepare(plan(write_jsonl(tmp_path / "x.jsonl", rows)), TOKENIZER, SPEC,
                      tmp_path / "out", quiet)  # fmt: skip
    removed = summary["removed"]
    assert removed["duplicates"]["items"] == [question_id("What is 3 + 1?")]
    assert removed["special_tokens"]["items"] == [question_id("A <|im_end|> B")]
    (long,) = removed["over_long"]["items"]
    assert long["id"] == question_id("long") and long["tokens"] > 3000
    (dirty,) = removed["contamination"]["items"]
    assert (dirty["benchmark"], dirty["test_id"], dirty["rule"]) == ("amc23", "t/0", "13-gram")
    assert [x["id"] for x in summary["unconfirmed_traces"]["items"]] == [
        question_id("Trace is wrong")
    ]
    assert removed["unconfirmed_traces"]["count"] == 1 and not summary["unconfirmed_traces"]["kept"]
    assert summary["rows"] == 14 and summary["counts"] == {"warmup": 3, "rl": 6}
    everything = prepared_problems(tmp_path / "out", "all")
    assert len({p.id for p in everything}) == 9 and all(p.expert for p in everything)
    kept = prepare(plan(tmp_path / "x.jsonl", keep_unconfirmed=True), TOKENIZER, SPEC,
                   tmp_path / "kept", quiet)  # fmt: skip
    assert kept["counts"] == {"warmup": 3, "rl": 7} and kept["unconfirmed_traces"]["kept"]
    assert kept["unconfirmed_traces"]["items"] == summary["unconfirmed_traces"]["items"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == summary


def test_the_length_rule_counts_prompt_and_trace(tmp_path, one_test_set):
    path = write_jsonl(tmp_path / "x.jsonl", [row()])
    problem = problem_of(row(), "")
    length = len(SPEC.prompt_ids(TOKENIZER, problem)) + len(standin.byte_ids("\\boxed{2}")) + 1
    summary = prepare(plan(path, max_tokens=length), TOKENIZER, SPEC, tmp_path / "a", quiet)
    assert sum(summary["counts"].values()) == 1
    with pytest.raises(ValueError, match="no problem is left of 1; removed: over_long 1"):
        prepare(plan(path, max_tokens=length - 1), TOKENIZER, SPEC, tmp_path / "b", quiet)


def test_split_and_draw_depend_on_seed_and_ids_alone(tmp_path, one_test_set):
    problems = [Problem(f"p{i}", "q", "1", expert="t") for i in range(100)]
    parts = split(problems, 0)
    assert (len(parts["warmup"]), len(parts["rl"])) == (33, 67)
    assert split(problems[::-1], 0) == parts != split(problems, 1)
    rows = standin.training_rows(30)
    drawn = []
    for name, source in (("a", rows), ("b", rows[::-1])):
        path = write_jsonl(tmp_path / f"{name}.jsonl", source)
        prepare(plan(path, draw=12, seed=3), TOKENIZER, SPEC, tmp_path / name, quiet)
        drawn.append(data_sha256(tmp_path / name))
    assert drawn[0] == drawn[1]
    assert len(prepared_problems(tmp_path / "a", "all")) == 12
    with pytest.raises(ValueError, match="--draw 31: only 30 problems are left"):
        prepare(plan(tmp_path / "a.jsonl", draw=31), TOKENIZER, SPEC, tmp_path / "c", quiet)
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="exists already"):
        prepare(plan(tmp_path / "a.jsonl"), TOKENIZER, SPEC, tmp_path / "a", quiet)


def test_a_shared_instruction_is_reported_and_can_be_removed(tmp_path, one_test_set):
    request = " Put the answer in a box, please."
    rows = [row(f"What is {i} + {i * 7}?" + request) for i in range(6)]
    path = write_jsonl(tmp_path / "x.jsonl", rows)
    summary = prepare(plan(path), TOKENIZER, SPEC, tmp_path / "a", quiet)
    assert summary["shared_suffix"] == "?" + request
    stripped = plan(path, strip_suffix=request)
    assert prepare(stripped, TOKENIZER, SPEC, tmp_path / "b", quiet)["shared_suffix"] == ""
    problem = prepared_problems(tmp_path / "b", "all")[0]
    assert problem.question.endswith("?") and problem.id == question_id(problem.question)
    write_jsonl(path, [*rows, row("another")])
    with pytest.raises(ValueError, match="does not end in it but in 'another'"):
        prepare(stripped, TOKENIZER, SPEC, tmp_path / "c", quiet)
    assert shared_suffix(["one"]) == shared_suffix(["a?", "b?"]) == ""


def test_a_run_names_its_data_by_content(tmp_path, one_test_set):
    out = tmp_path / "set"
    prepare(plan(write_jsonl(tmp_path / "x.jsonl", standin.training_rows(9))), TOKENIZER, SPEC,
            out, quiet)  # fmt: skip
    source = data_source(out)
    assert len(source_problems(source, "warmup")) == 3
    ids = [p.id for p in source_problems(source, "rl")]
    rows = [{"id": name, "strategy": f"use {name}"} for name in ids[1:]]
    write_jsonl(out / "strategies.jsonl", rows)
    with pytest.raises(ValueError, match="was changed .strategies added"):
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
    asked = [f"some/set@{COMMIT}", GATED, "some/other", f"some/set@{'f' * 40}", "some/empty", "!"]
    with fake_hub(DATASETS) as (url, requests):
        environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path)}
        lines = in_a_process("-c", FETCH, *asked, **environment).stdout.splitlines()
    assert not any("weights" in request for request in requests)
    assert lines[0] == f"9 {COMMIT}"
    for line, message in zip(lines[1:], (
        "is gated: accept its terms on the hub and set HF_TOKEN",
        "the hub knows no such data set",
        "the hub knows no such revision",
        "cannot be read as a data set with split 'train'",
        "nor a name of a data set",
    ), strict=True):  # fmt: skip
        assert message in line
    # The server is gone now.
    lines = in_a_process("-c", FETCH, "some/new", **environment).stdout.splitlines()
    assert len(lines) == 1 and "the hub cannot be reached" in lines[0]


def test_prepare_from_the_hub_then_from_its_cache_without_a_network(tmp_path):
    """As a user runs it; the second time every connection raises an error."""
    data = Path(os.environ.get("SGPO_DATA_DIR", ROOT.parent / "shared" / "data"))
    if not (data / "benchmarks" / "aime24.jsonl").exists():
        pytest.skip("the benchmark files are absent: set SGPO_DATA_DIR to their folder")
    standin.build_tokenizer(small=True).save_pretrained(tmp_path / "tok")
    with fake_hub(DATASETS) as (url, _):
        done = in_a_process(
            "-c", COMMAND, str(tmp_path), str(tmp_path / "tok"), COMMIT,
            HF_HOME=str(tmp_path / "hf"), HF_ENDPOINT=url, SGPO_DATA_DIR=str(data),
        )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[0, 0, 2, 2]", done.stderr
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["origin"]["commit"] == COMMIT and report["counts"] == {"warmup": 3, "rl": 6}
    assert data_sha256(tmp_path / "a") == data_sha256(tmp_path / "b")
    data_set, tokenizer = done.stderr.splitlines()[-2:]
    assert data_set.startswith("sgpo: error: data set 'some/new'")
    assert "is not in the local cache (offline)" in data_set
    assert tokenizer.startswith("sgpo: error: checkpoint 'some/model': not in the cache")


def example_rows() -> str:
    text = (ROOT / "benchmarks" / "data" / "README.md").read_text()
    return text.split("```jsonl\n")[1].split("```")[0]


def test_the_ten_lines_of_the_readme_are_prepared_at_the_first_try(tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text(example_rows())
    TOKENIZER.save_pretrained(tmp_path / "tok")
    command = ["data", "prepare", "--source", str(tmp_path / "mine.jsonl"), "--offline",
               "--tokenizer", str(tmp_path / "tok"), "--prompt", SPEC.name,
               "--test-sets", "none", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    assert data_source(tmp_path / "out") in out
    assert "add --set train.problems_per_step=3 or less" in out
    problems = {p.id: p for p in prepared_problems(tmp_path / "out", "all")}
    assert len(problems) == 10 and {"3", "half"} < set(problems)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["counts"] == {"warmup": 3, "rl": 7} and report["without_trace"] == 0
    assert all(entry["count"] == 0 for entry in report["removed"].values())


def test_own_test_sets_and_mistakes_of_the_command(tmp_path):
    source = write_jsonl(tmp_path / "x.jsonl", [
        {"question": f"What is {i}?", "answer": i, "expert": f"\\boxed{{{i}}}"} for i in range(6)
    ])  # fmt: skip
    tests = write_jsonl(tmp_path / "t.jsonl", [{"question": "what is 4?", "answer": 4}])
    summary = prepare(plan(source, test_sets=(str(tests),)), TOKENIZER, SPEC, tmp_path / "a", quiet)
    assert summary["removed"]["contamination"]["items"][0]["benchmark"] == str(tests)
    assert sum(summary["counts"].values()) == 5
    with pytest.raises(ValueError, match="test set 'math50': must be none, one of math500, "):
        prepare(plan(source, test_sets=("math50",)), TOKENIZER, SPEC, tmp_path / "b", quiet)
    with pytest.raises(ValueError, match="the tokenizer keeps 1 of its question's 8 characters"):
        prepare(plan(source, test_sets=()), build_tokenizer(), PROMPT_SPECS["mini"],
                tmp_path / "b", quiet)  # fmt: skip
    two = [{"id": 1, "question": "a", "answer": 1}, {"id": 1, "question": "b", "answer": 1}]
    with pytest.raises(ValueError, match="line 2: id '1' is that of another question .*line 1"):
        prepare(
            plan(write_jsonl(source, two), test_sets=()), TOKENIZER, SPEC, tmp_path / "b", quiet
        )


def test_problems_without_a_trace_are_for_rl(tmp_path):
    rows = [{"question": f"What is {i}?", "answer": i} for i in range(6)]
    rows[4]["expert"] = "\\boxed{4}"
    summary = prepare(plan(write_jsonl(tmp_path / "x.jsonl", rows), test_sets=()), TOKENIZER, SPEC,
                      tmp_path / "out", quiet)  # fmt: skip
    assert summary["counts"] == {"warmup": 1, "rl": 5} and summary["without_trace"] == 5
    assert prepared_problems(tmp_path / "out", "warmup")[0].answer == "4"
