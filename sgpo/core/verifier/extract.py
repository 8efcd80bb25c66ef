"""Finds the answer span in a completion. String work only: nothing here parses mathematics.

Behind the last think block and before another problem: the last box (with those that are one list
with it), else ``<answer>``, the last sentence of "answer is", or one short expression.
"""

import re
from collections import deque
from dataclasses import dataclass

from sgpo.core.verifier.patterns import patterns

_P = patterns("extract")

MAX_BARE_CHARS = 1_000  # longest box-free completion that may count as a bare expression
MAX_CUE_CHARS = 2_000  # an answer sentence longer than this is prose
MAX_BARE_WORDS = 3
MAX_BETWEEN_CHARS = 300  # between two boxes of one list

Box = tuple[int, int, str]  # start of the command, end, content


@dataclass(frozen=True)
class Extraction:
    """``text`` is the answer span or None; ``path`` names the rule that decided, in words."""

    text: str | None
    path: str


def extract(completion: str) -> Extraction:
    """The answer span of a completion (decoded, without special tokens)."""
    text = after_thinking(completion)
    if text is None:
        return Extraction(None, "thinking never closed")
    for before in _P.next_problem.split(text)[:-1]:
        found = _in_box_or_sentence(before)
        if found and found.text and not _P.announces.match(found.text):
            return found
    if (found := _in_box_or_sentence(text)) is not None:
        return found
    bare = _P.code.sub(" ", text).strip()
    if not bare:
        return Extraction(None, "empty completion")
    words = _P.word.findall(bare[:MAX_BARE_CHARS])
    is_prose = len(bare) > MAX_BARE_CHARS or "\n\n" in bare or len(words) > MAX_BARE_WORDS
    if is_prose or _P.box.search(bare):
        return Extraction(None, "no box, no answer cue, and too wordy for a bare expression")
    return Extraction(bare, "whole text as a bare expression")


def after_thinking(completion: str) -> str | None:
    """The part of a completion after its last closed think block; None if one is still open."""
    last = _last_match(_P.think, completion) if "<" in completion else None
    if last is None:
        return completion
    return completion[last.end() :] if last.group(1) else None


def unwrap_box(text: str) -> str:
    """The content of a text that is exactly one box, repeatedly; any other text unchanged."""
    start, end = 0, len(text.rstrip())
    closes = matching_braces(text) if "\\boxed" in text or "\\fbox" in text else {}
    while (head := _P.one_box.match(text, start)) and closes.get(head.end() - 1) == end - 1:
        start, end = head.end(), len(text[: end - 1].rstrip())
    return text[start:end].strip()


def matching_braces(text: str) -> dict[int, int]:
    """Opening brace -> closing one, in one pass (one per box is quadratic); no escaped braces."""
    closes: dict[int, int] = {}
    stack: list[int] = []
    for token in _P.brace.finditer(text):
        if token.group() == "{":
            stack.append(token.start())
        elif token.group() == "}" and stack:
            closes[stack.pop()] = token.start()
    return closes


def _last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def _in_box_or_sentence(text: str) -> Extraction | None:
    if _P.box.search(text) and (found := _last_boxes(text)):
        return found
    text = _P.code.sub(" ", text) if "```" in text else text
    if element := _last_match(_P.element, text):
        return Extraction(element.group(1).strip() or None, "answer element")
    return _answer_cue(text)


def _boxes(text: str) -> tuple[list[Box], bool]:
    """Every box, and whether the last one is closed."""
    found: list[Box] = []
    closes, closed = matching_braces(text), True
    for head in _P.box.finditer(text):
        start, inside = head.span()
        if found and start < found[-1][1]:  # a box in a box
            continue
        if text.startswith("{", inside):
            if closed := (end := closes.get(inside)) is not None:
                found.append((start, end + 1, text[inside + 1 : end]))
        elif bare := _P.bare_box.match(text, inside):
            closed = True
            found.append((start, bare.end(), bare.group()))
        # Else the command is only spoken of, as in "put it in \\boxed".
    return found, closed


def _are_one_list(text: str, first: Box, second: Box) -> bool:
    """Whether two boxes that follow each other are items of one list."""
    between = text[first[1] : second[0]]
    if len(between) > MAX_BETWEEN_CHARS:
        return False
    plain = _P.markup.sub(" ", between)
    if _P.separators.fullmatch(plain):
        return not re.search(r"\n\s*\n", between) or bool(re.search(r"[a-z&,;=]", plain))
    # What stands before each box on its line or in its sentence, without mark-up.
    before = [text[max(0, box[0] - MAX_BETWEEN_CHARS) : box[0]] for box in (first, second)]
    labels = [_P.markup.sub(" ", _P.line_start.split(part)[-1]).strip() for part in before]
    are_items = all(map(_P.item.match, labels)) or all(label.endswith(":") for label in labels)
    if all(labels) and are_items and _P.apart.match(plain):
        plain = labels[1].rstrip(".:")
    elif not _P.joiner.search(plain):
        return False
    # Words that lead on to another value, unless they stand before both or "or" takes them back.
    known, leads = ({m.lastgroup for m in _P.goes_on.finditer(part)} for part in (labels[0], plain))
    known |= {"order"} if _P.announced.search(f"{labels[0]}\0{plain}") else set()
    return "ends" not in leads and (leads <= known or bool(_P.either.search(plain)))


def _last_boxes(text: str) -> Extraction | None:
    """The boxed answer of ``text``; None if it has no box at all."""
    boxes, closed = _boxes(text)
    if not closed:
        return Extraction(None, "the last box is never closed")
    if not boxes:
        return None
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        if not _are_one_list(text, box, group[0]):
            break
        group.insert(0, box)
    if _P.negated.search(text, max(0, group[-1][0] - 40), group[-1][0]):
        return Extraction(None, "the last box is denied")
    contents = list(dict.fromkeys(unwrap_box(content) for _, _, content in group))
    if not contents[-1].strip():
        return Extraction(None, "the last box is empty")
    if len(contents) == 1:
        return Extraction(contents[0], "last closed box")
    names = [_P.name_before.search(text, max(0, start - 40), start) for start, _, _ in group]
    if all(names) and len(contents) == len(group) and not any("=" in c for c in contents):
        contents = [f"{n.group(1)} = {c}" for n, c in zip(names, contents, strict=True) if n]
    comma = " \\text{ or } " if _P.either.search(text, group[-2][1], group[-1][0]) else ", "
    return Extraction(comma.join(contents), f"{len(contents)} boxes of one list")


def _answer_cue(text: str) -> Extraction | None:
    """What follows the last answer cue; None if there is no cue."""
    if (last := _last_match(_P.cue, text)) is None:
        return None
    tail = text[last.end() :].strip()
    if not tail or len(tail) > MAX_CUE_CHARS:
        return Extraction(None, "nothing usable follows the answer cue")
    tail = _P.polite_end.sub("", tail)
    if display := _P.display.fullmatch(tail):
        return Extraction(display.group(1), "answer cue")
    if _P.sentence_end.search(tail):
        return Extraction(None, "text goes on after the answer sentence (hedging)")
    return Extraction(tail, "answer cue")
