"""Asks a strong model for strategies, many problems at once, and decides which are kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sgpo.core.types import Problem
from sgpo.strategies.endpoint import Endpoint, EndpointDown, RequestFailed, RequestRefused
from sgpo.strategies.text import (
    Scored,
    best,
    extraction_request,
    leaks,
    parse_candidates,
    parse_scores,
    scoring_request,
)

FAILURES_IN_A_ROW = 8


@dataclass(frozen=True)
class ExtractionSettings:
    """``attempts``: requests at most until enough candidates, and until scores, can be read.
    ``budget``: stop when this much money is spent in this run; None: no limit."""

    candidates: int = 5  # paper
    attempts: int = 3
    temperature: float = 1.0
    max_tokens: int = 8192
    scoring_temperature: float = 0.0
    budget: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a problem. ``strategy`` is None for ``why``; ``final`` says whether asking
    again cannot help (every candidate leaks) or may (the endpoint failed)."""

    problem_id: str
    strategy: Scored | None
    why: str
    final: bool
    num_candidates: int = 0
    leaking: tuple[str, ...] = ()


class OutOfBudget(ValueError):
    """The budget of this run is spent."""


async def strategy_of(
    problem: Problem, proposer: Endpoint, scorer: Endpoint, settings: ExtractionSettings
) -> Outcome:
    """The best usable strategy of one problem. Raises as ``Endpoint.ask`` does."""
    candidates: list[str] = []
    for attempt in range(settings.attempts):
        missing = settings.candidates - len(candidates)
        if missing <= 0:
            break
        reply = await proposer.ask(
            problem.id,
            extraction_request(problem, missing),
            attempt=attempt,
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
        )
        new = parse_candidates(reply.text)
        candidates += [text for text in new if text not in candidates][:missing]
    if not candidates:
        return Outcome(problem.id, None, "no candidate could be read", final=True)
    reasons = [leaks(text, problem) for text in candidates]
    leaking = tuple(why[0] for why in reasons if why)
    clean = [text for text, why in zip(candidates, reasons, strict=True) if not why]
    if not clean:
        return Outcome(problem.id, None, "every candidate leaks", True, len(candidates), leaking)
    for attempt in range(settings.attempts):
        reply = await scorer.ask(
            problem.id,
            scoring_request(problem, clean),
            attempt=attempt,
            temperature=settings.scoring_temperature,
            max_tokens=settings.max_tokens,
        )
        scores = parse_scores(reply.text, len(clean))
        if scores is not None:
            scored = [Scored(text, row) for text, row in zip(clean, scores, strict=True)]
            kept = scored[best(scored)]
            return Outcome(problem.id, kept, "", True, len(candidates), leaking)
    return Outcome(problem.id, None, "no scores could be read", True, len(candidates), leaking)


async def extract(
    problems: Sequence[Problem],
    proposer: Endpoint,
    scorer: Endpoint,
    settings: ExtractionSettings,
    progress: Callable[[int, int], None] | None = None,
) -> list[Outcome]:
    """One outcome a problem, in order; as many problems at once as the endpoint may be asked.

    Raises:
        EndpointDown: it refuses, or ``FAILURES_IN_A_ROW`` problems failed one after another.
        OutOfBudget: the budget is spent. Replies so far are in the cache either way.
    """
    outcomes: dict[str, Outcome] = {}
    waiting = iter(problems)
    failures: list[str] = []
    down: list[EndpointDown] = []

    async def worker() -> None:
        for problem in waiting:  # shared: every worker takes the next one
            if down:
                return
            if settings.budget is not None and _spent(proposer, scorer) >= settings.budget:
                return  # requests under way are paid for, so the other workers finish theirs
            try:
                outcome = await strategy_of(problem, proposer, scorer, settings)
                failures.clear()
            except RequestRefused as error:
                outcome = Outcome(problem.id, None, str(error), final=True)
            except RequestFailed as error:
                failures.append(str(error))
                if len(failures) >= FAILURES_IN_A_ROW:
                    down.append(
                        EndpointDown(
                            f"{error}; {len(failures)} problems failed in a row: repeat the "
                            "command when the endpoint answers again, finished replies are kept"
                        )
                    )
                    return
                outcome = Outcome(problem.id, None, str(error), final=False)
            except EndpointDown as error:
                down.append(error)
                return  # replies under way are paid for: the other workers wait for theirs
            outcomes[problem.id] = outcome
            if progress:
                progress(len(outcomes), len(problems))

    count = max(1, min(proposer.settings.concurrency, len(problems)))
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(worker())
    if down:
        raise down[0]
    if len(outcomes) < len(problems):
        raise OutOfBudget(
            f"--budget {settings.budget}: {_spent(proposer, scorer):.2f} is spent on "
            f"{len(outcomes)} of {len(problems)} problems; replies are kept, repeat the command "
            "to go on"
        )
    return [outcomes[problem.id] for problem in problems]


def _spent(proposer: Endpoint, scorer: Endpoint) -> float:
    """Money that this run has spent."""
    return sum(endpoint.spent.cost(endpoint.settings) for endpoint in (proposer, scorer))
