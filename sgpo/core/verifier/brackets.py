"""Where the brackets of canonical answer text open and close."""

from __future__ import annotations

import re


def bracket_depths(text: str) -> list[int]:
    """Bracket depth before each character; any bracket closes any other, for ``[0,1)``."""
    depth, out = 0, []
    for char in text:
        if char in "}])":
            depth -= 1
        out.append(depth)
        if char in "{[(":
            depth += 1
    return out


def split_outside(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Pieces of ``text`` at top-level matches of ``pattern``, and the matched separators."""
    depths = bracket_depths(text)
    pieces, marks, start = [], [], 0
    for found in pattern.finditer(text):
        if depths[found.start()] == 0 and found.start() >= start:
            pieces.append(text[start : found.start()])
            marks.append(found.group().strip())
            start = found.end()
    pieces.append(text[start:])
    return pieces, marks


def enclosed(text: str) -> tuple[str, str, str] | None:
    """``(opener, inside, closer)`` if one pair of brackets encloses the whole text."""
    for opener, size in (("\\{", 2), ("(", 1), ("[", 1)):
        if not text.startswith(opener):
            continue
        for closer in ("\\}", ")", "]"):
            if text.endswith(closer) and len(text) >= size + len(closer):
                depths = bracket_depths(text)
                inner = depths[size : len(text) - len(closer)]
                if all(d >= 1 for d in inner):
                    return opener, text[size : -len(closer)].strip(), closer
    return None
