"""Strategies from a strong model's response: the requests, how replies are read, what is kept.

A strategy has three parts: problem type, strategy, procedural steps (arXiv 2606.24064, Section 3).
The strong model proposes several from a problem and its solution, a second request scores each in
[0, 1] on four criteria, and the best one is kept. Whatever the scores say, a candidate in which
``leaks`` finds the answer or a computation is never kept.

Nothing here opens a connection; ``sgpo.strategies.ask`` does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.core.types import Problem
from sgpo.core.verifier import grade
from sgpo.core.verifier.extract import after_thinking, unwrap_box

CRITERIA = ("type", "strategy", "steps", "no_leak")

EXTRACTION_PROMPT = """\
Below are a mathematical problem and a correct solution of it. Write {count} different strategies \
that would help a student to find the solution alone.

A strategy has three parts:
- Problem type: the kind of problem, in one line.
- Strategy: the principle or technique that makes it solvable, and why it fits here.
- Steps: the procedure as a numbered list. Say what to do, not what comes out of it.

A strategy must not hold the final answer, any intermediate result, or any calculation with the \
numbers of the problem.

Write each one exactly like this, and nothing else:
<candidate>
Problem type: ...
Strategy: ...
Steps:
1. ...
2. ...
</candidate>

Problem:
{question}

Solution:
{solution}
"""

SCORING_PROMPT = """\
Below are a mathematical problem, its final answer, and {count} strategies meant to help a student \
to solve it alone. Score every strategy from 0 to 1 on four criteria:
- type: the problem type is right.
- strategy: the technique is apt for this very problem and specific enough to be of use.
- steps: the steps are at the right level, neither vague nor the solution itself.
- no_leak: neither the final answer nor an intermediate result or calculation is in it (1 if so).

Reply with one JSON object and nothing else, the scores in the order of the strategies:
{{"scores": [{{"type": 0.0, "strategy": 0.0, "steps": 0.0, "no_leak": 0.0}}]}}

Problem:
{question}

Final answer: {answer}

