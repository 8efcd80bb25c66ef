"""The sampler that runs on transformers' own ``generate``: any architecture, any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.sampling.sampler import Groups, Progress, Prompts, SamplingParams, make_completion
from sgpo.core.types import Completion


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
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
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
