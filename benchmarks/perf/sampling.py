"""Tokens a second sampled on one thread: our compact decoder and transformers' ``generate``.

Both sample the same prompts from the same randomly initialised mini models until a stop token or
96 tokens. A random model stops nowhere in particular, so three tokens of its vocabulary are
declared stop tokens: lengths then vary widely, as they do in a study, and a sampler that keeps
computing finished rows loses. Only tokens of completions count, the stop token included.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.perf.common import in_rounds, paired_ratio, spread, table, threads, timed
from sgpo.core.compact_decoder import CompactSampler
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import Sampler, SamplingParams, TransformersSampler
from sgpo.mini.models import build_model, model_spec
from sgpo.mini.suites import benchmark_problems
from sgpo.mini.tokenizer import build_tokenizer

MODELS = ("qwen-s", "qwen-m", "qwen-l")
SEQUENCES = (128, 512)
SAMPLES = 4  # per prompt, as avg@4 of the larger suites asks
MAX_TOKENS = 96
STOP_PIECES = ("0", "1", "2")
SUITE = "minimath"


def run(
    repeats: int,
    *,
    models: Sequence[str] = MODELS,
    sequences: Sequence[int] = SEQUENCES,
    max_tokens: int = MAX_TOKENS,
) -> dict[str, Any]:
    """Measure and print one row per model and number of sequences; the rows as JSON values."""
    transformers_logging.set_verbosity_error()
    rows = []
    with threads(1):
        for name in models:
            model = build_model(model_spec(name), seed=0).eval()
            for count in sequences:
                rows.append(_measure(name, model, count, repeats, max_tokens))
    result = {
        "setting": {
            "suite": SUITE,
            "samples": SAMPLES,
            "max_tokens": max_tokens,
            "stop_pieces": list(STOP_PIECES),
            "threads": 1,
        },
        "unit": "completion tokens per second",
        "rows": rows,
    }
    print(_text(rows), flush=True)
    return result


def _measure(
    name: str, model: PreTrainedModel, count: int, repeats: int, max_tokens: int
) -> dict[str, Any]:
    """Both samplers on ``count`` sequences of ``model``, in turn."""
    tokenizer = build_tokenizer()
    stop_ids = tokenizer.convert_tokens_to_ids(list(STOP_PIECES))
    assert tokenizer.unk_token_id not in stop_ids
    spec = PROMPT_SPECS["mini"]
    problems = benchmark_problems(SUITE)[: count // SAMPLES]
    prompts = [spec.prompt_ids(tokenizer, p) for p in problems]
    samplers: dict[str, Sampler] = {
        "compact": CompactSampler(model, tokenizer, stop_ids=stop_ids, max_batch=count),
        "transformers": TransformersSampler(model, tokenizer, stop_ids=stop_ids, max_batch=count),
    }
    lengths: dict[str, list[int]] = {key: [] for key in samplers}

    rounds = {key: itertools.count() for key in samplers}

    def rate(key: str, sampler: Sampler) -> float:
        groups: list[Any] = []
        params = SamplingParams(max_tokens=max_tokens, seed=next(rounds[key]))
        seconds = timed(lambda: groups.extend(sampler.sample(prompts, SAMPLES, params)))
        drawn = [len(c.token_ids) for group in groups for c in group]
        lengths[key] += drawn
        return sum(drawn) / seconds

    variants = {k: partial(rate, k, s) for k, s in samplers.items()}
    rates = in_rounds(variants, repeats, warmup=1)
    return {
        "model": name,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "sequences": len(prompts) * SAMPLES,
        "tokens_per_second": {key: spread(values) for key, values in rates.items()},
        "mean_length": {key: statistics.mean(values) for key, values in lengths.items()},
        "compact / transformers": paired_ratio(rates["compact"], rates["transformers"]),
    }


def _text(rows: Sequence[dict[str, Any]]) -> str:
    lines = [("model", "sequences", "mean length", "compact tok/s", "transformers tok/s", "ratio")]
    for row in rows:
        rates, ratio = row["tokens_per_second"], row["compact / transformers"]
        lines.append(
            (
                row["model"],
                str(row["sequences"]),
                f"{row['mean_length']['compact']:.0f}",
                *(_range(rates[key], "{:.0f}") for key in ("compact", "transformers")),
                _range(ratio, "{:.2f}"),
            )
        )
    return table(lines)


def _range(values: dict[str, Any], form: str) -> str:
    """``median (min-max)``."""
    median, low, high = (form.format(values[key]) for key in ("median", "min", "max"))
    return f"{median} ({low}-{high})"
