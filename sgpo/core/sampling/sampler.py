"""What a sampler is, and what all of them share: the draws and the end of a completion.

A sampler turns token ids into token ids. Prompts go in as ids, never as strings, so that the
trainer scores exactly what the sampler saw.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.config import check_decoding
from sgpo.core.types import Completion, FinishReason

Prompts = Sequence[Sequence[int]]  # token ids
Progress = Callable[[int], None] | None  # told the number of newly finished completions
Groups = list[list[Completion]]  # [i][j] is sample j of prompt i

SMALL = 1024  # entries of a vocabulary whose nucleus is mostly among the first few
FIRST_LOOK, WIDER = (16, 128), 32  # most probable tokens looked at, and how many times more then
READ_EVERY = 8  # tokens between two looks for stop texts: reading a batch costs like drawing it


@dataclass(frozen=True)
class SamplingParams:
    """How to sample.

    Args:
        seed: fixes the draws of the whole call: equal seeds, equal samples.
        logprobs: asks a sampler with weights of its own for ``Completion.sampler_logprobs``.
        places: where each prompt of this call stands in a larger one that was split over ranks;
            it gets the draws that it would get there. None: this call is the whole one.
        stop_texts: a completion ends with the token that completes one of them.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    logprobs: bool = False
    places: tuple[int, ...] | None = None
    stop_texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_decoding(self)

    def stops(self, text: str) -> bool:
        """Whether a stop text stands in ``text``, behind more than blanks."""
        rest = text.lstrip()[1:]
        return any(stop in rest for stop in self.stop_texts)


class Sampler:
    """Draws completions from the policy ``model``, whose weights are the trainer's own; one with
    weights of its own (an engine, a replica) has its own ``sync`` and ``release``."""

    own_weights = False  # set by ReplicaSampler

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

    def sample(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        """``n`` completions of every prompt, in submission order."""
        ...

    def sync(self, model: PreTrainedModel) -> None:
        """Make the weights of ``model`` the ones that the next ``sample`` uses."""
        self.model = model

    def release(self) -> None:
        """The step's samples are drawn: leave the memory to the trainer until the next ``sync``."""


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
    return _draw_nucleus(probs, uniform, params.top_p, FIRST_LOOK[probs.shape[1] > SMALL])


def _draw_nucleus(
    probs: torch.Tensor, uniform: torch.Tensor, top_p: float, size: int
) -> torch.Tensor:
    """Token ids [B] from the nucleus of ``probs`` [B, V], looked for among the ``size`` most
    probable tokens; rows whose nucleus is larger are drawn anew from more of them. Sorting a
    vocabulary of 151,936 takes forty times as long as finding its first 128, one of 100 twice as
    long as finding its first 16."""
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


def reads_stop_text(
    ids: torch.Tensor, params: SamplingParams, tokenizer: PreTrainedTokenizerBase
) -> torch.Tensor:
    """Whether the end of each row of generated ``ids`` [B, t] spells a stop text, [B] bool; it is
    read after every ``READ_EVERY`` tokens, False in between. ``make_completion`` cuts exactly."""
    if ids.shape[1] % READ_EVERY:
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    end = ids[:, -max(map(len, params.stop_texts)) - READ_EVERY :]
    texts = tokenizer.batch_decode(end, skip_special_tokens=True)
    return torch.tensor([params.stops(text) for text in texts], device=ids.device)


def make_completion(
    ids: list[int],
    stop_ids: frozenset[int],
    tokenizer: PreTrainedTokenizerBase,
    params: SamplingParams,
    logprobs: Sequence[float] | None = None,
) -> Completion:
    """The completion of raw generated ``ids``, with ``logprobs`` as the sampler computed them: cut
    after the first stop token or stop text, which are kept."""

    def text_of(count: int) -> str:
        return tokenizer.decode(ids[:count], skip_special_tokens=True)

    end = next((i + 1 for i, token in enumerate(ids) if token in stop_ids), None)
    count, stopped = len(ids) if end is None else end, end is not None
    text = text_of(count)
    if params.stops(text):
        count = bisect_left(range(count), True, key=lambda n: params.stops(text_of(n)))
        text, stopped = text_of(count), True
    return Completion(
        token_ids=tuple(ids[:count]),
        text=text,
        finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
        sampler_logprobs=None if logprobs is None else tuple(logprobs[:count]),
    )
