"""Training problems that also stand in a test set, found by their words.

Two rules: *same text*, when question and test question have the same words; and *13-gram*, when
they share 13 words in a row. The first alone applies to questions of fewer than 13 words. Words
are runs of letters or of digits in lower case, without LaTeX commands that only set the type.
Rephrased questions are not found by either rule.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sgpo.core.types import Problem

GRAM = 13
_TYPESETTING = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|textstyle|mathrm|mathbf|mathit|text|textbf|"
    r"textit|operatorname|quad|qquad|limits|begin|end|label|tag)(?![a-zA-Z])"
)
_SPELLINGS = ((re.compile(r"\\[dt]frac"), r"\\frac"), (re.compile(r"\\leqs?lant\b|\\leq"), r"\\le"),
              (re.compile(r"\\geqs?lant\b|\\geq"), r"\\ge"))  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True)
class Overlap:
    """``problem_id`` of the training set is ``test_id`` of ``benchmark`` by ``rule``; ``words``:
    what they share."""

    problem_id: str
    benchmark: str
    test_id: str
    rule: str
    words: str


def words_of(text: str) -> tuple[str, ...]:
    """The words of a question by the rules of this module."""
    text = unicodedata.normalize("NFKC", text)
    text = _TYPESETTING.sub(" ", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return tuple(_WORD.findall(text.lower()))


def _grams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


def find_overlaps(
    problems: Iterable[Problem], benchmarks: Mapping[str, Sequence[Problem]]
) -> list[Overlap]:
    """The first overlap of every training problem that has one, in the order of ``problems``."""
    same: dict[tuple[str, ...], tuple[str, str]] = {}
    grams: dict[tuple[str, ...], tuple[str, str]] = {}
    for key, tests in benchmarks.items():
        for test in tests:
            words = words_of(test.question)
            same.setdefault(words, (key, test.id))
            for gram in _grams(words):
                grams.setdefault(gram, (key, test.id))
    found = []
    for problem in problems:
        words = words_of(problem.question)
        if words in same:
            found.append(Overlap(problem.id, *same[words], "same text", " ".join(words[:GRAM])))
            continue
        gram = next((g for g in _grams(words) if g in grams), None)
        if gram is not None:
            found.append(Overlap(problem.id, *grams[gram], f"{GRAM}-gram", " ".join(gram)))
    return found
