"""Replies are read as they are written, and nothing that leaks is kept."""

from __future__ import annotations

import json

import pytest
from scripted_endpoint import candidate

from sgpo.core.types import Problem
from sgpo.strategies.text import (
    CRITERIA,
    extraction_request,
    leaks,
    parse_candidates,
    parse_scores,
    quality_bands,
    scoring_request,
)

PROBLEM = Problem(
    "p",
    "A list holds 17 numbers whose sum is 2023. What is the largest possible minimum?",
    "\\boxed{119}",
    expert="<think>\n2023 / 17 = 119, and 17 \\cdot 119 = 2023; 16 * 119 = 1904.\n</think> 119",
)
CLEAN = "Problem type: averages\nStrategy: Compare {x}^2 with the mean.\nSteps:\n1. Find the mean."


def test_requests_hold_problem_solution_and_candidates():
    request = extraction_request(PROBLEM, 5)
    assert PROBLEM.question in request and "16 * 119 = 1904" in request and "Write 5 " in request
    request = scoring_request(PROBLEM, [CLEAN, "other {braces}"])
    assert "Final answer: 119" in request and "Strategy 2:\nother {braces}" in request
    assert request.index(CLEAN) < request.index("other") and "2 strategies" in request


def test_candidates_are_read_with_their_latex_and_in_one_spelling():
    reply = (
        "<think>" + candidate("not this", "one") + "</think>\n"
        + candidate("**algebra**", "Use \\frac{a}{b} and \\binom{n}{k}.")
        + "<candidate>\n**Problem Type:** graphs\n## Strategy: Colour them.\n**Procedural steps**:"
        "\n1. a\n2. b\n</candidate>"
        + candidate("**algebra**", "Use \\frac{a}{b} and \\binom{n}{k}.")  # again
        + "<candidate>\nProblem type: x\nStrategy: y\nSteps:\n1. cut off he"
    )  # fmt: skip
    first, second = parse_candidates(reply)
    assert "Strategy: Use \\frac{a}{b} and \\binom{n}{k}.\nSteps:\n1. Do it." in first
    assert second == ("Problem type: graphs\nStrategy: Colour them.\nSteps:\n1. a\n2. b")


@pytest.mark.parametrize(
    "reply",
    [
        "<candidate>Problem type: x\nStrategy: y</candidate>",
        "<candidate>Problem type: x\nStrategy:\nSteps:\n1. a</candidate>",
        "<candidate>Strategy: y\nProblem type: x\nSteps:\n1. a</candidate>",
        "<candidate></candidate>",
        "<think>" + candidate("a", "b"),  # a thought that was never closed
    ],
)
def test_a_block_without_its_three_parts_is_left_out(reply):
    assert parse_candidates(reply) == []


ROW = dict.fromkeys(CRITERIA, 0.5)


def test_scores_are_read_strictly():
    good = json.dumps({"scores": [ROW, ROW | {"type": 1}]})
    assert parse_scores(f"<think>{{}}</think>Here: {good} done", 2) == [ROW, ROW | {"type": 1.0}]
    assert parse_scores(good, 3) is None
    for second in (*(ROW | {"type": bad} for bad in (1.2, "1", True)), {"type": 1}, None):
        assert parse_scores(json.dumps({"scores": [ROW, second]}), 2) is None, second
    for bad in (good[:-5], "no scores", "", "[1]", '{"scores": 2}', '{"scores": {"a": 1}}',
                json.dumps([ROW, ROW]), "<think>" + good):  # fmt: skip
        assert parse_scores(bad, 2) is None, bad


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The minimum is then 119.", "the final answer"),
        ("Show that $119$ can be reached.", "the final answer"),
        ("So \\boxed{x}.", "a box"),
        ("Divide: 2023 / 17 = n", None),  # nothing carried out
        ("Note that 2 + 3 = 5 first.", "a calculation"),
        ("Use $2^{10} \\cdot 3 = 3072$ here.", "a calculation"),
        ("Sixteen of them make 1904 at least.", "the intermediate result 1904"),
        ("Angles add up to 180 degrees; the list has 17 numbers with sum 2023.", None),
        ("1. Find the mean.\n2. Compare.\n119. Stop.", "the final answer"),
        ("Set x = 0 and solve x + 3 = y.", None),
        ("Try n = 12 and 13 cases.", None),
    ],
)
def test_leaks_are_found_and_named(text, expected):
    found = leaks(text, PROBLEM)
    assert (not found) if expected is None else found[0].startswith(expected), found


@pytest.mark.parametrize(
    ("answer", "question", "text", "leaking"),
    [
        ("2", "How many?", "Split into 2 cases, see step 2.", False),
        ("2", "How many?", "1. Count.\n2. Add.", False),
        ("2", "How many?", "The answer is 2.", True),
        ("2", "How many?", "then x = 2", True),
        ("2", "How many?", "we get $2$ of them", True),
        ("25", "How many?", "Look at the 25 pairs.", True),
        ("25", "Of 25 pairs, how many?", "Look at the 25 pairs.", False),
        ("12,345", "How many?", "It makes 12345 ways.", True),
        ("12345", "How many?", "It makes 12,345 ways.", True),
        ("0.5", "How many?", "with probability 0.5 each", True),
        ("-3", "How many?", "the root is -3", True),
        ("\\frac{3}{4}", "What?", "so $\\dfrac{3}{4}$ remains", True),
        ("\\left(1,2\\right)", "What?", "at the point $(1, 2)$", True),
        ("(1,2)", "Is (1,2) on it?", "start at (1, 2)", False),
        ("x^2+1", "What?", "write it as $x^2 + 1$", True),
        ("x", "What?", "solve for x", False),
        # another spelling of the same value
        ("\\frac12", "What?", "so 1/2 of them remain", True),
        ("\\frac{1}{2}", "What?", "the share is 0.5 then", True),
        ("0.5", "What?", "the share is $\\frac{1}{2}$ then", True),
        ("\\frac{1}{2}", "Of 1/2 a cake?", "the share is 0.5 then", False),
        ("\\frac{1}{2}", "What?", "compare 1/3 with 2/3", False),
        ("2\\sqrt{3}", "What?", "its length is √12", True),
        ("2\\sqrt{3}", "What?", "its length is 2√3", True),
        ("2\\sqrt{3}", "What?", "its length is √13", False),
        ("\\sqrt{2}", "What?", "so $d = \\sqrt{2}$", True),
        ("B", "Which?", "this is option B", True),
        ("\\text{(B)}", "Which?", "the choice (B) fits", True),
        ("B", "Which?", "from A to B draw a line", False),
        # intermediate results of two digits and more
        ("900", "Of 12 boxes?", "so 47 are left", True),
        ("900", "Of 12 boxes?", "so 46 are left", False),
        ("900", "Of 12 boxes?", "take 12 of", False),
    ],
)
def test_answers_of_every_kind(answer, question, text, leaking):
    problem = Problem("a", question, answer, expert="There are 47 left, of 12.")
    assert bool(leaks(text, problem)) is leaking


def test_bands_are_the_papers():
    assert quality_bands([1.0, 0.8, 0.79, 0.5, 0.49, 0.0]) == {
        "[0.8, 1]": 2, "[0.5, 0.8)": 2, "[0, 0.5)": 2
    }  # fmt: skip
