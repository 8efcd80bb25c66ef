"""A running vLLM server as an engine: completions over HTTP, weights over a shared directory.

Start the server with its development endpoints, on the checkpoint that training starts from:

    VLLM_SERVER_DEV_MODE=1 vllm serve DIR --generation-config vllm --port 8000

A new set of weights is written as safetensors to a directory that both sides see; generation is
paused, the weights are read, the prefix cache is cleared, generation resumes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file

from sgpo.core.config import VLLMSettings
from sgpo.core.sampling.sampler import Progress
from sgpo.core.sampling.vllm_engine import EngineFailed, RawCompletion, Raws, Request, Weights

MAX_REQUESTS = 64  # in flight at once
HANDSHAKE_SECONDS = 30.0
_SHARED_MEMORY = Path("/dev/shm")


class ServerEngine:
    """An engine on the server at ``settings.server``; it serves exactly one model."""

    def __init__(self, settings: VLLMSettings) -> None:
        """Raises EngineFailed when no vLLM server with development endpoints answers."""
        self._settings = settings
        self._url = (settings.server or "").rstrip("/")
        card = self._call("GET", "/v1/models", seconds=HANDSHAKE_SECONDS)["data"][0]
        self._model, self.max_model_len = card["id"], int(card["max_model_len"])
        self.dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype
        self._call("GET", "/is_paused", seconds=HANDSHAKE_SECONDS)

    def generate(self, requests: Sequence[Request], progress: Progress = None) -> list[Raws]:
        """The completions of every request, in order, ``MAX_REQUESTS`` prompts at a time."""
        answers = asyncio.run(self._completions([self._body(r) for r in requests], progress))
        return [_raw(a, r.params.logprobs) for a, r in zip(answers, requests, strict=True)]

    def load(self, weights: Weights) -> None:
        """Replace all weights. In a distributed run the first rank talks to the server."""
        tensors: dict[str, torch.Tensor] = {}
        storages = set()
        for name, tensor in weights:  # gathering takes every rank, keeping only the first
            if _rank() == 0:
                tensor = tensor.contiguous().cpu()
                # Tied tensors share memory, which the format refuses: each gets a copy.
                tensors[name] = tensor.clone() if tensor.data_ptr() in storages else tensor
                storages.add(tensor.data_ptr())
        if _rank() == 0:
            parent = self._settings.sync_dir
            if parent is None and _SHARED_MEMORY.is_dir():
                parent = str(_SHARED_MEMORY)
            directory = Path(tempfile.mkdtemp(prefix="sgpo-weights-", dir=parent))
            try:
                save_file(tensors, directory / "model.safetensors")
                self._exchange(directory)
            finally:
                shutil.rmtree(directory)
        if torch.distributed.is_initialized():
            torch.distributed.barrier()

    def release(self) -> None:
        """A server has memory of its own."""

    def _exchange(self, directory: Path) -> None:
        seconds = self._settings.stall_seconds
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        self._call("POST", "/pause?mode=abort&clear_cache=true", seconds=seconds)
        self._call("POST", "/collective_rpc", reload, seconds=seconds)
        cleared = self._call("POST", "/reset_prefix_cache", seconds=seconds)
        if not cleared["success"]:
            raise EngineFailed(
                f"{self._url}: the prefix cache cannot be cleared while another client's "
                "requests are running; give the run a server of its own"
            )
        self._call("POST", "/resume", seconds=seconds)

    def _body(self, request: Request) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": list(request.prompt),
            "n": request.n,
            "seed": request.seed,
            "max_tokens": request.params.max_tokens,
            "temperature": request.params.temperature,
            "top_p": request.params.top_p,
            # Named although they are the defaults: a server may have taken others from the
            # checkpoint's generation config.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logprobs": 0,
            "ignore_eos": True,
            "stop_token_ids": list(request.stop_ids),
            "stop": list(request.params.stop_texts),
            "include_stop_str_in_output": True,
            "return_token_ids": True,
        }

    async def _completions(self, bodies: Sequence[dict[str, Any]], progress: Progress) -> list:
        """The answers in order. The first error, or ``stall_seconds`` in which none comes, breaks
        off the requests in flight: nothing waits for a dead server."""
        seconds = self._settings.stall_seconds
        async with _client(None) as client:
            tasks = {
                asyncio.create_task(self._ask(client, "POST", "/v1/completions", body)): body["n"]
                for body in bodies
            }
            pending = set(tasks)
            try:
                while pending:
                    done, pending = await asyncio.wait(
                        pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
                    )
                    if not done:
                        raise EngineFailed(
                            f"{self._url}: no completion finished for {seconds:g} s "
                            "(vllm.stall_seconds)"
                        )
                    for task in done:
                        task.result()
                        if progress:
                            progress(tasks[task])
            finally:
                for task in pending:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks]

    def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float
    ) -> dict[str, Any]:
        async def once() -> dict[str, Any]:
            async with _client(seconds) as client:
                return await self._ask(client, method, path, body)

        return asyncio.run(once())

    async def _ask(self, client, method, path, body=None) -> dict[str, Any]:
        """The parsed answer ({} when empty); every failure as one line of ``EngineFailed``."""
        try:
            response = await client.request(method, self._url + path, json=body)
            if response.status_code == 200:
                return response.json() if response.text.strip() else {}
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            what = str(error) or type(error).__name__
            raise EngineFailed(
                f"{self._url}{path}: the vLLM server does not answer ({what}); start it, then run "
                "the same command again to continue from the last checkpoint"
            ) from error
        hint = ""
        if response.status_code == 404:
            hint = "; start it with VLLM_SERVER_DEV_MODE=1, which adds the endpoints used here"
        raise EngineFailed(
            f"{self._url}{path}: the vLLM server answered {response.status_code} "
            f"({response.text[:200].strip()}){hint}"
        )


def _client(seconds: float | None) -> httpx.AsyncClient:
    """``seconds`` of silence on the line are an error. No connection is used twice: the server may
    close one at the moment of its reuse."""
    limits = httpx.Limits(max_connections=MAX_REQUESTS, max_keepalive_connections=0)
    return httpx.AsyncClient(timeout=seconds, limits=limits, trust_env=False)


def _raw(answer: dict[str, Any], with_logprobs: bool) -> Raws:
    """The completions of one answered request, by sample index."""
    return [
        RawCompletion(
            token_ids=choice["token_ids"],
            logprobs=choice["logprobs"]["token_logprobs"] if with_logprobs else None,
            finish_reason=choice["finish_reason"],
        )
        for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
    ]


def _rank() -> int:
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
