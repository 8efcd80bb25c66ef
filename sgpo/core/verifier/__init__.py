"""The one verifier, for rewards and for evaluation: gold answer and completion in, Verdict out.

The work is done in steps, each on its own module: extraction (the answer span), answer_text (one
spelling), answer_forms (structure), answer_compare (typed rules, exact numbers), and only for what
these leave open, judging (math-verify) in killable processes (judge_pool). Importing this module
imports neither torch nor sympy, and no process starts before an answer needs one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sgpo.core.verifier.compare import ExactOnly, Undecided, same_answer
from sgpo.core.verifier.extract import extract, unwrap_box
from sgpo.core.verifier.forms import Form, is_tractable, parse_form
from sgpo.core.verifier.pool import POOL, VerifierUnavailable, default_workers
from sgpo.core.verifier.spelling import canonical

__all__ = ["Explanation", "Verdict", "VerifierUnavailable", "explain", "grade", "grade_many"]

ITEM_SECONDS = 5.0  # hard limit of one symbolic judgement (typical: 5 ms)
CACHE_SIZE = 65_536
_OPTION = re.compile(r"\\text\{(\([A-E]\)) ?\} ?([^-+*/^_=<>].*)")
_CHOICE_LETTER = re.compile(r"(?:\\text\{)?\(?[A-E]\)?\}?")


@dataclass(frozen=True)
class Verdict:
    """``reason``: correct, wrong, no_answer, truncated, timeout or error. ``extracted``: the answer
    span as the model wrote it, None if there is none. Only "correct" has ``correct`` set."""

    correct: bool
    reason: str
    extracted: str | None


@dataclass(frozen=True)
class Explanation:
    """How a verdict came about: where the span was found, how both sides were read, who decided."""

    verdict: Verdict
    extraction: str
    gold_text: str
    answer_text: str | None
    gold_form: Form | None
    answer_form: Form | None
    decided_by: str


def grade(gold: str, completion: str, *, truncated: bool = False) -> Verdict:
    """The Verdict on one completion. Safe in any thread; takes at most ITEM_SECONDS (plus the start
    of a worker process, once).

    Args:
        gold: the right answer; may be wrapped in ``$..$`` or ``\\boxed{..}``.
        completion: decoded model output.
        truncated: the completion hit its token limit; it is then never correct.
    Raises:
        ValueError: the gold answer is empty.
        VerifierUnavailable: the worker process cannot start.
    """
    return grade_many([(gold, completion)], truncated=[truncated])[0]


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    truncated: Sequence[bool] | None = None,
    deadline_seconds: float | None = None,
    num_workers: int | None = None,
) -> list[Verdict]:
    """The Verdicts on ``(gold, completion)`` pairs, in order. Equal questions are judged once.

    Args:
        pairs: as for ``grade``.
        truncated: one flag a pair; None means none is.
        deadline_seconds: limit of the whole batch, counted from the moment the first worker is
            ready; what is not judged by then gets "timeout". None: only ITEM_SECONDS an item.
        num_workers: worker processes at most; None: one a core.
    Raises:
        ValueError: an empty gold answer, a non-positive limit, flags of another length.
        VerifierUnavailable: a worker process cannot start.
    """
    flags = [False] * len(pairs) if truncated is None else list(truncated)
    if len(flags) != len(pairs):
        raise ValueError(f"truncated has {len(flags)} flags for {len(pairs)} pairs; give one each")
    if deadline_seconds is not None and not deadline_seconds > 0:
        raise ValueError(f"deadline_seconds is {deadline_seconds}; it must be positive, or None")
    workers = default_workers() if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"num_workers is {num_workers}; it must be at least 1, or None")
    verdicts: list[Verdict | None] = [None] * len(pairs)
    open_tasks: dict[tuple[str, str], list[int]] = {}
    spans: dict[int, str] = {}
    for i, ((gold, completion), is_truncated) in enumerate(zip(pairs, flags, strict=True)):
        gold_text = _gold_text(gold)
        span = extract(completion).text
        if is_truncated or span is None:
            verdicts[i] = Verdict(False, "truncated" if is_truncated else "no_answer", span)
            continue
        decided = _decide(gold_text, span)
        if decided is not None:
            verdicts[i] = Verdict(decided, "correct" if decided else "wrong", span)
            continue
        spans[i] = span
        open_tasks.setdefault((gold_text, _answer_text(gold_text, span)), []).append(i)
    for task, reason in _judge(list(open_tasks), deadline_seconds, workers).items():
        for i in open_tasks[task]:
            verdicts[i] = Verdict(reason == "correct", reason, spans[i])
    assert all(v is not None for v in verdicts)
    return verdicts  # type: ignore[return-value]


def explain(gold: str, completion: str) -> Explanation:
    """The verdict on one completion with the steps that led to it. Raises as ``grade`` does."""
    gold_text = _gold_text(gold)
    found = extract(completion)
    verdict = grade(gold, completion)
    readable = found.text is not None and is_tractable(found.text) and is_tractable(gold_text)
    if found.text is None:
        decided_by = "extraction: no answer"
    elif not readable:
        decided_by = "too long or too deeply nested: identical text or wrong"
    elif _decide(gold_text, found.text) is not None:
        decided_by = "exact rules"
    else:
        decided_by = "symbolic judge (math-verify) in a worker process"
    answer_text = (
        _answer_text(gold_text, found.text) if readable and found.text is not None else found.text
    )
    return Explanation(
        verdict=verdict,
        extraction=found.path,
        gold_text=gold_text,
        answer_text=answer_text,
        gold_form=parse_form(gold_text) if readable else None,
        answer_form=parse_form(answer_text) if readable and answer_text is not None else None,
        decided_by=decided_by,
    )


@lru_cache(maxsize=CACHE_SIZE)
def _gold_text(gold: str) -> str:
    """Canonical text of a gold answer."""
    if not isinstance(gold, str):
        raise ValueError(f"gold answer is {gold!r}; it must be a string")
    inner = gold.strip()
    for opener, closer in (("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)")):
        stripped = inner.removeprefix(opener).removesuffix(closer)
        if unwrap_box(stripped) != stripped.strip():
            inner = stripped
            break
    inner = unwrap_box(inner)
    text = canonical(inner) if is_tractable(inner) else inner
    if not text:
        raise ValueError(f"gold answer {gold!r} is empty; give the right answer as text or LaTeX")
    return text


def _answer_text(gold_text: str, span: str) -> str:
    """Canonical text of an answer. Of ``\\textbf{(B)}\\ 12``, as multiple-choice tests print their
    options, it is the part of the gold's kind, letter or content."""
    text = canonical(span)
    option = _OPTION.fullmatch(text)
    if option is None or _CHOICE_LETTER.search(option.group(2)):
        return text
    return option.group(1) if _CHOICE_LETTER.fullmatch(gold_text) else option.group(2)