{candidates}
"""

_BLOCK = re.compile(r"<candidate>(.*?)</candidate>", re.DOTALL | re.IGNORECASE)
_HEADINGS = re.compile(
    r"^[ \t*#]*(problem type|strategy|steps|procedural steps)[ \t*]*:[ \t*]*",
    re.IGNORECASE | re.MULTILINE,
)
_LIST_NUMBER = re.compile(r"^\s*\(?\d{1,2}[.)]\s", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})+(?:\.\d+)?(?![\d])|(?<![\w.])\d+(?:\.\d+)?")
# Digits and operators only, at least one operator, then a result: a calculation carried out.
_CALCULATION = re.compile(
    r"\d[\d\s.,(){}]*(?:(?:[-+*/^×·÷]|\\cdot|\\times|\\div)[\d\s.,(){}]*)+"
    r"(?:=|\\approx|≈)\s*\$?-?\d"
)
_CONCLUDES = re.compile(
    r"(?:=|\\approx|≈|\b(?:is|are|equals?|gives?|yields?|get|obtain|answer|result)\b)[\s:$({\\-]*$",
    re.IGNORECASE,
)
# Percent, angles, number bases and such: in any method's words.
COMMON_NUMBERS = frozenset({"10", "12", "24", "60", "90", "100", "180", "360", "1000"})
MIN_TELLING_DIGITS = 2
MIN_TELLING_LENGTH = 3
_FORMULA = re.compile(r"\$([^$]{1,80})\$")
_BARE = re.compile(
    r"-?\d+(?:\.\d+)?/\d+|(?:\d+ *)?(?:√|sqrt) *\(?\d+\)?(?:/\d+)?"
    r"|-?\\[dt]?frac\{[^{}]*\}\{[^{}]*\}|(?:\d+ *)?\\sqrt\{[^{}]*\}|-?\d+(?:\.\d+)"
)
_ROOT_SIGN = re.compile(r"(?:√|(?<!\\)sqrt) *\(?(\d+)\)?")
_OPTION_ANSWER = re.compile(r"(?:\\text\{)?\(?([A-E])\)?\}?")
_OPTION_NAMED = r"(?:\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)s?(?: is)?:? *\(?{0}\b|\({0}\))"


@dataclass(frozen=True)
class Scored:
    """A candidate with its scores, each in [0, 1], by name of ``CRITERIA``."""

    text: str
    scores: dict[str, float]

    @property
    def mean(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


def extraction_request(problem: Problem, count: int) -> str:
    """The request for ``count`` strategies of a problem, from its expert trace."""
    return EXTRACTION_PROMPT.format(
        count=count, question=problem.question, solution=problem.expert.strip()
    )


def scoring_request(problem: Problem, candidates: Sequence[str]) -> str:
    """The request for scores of ``candidates``, in their order."""
    shown = [f"Strategy {i}:\n{text}" for i, text in enumerate(candidates, start=1)]
    return SCORING_PROMPT.format(
        count=len(candidates),
        question=problem.question,
        answer=unwrap_box(problem.answer),
        candidates="\n\n".join(shown),
    )


def parse_candidates(reply: str) -> list[str]:
    """The strategies of a reply in one spelling; a block that lacks a part, or its end, is left
    out, as is a repetition."""
    found = []
    for block in _BLOCK.findall(after_thinking(reply) or ""):
        _, *parts = _HEADINGS.split(block)
        names = [name.lower().removeprefix("procedural ") for name in parts[::2]]
        texts = [text.strip() for text in parts[1::2]]
        if names == ["problem type", "strategy", "steps"] and all(texts):
            found.append("Problem type: {}\nStrategy: {}\nSteps:\n{}".format(*texts))
    return list(dict.fromkeys(found))


def parse_scores(reply: str, count: int) -> list[dict[str, float]] | None:
    """The scores of a reply, one dict of ``CRITERIA`` a candidate; None unless there are exactly
    ``count`` of them and every one is a number in [0, 1]."""
    text = after_thinking(reply) or ""
    try:
        value, _ = json.JSONDecoder().raw_decode(text[max(0, text.find("{")) :])
        rows = [[row[name] for name in CRITERIA] for row in value["scores"]]
    except (json.JSONDecodeError, TypeError, KeyError):
        return None
    values = [value for row in rows for value in row]
    if len(rows) != count or not all(type(v) in (int, float) and 0 <= v <= 1 for v in values):
        return None
    return [dict(zip(CRITERIA, map(float, row), strict=True)) for row in rows]


def leaks(strategy: str, problem: Problem) -> list[str]:
    """Why a strategy gives too much away; empty when nothing was found.

    Found are: a box; the final answer in any spelling that the verifier takes for it, where the
    question does not hold it (a single digit only after words or signs that conclude, since it is
    in every list of steps; an option's letter only beside a word like "option" or in brackets); a
    calculation between numbers with its result; and a number of two digits or more, or a decimal,
    that is in the solution but not in the question. A result put in words is not found; the scores
    are there for that.
    """
    text = _LIST_NUMBER.sub("\n", strategy)
    found = []
    if "\\boxed" in text or "\\fbox" in text:
        found.append("a box")
    answer = unwrap_box(problem.answer).strip().strip("$").strip()
    if _gives_answer(text, answer, problem.question):
        found.append(f"the final answer {answer!r}")
    calculation = _CALCULATION.search(text)
    if calculation:
        found.append(f"a calculation {calculation.group().strip()!r}")
    known = set(_numbers(problem.question)) | COMMON_NUMBERS
    solution = set(_numbers(problem.expert or ""))
    for number in _numbers(text):
        telling = len(number.replace(".", "")) >= MIN_TELLING_DIGITS or "." in number
        if telling and number not in known and number in solution:
            found.append(f"the intermediate result {number}")
            break
    return found


def _numbers(text: str) -> list[str]:
    return [found.replace(",", "") for found in _NUMBER.findall(text)]


def _squeezed(text: str) -> str:
    text = text.replace("\\left", "").replace("\\right", "").replace("\\dfrac", "\\frac")
    return re.sub(r"[\s$]|\\[,;:! ]", "", text)


def _gives_answer(text: str, answer: str, question: str) -> bool:
    plain = answer.replace(",", "") if re.fullmatch(r"[\d,]+", answer) else answer
    if re.fullmatch(r"-?\d+(?:\.\d+)?", plain):
        digits = plain.lstrip("-")
        if digits in _numbers(question):
            return False
        places = [m for m in _NUMBER.finditer(text) if m.group().replace(",", "") == digits]
        if len(digits) > 1:
            return bool(places) or _in_other_words(text, answer, question)
        return any(_CONCLUDES.search(text[: m.start()]) for m in places)
    short = _squeezed(answer)
    letter = _OPTION_ANSWER.fullmatch(short)
    if letter:
        return bool(re.search(_OPTION_NAMED.format(letter.group(1)), text))
    if len(short) < MIN_TELLING_LENGTH or short in _squeezed(question):
        return False
    return short in _squeezed(text) or _in_other_words(text, answer, question)


def _in_other_words(text: str, answer: str, question: str) -> bool:
    """Whether a formula of ``text``, and none of ``question``, has the value of ``answer``."""

    def told(shown: str) -> bool:
        return any(grade(answer, f"\\boxed{{{span}}}").correct for span in _spans(shown))

    return told(text) and not told(question)


def _spans(text: str) -> list[str]:
    """Pieces of ``text`` that could be an answer: formulas between dollars, fractions, roots and
    powers as they stand in a sentence."""
    spans = [m.group(1) for m in _FORMULA.finditer(text)]
    spans += [_ROOT_SIGN.sub(r"\\sqrt{\1}", m.group()) for m in _BARE.finditer(text)]
    parts = [part for span in spans for part in re.split(r"=|\\approx|≈", span)]
    return list(dict.fromkeys(part.strip() for part in [*spans, *parts] if part.strip()))


def quality_bands(means: Sequence[float]) -> dict[str, int]:
    """How many mean scores lie in the bands of the paper's Table 8."""
    return {
        "[0.8, 1]": sum(m >= 0.8 for m in means),
        "[0.5, 0.8)": sum(0.5 <= m < 0.8 for m in means),
        "[0, 0.5)": sum(m < 0.5 for m in means),
    }
