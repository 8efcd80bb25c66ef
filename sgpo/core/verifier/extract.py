"""Finds the answer span in a completion. String work only: nothing here parses mathematics.

Rules, in this order (the first that applies decides):

1. Only text after the last closed think block counts; a block that was opened and never closed
   means there is no answer.
2. If the text holds a box (``\\boxed{..}``, ``\\fbox{..}``, ``\\boxed 5``), the last one is the
   answer; a ``\\boxed`` that is only spoken of is none. Boxes
   on one line with nothing but separators between them (``\\boxed{1}, \\boxed{2}``) are one list,
   so that naming several candidates is not rewarded. A last box that is empty or never closed
   means there is no answer, even if an earlier box was closed; so does "not" right before it.
3. Without a box: what follows the last "answer is" / "Answer:" cue, provided nothing but
   punctuation comes after that sentence (a hedge such as "But it could also be 43" voids it).
4. Without a cue: the whole text, if it is one short expression and not prose.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass

MAX_BARE_CHARS = 1_000  # longest box-free completion that may count as a bare expression
MAX_CUE_CHARS = 2_000  # an answer sentence longer than this is prose
MAX_BARE_WORDS = 3

_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])[ \t]*")
_BARE_BOX = re.compile(r"-?\d+(?:\.\d+)?|[a-zA-Z](?![a-zA-Z])")  # \boxed 5, \boxed5
_BETWEEN_BOXES = re.compile(r"(?:[ \t,;&$]|\\[,;: ]|\\text\{|\}|\\quad|and|or|\\\(|\\\))*")
# On the box's own line, and not "even or not": that sentence is over.
_NEGATED = re.compile(r"(?<!\bor )\bnot[ \t$]*(?:(?:\\\(|\\\[)\s*)?$", re.IGNORECASE)
_CUE = re.compile(
    r"\b(?:answer|result|solution)\b[ \t]{0,9}"
    r"(?:\*\*)?[ \t]{0,9}(?:(?:to|of|for)\b[^.:=\n]{0,80}?)?"
    r"(?::(?:\*\*)?|=|\b(?:is|are)\b[ \t]{0,9}:?)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?][\s*$)\]]+(?=\S)|\n\s*\n")
_POLITE_END = re.compile(r"[.\s]*I hope (?:it|this) is correct[.!\s]*$")
_WORD = re.compile(r"(?<![\\a-zA-Z])[^\W\d_]{2,}")
_COMMAND_GROUP = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit|operatorname)\s*\{[^{}]*\}")


@dataclass(frozen=True)
class Extraction:
    """``text`` is the answer span or None; ``path`` names the rule that decided, in words."""

    text: str | None
    path: str


def matching_braces(text: str) -> dict[int, int]:
    """Index of the closing brace for every closed opening brace, in one pass over ``text``.

    Escaped braces do not count. One pass, because a pass per box is quadratic in hostile text.
    """
    closes: dict[int, int] = {}
    stack: list[int] = []
    for token in _BRACE.finditer(text):
        if token.group() == "{":
            stack.append(token.start())
        elif token.group() == "}" and stack:
            closes[stack.pop()] = token.start()
    return closes


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def after_thinking(completion: str) -> str | None:
    """The part of a completion after its last closed think block; None if one is still open."""
    last = _last_match(_THINK, completion)
    if last is None:
        return completion
    return completion[last.end() :] if last.group(1) else None


def unwrap_box(text: str) -> str:
    """The content of a text that is exactly one box, repeatedly; any other text unchanged."""
    start, end = 0, len(text)
    closes = matching_braces(text) if "\\boxed" in text or "\\fbox" in text else {}
    while True:
        while start < end and text[start].isspace():
            start += 1
        while end > start and text[end - 1].isspace():
            end -= 1
        head = _BOX.match(text, start, end)
        if head is None or closes.get(head.end(), -1) != end - 1:
            return text[start:end]
        start, end = head.end() + 1, end - 1


def _last_boxes(text: str) -> Extraction | None:
    """The boxed answer of ``text``; None if it has no box at all."""
    spans: list[tuple[int, int, str]] = []  # start of command, end after brace, content
    if not _BOX.search(text):
        return None
    closes = matching_braces(text)
    position = 0
    closed: bool | None = None
    while head := _BOX.search(text, position):
        if not text.startswith("{", head.end()):
            if bare := _BARE_BOX.match(text, head.end()):
                closed = True
                spans.append((head.start(), bare.end(), bare.group()))
            position = head.end()  # else the command is only spoken of, as in "put it in \\boxed"
            continue
        end = closes.get(head.end())
        closed = end is not None
        if end is None:
            position = head.end()
            continue
        spans.append((head.start(), end + 1, text[head.end() + 1 : end]))
        position = end + 1
    if closed is None:
        return None
    if not closed or not spans:
        return Extraction(None, "the last box is never closed")
    group = [spans[-1]]
    for span in reversed(spans[:-1]):
        if not _BETWEEN_BOXES.fullmatch(text, span[1], group[0][0]):
            break
        group.insert(0, span)
    if _NEGATED.search(text, max(0, group[-1][0] - 40), group[-1][0]):
        return Extraction(None, "the last box is denied")
    contents = list(dict.fromkeys(unwrap_box(content) for _, _, content in group))
    if not contents[-1].strip():
        return Extraction(None, "the last box is empty")
    if len(contents) > 1:
        return Extraction(", ".join(contents), f"{len(contents)} adjacent boxes read as one list")
    return Extraction(contents[0], "last closed box")


def _answer_cue(text: str) -> Extraction | None:
    """What follows the last answer cue; None if there is no cue."""
    last = _last_match(_CUE, text)
    if last is None:
        return None
    tail = text[last.end() :].strip()
    if not tail or len(tail) > MAX_CUE_CHARS:
        return Extraction(None, "nothing usable follows the answer cue")
    tail = _POLITE_END.sub("", tail)
    if _SENTENCE_END.search(tail):
        return Extraction(None, "text goes on after the answer sentence (hedging)")
    return Extraction(tail, "answer cue")


def _is_prose(text: str) -> bool:
    words = _WORD.findall(_COMMAND_GROUP.sub(" ", text))
    return len(words) > MAX_BARE_WORDS


def extract(completion: str) -> Extraction:
    """The answer span of a completion by the rules of this module.

    Args:
        completion: decoded model output, without special tokens.
    Returns:
        An Extraction whose ``text`` is None when there is no answer.
    """
    text = after_thinking(completion)
    if text is None:
        return Extraction(None, "thinking never closed")
    found = _last_boxes(text)
    if found is None:
        found = _answer_cue(text)
    if found is None:
        bare = text.strip()
        if not bare:
            return Extraction(None, "empty completion")
        if len(bare) > MAX_BARE_CHARS or "\n\n" in bare or _BOX.search(bare) or _is_prose(bare):
            return Extraction(None, "no box, no answer cue, and too wordy for a bare expression")
        found = Extraction(bare, "whole text as a bare expression")
    return found
