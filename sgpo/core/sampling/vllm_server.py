"""A running vLLM server as an engine: completions over HTTP, weights over a shared directory.

Start the server with its development endpoints, on the checkpoint that training starts from:

    VLLM_SERVER_DEV_MODE=1 vllm serve DIR --generation-config vllm --port 8000

A new set of weights is written as safetensors to a directory that both sides see; generation is
paused, the weights are read, the prefix cache is cleared, generation resumes.
"""

from __future__ import annotations

import http.client
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import save_file

from sgpo.core.config import VLLMSettings
from sgpo.core.sampling.sampler import SamplingParams
from sgpo.core.sampling.vllm_engine import RawCompletion, Weights
from sgpo.core.sampling.vllm_process import EngineFailed

MAX_CONNECTIONS = 64
HEALTH_SECONDS = 5.0  # between health checks while completions are awaited
HEALTH_PATIENCE = 30.0  # a server that answers no health check for this long is given up
_SHARED_MEMORY = Path("/dev/shm")


class ServerEngine:
    """``Engine`` on the server at ``settings.server``; it serves exactly one model."""

    def __init__(self, settings: VLLMSettings) -> None:
        """Raises EngineFailed when no vLLM server with development endpoints answers."""
        self._settings = settings
        self._http = _Http(settings.server or "")
        card = self._http.call("GET", "/v1/models", seconds=HEALTH_PATIENCE)["data"][0]
        self._model, self.max_model_len = card["id"], int(card["max_model_len"])
        self.dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype
        self._http.call("GET", "/is_paused", seconds=HEALTH_PATIENCE)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        stop_ids: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> list[list[RawCompletion]]:
        """See ``Engine.generate``: one request a prompt, ``MAX_CONNECTIONS`` at a time."""
        bodies = [
            self._request(prompt, n, params, seed, stop_ids)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        with self._http.pool(len(bodies)) as submit:
            futures = [submit("POST", "/v1/completions", body) for body in bodies]
            self._await(futures, lambda finished: progress(finished * n) if progress else None)
            return [_raw(future.result(), params.logprobs) for future in futures]

    def load(self, weights: Weights) -> None:
        """See ``Engine.load``. In a distributed run the first rank talks to the server."""
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
        self._http.call("POST", "/pause?mode=abort&clear_cache=true", seconds=seconds)
        self._http.call("POST", "/collective_rpc", reload, seconds=seconds)
        cleared = self._http.call("POST", "/reset_prefix_cache", seconds=seconds)
        if not cleared["success"]:
            raise EngineFailed(
                f"{self._http.url}: the prefix cache cannot be cleared while another client's "
                "requests are running; give the run a server of its own"
            )
        self._http.call("POST", "/resume", seconds=seconds)

    def _request(self, prompt, n, params, seed, stop_ids) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": list(prompt),
            "n": n,
            "seed": seed,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            # Named although they are the defaults: a server may have taken others from the
            # checkpoint's generation config.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "logprobs": 0,
            "ignore_eos": True,
            "stop_token_ids": list(stop_ids),
            "return_token_ids": True,
        }

    def _await(self, futures: list[Future], report: Callable[[int], None]) -> None:
        """Return when all are done; raise the first error, a stall, or the server's silence."""
        waiting, last = set(futures), time.monotonic()
        while waiting:
            done, waiting = wait(waiting, timeout=HEALTH_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            if done:
                last = time.monotonic()
                report(len(done))
            elif time.monotonic() - last > self._settings.stall_seconds:
                raise EngineFailed(
                    f"{self._http.url}: no completion finished for "
                    f"{self._settings.stall_seconds:g} s (vllm.stall_seconds)"
                )
            else:
                self._http.call("GET", "/health", seconds=HEALTH_PATIENCE)


def _raw(answer: dict[str, Any], with_logprobs: bool) -> list[RawCompletion]:
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


class _Http:
    """JSON over HTTP, every failure as one line of ``EngineFailed``."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._parts = urlsplit(self.url)
        self._open: set[http.client.HTTPConnection] = set()
        self._lock = threading.Lock()

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float | None
    ) -> dict[str, Any]:
        """The parsed answer ({} when empty); ``seconds`` of silence on the line are an error."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.netloc, timeout=seconds)
        with self._lock:
            self._open.add(connection)
        try:
            content = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"}
            connection.request(method, self._parts.path + path, content, headers)
            response = connection.getresponse()
            text = response.read().decode()
            if response.status != 200:
                raise EngineFailed(self._refused(path, response.status, text))
            return json.loads(text) if text.strip() else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            what = str(error) or type(error).__name__
            raise EngineFailed(
                f"{self.url}{path}: the vLLM server does not answer ({what}); start it, then run "
                "the same command again to continue from the last checkpoint"
            ) from error
        finally:
            connection.close()
            with self._lock:
                self._open.discard(connection)

    def _refused(self, path: str, status: int, text: str) -> str:
        hint = ""
        if status == 404:
            hint = "; start it with VLLM_SERVER_DEV_MODE=1, which adds the endpoints used here"
        return f"{self.url}{path}: the vLLM server answered {status} ({text[:200].strip()}){hint}"

    @contextmanager
    def pool(self, size: int):
        """Yields ``submit(method, path, body) -> Future``. An error in the block closes every
        connection, so that no thread is left waiting on a dead server."""
        workers = ThreadPoolExecutor(max(1, min(size, MAX_CONNECTIONS)))
        try:
            yield lambda *request: workers.submit(self.call, *request, seconds=None)
        except BaseException:
            workers.shutdown(wait=False, cancel_futures=True)
            with self._lock:
                for connection in self._open:
                    if connection.sock is not None:
                        with suppress(OSError):  # the other side was faster
                            connection.sock.shutdown(2)
            raise
        workers.shutdown()
