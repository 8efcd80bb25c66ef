"""``sgpo explain`` shows the span, both forms, the path and the verdict of what it is given."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from sgpo.core.verifier.explain import describe
from sgpo.core.verifier.forms import parse_form
from sgpo.core.verifier.spelling import canonical


def lines(text: str) -> dict[str, str]:
    return {s[:12].strip(): s[12:] for s in text.splitlines() if s}


def test_gold_and_text_on_the_command_line(capsys):
    text = "so <think>\\boxed{1}</think> it is \\boxed{2/4}."
    assert main(["explain", "--gold", "\\frac12", "--text", text]) == 0
    found = lines(capsys.readouterr().out)
    assert found["found by"] == "last closed box" and found["answer"] == "2/4"
    assert found["gold as"] == "\\frac{1}{2}  =  number 1/2"
    assert found["answer as"] == "2/4  =  number 1/2"
    assert found["decided by"] == "exact rules: numbers" and found["verdict"] == "correct"


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("\\sqrt{12}", "\\boxed{2\\sqrt3}", {"decided by": "a worker process (sympy, "
                                            "math-verify): expressions", "verdict": "correct"}),
        ("7", "I do not know what it is.", {"answer": "none", "verdict": "no_answer"}),
        ("7", "\\boxed{8", {"found by": "the last box is never closed", "answer": "none"}),
        ("(1,2)", "\\boxed{1<x<2}", {"answer as": "1<x<2  =  relation 1 < x < 2",
                                     "gold as": "(1,2)  =  tuple of 2: number 1; number 2"}),
        ("7", "\\boxed{" + "(" * 60 + "}", {"decided by": "too long or too deeply nested: "
                                           "identical text or wrong"}),
        ("7", "\\boxed{7\x1b[31m}", {"answer": "7\\x1b[31m"}),
    ],
)  # fmt: skip
def test_the_path_is_named(gold, text, expected, capsys):
    assert main(["explain", "--gold", gold, "--text", text]) == 0
    found = lines(capsys.readouterr().out)
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("2\\frac{1}{3}", "number 7/3"),
        ("25\\%", "number 25 (percent)"),
        ("5\\text{ cm}", "number 5 (unit cm)"),
        ("52_8", "expression 52 (base 8)"),
        ("\\text{Yes}", "words 'yes'"),
        ("[0,1)", "interval [number 0, number 1)"),
        ("x^2+1", "expression x^{2}+1"),
        ("4 10/3", "expression 4 10/3 (of no agreed value)"),
        ("2^{4000}", "expression 2^{4000}"),
        ("(0,1)\\cup(2,3)", "union of interval (number 0, number 1) and interval "
                            "(number 2, number 3)"),
    ],
)  # fmt: skip
def test_forms_in_words(answer, words):
    assert describe(parse_form(canonical(answer))) == words


def write_samples(path: Path, rows: list[dict]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


ROW = {"problem_id": "p-1", "gold": "12", "num_tokens": 3, "finish_reason": "stop"}


@pytest.fixture
def samples(tmp_path) -> Path:
    rows = [
        ROW | {"sample": 0, "text": "\\boxed{12}", "reason": "correct"},
        ROW | {"sample": 1, "text": "\\boxed{13}", "reason": "wrong"},
        ROW | {"sample": 2, "text": "\\boxed{12}", "finish_reason": "length",
               "reason": "truncated"},
        ROW | {"problem_id": "p-2", "sample": 0, "text": "\\boxed{12}", "reason": "wrong"},
    ]  # fmt: skip
    return write_samples(tmp_path / "samples.jsonl.gz", rows)


def test_a_stored_sample(samples, capsys):
    assert main(["explain", str(samples), "--id", "p-1", "--index", "1"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("sample 1 of p-1: 3 tokens") and text.count("sample ") == 1
    assert lines(text)["verdict"] == "wrong" and lines(text)["stored"] == "wrong"


def test_a_long_text_is_shown_whole_with_its_lines(tmp_path, capsys):
    text = "\n".join(f"step {i}: add \x1b[31m" for i in range(60)) + " \\boxed{12}"
    row = ROW | {"sample": 0, "text": text, "reason": "correct"}
    path = write_samples(tmp_path / "long.jsonl.gz", [row])
    assert main(["explain", str(path), "--id", "p-1"]) == 0
    text = capsys.readouterr().out
    assert "text        step 0: add \\x1b[31m\n            step 1: add" in text
    assert " step 59: add" in text and "\x1b" not in text and "characters)" not in text


def test_all_samples_of_a_problem_with_a_truncated_one(samples, capsys):
    assert main(["explain", str(samples), "--id", "p-1"]) == 0
    text = capsys.readouterr().out
    assert text.count("verdict ") == 3 and "a cut completion is never correct" in text


def test_a_stored_verdict_that_is_not_found_again_is_marked(samples, capsys):
    assert main(["explain", str(samples), "--id", "p-2"]) == 1
    assert "NOT what is found now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "explain needs a samples file and --id, or --gold and --text"),
        (["--gold", "7"], "explain needs a samples file and --id, or --gold and --text"),
        (["nowhere.jsonl", "--id", "p"], "nowhere.jsonl: no samples file"),
        (["--gold", "", "--text", "7"], "gold answer '' is empty"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert main(["explain", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_unknown_problem_and_sample_are_named(samples, capsys):
    assert main(["explain", str(samples), "--id", "p-9"]) == 2
    assert "no problem 'p-9'; there are p-1 (3 samples), p-2 (1 samples)" in capsys.readouterr().err
    assert main(["explain", str(samples), "--id", "p-1", "--index", "5"]) == 2
    assert "no problem 'p-1' with a sample 5; there are p-1 (3 samples)" in capsys.readouterr().err
