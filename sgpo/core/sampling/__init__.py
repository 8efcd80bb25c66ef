"""The samplers, and ``make_sampler``, the one place that knows them all by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from sgpo.core.config import VLLMSettings
from sgpo.core.sampling.compact import CompactSampler
from sgpo.core.sampling.generate import TransformersSampler
from sgpo.core.sampling.sampler import Sampler, SamplingParams

__all__ = ["CompactSampler", "Sampler", "SamplingParams", "TransformersSampler", "make_sampler"]


def make_sampler(
    name: str,
    model: PreTrainedModel,
    tokenizer: Any,
    *,
    stop_ids: Sequence[int],
    max_length: int | None = None,
    dtype: str = "float32",
    vllm: VLLMSettings | None = None,
) -> Sampler:
    """The sampler ``name`` on the weights of ``model``.

    Args:
        name: ``compact`` (small models on a CPU), ``transformers``, or ``vllm``.
        max_length: longest prompt with completion, in tokens; vLLM sizes its cache by it.
        dtype: of vLLM's own weights where ``vllm`` is None; the other engines compute in that of
            ``model``.
        vllm: how to set vLLM up; None: for an evaluation, with the machine to itself.

    Raises:
        ValueError: unknown name, an engine that is not installed, or a tokenizer of another model.
    """
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has {len(tokenizer)} entries and the model "
            f"{rows} embeddings: it is another model's"
        )
    if name == "compact":
        return CompactSampler(model, tokenizer, stop_ids=stop_ids)
    if name == "transformers":
        return TransformersSampler(model, tokenizer, stop_ids=stop_ids)
    if name == "vllm":
        from sgpo.core.sampling.vllm import VLLMSampler  # slow to import, and rarely asked for

        # Nothing is trained beside it, so it may have nearly the whole GPU and never sleeps.
        alone = VLLMSettings(
            dtype=dtype, max_model_len=max_length, gpu_memory_utilization=0.85, sleep=False
        )
        return VLLMSampler(model, tokenizer, stop_ids=stop_ids, settings=vllm or alone)
    raise ValueError(f"unknown engine {name!r}: must be compact, transformers or vllm")
