"""The verifier's verdicts against cases decided by hand, and against the benchmarks' own golds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgpo.core.verifier import Verdict, grade, grade_many
from sgpo.core.verifier.extract import unwrap_box
from sgpo.core.verifier.graders import GRADERS
from sgpo.core.verifier.graders import grade_many as grade_with

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(__file__).parents[1] / "data"


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"verifier_{name}.jsonl").read_text().splitlines()]


# The gold of these two is garbled in the data set (benchmarks/data/gold_faults.jsonl).
GARBLED_GOLD = {"H049", "H050"}
CASES = [c for c in rows("cases") + rows("round2") if c["id"] not in GARBLED_GOLD]
BENCHMARKS = {"math500": 500, "amc23": 40, "olympiadbench": 674, "aime24": 30}
ASKED = {  # (gold, completion, whether it is right), all decided by hand
    "cases": [(c["gold"], c["pred"], bool(c["expected"])) for c in CASES],
    "completions": [(r["gold"], r["completion"], r["correct"]) for r in rows("completions")],
    "pairs": [
        (row["gold"], f"\\boxed{{{text}}}", side == "right")
        for row in rows("pairs")
        for side in ("right", "wrong")
        for text in row[side]
    ],
}


@pytest.mark.parametrize(("name", "least"), [("cases", 900), ("completions", 100), ("pairs", 1000)])
def test_answers_decided_by_hand(name, least):
    asked = ASKED[name]
    verdicts = grade_many([(gold, text) for gold, text, _ in asked])
    assert {v.reason for v in verdicts} <= {"correct", "wrong", "no_answer"}
    assert all(v.correct == (v.reason == "correct") for v in verdicts)
    other = [a for a, v in zip(asked, verdicts, strict=True) if v.correct is not a[2]]
    assert len(asked) > least and other == []


def test_every_mended_kind_has_near_misses():
    kinds = {c["kind"].split()[0] for c in rows("round2")} - {"K29"}
    wrong = [c["kind"] for c in rows("cases") if c.get("kind") and not c["expected"]]
    assert {k for k in kinds if not wrong.count(k)} <= {"K34", "K40"} and len(wrong) > 100


def test_the_problem_says_what_is_counted():
    """A noun of the problem may stand behind the number; a word of no list may not."""
    problem = "How many blorks does a zorg have?"
    assert grade("7", "\\boxed{7\\text{ blorks}}", problem=problem).correct
    assert not grade("7", "\\boxed{7\\text{ blorks}}").correct
    assert not grade("7", "\\boxed{7\\text{ root two}}", problem=problem).correct
    assert not grade("7", "\\boxed{7\\text{ halves}}", problem="Cut 3 halves.").correct


def test_graders_differ_where_they_should():
    golds, texts = ["7", "\\frac{1}{2}", "(1,2)"], ["\\boxed{7}", "\\boxed{0.5}", "\\boxed{(2,1)}"]
    found = {name: [v.correct for v in grade_with(name, golds, texts)] for name in GRADERS}
    assert found["ours"] == found["stock"] == [True, True, False]
    assert found["exact"] == [True, False, False]
    with pytest.raises(ValueError, match="must be one of ours, stock, exact"):
        grade_with("mine", golds, texts)


def test_case_verdicts_do_not_depend_on_the_box():
    ours = [c for c in CASES if c["id"].startswith("F") and "\\boxed" not in c["pred"]]
    verdicts = grade_many([(c["gold"], f"So it is $\\boxed{{{c['pred']}}}$.") for c in ours])
    wrong = [c for c, v in zip(ours, verdicts, strict=True) if v.correct != bool(c["expected"])]
    assert len(ours) > 150 and wrong == []


def _benchmark(name: str) -> list[dict]:
    folder = Path(os.environ.get("SGPO_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    path = folder / "benchmarks" / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"benchmark file {path.name} is absent (looked in SGPO_DATA_DIR)")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _plain_gold(answer: str) -> str:
    answer = unwrap_box(answer)
    return answer.strip("$") if answer.count("$") == 2 and answer[0] == answer[-1] else answer


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_gold_is_graded_correct_against_itself(name):
    rows = _benchmark(name)
    assert len(rows) == BENCHMARKS[name]
    phrasings = (
        r"\boxed{%s}",
        r"$\boxed{%s}$.",
        r"The final answer is $\boxed{%s}$.",
        "<think> x \\boxed{0} </think> so it is \\boxed{%s}",
    )
    pairs = [(r["answer"], p % _plain_gold(r["answer"])) for r in rows for p in phrasings]
    verdicts = grade_many(pairs)
    assert [p for p, v in zip(pairs, verdicts, strict=True) if not v.correct] == []


@pytest.mark.parametrize("name", ["math500", "olympiadbench"])
def test_benchmark_golds_survive_respelling(name):
    """The same formulas with other spacing, fraction and bracket commands, re-ordered lists."""
    rows = [r for r in _benchmark(name) if "\\text" not in r["answer"]][::5]
    pairs = []
    for row in rows:
        gold = _plain_gold(row["answer"])
        other = gold.replace("\\frac", "\\dfrac").replace("\\left", "").replace("\\right", "")
        other = other.replace("+", " + ").replace("-", "  -\\, ").replace("\\leq", "\\le")
        pairs.append((row["answer"], f"\\[ \\boxed{{ {other} }} \\]"))
    verdicts = grade_many(pairs)
    assert [p for p, v in zip(pairs, verdicts, strict=True) if not v.correct] == []


def test_benchmark_golds_are_not_each_other():
    """Each gold against the next different one: nothing matches everything."""
    rows = [r for r in _benchmark("math500")[:120] if r["answer"] != "x=5"]  # it follows a 5
    pairs = [
        (a["answer"], f"\\boxed{{{b['answer']}}}")
        for a, b in zip(rows, rows[1:], strict=False)
        if a["answer"] != b["answer"]
    ]
    verdicts = grade_many(pairs)
    assert [p for p, v in zip(pairs, verdicts, strict=True) if v.correct] == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(-999, 999), st.integers(1, 60), st.integers(-999, 999), st.integers(1, 60))
def test_fractions_agree_with_python(a, b, c, d):
    gold, answer = Fraction(a, b), Fraction(c, d)
    spellings = (
        f"\\frac{{{c}}}{{{d}}}",
        f"{c}/{d}",
        f"-\\dfrac{{{-c}}}{{{d}}}",
        f"{2 * c} / {2 * d}",
    )
    for text in spellings:
        assert grade(f"\\frac{{{a}}}{{{b}}}", f"\\boxed{{{text}}}").correct == (gold == answer)
    assert grade(f"{a}/{b}", f"\\boxed{{\\frac{{{3 * a}}}{{{3 * b}}}}}").correct


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_lists_are_unordered_and_tuples_ordered(items, random):
    shuffled = random.sample(items, len(items))
    text, other = (", ".join(map(str, x)) for x in (items, shuffled))
    assert grade(text, f"\\boxed{{{other}}}").correct
    assert grade(f"({text})", f"\\boxed{{({other})}}").correct == (items == shuffled)
    assert not grade(text, f"\\boxed{{{', '.join(map(str, items[1:]))}}}").correct
    assert not grade(text, f"\\boxed{{{other}, 77}}").correct


def test_truncated_is_its_own_reason_even_with_a_right_box():
    assert grade("7", "\\boxed{7}", truncated=True) == Verdict(False, "truncated", "7")
    verdicts = grade_many([("7", "\\boxed{7}")] * 2, truncated=[True, False])
    assert [v.reason for v in verdicts] == ["truncated", "correct"]


@pytest.mark.parametrize("gold", ["", "  ", "$$", "\\boxed{}", "$\\boxed{ }$"])
def test_empty_gold_is_an_error_that_names_it(gold):
    with pytest.raises(ValueError, match="is empty") as error:
        grade(gold, "\\boxed{7}")
    assert repr(gold) in str(error.value) and "\n" not in str(error.value)


def test_bad_arguments_are_named():
    for name in ("truncated", "problems"):
        with pytest.raises(ValueError, match="argument"):
            grade_many([("7", "7"), ("8", "8")], **{name: [False]})
    assert grade_many([]) == []


def test_import_is_light_and_short_answers_need_no_process():
    script = """
import sys
from sgpo.core import verifier
from sgpo.core.verifier.pool import POOL
heavy = {"torch", "sympy", "math_verify", "numpy"} & set(sys.modules)
assert not heavy, heavy
pairs = [("(3,7)", f"\\\\boxed{{({i},7)}}") for i in range(50)]
pairs += [("42", "\\\\boxed{43}"), ("0.5", "\\\\boxed{1/2}"), ("x", "\\\\boxed{x}"), ("5", "none")]
verdicts = verifier.grade_many(pairs)
assert sum(v.correct for v in verdicts) == 3
assert POOL.worker_pids() == [] and not heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=REPOSITORY, timeout=60)
