"""What a sampler is, and the one that runs on transformers' own ``generate``.

A sampler turns token ids into token ids. Prompts go in as ids, never as strings, so that the
trainer scores exactly what the sampler saw. ``CompactSampler`` (compact_decoder.py) is the fast
CPU implementation of the same protocol; ``VLLMSampler`` (vllm_sampler.py) is an engine with its own
copy of the weights and implements ``sync`` to receive new ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.config import check_decoding
from sgpo.core.types import Completion, FinishReason


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. ``seed`` fixes the draws of the whole call: equal seeds, equal samples.
    ``logprobs`` asks a sampler with weights of its own for ``Completion.sampler_logprobs``.

    ``places``: where each prompt of this call stands in a larger one that was split over ranks;
    it gets the draws that it would get there. None: this call is the whole one.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: bool = False
    places: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_decoding(self)


def uniform_draws(params: SamplingParams, num_prompts: int, n: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) that decide the tokens of a call, [num_prompts, n, max_tokens], on
    the CPU: a sample does not depend on the device."""
    places = params.places if params.places is not None else tuple(range(num_prompts))
    assert len(places) == num_prompts, "one place for each prompt"
    generator = torch.Generator().manual_seed(params.seed)
    drawn = torch.rand(
        max(places, default=-1) + 1, n, params.max_tokens, generator=generator, device="cpu"
    )
    return drawn if params.places is None else drawn[list(places)]


class Sampler(Protocol):
    """Draws completions from the current policy."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """``n`` completions of every prompt, in submission order: result[i][j] is sample j of
        prompt i. ``progress`` is called with the number of newly finished completions."""
        ...

    def sync(self, model: PreTrainedModel) -> None:
        """Make the weights of ``model`` the ones that the next ``sample`` uses."""
        ...

    def release(self) -> None:
        """The step's samples are drawn: leave the memory to the trainer until the next ``sync``.
        Nothing to do where sampler and trainer share their weights."""
        ...


def make_completion(
    ids: list[int],
    stop_ids: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
    logprobs: Sequence[float] | None = None,
) -> Completion:
    """The completion of raw generated ``ids``: cut after the first stop token, which is kept.
    ``logprobs``: those of ``ids`` as the sampler computed them."""
    reason = FinishReason.LENGTH
    for position, token in enumerate(ids):
        if token in stop_ids:
            ids, reason = ids[: position + 1], FinishReason.STOP
            break
    text = tokenizer.decode(ids, skip_special_tokens=True)
    kept = None if logprobs is None else tuple(logprobs[: len(ids)])
    return Completion(token_ids=tuple(ids), text=text, finish_reason=reason, sampler_logprobs=kept)


@contextmanager
def _no_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hide the checkpoint's own generation defaults: ``generate`` fills open fields from them
    (Qwen2.5-Instruct ships a repetition penalty), and that would be another policy."""
    saved, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = saved


# Rows times the square of the longest prompt in one batch of ``generate``: its attention masks, and
# on some devices its scores, grow with that. One of a thousand tokens among 256 rows filled 24 GiB.
MAX_BATCH_PAIRS = 2**25


def _batches(rows: Sequence[list[int]], max_batch: int) -> Iterator[list[list[int]]]:
    """``rows`` in their order, at most ``max_batch`` and ``MAX_BATCH_PAIRS`` at a time; a row that
    alone exceeds it is a batch of its own."""
    batch: list[list[int]] = []
    width = 0
    for row in rows:
        wider = max(width, len(row))
        if batch and (len(batch) == max_batch or (len(batch) + 1) * wider**2 > MAX_BATCH_PAIRS):
            yield batch
            batch, wider = [], len(row)
        batch.append(row)
        width = wider
    if batch:
        yield batch


class TransformersSampler:
    """Samples with ``model.generate``; shares its weights with the trainer, so sync is free."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int],
        max_batch: int = 256,
    ) -> None:
        self.model, self.tokenizer, self.max_batch = model, tokenizer, max_batch
        self.stop_ids = frozenset(stop_ids)

    def sync(self, model: PreTrainedModel) -> None:
        self.model = model

    def release(self) -> None:
        """Nothing to release: the weights are the trainer's own."""

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See ``Sampler.sample``. Seeds the global torch generator inside a fork, because
        ``generate`` takes no generator of its own."""
        rows = [list(p) for p in prompts for _ in range(n)]
        # Padding is masked, so any id will do where the tokenizer has none (Llama 3).
        pad = self.tokenizer.pad_token_id
        pad = min(self.stop_ids) if pad is None else pad
        generation = GenerationConfig(
            max_new_tokens=params.max_tokens,
            do_sample=True,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=0,
            eos_token_id=sorted(self.stop_ids),
            pad_token_id=pad,
        )
        completions: list[Completion] = []
        was_training = self.model.training
        self.model.eval()
        with torch.random.fork_rng(devices=[]), _no_defaults(self.model):
            torch.manual_seed(params.seed)
            for part in _batches(rows, self.max_batch):
                width = max(map(len, part))
                ids = torch.tensor([[pad] * (width - len(r)) + r for r in part])
                mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in part])
                out = self.model.generate(
                    input_ids=ids.to(self.model.device),
                    attention_mask=mask.to(self.model.device),
                    generation_config=generation,
                )
                completions += [
                    make_completion(row, self.stop_ids, self.tokenizer)
                    for row in out[:, width:].tolist()
                ]
                if progress:
                    progress(len(part))
        self.model.train(was_training)
        return [completions[i * n : (i + 1) * n] for i in range(len(prompts))]
