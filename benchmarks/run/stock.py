"""Plain math-verify, as its users call it, for a worker process of the verifier."""

from __future__ import annotations

import logging
from functools import lru_cache

from math_verify import parse, parser, verify

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once about having no timeout
# It keeps what it made of the last 20 answers. A study has a million texts and few thousand
# answers, and nine tenths of its time go into their grammar.
parser.parse_latex_cached = lru_cache(maxsize=100_000)(parser.parse_latex_cached.__wrapped__)


def is_right(gold: str, completion: str) -> bool:
    """Whether it takes the completion for right. The deadline of the process stands in for its own,
    which works in a main thread only."""
    dollars = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    answers = parse(completion, parsing_timeout=None)
    right = parse(dollars, parsing_timeout=None)
    return bool(verify(right, answers, timeout_seconds=None))
