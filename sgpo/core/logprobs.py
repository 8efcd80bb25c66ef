"""The only file that touches logits: token log-probabilities, entropies and full-vocabulary KL.

A causal model's hidden state at position p predicts token p + 1; that shift is done here, once.
The head is applied in chunks of tokens (``sgpo.core.chunked_head``): memory grows with the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch

from sgpo.core.config import check_fields, require_positive

if TYPE_CHECKING:  # settings of methods are listed without it
    from transformers import PreTrainedModel

    from sgpo.core.teacher import Teacher

Direction = Literal["forward", "reverse", "jensen_shannon"]
# A divergence holds eight or nine tensors of the size of a chunk's logits at a time. In chunks of
# the whole length these would be most of its memory at 2,048 tokens, a third of the dense loss's.
SHORTER = 5
ENTROPY_SHORTER = 2  # by autograd an entropy's gradient holds six


def kl_divergence(
    target_logits: torch.Tensor, logits: torch.Tensor, *, direction: Direction, beta: float = 0.5
) -> torch.Tensor:
    """Divergence over the last dimension [..., V] -> [...], in nats, p the target's distribution
    and q the other's.

    ``forward``: KL(p || q), mode-covering. ``reverse``: KL(q || p). ``jensen_shannon``:
    beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, 0 < beta < 1, the
    generalised form of arXiv 2306.13649.
    """
    p, q = torch.log_softmax(target_logits, -1), torch.log_softmax(logits, -1)
    if direction == "forward":
        return _expected_gap(p, q)
    if direction == "reverse":
        return _expected_gap(q, p)
    if direction == "jensen_shannon":
        middle = _middle(p, q, beta)
        return beta * _expected_gap(p, middle) + (1 - beta) * _expected_gap(q, middle)
    raise ValueError(f"direction={direction!r}: must be forward, reverse or jensen_shannon")


def _middle(p: torch.Tensor, q: torch.Tensor, beta: float) -> torch.Tensor:
    """Log-probabilities of the mixture beta p + (1 - beta) q of two log-probabilities."""
    if not 0 < beta < 1:
        raise ValueError(f"beta={beta}: must be above 0 and below 1; the ends are the two KLs")
    return torch.logaddexp(p + math.log(beta), q + math.log(1 - beta))


@dataclass(frozen=True)
class TopK:
    """Compares two distributions on the ``k`` likeliest tokens ``of`` one of them. ``tail``: all
    other tokens together count as one more; without, both are renormalised over the k."""

    k: int
    of: Literal["student", "teacher"] = "teacher"
    tail: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "k")

    def logits(
        self, target_logits: torch.Tensor, logits: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Teacher's and student's logits of the tokens compared, [..., k] or [..., k + 1]."""
        ranked = target_logits if self.of == "teacher" else logits.detach()
        chosen = ranked.topk(min(self.k, ranked.shape[-1]), -1).indices
        return self._restrict(target_logits, chosen), self._restrict(logits, chosen)

    def _restrict(self, logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        kept = logits.gather(-1, chosen)
        if not self.tail:
            return kept
        kept = kept - torch.logsumexp(logits, -1, keepdim=True)
        # log(1 - sum p), where rounding may leave nothing of the difference.
        inside = torch.logsumexp(kept, -1, keepdim=True).clamp(max=-1e-7)
        return torch.cat([kept, torch.log(-torch.expm1(inside))], -1)


def _expected_gap(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """``sum p (log p - log q)`` of log-probabilities, with 0 log 0 = 0."""
    return (p.exp() * (p - q).masked_fill(p.isneginf(), 0.0)).sum(-1)


@dataclass(frozen=True)
class PaddedSequences:
    """Prompts with their completions, right-padded: ``input_ids`` [B, L] prompt then completion;
    ``positions`` [B, T] index of the hidden state that predicts completion token t; ``targets``
    [B, T]; ``completion_mask`` [B, T] bool."""

    input_ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    completion_mask: torch.Tensor

    def to(self, device: torch.device | str) -> PaddedSequences:
        return PaddedSequences(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))

    def rows(self, index: torch.Tensor) -> PaddedSequences:
        """The sequences of ``index`` [rows], padded as they are."""
        return PaddedSequences(*(getattr(self, f)[index] for f in self.__dataclass_fields__))


def pad_sequences(
    prompts: Sequence[tuple[int, ...]], completions: Sequence[tuple[int, ...]]
) -> PaddedSequences:
    """``PaddedSequences`` of B prompts (each at least one token) and their completions.

    The padding id is 0, whatever the tokenizer: no unmasked position ever attends to it.
    """
    assert len(prompts) == len(completions) and all(prompts) and all(completions)
    rows = [torch.tensor(p + c) for p, c in zip(prompts, completions, strict=True)]
    lengths = torch.tensor([len(c) for c in completions])
    starts = torch.tensor([len(p) for p in prompts])
    steps = torch.arange(max(1, int(lengths.max())))
    mask = steps < lengths[:, None]
    input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    token_at = torch.where(mask, starts[:, None] + steps, 0)
    targets = input_ids.gather(1, token_at)
    return PaddedSequences(input_ids, (token_at - 1).clamp(min=0), targets, mask)


def completion_hidden(model: PreTrainedModel, batch: PaddedSequences) -> torch.Tensor:
    """Final hidden states [N, H] that predict the N unmasked completion tokens, row by row: on the
    CPU by ``cpu_model``, elsewhere by the model's own forward pass. Padding stands on the right,
    where causal attention alone keeps it out of sight."""
    from sgpo.core import cpu_model

    if cpu_model.applies_to(model):
        return cpu_model.hidden_states(
            model, batch.input_ids, batch.positions[:, 0] + 1, batch.targets, batch.completion_mask
        )
    hidden = model.base_model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
    rows = torch.arange(len(hidden), device=hidden.device)[:, None].expand_as(batch.positions)
    return hidden[rows[batch.completion_mask], batch.positions[batch.completion_mask]]


@dataclass(frozen=True)
class TokenStats:
    """Per-token results [B, T], 0 where masked: ``logprobs`` and, if asked for, ``entropy``
    (nats) of the full next-token distribution."""

    logprobs: torch.Tensor
    entropy: torch.Tensor | None


def token_stats(
    model: PreTrainedModel,
    batch: PaddedSequences,
    *,
    entropy: Literal["none", "metric", "loss"] = "metric",
) -> TokenStats:
    """Log-probability and entropy of every completion token under ``model``. ``entropy``: ``none``
    skips it, ``metric`` computes it without a graph, ``loss`` with one."""
    from sgpo.core.chunked_head import per_token

    logprobs, entropies = per_token(
        partial(_stats, entropy=entropy),
        model.get_output_embeddings(),
        completion_hidden(model, batch),
        batch.targets[batch.completion_mask],
        gradient=None if entropy == "loss" else _logprob_gradient,
        shorter=ENTROPY_SHORTER if entropy == "loss" else 1,
    )
    mask = batch.completion_mask
    entropies = None if entropy == "none" else _scatter(entropies, mask)
    return TokenStats(_scatter(logprobs, mask), entropies)


def completion_kl(
    model: PreTrainedModel,
    student: PaddedSequences,
    shown: PaddedSequences,
    *,
    direction: Direction,
    beta: float = 0.5,
    top_k: TopK | None = None,
    teacher: Teacher | None = None,
    sharpness: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergence per token [B, T] of ``model`` reading ``student`` from a teacher reading
    ``shown``, the same completions under other (or the same) prompts, and the student's token
    log-probabilities [B, T]. Gradients flow into the student alone.

    Args:
        direction, beta: see ``kl_divergence``; named from the teacher's side.
        top_k: compare these tokens alone; None for the whole vocabulary.
        teacher: None: ``model`` itself teaches. Rows of its head beyond the student's vocabulary
            (padding of larger models) are left out.
        sharpness: factor of the teacher's logits.
    """
    from sgpo.core.chunked_head import per_token

    assert torch.equal(student.completion_mask, shown.completion_mask)
    taught = model if teacher is None else teacher.model
    head, target_head = model.get_output_embeddings(), taught.get_output_embeddings()
    with torch.no_grad():
        teacher_hidden = completion_hidden(taught, shown)
    student_hidden = completion_hidden(model, student)
    if teacher is not None:
        teacher.scored_tokens += len(teacher_hidden)

    @torch.no_grad()
    def shown_logits(hidden: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits = target_head(hidden)[:, : head.weight.shape[0]]
        return logits if sharpness == 1.0 else sharpness * logits.float(), targets

    gradient = GRADIENTS.get(direction) if top_k is None else None
    kl, logprobs = per_token(
        partial(_divergence, direction=direction, beta=beta, top_k=top_k),
        head,
        student_hidden,
        teacher_hidden,
        student.targets[student.completion_mask],
        gradient=gradient and partial(gradient, beta=beta),
        prepare=shown_logits,
        shorter=SHORTER,
    )
    return _scatter(kl, student.completion_mask), _scatter(logprobs, student.completion_mask)


# What is computed from a chunk's logits [n, V], and the gradients to them -------------------------


def _stats(
    logits: torch.Tensor, targets: torch.Tensor, *, entropy: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of the targets [n] and the entropy, 0 where it is not asked for."""
    logits = logits.float()
    normalizer = torch.logsumexp(logits, -1)
    logprobs = logits.gather(-1, targets[:, None]).squeeze(1) - normalizer
    if entropy == "none":
        return logprobs, torch.zeros_like(normalizer)
    if entropy == "metric":
        logits, normalizer = logits.detach(), normalizer.detach()
    probs = torch.exp(logits - normalizer[:, None])
    return logprobs, normalizer - (probs * logits).sum(-1)


def _logprob_gradient(
    logits: torch.Tensor, upstream: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """Gradient [n, V] of the log-probability of ``targets`` [n] to ``logits``, times the first
    column of ``upstream``: the token itself minus the distribution."""
    factor = upstream[:, :1]
    grad = torch.softmax(logits.float(), -1).mul_(-factor)
    return _add_at(grad, targets, factor).to(logits.dtype)


def _divergence(
    logits: torch.Tensor,
    target_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    direction: Direction,
    beta: float,
    top_k: TopK | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergence from the teacher's ``target_logits`` [n, V], and the targets' log-probability."""
    logits, target_logits = logits.float(), target_logits.float()
    logprobs = logits.gather(-1, targets[:, None]).squeeze(1) - torch.logsumexp(logits, -1)
    if top_k is not None:
        target_logits, logits = top_k.logits(target_logits, logits)
    return kl_divergence(target_logits, logits, direction=direction, beta=beta), logprobs


def _forward_gradient(
    logits: torch.Tensor,
    upstream: torch.Tensor,
    target_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """Softmax of the student less that of the teacher, plus ``_logprob_gradient``."""
    of_kl, of_logprobs = upstream[:, :1], upstream[:, 1:]
    target = torch.softmax(target_logits.float(), -1).mul_(of_kl)
    grad = torch.softmax(logits.float(), -1).mul_(of_kl - of_logprobs).sub_(target)
    return _add_at(grad, targets, of_logprobs).to(logits.dtype)


def _jensen_shannon_gradient(
    logits: torch.Tensor,
    upstream: torch.Tensor,
    target_logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(1 - beta) q (log q/m - KL(q || m)) of the student's q, plus ``_logprob_gradient``."""
    of_kl, of_logprobs = upstream[:, :1], upstream[:, 1:]
    p = torch.log_softmax(target_logits.float(), -1)
    q = torch.log_softmax(logits.float(), -1)
    gap = q - _middle(p, q, beta)
    q = q.exp_()
    gap.sub_((q * gap).sum(-1, keepdim=True)).mul_((1 - beta) * of_kl).sub_(of_logprobs)
    return _add_at(gap.mul_(q), targets, of_logprobs).to(logits.dtype)


# In fewer passes over the logits than autograd's; of other directions it is taken.
GRADIENTS = {"forward": _forward_gradient, "jensen_shannon": _jensen_shannon_gradient}


def _add_at(grad: torch.Tensor, targets: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``grad`` [n, V] with ``values`` [n, 1] added in the columns ``targets`` [n]."""
    if grad.is_cuda:  # compiled: element by element it needs no pass of its own
        columns = torch.arange(grad.shape[1], device=grad.device)
        return grad + torch.where(columns == targets[:, None], values, 0.0)
    return grad.scatter_add_(1, targets[:, None], values)


def _scatter(flat: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[N] values back to their places in [B, T], zeros elsewhere; differentiable."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)
