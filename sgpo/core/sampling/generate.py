"""The sampler that runs on transformers' own ``generate``: any architecture, any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from sgpo.core.sampling.sampler import (
    Groups,
    Progress,
    Prompts,
    Sampler,
    SamplingParams,
    draw,
    make_completion,
    reads_stop_text,
    uniform_draws,
)
from sgpo.core.types import Completion

# Rows times the square of the longest prompt in one batch of ``generate``: its attention masks, and
# on some devices its scores, grow with that. One of a thousand tokens among 256 rows filled 24 GiB.
MAX_BATCH_PAIRS = 2**25


@contextmanager
def _no_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Hide the checkpoint's own generation defaults: ``generate`` fills open fields from them
    (Qwen2.5-Instruct ships a repetition penalty), and that would be another policy."""
    saved, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = saved


def _batches(rows: Sequence[list[int]], max_batch: int) -> Iterator[list[list[int]]]:
    """``rows`` in their order, at most ``max_batch`` and ``MAX_BATCH_PAIRS`` at a time; a row that
    alone exceeds it is a batch of its own."""
    batch: list[list[int]] = []
    for row in rows:
        width = max(map(len, [*batch, row]))
        if batch and (len(batch) == max_batch or (len(batch) + 1) * width**2 > MAX_BATCH_PAIRS):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


class _Drawing(LogitsProcessor):
    """Leaves the token that ``draw`` picks alone in every row, so that ``generate``, told to be
    greedy, takes it: a sample hangs on its own uniform numbers [B, max_tokens] and on no other
    row. Keeps the log-probabilities of what was picked where they are asked for."""

    def __init__(self, uniforms: torch.Tensor, params: SamplingParams, keep: bool) -> None:
        self.uniforms, self.params, self.keep = uniforms, params, keep
        self.kept: list[torch.Tensor] = []
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = draw(scores, self.uniforms[:, self.step], self.params)[:, None]
        self.step += 1
        if self.keep:
            self.kept.append(scores.gather(1, tokens).squeeze(1) - scores.logsumexp(-1))
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)

    def logprobs(self) -> list[list[float] | None]:
        """Of every row, by step."""
        return torch.stack(self.kept, 1).tolist() if self.keep else [None] * len(self.uniforms)


class _Reading(StoppingCriteria):
    """Ends the rows whose completions, behind ``width`` tokens of prompt, spell a stop text."""

    def __init__(self, width: int, params: SamplingParams, tokenizer) -> None:
        self.width, self.params, self.tokenizer = width, params, tokenizer

    def __call__(self, input_ids: torch.Tensor, scores, **_) -> torch.Tensor:
        return reads_stop_text(input_ids[:, self.width :], self.params, self.tokenizer)


class TransformersSampler(Sampler):
    """Samples with ``model.generate``; shares its weights with the trainer, so sync is free."""

    @torch.no_grad()
    def sample(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        """See ``Sampler.sample``."""
        rows = [list(p) for p in prompts for _ in range(n)]
        uniforms = uniform_draws(params, len(prompts), n).flatten(0, 1)
        completions: list[Completion] = []
        was_training = self.model.training
        self.model.eval()
        with _no_defaults(self.model):
            for part in _batches(rows, self.max_batch):
                done = len(completions)
                completions += self._generate(part, uniforms[done : done + len(part)], params)
                if progress:
                    progress(len(part))
        self.model.train(was_training)
        return [completions[i * n : (i + 1) * n] for i in range(len(prompts))]

    def _generate(
        self, rows: list[list[int]], uniforms: torch.Tensor, params: SamplingParams
    ) -> list[Completion]:
        """One completion of every row, in one batch padded on the left."""
        # Padding is masked, so any id will do where the tokenizer has none (Llama 3).
        pad = self.tokenizer.pad_token_id
        pad = min(self.stop_ids) if pad is None else pad
        width, device = max(map(len, rows)), self.model.device
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        drawing = _Drawing(uniforms.to(device), params, params.logprobs and self.own_weights)
        reading = [_Reading(width, params, self.tokenizer)] if params.stop_texts else []
        out = self.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            generation_config=GenerationConfig(
                max_new_tokens=params.max_tokens,
                do_sample=False,
                eos_token_id=sorted(self.stop_ids),
                pad_token_id=pad,
            ),
            logits_processor=LogitsProcessorList([drawing]),
            stopping_criteria=StoppingCriteriaList(reading),
        )
        return [
            make_completion(row, self.stop_ids, self.tokenizer, params, values)
            for row, values in zip(out[:, width:].tolist(), drawing.logprobs(), strict=True)
        ]
