"""What SGPO distils and how strongly, as pure functions: Eq. 2-6 and 8 of arXiv 2606.24064.

Eq. 1 is ``sgpo.core.losses.clipped_surrogate``; the divergence per token of Eq. 2-3 is
``sgpo.core.logprobs.completion_kl``; Eq. 7 is the sum that ``sgpo.method`` forms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sgpo.core.losses import group_standardized


def adaptive_weight(
    *,
    pass_guided: torch.Tensor,
    pass_autonomous: torch.Tensor,
    base: float = 0.5,
    smoothing: float = 0.1,
    maximum: float = 0.8,
) -> torch.Tensor:
    """alpha(q) of Eq. 6 in [0, maximum], shape of the pass rates (each in [0, 1]).

    Guidance that lifts the pass rate is distilled strongly, guidance that does not is ignored:
    ``clip(base * (p_guided - p_auto + smoothing) / (p_auto + smoothing), 0, maximum)``.
    """
    gain = (pass_guided - pass_autonomous + smoothing) / (pass_autonomous + smoothing)
    return (base * gain).clamp(0.0, maximum)


def group_advantage_weight(
    *, rewards: torch.Tensor, selected_reward: float, maximum: float = 0.8
) -> torch.Tensor:
    """The alternative weight of Eq. 8 in [0, maximum], a scalar: the selected guided completion
    joins the autonomous group [G]; its normalised advantage there, clipped, is the weight."""
    joined = torch.cat([rewards, rewards.new_tensor([selected_reward])])
    return group_standardized(joined)[-1].clamp(0.0, maximum)


def select_reachable(*, sum_logprobs: Sequence[float], correct: Sequence[bool]) -> int | None:
    """Index of the reachable target o+ of Eq. 4, or None where no guided completion is correct.

    The correct completion that the *unguided* policy finds most likely. The sum is over tokens
    and not normalised by length, as printed; pass means instead for the normalised variant. The
    first of equals wins; a NaN is never selected.
    """
    values = [float(value) for value in sum_logprobs]
    pairs = enumerate(zip(values, correct, strict=True))
    allowed = [index for index, (value, right) in pairs if right and not math.isnan(value)]
    return max(allowed, key=values.__getitem__, default=None)


def proximal_mask(kl: torch.Tensor, kl_threshold: float) -> torch.Tensor:
    """1 where ``kl`` <= ``kl_threshold``, else 0 (Eq. 5); carries no gradient."""
    return (kl.detach() <= kl_threshold).to(kl.dtype)


def clipped_distillation(
    *, kl: torch.Tensor, completion_mask: torch.Tensor, kl_threshold: float
) -> torch.Tensor:
    """Distillation loss per completion [...] in nats, of ``kl`` and mask [..., T]; 0 where it has
    no tokens.

    Implements Eq. 5: tokens above ``kl_threshold`` are masked out, and the divisor stays the
    completion's full length, masked tokens included. ``kl_threshold=inf`` is the ablation
    without KL clipping.
    """
    # Selected, not multiplied: a masked token may have an infinite divergence.
    within = completion_mask.bool() & proximal_mask(kl, kl_threshold).bool()
    kept = torch.where(within, kl, 0.0)
    return kept.sum(-1) / completion_mask.to(kl.dtype).sum(-1).clamp(min=1)
