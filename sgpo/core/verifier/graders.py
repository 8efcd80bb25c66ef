"""Other graders beside ours, to see whether a claim depends on whose grader it is.

``stock`` is plain math-verify on the completion, as its users call it, in the same killable
processes; ``exact`` is equality of the normalised answer text; ``ours`` is ``verifier.grade_many``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sgpo.core import verifier
from sgpo.core.verifier import ITEM_SECONDS, Verdict
from sgpo.core.verifier.extract import extract, unwrap_box
from sgpo.core.verifier.patterns import patterns
from sgpo.core.verifier.pool import POOL

_P = patterns("graders")

GRADERS = ("ours", "stock", "exact")


def grade_many(
    grader: str,
    golds: Sequence[str],
    completions: Sequence[str],
    *,
    truncated: Sequence[bool] | None = None,
) -> list[Verdict]:
    """The Verdicts of one of GRADERS on completions, in order. ``extracted`` is the span of our
    extraction whoever judges; ``stock`` looks for the answer by itself. ValueError: no such grader,
    or lengths that differ."""
    if grader not in GRADERS:
        raise ValueError(f"grader is {grader!r}; it must be one of {', '.join(GRADERS)}")
    pairs = list(zip(golds, completions, strict=True))
    if grader == "ours":
        return verifier.grade_many(pairs, truncated=truncated)
    spans = [extract(completion).text for completion in completions]
    if grader == "stock":
        tasks = [("stock", *pair) for pair in dict.fromkeys(pairs)]
        known = dict(zip(tasks, POOL.run(tasks, item_seconds=ITEM_SECONDS), strict=True))
        reasons = [known["stock", *pair] for pair in pairs]
    else:
        reasons = list(map(_exact, golds, spans))
    for i, is_cut in enumerate(truncated or ()):
        reasons[i] = "truncated" if is_cut else reasons[i]
    return [Verdict(r == "correct", r, span) for r, span in zip(reasons, spans, strict=True)]


def _exact(gold: str, span: str | None) -> str:
    if span is None:
        return "no_answer"
    return "correct" if _normalised(span) == _normalised(unwrap_box(gold)) else "wrong"


def _normalised(text: str) -> str:
    """Answer text without spaces, dollars, braces and layout commands, in lower case."""
    return _P.noise.sub("", re.sub(r"\\[dt]frac", r"\\frac", text)).strip(".,").casefold()
