"""The one verifier, for rewards and for evaluation: gold answer and completion in, Verdict out.

The work is done in rooms, each its own module: extract (the answer span), spelling (one spelling),
forms (structure, parsed once), compare (typed rules, exact numbers), and only for expressions that
these leave open, symbolic (math-verify) in killable processes (pool, worker). Importing this module
imports neither torch nor sympy, and no process starts before an answer needs one. Imports nothing
else of this project; anything may import it.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from sgpo.core.verifier.compare import Asker, same_answer
from sgpo.core.verifier.extract import extract, unwrap_box
from sgpo.core.verifier.forms import Form, is_tractable, parse_form
from sgpo.core.verifier.pool import POOL, Put, VerifierUnavailable, default_workers
from sgpo.core.verifier.spelling import canonical

__all__ = ["Verdict", "VerifierUnavailable", "grade", "grade_many"]

ITEM_SECONDS = 5.0  # hard limit of one symbolic judgement (typical: 5 ms)
CACHE_SIZE = 65_536
_OPTION = re.compile(r"(?:\\text\{)?(\([A-E]\)) ?\}? ?([^-+*/^_=<>].*)")
_CHOICE_LETTER = re.compile(r"(?:\\text\{)?\(?[A-E]\)?\}?")


@dataclass(frozen=True)
class Verdict:
    """``reason``: correct, wrong, no_answer, truncated, timeout or error. ``extracted``: the answer
    span as the model wrote it, None if there is none. Only "correct" has ``correct`` set."""

    correct: bool
    reason: str
    extracted: str | None


@dataclass(frozen=True, eq=False)  # told apart by identity: hashing whole forms takes too long
class Answer:
    """One side of a comparison, parsed once. ``form`` is None where the text is too long or too
    deeply nested: then only identical text is the same."""

    text: str
    form: Form | None


def grade(
    gold: str, completion: str, *, truncated: bool = False, problem: str | None = None
) -> Verdict:
    """The Verdict on one completion. Safe in any thread; takes at most ITEM_SECONDS (plus the start
    of a worker process, once).

    Args:
        gold: the right answer; may be wrapped in ``$..$`` or ``\\boxed{..}``.
        completion: decoded model output.
        truncated: the completion hit its token limit; it is then never correct.
        problem: its text, whose nouns may stand behind a number as what is counted.
    Raises:
        ValueError: the gold answer is empty.
        VerifierUnavailable: the worker process cannot start.
    """
    problems = None if problem is None else [problem]
    return grade_many([(gold, completion)], truncated=[truncated], problems=problems)[0]


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    truncated: Sequence[bool] | None = None,
    problems: Sequence[str] | None = None,
    deadline_seconds: float | None = None,
    num_workers: int | None = None,
) -> list[Verdict]:
    """The Verdicts on ``(gold, completion)`` pairs, in order. Equal questions are judged once.

    Args:
        pairs: as for ``grade``.
        truncated: one flag a pair; None means none is.
        problems: one text a pair, as for ``grade``.
        deadline_seconds: limit of the whole batch, counted from the moment the first worker is
            ready; what is not judged by then gets "timeout". None: only ITEM_SECONDS an item.
        num_workers: worker processes at most; None: one a core.
    Raises:
        ValueError: an empty gold answer, a non-positive limit, flags of another length.
        VerifierUnavailable: a worker process cannot start.
    """
    flags = [False] * len(pairs) if truncated is None else list(truncated)
    texts = [None] * len(pairs) if problems is None else list(problems)
    for name, given in (("truncated", flags), ("problems", texts)):
        if len(given) != len(pairs):
            kind = "flags" if name == "truncated" else "texts"
            raise ValueError(
                f"{name} has {len(given)} {kind} for {len(pairs)} pairs; give one each"
            )
    if deadline_seconds is not None and not deadline_seconds > 0:
        raise ValueError(f"deadline_seconds is {deadline_seconds}; it must be positive, or None")
    workers = default_workers() if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"num_workers is {num_workers}; it must be at least 1, or None")
    verdicts: list[Verdict | None] = [None] * len(pairs)
    undecided: dict[tuple[Answer, Answer, str | None], list[int]] = {}
    spans: dict[int, str] = {}
    for i, ((gold, completion), is_truncated) in enumerate(zip(pairs, flags, strict=True)):
        gold_side = gold_answer(gold)
        span = extract(completion).text
        if is_truncated or span is None:
            verdicts[i] = Verdict(False, "truncated" if is_truncated else "no_answer", span)
            continue
        decided = decide(gold_side, span, texts[i])
        if decided is not None:
            verdicts[i] = Verdict(decided, "correct" if decided else "wrong", span)
            continue
        spans[i] = span
        undecided.setdefault((gold_side, answer_to(gold_side, span), texts[i]), []).append(i)
    for task, reason in _judge(list(undecided), deadline_seconds, workers).items():
        for i in undecided[task]:
            verdicts[i] = Verdict(reason == "correct", reason, spans[i])
    assert all(v is not None for v in verdicts)
    return verdicts  # type: ignore[return-value]


@lru_cache(maxsize=CACHE_SIZE)
def gold_answer(gold: str) -> Answer:
    """A gold answer, parsed. ValueError if it is empty."""
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
    return Answer(text, parse_form(text) if is_tractable(text) else None)


@lru_cache(maxsize=CACHE_SIZE)
def answer_to(gold: Answer, span: str) -> Answer:
    """The answer in a span, parsed. Of ``\\textbf{(B)}\\ 12``, as multiple-choice tests print their
    options, it is the part of the gold's kind, letter or content."""
    if not is_tractable(span):
        return Answer(span.strip(), None)
    text = canonical(span)
    option = _OPTION.fullmatch(text)
    if option is not None and not _CHOICE_LETTER.search(option.group(2)):
        text = option.group(1 if _CHOICE_LETTER.fullmatch(gold.text) else 2)
    return Answer(text, parse_form(text) if is_tractable(text) else None)


