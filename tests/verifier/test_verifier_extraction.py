"""Which span of a completion is the answer: every rule of extract.py by hand-made examples."""

from __future__ import annotations

import pytest

from sgpo.core.verifier import grade
from sgpo.core.verifier.extract import extract, unwrap_box


@pytest.mark.parametrize(
    ("completion", "span"),
    [
        (r"\boxed{7}", "7"),
        (r"\boxed {7}", "7"),
        (r"\fbox{7}", "7"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{\boxed{7}}", "7"),
        (r"first \boxed{5}, then I saw my mistake: \boxed{7}", "7"),
        (r"\boxed{5} or \boxed{7}", r"5 \text{ or } 7"),
        (r"$\boxed{5}$ and $\boxed{7}$", "5, 7"),
        (r"\boxed{7}, \boxed{7}", "7"),
        ("\\boxed{5}\n\nLet me check.\n\n\\boxed{7}", "7"),
        (r"\boxed{5} \boxed{", None),
        (r"\boxed{5}. So \boxed{}", None),
        (r"\boxed", None),
        (r"\boxed{5", None),
        (r"Put it in \boxed{}.", None),
        (r"\boxedfoo{5}", r"\boxedfoo{5}"),
        (r"<think>\boxed{5}</think> \boxed{7}", "7"),
        (r"<think>a</think> \boxed{5} <think>\boxed{6}</think> \boxed{7}", "7"),
        (r"no open tag \boxed{5} </think> \boxed{7}", "7"),
        (r"<think> I think \boxed{7}", None),
        (r"<think>\boxed{5}</think> \boxed{6} <think> wait", None),
        (r"<think>\boxed{5}</think>", None),
        ("The answer is 204.", "204."),
        ("Answer: $x=3$", "x=3"),
        ("The answer is equal to 42.", "42."),
        ("The answer is the number 42.", "42."),
        ("The answer is the number of 42.", "the number of 42."),
        ("**Final Answer:** 73", "73"),
        ("The answer is 42. But it could also be 43.", None),
        ("We see that the area must be forty two because of the triangle.", None),
        ("", None),
        ("2/3", "2/3"),
        ("Evelyn", "Evelyn"),
    ],
)
def test_span(completion, span):
    assert extract(completion).text == span


def test_long_boxes_are_not_cut():
    long = "x+" * 400 + "1"
    assert extract(f"so \\boxed{{{long}}}").text == long
    assert grade(long, f"\\boxed{{{long}}}").correct
    assert not grade(long, f"\\boxed{{{long}+1}}").correct


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r" \boxed{ \boxed{x}} ", "x"),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{1},\boxed{2}", r"\boxed{1},\boxed{2}"),
    ],
)
def test_only_a_text_that_is_one_box_is_unwrapped(text, content):
    assert unwrap_box(text) == content


@pytest.mark.parametrize(
    ("completion", "span"),
    [
        ("\\boxed{31}\n\n## Problem 2\nCompute.\n\\boxed{4}", "31"),
        ("\\boxed{31}\n\nProblem 2. Compute.\n\\boxed{4}", "31"),
        ("\\boxed{31}\n\n**Question 2.** 2+2?\n\\boxed{4}", "31"),
        ("\\boxed{31}\n<|start_header_id|>user<|end_header_id|>\n2+2?\n\\boxed{4}", "31"),
        ("Problem: 1?\n\\boxed{31}\nProblem: 2?\n\\boxed{4}\nProblem: 3?\n\\boxed{5}", "31"),
        ("My answer is in \\boxed{answer}.\n\nProblem: 2+3?\nSolution: \\boxed{5}", "5"),
        ("My answer is as follows.\n\nProblem: 2+3?\nSolution: \\boxed{5}", "5"),
        ("Let me restate.\nProblem 2.5 kg are there, so \\boxed{5}", "5"),
        ("The answer is B.\n\nQuestion 2. x?\n\\boxed{5}", "B."),
    ],
)
def test_another_problem_ends_an_answer_that_was_given(completion, span):
    assert extract(completion).text == span


@pytest.mark.parametrize(
    "completion",
    [
        "The roots are:\n\n1. $x = [3]$\n2. $x = [11]$",
        "1. The minimum is [3]\n2. The maximum is [11]",
        "The first case gives [3] and the second gives [11].",
        "If n is even, the answer is [3]; if n is odd, the answer is [11].",
        "If n is even, it is [3]. Otherwise, it is [11].",
        "The answer is [3].\n\nOr the answer is [11].",
        "The answer is either [3], in which case the sum is 5, or [11].",
        "The two answers are $x=[3]$ and then $x=[11]$.",
        "The smaller is [3] but the larger is [11].",
        "$[3]$ / $[11]$",
        "$[3]$ along with $[11]$",
        "The answer is [3], maybe [11].",
    ],
)
def test_several_candidates_are_one_list(completion):
    assert extract(_boxed(completion)).path == "2 boxes of one list"


@pytest.mark.parametrize(
    "completion",
    [
        "We get [3], so the total is [11].",
        "x = [3]. Hence the answer is [11].",
        "x = [3]... wait, [11]",
        "The radius is [3] and the total area is [11].",
        "The radius is [3].\nThe area of the disc and the ring is [11].",
        "The roots are [3] and [8], and their sum is [11].",
        "Case 1 gives [3]; case 2 gives [8]; the sum is [11].",
        "I first thought [3], but the correct answer is [11].",
        "Step 1. We get [3]\nStep 2. We get [11]",
        "The answer is [3].\n\nThe answer is [11].",
        "The dimensions are [3] by [8] - in short, [11].",
    ],
)
def test_a_value_on_the_way_is_no_candidate(completion):
    assert extract(_boxed(completion)).text == "11"


def _boxed(text: str) -> str:
    return text.replace("[", "\\boxed{").replace("]", "}")
