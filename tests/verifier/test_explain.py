"""``sgpo explain`` shows the span, both forms, the path and the verdict of what it is given."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.report.explain import describe
from sgpo.core.verifier.forms import parse_form
from sgpo.core.verifier.spelling import canonical


def lines(text: str) -> dict[str, str]:
    return {s[:12].strip(): s[12:] for s in text.splitlines() if s}


WORKER = "a worker process (sympy, math-verify): "


@pytest.mark.parametrize(
    ("gold", "text", "expected"),
    [
        ("\\frac12", "so <think>\\boxed{1}</think> it is \\boxed{2/4}.",
         {"found by": "last closed box", "answer": "2/4", "answer as": "2/4  =  number 1/2",
          "gold as": "\\frac{1}{2}  =  number 1/2", "decided by": "exact rules: numbers",
          "verdict": "correct"}),
        ("\\sqrt{12}", "\\boxed{2\\sqrt3}", {"decided by": WORKER + "expressions",
                                            "verdict": "correct"}),
        ("7", "I do not know what it is.", {"answer": "none", "verdict": "no_answer"}),
        ("7", "\\boxed{8", {"found by": "the last box is never closed", "answer": "none"}),
        ("(1,2)", "\\boxed{1<x<2}", {"answer as": "1<x<2  =  relation 1 < x < 2",
                                     "gold as": "(1,2)  =  tuple of 2: number 1; number 2"}),
        ("[1,2)", "\\boxed{1\\le x<2}", {"decided by": WORKER + "sets of real numbers"}),
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


ROW = {"problem_id": "p-1", "gold": "12", "num_tokens": 3, "finish_reason": "stop"}
LONG = "\n".join(f"step {i}: add \x1b[31m" for i in range(60)) + " \\boxed{12}"


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    rows = [
        ROW | {"sample": 0, "text": "\\boxed{12}", "reason": "correct"},
        ROW | {"sample": 1, "text": "\\boxed{13}", "reason": "wrong"},
        ROW | {"sample": 2, "text": "\\boxed{12}", "finish_reason": "length",
               "reason": "truncated"},
        ROW | {"problem_id": "p-2", "sample": 0, "text": "\\boxed{12}", "reason": "wrong"},
        ROW | {"problem_id": "p-3", "sample": 0, "text": LONG, "reason": "correct"},
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("samples") / "samples.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


@pytest.mark.parametrize(
    ("arguments", "status", "said", "count"),
    [
        (["p-1", "--index", "1"], 0, "stored      wrong\n", 1),
        (["p-1"], 0, "a cut completion is never correct", 3),
        (["p-2"], 1, "NOT what is found now", 1),
        # A long text is shown whole, with its lines.
        (["p-3"], 0, "text        step 0: add \\x1b[31m\n            step 1: add", 1),
        (["p-3"], 0, " step 59: add", 1),
    ],
)
def test_stored_samples(samples, arguments, status, said, count, capsys):
    assert main(["explain", str(samples), "--id", *arguments]) == status
    text = capsys.readouterr().out
    assert text.startswith("sample ") and said in text and "\x1b" not in text
    assert text.count("verdict ") == count and "characters)" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "explain needs a samples file and --id, or --gold and --text"),
        (["--gold", "7"], "explain needs a samples file and --id, or --gold and --text"),
        (["nowhere.jsonl", "--id", "p"], "nowhere.jsonl: no samples file"),
        (["--gold", "", "--text", "7"], "gold answer '' is empty"),
        (["SAMPLES", "--id", "p-9"], "no sample of problem 'p-9'; there are p-1 (samples: 3)"),
        (
            ["SAMPLES", "--id", "p-1", "--index", "5"],
            "no sample 5 of problem 'p-1'; there",
        ),
    ],
)
def test_mistakes_are_one_line(samples, arguments, message, capsys):
    words = [str(samples) if word == "SAMPLES" else word for word in arguments]
    assert main(["explain", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
