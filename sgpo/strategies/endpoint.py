"""A chat model behind an OpenAI-compatible endpoint, with every reply kept on disk.

The ``openai`` client waits and asks again on rate limits, server errors and lost connections; this
module adds what it does not do: replies that cannot be read are asked for again too, errors that
will not go away stop the work at once, and tokens are counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sgpo.core.config import canonical_json, require_positive

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


@dataclass(frozen=True)
class Reply:
    """``text`` of a reply, why it ended (``stop``, ``length``, ..), and the tokens it took."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass
class Spent:
    """Tokens of replies; ``requests`` of them were asked for, the others came from the cache."""

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def cost(self, settings: EndpointSettings) -> float:
        """Money, in the unit of the prices."""
        tokens = self.prompt_tokens * settings.price_in
        return (tokens + self.completion_tokens * settings.price_out) / 1e6


class EndpointDown(ValueError):
    """The endpoint refuses or cannot be reached; asking it more is of no use."""


class RequestRefused(ValueError):
    """The endpoint takes this one request for invalid, e.g. too long; others may work."""


class RequestFailed(ValueError):
    """This request failed in spite of every repetition; it may work later."""


class ReplyCache:
    """Replies in a JSONL file, appended as they come; a half-written last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.replies: dict[str, Reply] = {}
        if not path.exists():
            return
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                row = json.loads(line)
                self.replies[row["key"]] = Reply(**row["reply"])
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # cut off when the machine stopped
                    path.write_bytes(b"".join(x + b"\n" for x in lines[:-1]))
                    return
                raise ValueError(
                    f"{path}, line {number}: damaged ({error}); remove that line and repeat"
                ) from error
        if lines[-1]:  # whole, but its end of line is missing
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
            self.spent.requests += 1
            _count(self.spent, reply)
        else:
            self.spent.cached += 1
        self.total.requests += 1
        _count(self.total, reply)
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
                reply = _read(answer)
                if reply is not None:
                    return reply
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


def _count(spent: Spent, reply: Reply) -> None:
    spent.prompt_tokens += reply.prompt_tokens
    spent.completion_tokens += reply.completion_tokens


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _read(answer: Any) -> Reply | None:
    """The reply in a response object, None when it lacks what every reply has."""
    choices = getattr(answer, "choices", None)
    if not choices or choices[0].message is None or choices[0].message.content is None:
        return None
    usage = answer.usage
    return Reply(
        text=choices[0].message.content,
        finish_reason=str(choices[0].finish_reason),
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
    )
