"""Tokens a second at the shape of a real checkpoint, on a GPU: our decoder, ``generate``,
transformers' paged continuous batching, and vLLM where it is installed.

Weights are random and the stop token is one in 151,936, so that sequences have all their tokens.
All samplers draw from
the same prompts at temperature 1 with a nucleus.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.perf.common import Case, in_rounds, paired_ratio, spread, timed
from benchmarks.perf.sampling import blocks
from sgpo.core.sampling import SamplingParams, make_sampler
from sgpo.mini.models import build_tokenizer

SHAPE = {  # Qwen2.5-0.5B
    "vocab_size": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
SEQUENCES = (32, 256, 1024)
PROMPT_TOKENS, SAMPLES, TOP_P = 128, 4, 0.95
ENGINES = ("compact", "transformers", "paged", "vllm")


def run(
    repeats: int,
    *,
    device: str | None = None,
    shape: dict[str, Any] = SHAPE,
    sequences: Sequence[int] = SEQUENCES,
    max_tokens: int = 200,
) -> dict[str, Any]:
    """One row a number of sequences, in the columns of ``sampling``."""
    device = "cuda" if device in (None, "auto") else device
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**shape)).to(device, dtype).eval()
    rows = []
    for count in sequences:
        draws = _draws(model, count, max_tokens)
        rates = in_rounds(draws, repeats, warmup=1)
        rows.append(
            {
                "model": "Qwen2.5-0.5B shape" if shape is SHAPE else "given shape",
                "num_parameters": model.num_parameters(),
                "sequences": count,
                "max_tokens": max_tokens,
                "tokens_per_second": {key: spread(values) for key, values in rates.items()},
                "mean_length": dict.fromkeys(rates, max_tokens),
                **{
                    f"compact / {key}": paired_ratio(rates["compact"], rates[key])
                    for key in list(rates)[1:]
                },
            }
        )
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    setting = {"device": where, "dtype": str(dtype), "prompt": PROMPT_TOKENS, "top_p": TOP_P}
    return {"setting": setting, "unit": "completion tokens per second", "rows": rows}


def check(device: str | None = None) -> None:
    """Raises ValueError where there is no GPU and none other was asked for."""
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError("gpu_sampling: no GPU here; --device cpu runs it all the same, slowly")


def _draws(model: PreTrainedModel, count: int, max_tokens: int) -> dict[str, Callable[[], float]]:
    """Of each engine, a call that samples once and returns tokens a second."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = model.config.vocab_size
    shape = (count // SAMPLES, PROMPT_TOKENS)
    prompts = torch.randint(vocabulary, shape, generator=generator).tolist()
    params = SamplingParams(max_tokens=max_tokens, top_p=TOP_P, seed=0)
    how = {"stop_ids": [vocabulary - 1], "max_length": PROMPT_TOKENS + max_tokens}
    engines = [name for name in ENGINES if name != "vllm" or find_spec("vllm")]

    def rate(sample: Callable[[], Any]) -> float:
        def finished() -> None:
            sample()
            if model.device.type == "cuda":
                torch.cuda.synchronize()

        return count * max_tokens / timed(finished)

    def paged() -> None:
        settings = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=True,
            top_p=TOP_P,
            top_k=0,
            eos_token_id=vocabulary - 1,
        )
        inputs = [prompt for prompt in prompts for _ in range(SAMPLES)]
        model.generate_batch(inputs=inputs, generation_config=settings, progress_bar=False)

    draws: dict[str, Callable[[], float]] = {}
    for name in engines:
        if name == "paged":
            draws[name] = lambda: rate(paged)
            continue
        sampler = make_sampler(
            name, model, build_tokenizer(), dtype=str(model.dtype).removeprefix("torch."), **how
        )
        if hasattr(sampler, "max_batch"):
            sampler.max_batch = count
        draws[name] = lambda s=sampler: rate(lambda: s.sample(prompts, SAMPLES, params))
    return draws


GPU_SAMPLING = Case(
    "sampling at the shape of Qwen2.5-0.5B: ours, generate, paged, vLLM (needs a GPU)",
    run,
    blocks,
    check,
)
