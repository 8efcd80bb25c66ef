"""Plain math-verify, as its users call it, for a worker process of the verifier."""

from __future__ import annotations

import logging

from math_verify import parse, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once about having no timeout


def is_right(gold: str, completion: str) -> bool:
    """Whether it takes the completion for right. The deadline of the process stands in for its own,
    which works in a main thread only."""
    dollars = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    answers = parse(completion, parsing_timeout=None)
    right = parse(dollars, parsing_timeout=None)
    return bool(verify(right, answers, timeout_seconds=None))
