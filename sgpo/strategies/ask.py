"""Asks a strong model for strategies, many problems at once, with every reply kept on disk.

The model stands behind an OpenAI-compatible endpoint. The ``openai`` client waits and asks again on
rate limits, server errors and lost connections; this module adds what it does not do: replies that
cannot be read are asked for again too, errors that will not go away stop the work at once, tokens
are counted, and what was paid for once is never asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.core.config import canonical_json, require_positive
from sgpo.core.files import jsonl_rows
from sgpo.core.types import Problem
from sgpo.strategies.text import (
    Scored,
    extraction_request,
    leaks,
    parse_candidates,
    parse_scores,
    scoring_request,
)

FAILURES_IN_A_ROW = 8
BAD_BODY_ATTEMPTS = 4  # replies whose body is no valid JSON, or lacks its text
BAD_BODY_PAUSE = 0.5  # seconds before the second, doubled before each further one


@dataclass(frozen=True)
class EndpointSettings:
    """Args:
    base_url: e.g. ``http://localhost:8000/v1``. model: name that the endpoint knows.
    key_variable: environment variable that holds the key; a local server needs none.
    concurrency: requests under way at once.
    timeout_seconds: of one request. max_retries: of the client, with growing pauses.
    price_in, price_out: money for a million prompt or completion tokens, of either model.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout_seconds: float = 600.0
    max_retries: int = 8
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        require_positive(self, "concurrency timeout_seconds")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint {self.base_url!r}: must be a URL like http://host:8000/v1")
        for name in ("price_in", "price_out"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 0")


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
class Reply:
    """``text`` of a reply, why it ended (``stop``, ``length``, ..), and the tokens it took."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Spent:
    """Replies and their tokens."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: Reply) -> None:
        self.requests += 1
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def cost(self, settings: EndpointSettings) -> float:
        """Money, in the unit of the prices."""
        tokens = self.prompt_tokens * settings.price_in
        return (tokens + self.completion_tokens * settings.price_out) / 1e6


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


class EndpointDown(ValueError):
    """The endpoint refuses or cannot be reached; asking it more is of no use."""


class NoReply(ValueError):
    """This one request failed: for good (``final``, e.g. too long), or for now."""

    def __init__(self, line: str, *, final: bool = False) -> None:
        super().__init__(line)
        self.final = final


class ReplyCache:
    """Replies in a JSONL file, appended as they come; a half-written last line is dropped.
    ``spent`` counts what this run asked for, ``total`` what all replies it used have taken,
    whenever they were asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spent, self.total = Spent(), Spent()
        self.replies: dict[str, Reply] = {}
        if not path.exists():
            return
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):  # cut off when the machine stopped
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])
        for where, row in jsonl_rows(path):
            try:
                self.replies[row["key"]] = Reply(**row["reply"])
            except (KeyError, TypeError) as error:
                raise ValueError(f"{where}: damaged ({error}); remove that line") from error

    def put(self, key: str, problem_id: str, reply: Reply) -> None:
        """Keep ``reply`` and have it on the disk before returning."""
        self.replies[key] = reply
        row = {"key": key, "problem_id": problem_id, "reply": vars(reply)}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


class Endpoint:
    """Asks one model; use as ``async with Endpoint(..) as endpoint``."""

    def __init__(self, settings: EndpointSettings, cache: ReplyCache) -> None:
        try:
            import openai
        except ImportError as error:
            raise ValueError(
                "asking a model needs the openai client; install the extra: "
                "pip install 'sgpo[strategies]'"
            ) from error
        self._openai, self.settings, self.cache = openai, settings, cache
        self.client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=os.environ.get(settings.key_variable) or "none",
            timeout=settings.timeout_seconds,
            max_retries=settings.max_retries,
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.client.close()

    async def ask(
        self, problem_id: str, request: str, *, attempt: int, temperature: float, max_tokens: int
    ) -> Reply:
        """The reply to ``request``, from the cache if it was asked before with the same attempt.
        EndpointDown or NoReply with one line that says why."""
        body = {
            "model": self.settings.model,
            "messages": [{"role": "user", "content": request}],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        identity = {"problem": problem_id, "attempt": attempt, **body}
        key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        reply = self.cache.replies.get(key)
        if reply is None:
            reply = await self._ask(body)
            self.cache.put(key, problem_id, reply)
            self.cache.spent.add(reply)
        self.cache.total.add(reply)
        return reply

    async def _ask(self, body: dict[str, Any]) -> Reply:
        openai = self._openai
        for attempt in range(BAD_BODY_ATTEMPTS):
            if attempt:
                await asyncio.sleep(BAD_BODY_PAUSE * 2 ** (attempt - 1))
            try:
                answer = await self.client.chat.completions.create(**body)
            except (openai.APIResponseValidationError, json.JSONDecodeError):
                continue  # the body was cut off on its way
            except openai.APIError as error:
                raise self._failure(error) from error
            choices = getattr(answer, "choices", None)
            message = choices[0].message if choices else None
            if message is not None and message.content is not None:
                usage = answer.usage
                return Reply(
                    text=message.content,
                    finish_reason=str(choices[0].finish_reason),
                    prompt_tokens=usage.prompt_tokens if usage else 0,
                    completion_tokens=usage.completion_tokens if usage else 0,
                )
        raise NoReply(f"{self.settings.base_url}: {BAD_BODY_ATTEMPTS} replies were unreadable")

    def _failure(self, error: Exception) -> ValueError:
        """The client's error as one of ours."""
        openai, where = self._openai, f"{self.settings.base_url}, model {self.settings.model!r}"
        said = " ".join(str(error).split())[:200]
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            variable = self.settings.key_variable
            return EndpointDown(f"{where}: access refused; set {variable} to a valid key")
        if isinstance(error, openai.NotFoundError):
            return EndpointDown(f"{where}: the endpoint knows no such model or path")
        if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
            return NoReply(f"{where}: request refused ({said})", final=True)
        return NoReply(f"{where}: {type(error).__name__} ({said})")


async def strategy_of(
    problem: Problem, proposer: Endpoint, scorer: Endpoint, settings: ExtractionSettings
) -> Outcome:
    """The best usable strategy of one problem. Raises as ``Endpoint.ask`` does."""
    candidates: list[str] = []
    for attempt in range(settings.attempts):
        missing = settings.candidates - len(candidates)
        if missing > 0:
            reply = await proposer.ask(
                problem.id,
                extraction_request(problem, missing),
                attempt=attempt,
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
            )
            new = parse_candidates(reply.text)
            candidates += [text for text in new if text not in candidates][:missing]
    reasons = {text: leaks(text, problem) for text in candidates}
    clean = [text for text in candidates if not reasons[text]]
    counts = len(candidates), tuple(why[0] for why in reasons.values() if why)
    if not clean:
        why = "every candidate leaks" if candidates else "no candidate could be read"
        return Outcome(problem.id, None, why, True, *counts)
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
            best = max(scored, key=lambda s: s.mean)  # the first of several
            return Outcome(problem.id, best, "", True, *counts)
    return Outcome(problem.id, None, "no scores could be read", True, *counts)


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
        ValueError: the budget is spent. Replies so far are in the cache either way.
    """
    outcomes: dict[str, Outcome] = {}
    waiting = iter(problems)
    down: list[EndpointDown] = []
    failed = 0  # in a row

    def spent() -> float:
        return proposer.cache.spent.cost(proposer.settings)

    async def worker() -> None:
        nonlocal failed
        for problem in waiting:  # shared: every worker takes the next one
            if down or (settings.budget is not None and spent() >= settings.budget):
                return  # replies under way are paid for: the other workers wait for theirs
            try:
                outcome = await strategy_of(problem, proposer, scorer, settings)
                failed = 0
            except EndpointDown as error:
                down.append(error)
                return
            except NoReply as error:
                outcome = Outcome(problem.id, None, str(error), error.final)
                failed += not error.final
                if failed >= FAILURES_IN_A_ROW:
                    down.append(
                        EndpointDown(
                            f"{error}; {failed} problems failed in a row: repeat the command when "
                            "the endpoint answers again, finished replies are kept"
                        )
                    )
                    return
            outcomes[problem.id] = outcome
            if progress:
                progress(len(outcomes), len(problems))

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, min(proposer.settings.concurrency, len(problems)))):
            group.create_task(worker())
    if down:
        raise down[0]
    if len(outcomes) < len(problems):
        raise ValueError(
            f"--budget {settings.budget}: {spent():.2f} is spent on {len(outcomes)} of "
            f"{len(problems)} problems; replies are kept, repeat the command to go on"
        )
    return [outcomes[problem.id] for problem in problems]
