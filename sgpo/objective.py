"""The distillation side of SGPO as pure tensor functions (Eq. 2, 3 and 5 of arXiv 2606.24064).

Eq. 1 is ``sgpo.core.losses.clipped_surrogate``; Eq. 4 and 6 are in ``sgpo.guidance``; Eq. 7 is
the sum that ``sgpo.method`` forms.
"""

from __future__ import annotations

import torch

from sgpo.core.logprobs import Direction, kl_divergence


def token_kl(
    *,
    guided_logits: torch.Tensor,
    unguided_logits: torch.Tensor,
    direction: Direction = "forward",
) -> torch.Tensor:
    """KL per token between the guided and the unguided next-token distribution, [..., T] in nats.

    Implements d_{j,t} of Eq. 2-3: ``forward`` is KL(guided || unguided) over the full vocabulary,
    ``reverse`` (Table 6) is KL(unguided || guided). Gradient flows through ``unguided_logits``
    only: the guided side is a target and is detached here.

    Args:
        guided_logits, unguided_logits: [..., T, V]; row t of both predicts the same token.
    """
    return kl_divergence(guided_logits.detach(), unguided_logits, direction=direction)


def proximal_mask(kl: torch.Tensor, kl_threshold: float) -> torch.Tensor:
    """1 where ``kl`` <= ``kl_threshold``, else 0 (Eq. 5); carries no gradient."""
    return (kl.detach() <= kl_threshold).to(kl.dtype)


def clipped_distillation(
    *, kl: torch.Tensor, completion_mask: torch.Tensor, kl_threshold: float
) -> torch.Tensor:
    """Distillation loss per completion, [...] in nats.

    Implements Eq. 5: tokens above ``kl_threshold`` are masked out, and the divisor stays the
    completion's full length, masked tokens included. ``kl_threshold=inf`` is the ablation
    without KL clipping.

    Args:
        kl, completion_mask: [..., T]. A completion without tokens gives 0.
    """
    mask = completion_mask.to(kl.dtype)
    # Selected, not multiplied: a masked token may have an infinite divergence.
    within = completion_mask.bool() & proximal_mask(kl, kl_threshold).bool()
    kept = torch.where(within, kl, 0.0)
    return kept.sum(-1) / mask.sum(-1).clamp(min=1)
