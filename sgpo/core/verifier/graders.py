"""Other graders beside ours, to see whether a claim depends on whose grader it is.

``stock`` is plain math-verify on the completion, as its users call it, in the same killable
processes; ``exact`` is equality of the normalised answer text. ``ours`` is ``grade_many``.
"""

from __future__ import annotations

import re

GRADERS = ("ours", "stock", "exact")
_NOISE = re.compile(r"\\(?:left|right|[,;:! ]|text|mathrm|mbox|displaystyle)(?![a-zA-Z])|[\s${}]")


def normalised(text: str) -> str:
    """Answer text without spaces, dollars, braces and layout commands, in lower case."""
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return _NOISE.sub("", text).strip(".,").casefold()


def stock(gold: str, completion: str) -> bool:
    """Whether plain math-verify takes the completion for right. Runs in a worker process, whose
    deadline stands in for math-verify's own (which works in a main thread only)."""
    from math_verify import parse, verify

    dollars = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    answers = parse(completion, parsing_timeout=None)
    return bool(verify(parse(dollars, parsing_timeout=None), answers, timeout_seconds=None))
