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
from collections import Counter
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
MAX_RETRIES = 8  # of the client, with growing pauses
ATTEMPTS = 3  # requests at most until enough candidates, and until scores, can be read
MAX_TOKENS = 8192  # of a reply
TEMPERATURE, SCORING_TEMPERATURE = 1.0, 0.0


@dataclass(frozen=True)
class Asking:
    """Args:
    base_url: e.g. ``http://localhost:8000/v1``.
    model, scorer: names that the endpoint knows, of who proposes strategies and who scores them.
    key_variable: environment variable that holds the key; a local server needs none.
    candidates: of a problem. concurrency: problems at once. timeout_seconds: of one request.
    """

    base_url: str
    model: str
    scorer: str
    key_variable: str = "OPENAI_API_KEY"
    candidates: int = 5  # paper
    concurrency: int = 16
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        require_positive(self, "candidates concurrency timeout_seconds")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"endpoint {self.base_url!r}: must be a URL like http://host:8000/v1")


@dataclass(frozen=True)
class Reply:
    """``text`` of a reply, why it ended (``stop``, ``length``, ..), and the tokens it took."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What became of a problem. ``strategy`` is None for ``why``; ``final`` says whether asking
    again cannot help (every candidate leaks) or may (the endpoint failed)."""

    problem_id: str
    strategy: Scored | None
    why: str
    final: bool
    num_candidates: int = 0
    num_leaking: int = 0


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
        self.spent: Counter[str] = Counter(requests=0, prompt_tokens=0, completion_tokens=0)
        self.total = self.spent.copy()
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


def _count(counter: Counter[str], reply: Reply) -> None:
    counter.update(
        requests=1,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
    )


class Endpoint:
    """Asks the models of one endpoint; use as ``async with Endpoint(..) as endpoint``."""

    def __init__(self, asking: Asking, cache: ReplyCache) -> None:
        try:
            import openai
        except ImportError as error:
            raise ValueError(
                "asking a model needs the openai client; install the extra: "
                ".venv/bin/pip install -e '.[strategies]' in the checkout"
            ) from error
        self._openai, self.asking, self.cache = openai, asking, cache
        self.client = openai.AsyncOpenAI(
            base_url=asking.base_url,
            api_key=os.environ.get(asking.key_variable) or "none",
            timeout=asking.timeout_seconds,
            max_retries=MAX_RETRIES,
        )

    async def __aenter__(self) -> Endpoint:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.client.close()

    async def ask(
        self, model: str, problem_id: str, request: str, *, attempt: int, temperature: float
    ) -> str:
        """The reply to ``request``, from the cache if it was asked before with the same attempt.
        EndpointDown or NoReply with one line that says why."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": request}],
            "temperature": temperature,
            "max_tokens": MAX_TOKENS,
        }
        identity = {"problem": problem_id, "attempt": attempt, **body}
        key = hashlib.sha256(canonical_json(identity).encode()).hexdigest()
        reply = self.cache.replies.get(key)
        if reply is None:
            reply = await self._ask(body)
            self.cache.put(key, problem_id, reply)
            _count(self.cache.spent, reply)
        _count(self.cache.total, reply)
        return reply.text

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
                raise self._failure(error, body["model"]) from error
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
        raise NoReply(f"{self.asking.base_url}: {BAD_BODY_ATTEMPTS} replies were unreadable")

    def _failure(self, error: Exception, model: str) -> EndpointDown | NoReply:
        """The client's error as one of ours."""
        openai, where = self._openai, f"{self.asking.base_url}, model {model!r}"
        said = " ".join(str(error).split())[:200]
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)):
            variable = self.asking.key_variable
            return EndpointDown(f"{where}: access refused; set {variable} to a valid key")
        if isinstance(error, openai.NotFoundError):
            return EndpointDown(f"{where}: the endpoint knows no such model or path")
        if isinstance(error, (openai.BadRequestError, openai.UnprocessableEntityError)):
            return NoReply(f"{where}: request refused ({said})", final=True)
        return NoReply(f"{where}: {type(error).__name__} ({said})")


async def strategy_of(problem: Problem, endpoint: Endpoint) -> Outcome:
    """The best usable strategy of one problem. Raises as ``Endpoint.ask`` does."""
    asking, candidates = endpoint.asking, []
    for attempt in range(ATTEMPTS):
        missing = asking.candidates - len(candidates)
        if missing > 0:
            request = extraction_request(problem, missing)
            reply = await endpoint.ask(
                asking.model, problem.id, request, attempt=attempt, temperature=TEMPERATURE
            )
            new = parse_candidates(reply)
            candidates += [text for text in new if text not in candidates][:missing]
    clean = [text for text in candidates if not leaks(text, problem)]
    counts = len(candidates), len(candidates) - len(clean)
    if not clean:
        why = "every candidate leaks" if candidates else "no candidate could be read"
        return Outcome(problem.id, None, why, True, *counts)
    for attempt in range(ATTEMPTS):
        request = scoring_request(problem, clean)
        reply = await endpoint.ask(
            asking.scorer, problem.id, request, attempt=attempt, temperature=SCORING_TEMPERATURE
        )
        scores = parse_scores(reply, len(clean))
        if scores is not None:
            scored = [Scored(text, row) for text, row in zip(clean, scores, strict=True)]
            best = max(scored, key=lambda s: s.mean)  # the first of several
            return Outcome(problem.id, best, "", True, *counts)
    return Outcome(problem.id, None, "no scores could be read", True, *counts)


async def extract(
    problems: Sequence[Problem],
    asking: Asking,
    cache: ReplyCache,
    told: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """One outcome a problem, in order; as many problems at once as the endpoint may be asked.
    ``told`` is called after each.

    Raises:
        EndpointDown: it refuses, or ``FAILURES_IN_A_ROW`` problems failed one after another.
            Replies so far are in the cache.
    """
    outcomes: dict[str, Outcome] = {}
    waiting = iter(problems)
    down: list[EndpointDown] = []
    failed = 0  # in a row

    async def worker(endpoint: Endpoint) -> None:
        nonlocal failed
        for problem in waiting:  # shared: every worker takes the next one
            if down:
                return  # replies under way are paid for: the other workers wait for theirs
            try:
                outcome = await strategy_of(problem, endpoint)
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
            told()

    async with Endpoint(asking, cache) as endpoint, asyncio.TaskGroup() as group:
        for _ in range(min(asking.concurrency, len(problems))):
            group.create_task(worker(endpoint))
    if down:
        raise down[0]
    return [outcomes[problem.id] for problem in problems]
