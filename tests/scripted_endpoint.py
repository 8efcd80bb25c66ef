"""A chat endpoint on this machine that misbehaves as it is told."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Called with (request number from 0, prompt); a fault's name, or a text to reply with, or None for
# the usual reply.
Script = Callable[[int, str], str | None]


def candidate(kind: str, idea: str, steps: str = "1. Do it.\n2. Check it.") -> str:
    return f"<candidate>\nProblem type: {kind}\nStrategy: {idea}\nSteps:\n{steps}\n</candidate>\n"


def usual_reply(prompt: str) -> str:
    """Five candidates; or scores that rise with the position, so that the last is the best."""
    scored = re.search(r"and (\d+) strategies meant", prompt)
    if scored is None:
        count = int(re.search(r"Write (\d+) different", prompt).group(1))
        ideas = "".join(candidate("sums", f"Idea {chr(97 + i)}.") for i in range(count))
        return f"<think>hm, <candidate></think>Here they are.\n{ideas}"
    rows = [
        {"type": 1, "strategy": i / 10, "steps": 1.0, "no_leak": 1}
        for i in range(int(scored.group(1)))
    ]
    return "```json\n" + json.dumps({"scores": rows}) + "\n```"


class Endpoint(ThreadingHTTPServer):
    """What the test sees: ``url``, ``prompts`` in the order of arrival, the most at once."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.url = script, f"http://127.0.0.1:{self.server_port}/v1"
        self.prompts, self.models, self.most_at_once = [], Counter(), 0
        self.lock, self.at_once = threading.Lock(), 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Endpoint

    def do_POST(self) -> None:  # noqa: N802
        endpoint = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with endpoint.lock:
            number = len(endpoint.prompts)
            endpoint.prompts.append(prompt)
            endpoint.models[body["model"]] += 1
            endpoint.at_once += 1
            endpoint.most_at_once = max(endpoint.most_at_once, endpoint.at_once)
        try:
            self.follow(endpoint.script(number, prompt), prompt)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client gave up waiting
        finally:
            with endpoint.lock:
                endpoint.at_once -= 1

    def follow(self, told: str | None, prompt: str) -> None:
        word, _, value = (told or "").partition(" ")
        if told == "rate limit":
            self.send(429, b'{"error": {"message": "slow down"}}', ("Retry-After-Ms", "20"))
        elif word == "status":
            self.send(int(value), b'{"error": {"message": "scripted"}}')
        elif told == "drop":
            self.close_connection = True
            self.connection.close()
        elif told == "empty":
            self.send(200, b'{"id": "x", "object": "chat.completion", "choices": []}')
        else:
            if word == "slow":
                time.sleep(float(value))
            usual = told is None or word in ("slow", "cut")
            whole = completion(usual_reply(prompt) if usual else told or "")
            self.send(200, whole[: len(whole) // 2] if told == "cut" else whole)

    def send(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), *headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def completion(text: str) -> bytes:
    """A chat completion as the endpoint sends it."""
    message = {"role": "assistant", "content": text}
    return json.dumps(
        {
            "id": "x", "object": "chat.completion", "created": 0, "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    ).encode()  # fmt: skip


@contextmanager
def scripted_endpoint(script: Script = lambda number, prompt: None) -> Iterator[Endpoint]:
    """A server that follows ``script``; faults are ``status CODE``, ``rate limit``, ``cut``,
    ``empty``, ``drop`` and ``slow SECONDS``."""
    endpoint = Endpoint(script)
    thread = threading.Thread(target=endpoint.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.shutdown()
        endpoint.server_close()
        thread.join()