@lru_cache(maxsize=CACHE_SIZE)
def decide(gold: Answer, span: str, problem: str | None = None) -> bool | None:
    """The verdict if the exact rules reach one, else None."""
    answer = answer_to(gold, span)
    if answer.text == gold.text:
        return True
    if not answer.text or answer.form is None or gold.form is None:
        return False
    return same_answer(gold.form, answer.form, Asker(problem=problem))


# Answers of the workers to single questions; timeouts and errors are not kept.
_known: dict[tuple[str, str, str], bool] = {}
_known_lock = threading.Lock()


def _job(task: tuple[Answer, Answer, str | None]) -> Callable[[Put], bool | None]:
    """The comparison of one task, with a worker in place of "undecided"."""
    gold, answer, problem = task

    def judge(put: Put) -> bool | None:
        def ask(*question: str) -> bool:
            if question not in _known:
                found = put("compare", *question)
                with _known_lock:
                    if len(_known) >= CACHE_SIZE:
                        del _known[next(iter(_known))]  # the oldest
                    _known[question] = found  # type: ignore[index]
            return _known[question]  # type: ignore[index]

        assert gold.form is not None and answer.form is not None
        return same_answer(gold.form, answer.form, Asker(ask, problem))

    return judge


def _judge(
    tasks: list[tuple[Answer, Answer, str | None]],
    deadline_seconds: float | None,
    num_workers: int,
) -> dict[tuple[Answer, Answer, str | None], str]:
    """Reasons of the tasks the exact rules left open, from memory or from the worker processes."""
    reasons: dict[tuple[Answer, Answer, str | None], str] = {}
    for task in tasks:
        gold, answer, problem = task
        assert gold.form is not None and answer.form is not None
        remembered = Asker(lambda *question: _known.get(question), problem)  # type: ignore[arg-type]
        found = same_answer(gold.form, answer.form, remembered)
        if found is not None:
            reasons[task] = "correct" if found else "wrong"
    new = [task for task in tasks if task not in reasons]
    # Hostile items last, so that they cannot use up the batch's time before the others.
    new.sort(key=lambda task: _cost_hint(task[0].text + task[1].text))
    outcomes = POOL.run(
        [_job(task) for task in new],
        item_seconds=ITEM_SECONDS,
        batch_seconds=deadline_seconds,
        num_workers=num_workers,
    )
    return reasons | dict(zip(new, outcomes, strict=True))


def _cost_hint(text: str) -> int:
    return len(text) + 200 * (text.count("^{") + text.count("!") + text.count("\\sum"))
