"""Hostile model output: nothing is executed, nothing hangs, nothing raises."""

from __future__ import annotations

import time
from itertools import islice

import pytest

from benchmarks.reliability.fuzz import completions
from sgpo.core.verifier import decide, gold_answer, grade
from sgpo.core.verifier.extract import extract
from sgpo.core.verifier.spelling import canonical

MILLION = 10**6
SEVEN = gold_answer("7")

HOSTILE = {
    "tower": r"\boxed{10^{10^{10}}}",
    "higher tower": r"\boxed{10^{10^{10^{10}}}}",
    "bare tower": "9**9**9**9",
    "factorials": r"\boxed{((((9!)!)!)!)!}",
    "binomial": r"\boxed{\binom{10^9}{5\cdot10^8}}",
    "exponentials": r"\boxed{e^{e^{e^{e^{9}}}}}",
    "gamma": r"\boxed{\Gamma(10^{8})}",
    "variables": r"\boxed{(x+1)^{(x+2)^{(x+3)^{(x+4)}}}}",
    "million digits": r"\boxed{" + "1" * MILLION + "}",
    "million terms": r"\boxed{" + "x+" * (MILLION // 2) + "1}",
    "million without box": "1+" * (MILLION // 2),
    "open boxes": "\\boxed{" * (MILLION // 7),
    "open braces": "{" * MILLION,
    "closing braces": r"\boxed{}" + "}" * MILLION,
    "deep braces": r"\boxed{" + "{" * 5000 + "8" + "}" * 5000 + "}",
    "deep fractions": r"\boxed{" + r"\frac{" * 900 + "1" + "}{2}" * 900 + "}",
    "control": "\\boxed{\x00\x01\x02\x1b[31m8\x7f}",
    "zero bytes": "\x00" * 100_000,
    "spaces after cue": "answer" + " " * MILLION + "8",
    "spaces in power": r"\boxed{2^" + " " * MILLION + "3}",
    "new lines": "answer: 8" + "\n" * MILLION + "x",
    "think tags": "<think>" * 100_000,
    "full stops": "answer is " + ". " * 100_000,
    "stars": "*" * MILLION,
    "commas": r"\boxed{" + "1," * 4000 + "}",
    "lone surrogate": "\\boxed{\ud800}",
    "right to left": "\\boxed{\u202e8}",
    "division by zero": r"\boxed{\frac{1}{0}}",
    "log of zero": r"\boxed{\log_{0}(0)}",
}


# What math-verify's parser would chew on for minutes.
CHEWED = (
    "^2" * 100, "x|" * 300, "2^" * 40 + "2", "x^2^3", "\\sin" * 40 + "x", "\\log" * 9 + "x",
    "\\lfloor " * 8 + "x" + "\\rfloor " * 8, "(x+" * 14 + "1" + ")" * 14,
)  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "completion"),
    [*(("7", text) for text in HOSTILE.values()), *(("x+1", f"\\boxed{{{t}}}") for t in CHEWED)],
    ids=[*HOSTILE, *(text[:9] for text in CHEWED)],
)
def test_hostile_text_is_wrong_and_fast(gold, completion):
    started = time.process_time()
    verdict = grade(gold, completion)
    assert not verdict.correct and verdict.reason in {"wrong", "no_answer"}  # and no "timeout"
    assert time.process_time() - started < 4.0


# Just below the limit of what is parsed: no spelling rule may take time quadratic in the length.
LONG = {
    piece: piece * (9_900 // len(piece))
    for piece in (
        "1", "1 ", "\\text{1", "1\\,111", "111\\,", "x^\\prime ", "(\\mod", "\\{x|x|", "|x",
        "0.\\overline{", "1 square ", "\\mathbb ", "\\text{ the final answer ", "\\boxed -",
        "\\begin{aligned}", "７", "'", "\\angle A", "\\frac{", "^{", "1/", "a,", "\\pmod{", "_{",
    )
}  # fmt: skip


@pytest.mark.parametrize("frame", ["%s", "\\text{%s", "\\text{1%s}", "x^{%s", "(%s)", "\\{x|%s\\}"])
def test_long_text_takes_no_quadratic_time(frame):
    for text in LONG.values():
        canonical.cache_clear()
        started = time.process_time()
        decide(SEVEN, frame % text)
        assert time.process_time() - started < 1.0, text[:40]


@pytest.mark.parametrize(
    "piece",
    ["-", "+", "x\\in ", "1\\approx ", "!", "x=", "\\pm ", "not ", "1\\cup ", "1\\setminus ",
     "(1\\setminus 2)"],
)  # fmt: skip
def test_long_chains_end_in_a_verdict_however_deep_the_caller_is(piece):
    """A parser that recurses with the text would raise, and more so the deeper it is called."""

    def called_at(depth: int) -> bool | None:
        return called_at(depth - 1) if depth else decide(SEVEN, piece * (9_000 // len(piece)) + "7")

    canonical.cache_clear()
    for depth in (0, 600):
        assert called_at(depth) in (True, False, None)


def test_a_hostile_gold_matches_only_itself():
    tower = "10^{10^{10}}"
    assert grade(tower, f"\\boxed{{{tower}}}").correct
    assert not grade(tower, "\\boxed{10^{10^{11}}}").correct


@pytest.mark.parametrize(
    "template",
    ["\\boxed{%s}", "%s", "$\\text{%s}$", "The answer is %s", "\\boxed{\\operatorname{%s}}",
     "\\boxed{\\sqrt{%s}}", "\\boxed{x_{%s}}"],
)  # fmt: skip
def test_python_in_an_answer_is_never_executed(template, tmp_path):
    canary = tmp_path / "executed"
    for code in (
        f"__import__('os').system('touch {canary}')",
        f"open('{canary}','w')",
        f"exec(\"open('{canary}','w')\")",
        f"(lambda: open('{canary}','w'))()",
        f"Symbol('x').__class__.__init__.__globals__['open']('{canary}','w')",
    ):
        for gold in ("7", "x+\\sqrt{2}"):
            assert not grade(gold, template.replace("%s", code)).correct
    assert not canary.exists()


def test_random_text_through_the_exact_rules(tmp_path):
    """They never raise, whatever stands on either side; and every answer is its own."""
    for gold, completion in islice(completions(tmp_path / "executed"), 1_500):
        span = extract(completion).text
        if span is not None:
            assert decide(gold_answer(gold), span) in (True, False, None)
        if span and canonical(span):
            assert decide(gold_answer(span), span) is True
