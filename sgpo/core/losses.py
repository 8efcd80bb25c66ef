"""Advantages and losses that two methods or more share: pure functions of tensors and floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from sgpo.core.types import Trajectory

Reduction = Literal["sequence_mean", "token_mean", "constant"]

# exp() of a larger log-ratio is no importance weight any more but an overflow in the making.
MAX_LOG_RATIO = 20.0

# An update of LUFFY's and HPT's authors holds 64 problems on 8 GPUs. Each GPU sums the losses of
# its 8 and the gradients of the GPUs are averaged, which is 8 times the mean over problems.
AUTHORS_SCALE = 8.0


def group_centered(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards [..., G] minus their group mean: the advantage of LUFFY and HPT."""
    return rewards - rewards.mean(dim=-1, keepdim=True)


def group_standardized(rewards: torch.Tensor, *, epsilon: float = 1e-6) -> torch.Tensor:
    """Centered rewards [..., G] over the group's sample standard deviation plus ``epsilon``: the
    advantage of Eq. 1 of arXiv 2606.24064. A group of equal rewards, or of one, gets zeros.

    Deviation: the paper names no estimator; ddof 1 and 1e-6 are veRL's, on which the authors build.
    """
    centered = group_centered(rewards)
    if rewards.shape[-1] < 2:
        return torch.zeros_like(centered)
    equal = (rewards == rewards[..., :1]).all(dim=-1, keepdim=True)
    scaled = centered / (rewards.std(dim=-1, keepdim=True, correction=1) + epsilon)
    return torch.where(equal, torch.zeros_like(scaled), scaled)


def with_advantages(
    groups: Sequence[Sequence[Trajectory]], advantages: Callable[[torch.Tensor], torch.Tensor]
) -> list[Trajectory]:
    """All trajectories of ``groups``, each with its advantage (rewards [G] -> [G]) in its group."""
    return [
        t.with_(advantage=float(a))
        for group in groups
        for t, a in zip(group, advantages(torch.tensor([t.reward for t in group])), strict=True)
    ]


def importance_ratio(logprobs: torch.Tensor, old_logprobs: torch.Tensor) -> torch.Tensor:
    """pi / pi_old per token, [B, T]; the log-ratio is clamped to +-20 before ``exp``."""
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def reduce_tokens(
    values: torch.Tensor,
    completion_mask: torch.Tensor,
    *,
    reduction: Reduction,
    denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Scalar of per-token ``values`` [B, T] under ``completion_mask`` [B, T].

    Args:
        reduction: ``sequence_mean``: mean over each sequence's tokens, summed over sequences and
            divided by ``denominator`` (default B; a sequence without tokens counts as 0).
            ``token_mean``: sum over ``denominator`` (default the number of unmasked tokens).
            ``constant``: sum over ``denominator``, which must be given.
        denominator: the count over the *whole optimiser step*. With it, losses of micro-batches
            add up to the loss of the step, however they were split.
    """
    mask = completion_mask.to(values.dtype)
    values = torch.where(completion_mask.bool(), values, torch.zeros_like(values))
    if reduction == "sequence_mean":
        per_sequence = values.sum(-1) / mask.sum(-1).clamp(min=1)
        return per_sequence.sum() / (len(values) if denominator is None else denominator)
    if reduction == "token_mean":
        return values.sum() / (mask.sum().clamp(min=1) if denominator is None else denominator)
    if reduction == "constant":
        assert denominator is not None, "reduction 'constant' divides by a stated constant"
        return values.sum() / denominator
    raise ValueError(f"reduction={reduction!r}: must be sequence_mean, token_mean or constant")


def clipped_surrogate(
    *,
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    completion_mask: torch.Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    reduction: Reduction = "sequence_mean",
    denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """The clipped policy-gradient loss to minimise, a scalar; with ``sequence_mean`` Eq. 1 of arXiv
    2606.24064: ``-mean_i mean_t min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)``.

    ``logprobs``, ``old_logprobs``, ``completion_mask``: [B, T]; ``advantages``: [B] or [B, T].
    """
    if advantages.dim() == logprobs.dim() - 1:
        advantages = advantages.unsqueeze(-1)
    ratio = importance_ratio(logprobs, old_logprobs)
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    return -reduce_tokens(objective, completion_mask, reduction=reduction, denominator=denominator)


def negative_log_likelihood(
    *,
    logprobs: torch.Tensor,
    completion_mask: torch.Tensor,
    reduction: Reduction = "token_mean",
    denominator: float | torch.Tensor | None = None,
) -> torch.Tensor:
    """Supervised loss of the given tokens, a scalar in nats (>= 0)."""
    return -reduce_tokens(logprobs, completion_mask, reduction=reduction, denominator=denominator)
