"""What a sampler is, and what all of them share: the draws and the end of a completion.

A sampler turns token ids into token ids. Prompts go in as ids, never as strings, so that the
trainer scores exactly what the sampler saw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.config import check_decoding
from sgpo.core.types import Completion, FinishReason

Prompts = Sequence[Sequence[int]]  # token ids
Progress = Callable[[int], None] | None  # told the number of newly finished completions
Groups = list[list[Completion]]  # [i][j] is sample j of prompt i

SORTED_WHOLE = 1024  # entries of a vocabulary that are sorted without looking first
FIRST_LOOK, WIDER = 128, 32  # most probable tokens looked at, and how many times more then


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


def draw(logits: torch.Tensor, uniform: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Token ids [B] drawn from ``softmax(logits / temperature)`` cut to its nucleus.

    Inverse-CDF sampling: ``uniform`` [B] in [0, 1) decides. The nucleus is the smallest set of
    most probable tokens whose mass reaches ``top_p``; the token that crosses it stays in.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    probs = torch.softmax(logits / params.temperature, dim=-1)
    if params.top_p == 1:
        return _invert(probs, uniform).squeeze(1)
    small = probs.shape[1] <= SORTED_WHOLE
    return _draw_nucleus(probs, uniform, params.top_p, probs.shape[1] if small else FIRST_LOOK)


def _draw_nucleus(
    probs: torch.Tensor, uniform: torch.Tensor, top_p: float, size: int
) -> torch.Tensor:
    """Token ids [B] from the nucleus of ``probs`` [B, V], looked for among the ``size`` most
    probable tokens; rows whose nucleus is larger are drawn anew from more of them. Sorting a
    vocabulary of 151,936 takes forty times as long as finding its first 128."""
    if size >= probs.shape[1]:
        kept, order = probs.sort(dim=-1, descending=True)
    else:
        kept, order = probs.topk(size, dim=-1)
    before = kept.cumsum(-1) - kept
    tokens = order.gather(1, _invert(kept.masked_fill(before >= top_p, 0.0), uniform)).squeeze(1)
    if size < probs.shape[1]:
        reaches_past = before[:, -1] < top_p
        if bool(reaches_past.any()):
            tokens[reaches_past] = _draw_nucleus(
                probs[reaches_past], uniform[reaches_past], top_p, size * WIDER
            )
    return tokens


def _invert(probs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Columns [B, 1] where the cumulated ``probs``, of whatever sum, pass ``uniform``."""
    cdf = probs.cumsum(-1)
    target = uniform[:, None] * cdf[:, -1:]
    choice = torch.searchsorted(cdf, target, right=True)
    # A uniform rounded to 1 puts the target onto the last step of the CDF; stay on a token with
    # mass. Looking for the last one costs more than all else here, so only where it is needed.
    within = choice.clamp(max=probs.shape[1] - 1)
    if not bool((probs.gather(1, within) > 0).all()):
        last = (probs > 0).long().cumsum(-1).argmax(-1, keepdim=True)
        within = torch.minimum(choice, last)
    return within


class Sampler(Protocol):
    """Draws completions from the current policy."""

    def sample(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        """``n`` completions of every prompt, in submission order."""
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
