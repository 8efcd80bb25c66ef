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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.core.config import canonical_json, require_positive
from sgpo.core.types import Problem
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
BAD_BODY_ATTEMPTS = 4  # replies whose body is no valid JSON, or lacks its text
BAD_BODY_PAUSE = 0.5  # seconds before the second, doubled before each further one


@dataclass(frozen=True)
class EndpointSettings:
    """Args:
    base_url: e.g. ``http://localhost:8000/v1``. model: name that the endpoint knows.
    key_variable: environment variable that holds the key; a local server needs none.
    concurrency: requests under way at once.
    timeout_seconds: of one request. max_retries: of the client, with growing pauses.
    price_in, price_out: money for a million prompt or completion tokens.
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


class RequestRefused(ValueError):
    """The endpoint takes this one request for invalid, e.g. too long; others may work."""


class RequestFailed(ValueError):
    """This request failed in spite of every repetition; it may work later."""


class OutOfBudget(ValueError):
    """The budget of this run is spent."""


class ReplyCache:
    """Replies in a JSONL file, appended as they come; a half-written last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                self.replies[row["key"]] = Reply(**row["reply"])
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # cut off when the machine stopped
                    path.write_bytes(b"".join(lines[:-1]))
                    return
                raise ValueError(
                    f"{path}, line {number}: damaged ({error}); remove that line and repeat"
                ) from error
        if lines and not lines[-1].endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")

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
    """Asks one model; use as ``async with Endpoint(..) as endpoint``.

    ``spent`` counts what this run asked for, ``total`` what all replies it used have taken,
    whenever they were asked for.
    """

    def __init__(self, settings: EndpointSettings, cache: ReplyCache) -> None:
        try:
            import openai
        except ImportError as error:
            raise ValueError(
                "asking a model needs the openai client; install the extra: "
                "pip install 'sgpo[strategies]'"
            ) from error
        self._openai = openai
        self.settings, self.cache = settings, cache
        self.spent, self.total = Spent(), Spent()
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

        Raises:
            EndpointDown, RequestRefused, RequestFailed: one line that says why.
        """
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
            self.spent.add(reply)
        self.total.add(reply)
        return reply

    async def _ask(self, body: dict[str, Any]) -> Reply:
        for attempt in range(BAD_BODY_ATTEMPTS):
            if attempt:
                await asyncio.sleep(BAD_BODY_PAUSE * 2 ** (attempt - 1))
            with self._as_one_line():
                try:
                    answer = await self.client.chat.completions.create(**body)
                except (self._openai.APIResponseValidationError, json.JSONDecodeError):
                    continue  # the body was cut off on its way
                choices = getattr(answer, "choices", None)
                if not choices or choices[0].message is None or choices[0].message.content is None:
                    continue
                return Reply(
                    text=choices[0].message.content,
                    finish_reason=str(choices[0].finish_reason),
                    prompt_tokens=answer.usage.prompt_tokens if answer.usage else 0,
                    completion_tokens=answer.usage.completion_tokens if answer.usage else 0,
                )
        raise RequestFailed(
            f"{self.settings.base_url}: {BAD_BODY_ATTEMPTS} replies were unreadable"
        )

    @contextmanager
    def _as_one_line(self) -> Iterator[None]:
        """The client's errors as ours."""
        openai, where = self._openai, f"{self.settings.base_url}, model {self.settings.model!r}"
        try:
            yield
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            variable = self.settings.key_variable
            raise EndpointDown(f"{where}: access refused; set {variable} to a valid key") from error
        except openai.NotFoundError as error:
            raise EndpointDown(f"{where}: the endpoint knows no such model or path") from error
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise RequestRefused(f"{where}: request refused ({_line(error)})") from error
        except openai.APIError as error:
            raise RequestFailed(f"{where}: {type(error).__name__} ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


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

    def spent() -> float:
        return sum(endpoint.spent.cost(endpoint.settings) for endpoint in (proposer, scorer))

    async def worker() -> None:
        for problem in waiting:  # shared: every worker takes the next one
            if down or (settings.budget is not None and spent() >= settings.budget):
                return  # replies under way are paid for: the other workers wait for theirs
            try:
                outcome = await strategy_of(problem, proposer, scorer, settings)
                failures.clear()
            except EndpointDown as error:
                down.append(error)
                return
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
            f"--budget {settings.budget}: {spent():.2f} is spent on {len(outcomes)} of "
            f"{len(problems)} problems; replies are kept, repeat the command to go on"
        )
    return [outcomes[problem.id] for problem in problems]