@lru_cache(maxsize=CACHE_SIZE)
def _decide(gold_text: str, span: str) -> bool | None:
    """The verdict if the exact rules reach one, else None."""
    if not (is_tractable(span) and is_tractable(gold_text)):
        return span.strip() == gold_text
    answer_text = _answer_text(gold_text, span)
    if answer_text == gold_text:
        return True
    if not answer_text:
        return False
    try:
        return same_answer(parse_form(gold_text), parse_form(answer_text), ExactOnly())
    except Undecided:
        return None


# Verdicts of the symbolic judge; timeouts and errors are not kept.
_known: dict[tuple[str, str], str] = {}
_known_lock = threading.Lock()


def _judge(
    tasks: list[tuple[str, str]], deadline_seconds: float | None, num_workers: int
) -> dict[tuple[str, str], str]:
    """Reasons of the tasks the exact rules left open, from memory or from the worker processes."""
    with _known_lock:
        reasons = {task: _known[task] for task in tasks if task in _known}
    new = [task for task in tasks if task not in reasons]
    if not new:
        return reasons
    outcomes = POOL.run(
        new, item_seconds=ITEM_SECONDS, batch_seconds=deadline_seconds, num_workers=num_workers
    )
    for task, reason in zip(new, outcomes, strict=True):
        reasons[task] = reason
        if reason in ("correct", "wrong"):
            with _known_lock:
                if len(_known) >= CACHE_SIZE:
                    del _known[next(iter(_known))]  # the oldest
                _known[task] = reason
    return reasons
