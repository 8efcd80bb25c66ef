"""The one verifier, for rewards and for evaluation: gold answer and completion in, Verdict out.

The work is done in rooms: extract (the answer span), spelling (one spelling), forms (structure,
parsed once), compare (typed rules, exact numbers) and, only for what these leave open, symbolic
(sympy, math-verify) in killable processes (pool, worker). Importing this module imports neither
torch nor sympy. It imports nothing else of this project; anything may import it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from sgpo.core.verifier.compare import Asker, same_answer
from sgpo.core.verifier.extract import extract, unwrap_box
from sgpo.core.verifier.forms import Form, is_tractable, parse_form
from sgpo.core.verifier.patterns import patterns
from sgpo.core.verifier.pool import POOL, Put, VerifierUnavailable, default_workers
from sgpo.core.verifier.spelling import canonical

_P = patterns("grade")

__all__ = ["Verdict", "VerifierUnavailable", "grade", "grade_many"]

ITEM_SECONDS = 5.0  # hard limit of one symbolic judgement (typical: 5 ms)
CACHE_SIZE = 65_536


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


Task = tuple[Answer, Answer, str | None]  # gold, answer, the problem's text


def grade(
    gold: str, completion: str, *, truncated: bool = False, problem: str | None = None
) -> Verdict:
    """The Verdict on one completion, in any thread and in at most ITEM_SECONDS (plus the start of a
    worker process, once). See ``grade_many``."""
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
        pairs: the right answer, which may stand in ``$..$`` or ``\\boxed{..}``, and the decoded
            output of a model.
        truncated: one flag a pair: it hit its token limit and is never correct. None: none is.
        problems: one text a pair, whose nouns may stand behind a number as what is counted.
        deadline_seconds: limit of the whole batch, counted from the moment the first worker is
            ready; what is not judged by then gets "timeout". None: only ITEM_SECONDS an item.
        num_workers: worker processes at most; None: one a core.
    Raises:
        ValueError: an empty gold answer, a non-positive limit, flags of another length.
        VerifierUnavailable: a worker process cannot start.
    """
    for name, kind, given in (("truncated", "flags", truncated), ("problems", "texts", problems)):
        if given is not None and len(given) != len(pairs):
            raise ValueError(
                f"{name} has {len(given)} {kind} for {len(pairs)} pairs; give one each"
            )
    if deadline_seconds is not None and not deadline_seconds > 0:
        raise ValueError(f"deadline_seconds is {deadline_seconds}; it must be positive, or None")
    workers = default_workers() if num_workers is None else num_workers
    if workers < 1:
        raise ValueError(f"num_workers is {num_workers}; it must be at least 1, or None")
    spans = [extract(completion).text for _, completion in pairs]
    verdicts: list[Verdict | Task] = []
    for i, ((gold, _), span) in enumerate(zip(pairs, spans, strict=True)):
        gold_side, problem = gold_answer(gold), problems[i] if problems else None
        if truncated and truncated[i]:
            verdicts.append(Verdict(False, "truncated", span))
        elif span is None:
            verdicts.append(Verdict(False, "no_answer", None))
        elif (right := decide(gold_side, span, problem)) is None:
            verdicts.append((gold_side, answer_to(gold_side, span), problem))
        else:
            verdicts.append(Verdict(right, "correct" if right else "wrong", span))
    open_tasks = dict.fromkeys(v for v in verdicts if not isinstance(v, Verdict))
    reasons = _judge(list(open_tasks), deadline_seconds, workers)
    return [
        v if isinstance(v, Verdict) else Verdict(reasons[v] == "correct", reasons[v], span)
        for v, span in zip(verdicts, spans, strict=True)
    ]


@lru_cache(maxsize=CACHE_SIZE)
def gold_answer(gold: str) -> Answer:
    """A gold answer, parsed. ValueError if it is empty."""
    if not isinstance(gold, str):
        raise ValueError(f"gold answer is {gold!r}; it must be a string")
    answer = _parsed(unwrap_box(_P.around_box.sub("", gold.strip())))
    if not answer.text:
        raise ValueError(f"gold answer {gold!r} is empty; give the right answer as text or LaTeX")
    return answer


def _parsed(text: str) -> Answer:
    text = canonical(text) if is_tractable(text) else text.strip()
    return Answer(text, parse_form(text) if is_tractable(text) else None)


@lru_cache(maxsize=CACHE_SIZE)
def answer_to(gold: Answer, span: str) -> Answer:
    """The answer in a span, parsed. Of ``\\textbf{(B)}\\ 12``, as multiple-choice tests print their
    options, it is the part of the gold's kind, letter or content."""
    answer = _parsed(span)
    if answer.text == gold.text or answer.form is None:
        return answer
    option = _P.option.fullmatch(answer.text)
    if option is None or _P.choice_letter.search(option.group(2)):
        return answer
    return _parsed(option.group(1 if _P.choice_letter.fullmatch(gold.text) else 2))


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
_known: dict[tuple[str, ...], bool] = {}


def _ask(put: Put, *question: str) -> bool:
    found = _known.get(question)
    if found is None:
        found = put("compare", *question)
        if len(_known) >= CACHE_SIZE:
            _known.clear()
        _known[question] = found
    return found


def _judge(tasks: list[Task], deadline_seconds: float | None, num_workers: int) -> dict[Task, str]:
    """Reasons of the tasks the exact rules left open, from memory or from the worker processes: the
    same comparison, with a worker in place of "undecided". Hostile items last, so that they cannot
    use up the batch's time before the others."""

    def job(task: Task, put: Put) -> bool | None:
        gold, answer, problem = task
        assert gold.form is not None and answer.form is not None
        return same_answer(gold.form, answer.form, Asker(partial(_ask, put), problem))

    def cost(task: Task) -> int:
        text = task[0].text + task[1].text
        return len(text) + 200 * (text.count("^{") + text.count("!") + text.count("\\sum"))

    tasks.sort(key=cost)
    outcomes = POOL.run(
        [partial(job, task) for task in tasks],
        item_seconds=ITEM_SECONDS,
        batch_seconds=deadline_seconds,
        num_workers=num_workers,
    )
    return dict(zip(tasks, outcomes, strict=True))
