"""The one verifier, for rewards and for evaluation: gold answer and completion in, Verdict out.

README.md shows the way of an answer. This imports no torch, no sympy, nothing else of ours.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import inf

from sgpo.core.verifier.compare import Asker, Undecided, same_answer
from sgpo.core.verifier.extract import extract, unwrap_box
from sgpo.core.verifier.forms import is_tractable, parse_form
from sgpo.core.verifier.patterns import patterns
from sgpo.core.verifier.pool import POOL, Question
from sgpo.core.verifier.pool import VerifierUnavailable as VerifierUnavailable
from sgpo.core.verifier.spelling import canonical

_P = patterns("grade")

ITEM_SECONDS = 5.0  # hard limit of one symbolic judgement (typical: 5 ms)
CACHE_SIZE = 65_536
_JUDGE = "sgpo.core.verifier.symbolic:same"  # of what the exact rules leave open


@dataclass(frozen=True)
class Verdict:
    """``reason``: correct, wrong, no_answer, truncated, timeout or error. ``extracted``: the answer
    span as the model wrote it, None if there is none. Only "correct" has ``correct`` set."""

    correct: bool
    reason: str
    extracted: str | None


def grade(
    gold: str, completion: str, *, truncated: bool = False, problem: str | None = None
) -> Verdict:
    """The Verdict on one completion, in any thread, in ITEM_SECONDS at most. See ``grade_many``."""
    return grade_many([(gold, completion)], truncated=[truncated], problems=[problem])[0]


def grade_many(
    pairs: Sequence[tuple[str, str]],
    *,
    truncated: Sequence[bool] | None = None,
    problems: Sequence[str | None] | None = None,
    deadline_seconds: float | None = None,
) -> list[Verdict]:
    """The Verdicts on ``(gold, completion)`` pairs, in order. Equal questions are judged once.

    Args:
        pairs: the right answer, maybe in ``$..$`` or ``\\boxed{..}``, and a model's decoded output.
        truncated: one flag a pair: it hit its token limit and is never correct. None: none is.
        problems: one text a pair, whose nouns may stand behind a number as what is counted.
        deadline_seconds: limit of the batch once the workers are ready, then "timeout". None: only
            ITEM_SECONDS an item.
    Raises:
        ValueError: an empty gold, no positive deadline, flags or problems that are not one a pair.
        VerifierUnavailable: a worker process cannot start.
    """
    for name, given in (("truncated", truncated), ("problems", problems)):
        if given is not None and len(given) != len(pairs):
            raise ValueError(f"{name}: {len(given)} for {len(pairs)} pairs; give one each, or None")
    if deadline_seconds is not None and not deadline_seconds > 0:
        raise ValueError(f"deadline_seconds={deadline_seconds}: must be above 0, or None")
    found: list[tuple[str | Question, str | None]] = []  # a reason or what to ask, and the span
    flags = [False] * len(pairs) if truncated is None else truncated
    texts = [None] * len(pairs) if problems is None else problems
    for (gold, completion), is_cut, problem in zip(pairs, flags, texts, strict=True):
        right, span = gold_answer(gold), extract(completion).text
        if is_cut or span is None:
            found.append(("truncated" if is_cut else "no_answer", span))
        elif (verdict := decide(right, span, problem)) is None:
            found.append(((_JUDGE, right, answer_to(right, span), problem), span))
        else:
            found.append(("correct" if verdict else "wrong", span))
    asked = dict.fromkeys(q for q, _ in found if not isinstance(q, str))
    reasons = _judge(asked, deadline_seconds or inf)
    judged = [(q if isinstance(q, str) else reasons[q], span) for q, span in found]
    return [Verdict(reason == "correct", reason, span) for reason, span in judged]


@lru_cache(maxsize=CACHE_SIZE)
def gold_answer(gold: str) -> str:
    """A gold answer in one spelling. ValueError if it is empty."""
    if not isinstance(gold, str):
        raise ValueError(f"gold answer is {gold!r}; it must be a string")
    answer = _spelled(unwrap_box(_P.around_box.sub("", gold.strip())))
    if not answer:
        raise ValueError(f"gold answer {gold!r} is empty; give the right answer as text or LaTeX")
    return answer


def _spelled(text: str) -> str:
    return canonical(text) if is_tractable(text) else text.strip()


@lru_cache(maxsize=CACHE_SIZE)
def answer_to(gold: str, span: str) -> str:
    """The answer in a span in one spelling; of an option, ``(B) 12``, the part like the gold."""
    answer = _spelled(span)
    option = _P.option.fullmatch(answer) if answer != gold and is_tractable(answer) else None
    if option is None or _P.choice_letter.search(option.group(2)):
        return answer
    return _spelled(option.group(1 if _P.choice_letter.fullmatch(gold) else 2))


@lru_cache(maxsize=CACHE_SIZE)
def decide(gold: str, span: str, problem: str | None = None) -> bool | None:
    """The verdict if the exact rules reach one, else None."""
    answer = answer_to(gold, span)
    if answer == gold or not (answer and is_tractable(gold) and is_tractable(answer)):
        return answer == gold  # what is too long or deep is right if it is identical
    with suppress(Undecided):
        return same_answer(parse_form(gold), parse_form(answer), Asker(problem=problem))
    return None


_known: dict[Question, str] = {}  # what the workers found; timeouts and errors are not kept


def _judge(questions: Iterable[Question], deadline_seconds: float) -> dict[Question, str]:
    """Reasons from memory or the workers; hostile items last, lest they use up the batch's time."""

    def cost(question: Question) -> int:
        text = f"{question[1]}{question[2]}"
        return len(text) + 200 * (text.count("^{") + text.count("!") + text.count("\\sum"))

    known = {q: _known[q] for q in questions if q in _known}
    new = sorted((q for q in questions if q not in known), key=cost)
    outcomes = POOL.run(new, item_seconds=ITEM_SECONDS, batch_seconds=deadline_seconds)
    found = dict(zip(new, outcomes, strict=True))
    if len(_known) + len(found) > CACHE_SIZE:
        _known.clear()
    _known.update({q: reason for q, reason in found.items() if reason in ("correct", "wrong")})
    return known | found
