"""The verifier's verdicts against cases decided by hand, and against the benchmarks' own golds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgpo.core.verifier import Verdict, grade, grade_many
from sgpo.core.verifier.extract import unwrap_box

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parents[1] / "data"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


CASES, ROUND2, ROUND3, COMPLETIONS, PAIRS = (
    rows(DATA / f"verifier_{name}.jsonl")
    for name in ("cases", "round2", "round3", "completions", "pairs")
)
# The gold of these two is garbled in the data set (benchmarks/data/gold_faults.jsonl).
GARBLED_GOLD = {"H049", "H050"}
BENCHMARKS = {"math500": 500, "amc23": 40, "olympiadbench": 674, "aime24": 30}
ASKED = {  # (gold, completion, whether it is right), all decided by hand
    "cases": [(c["gold"], c["pred"], bool(c["expected"])) for c in CASES + ROUND2
              if c["id"] not in GARBLED_GOLD],
    "round3": [(c["gold"], c["pred"], bool(c["expected"])) for c in ROUND3],
    "completions": [(r["gold"], r["completion"], r["correct"]) for r in COMPLETIONS],
    "pairs": [(row["gold"], f"\\boxed{{{text}}}", side == "right")
              for row in PAIRS for side in ("right", "wrong") for text in row[side]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "least"), [("cases", 900), ("round3", 2400), ("completions", 100), ("pairs", 1000)]
)
def test_answers_decided_by_hand(name, least):
    asked = ASKED[name]
    verdicts = grade_many([(gold, text) for gold, text, _ in asked])
    assert {v.reason for v in verdicts} <= {"correct", "wrong", "no_answer"}
    assert all(v.correct == (v.reason == "correct") for v in verdicts)
    other = [a for a, v in zip(asked, verdicts, strict=True) if v.correct is not a[2]]
    assert len(asked) > least and other == []


def test_every_mended_kind_has_as_many_near_misses():
    kinds = Counter((c["kind"].split()[0], c["expected"]) for c in CASES + ROUND2 if c.get("kind"))
    mended = {kind for kind, _ in kinds} - {"K29"}  # a garbled gold is no kind of answer
    assert len(mended) > 30 and all(kinds[kind, 0] >= kinds[kind, 1] for kind in mended), kinds


@pytest.mark.parametrize(
    ("words", "problem", "expected"),
    [
        ("blorks", "How many blorks does a zorg have?", True),
        ("blorks", None, False),
        ("root two", "How many blorks does a zorg have?", False),
        ("halves", "Cut 3 halves.", False),
    ],
)
def test_the_problem_says_what_is_counted(words, problem, expected):
    assert grade("7", f"\\boxed{{7\\text{{ {words}}}}}", problem=problem).correct == expected


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_gold_answers_itself_and_not_the_next(name):
    folder = Path(os.environ.get("SGPO_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    path = folder / "benchmarks" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"benchmark file {path.name} is absent (looked in SGPO_DATA_DIR)")
    answers = [row["answer"] for row in rows(path)]
    assert len(answers) == BENCHMARKS[name]
    pairs, others = [], []
    for i, answer in enumerate(answers):
        gold = unwrap_box(answer)
        gold = gold.strip("$") if gold.count("$") == 2 and gold[0] == gold[-1] else gold
        pairs.append((answer, f"<think> x \\boxed{{0}} </think> so it is $\\boxed{{{gold}}}$."))
        if i % 5 == 0 and "\\text" not in gold:  # with other spacing and commands
            other = gold.replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "")
            other = other.replace("+", " + ").replace("-", "  -\\, ").replace("\\leq", "\\le")
            pairs.append((answer, f"\\[ \\boxed{{ {other} }} \\]"))
        if i and answers[i - 1] != answer != "x=5":  # it follows a 5
            others.append((answers[i - 1], f"\\boxed{{{gold}}}"))
    others = others[:120] if name == "math500" else []
    verdicts = grade_many(pairs + others)
    assert [p for p, v in zip(pairs + others, verdicts, strict=True) if v.correct] == pairs


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(-999, 999), st.integers(1, 60), st.integers(-999, 999), st.integers(1, 60))
def test_fractions_agree_with_python(a, b, c, d):
    for text in (f"\\frac{{{c}}}{{{d}}}", f"-\\dfrac{{{-c}}}{{{d}}}", f"{2 * c} / {2 * d}"):
        expected = Fraction(a, b) == Fraction(c, d)
        assert grade(f"\\frac{{{a}}}{{{b}}}", f"\\boxed{{{text}}}").correct == expected
    assert grade(f"{a}/{b}", f"\\boxed{{\\frac{{{3 * a}}}{{{3 * b}}}}}").correct


def test_truncated_is_its_own_reason_even_with_a_right_box():
    assert grade("7", "\\boxed{7}", truncated=True) == Verdict(False, "truncated", "7")
    verdicts = grade_many([("7", "\\boxed{7}")] * 2, truncated=[True, False])
    assert [v.reason for v in verdicts] == ["truncated", "correct"]


@pytest.mark.parametrize("gold", ["", "  ", "$$", "\\boxed{}", "$\\boxed{ }$"])
def test_empty_gold_is_an_error_that_names_it(gold):
    with pytest.raises(ValueError, match="is empty") as error:
        grade(gold, "\\boxed{7}")
    assert repr(gold) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"truncated": [False]}, "truncated: 1 for 2 pairs"),
        ({"problems": ["a", "b", "c"]}, "problems: 3 for 2 pairs"),
        ({"deadline_seconds": 0}, "deadline_seconds=0: must be above 0"),
    ],
)
def test_what_does_not_fit_the_pairs_or_is_no_limit_is_an_error(given, said):
    with pytest.raises(ValueError, match=said):
        grade_many([("7", "7"), ("8", "8")], **given)
    assert grade_many([]) == []


def test_import_is_light_and_short_answers_need_no_process():
    script = """
import sys
from sgpo.core import verifier
from sgpo.core.verifier.pool import POOL
assert not {"torch", "sympy", "math_verify", "numpy"} & set(sys.modules)
pairs = [("(3,7)", f"\\\\boxed{{({i},7)}}") for i in range(50)]
pairs += [("42", "\\\\boxed{43}"), ("0.5", "\\\\boxed{1/2}"), ("x", "\\\\boxed{x}"), ("5", "none")]
assert sum(v.correct for v in verifier.grade_many(pairs)) == 3
assert not POOL._all
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY, timeout=60)
