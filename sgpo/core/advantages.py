"""Group advantages. The last dimension of ``rewards`` is always the group."""

from __future__ import annotations

import torch


def group_centered(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards minus their group mean, shape and dtype of ``rewards`` [..., G].

    The advantage of LUFFY and HPT (no division by the standard deviation).
    """
    return rewards - rewards.mean(dim=-1, keepdim=True)


def group_standardized(rewards: torch.Tensor, *, epsilon: float = 1e-6) -> torch.Tensor:
    """Centered rewards over the group's sample standard deviation (ddof 1) plus ``epsilon``.

    Implements the advantage of Eq. 1 of arXiv 2606.24064. A group with equal rewards, or of one
    sample, gets zeros.

    Deviation: the paper does not name the estimator; ddof 1 and 1e-6 are veRL's, on which the
    authors build.
    """
    centered = group_centered(rewards)
    if rewards.shape[-1] < 2:
        return torch.zeros_like(centered)
    equal = (rewards == rewards[..., :1]).all(dim=-1, keepdim=True)
    scaled = centered / (rewards.std(dim=-1, keepdim=True, correction=1) + epsilon)
    return torch.where(equal, torch.zeros_like(scaled), scaled)
