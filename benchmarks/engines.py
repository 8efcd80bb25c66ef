"""The samplers by name, for a checkpoint that is only evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from sgpo.core.sampling import Sampler


def make_engine(
    name: str,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    stop_ids: Sequence[int],
    max_length: int,
    dtype: str = "float32",
) -> Sampler:
    """The sampler ``name`` on the weights of ``model``.

    Args:
        name: ``compact`` (small models on a CPU), ``transformers``, or ``vllm``.
        max_length: longest prompt with completion, in tokens; vLLM sizes its cache by it.
        dtype: of vLLM's own weights; the other engines compute in that of ``model``.

    Raises:
        ValueError: unknown name, or the engine is not installed.
    """
    if name == "compact":
        from sgpo.core.compact_decoder import CompactSampler

        return CompactSampler(model, tokenizer, stop_ids=stop_ids)
    if name == "transformers":
        from sgpo.core.sampling import TransformersSampler

        return TransformersSampler(model, tokenizer, stop_ids=stop_ids)
    if name == "vllm":
        from sgpo.core.vllm_sampler import VLLMSampler
        from sgpo.core.vllm_settings import VLLMSettings

        # Nothing is trained beside it, so it may have nearly the whole GPU and never sleeps.
        settings = VLLMSettings(
            dtype=dtype, max_model_len=max_length, gpu_memory_utilization=0.85, sleep=False
        )
        return VLLMSampler(model, tokenizer, stop_ids=stop_ids, settings=settings)
    raise ValueError(f"unknown engine {name!r}: must be compact, transformers or vllm")
