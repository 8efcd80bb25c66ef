"""DAPO (arXiv 2503.14476): GRPO with dynamic sampling, a token mean, clip-higher, and a soft
penalty on overlong answers.

Rewards are 1 and -1; a completion of length l is punished on its way into the last part of the
budget (Eq. 13, L_max the budget, L_cache = ``cache_share`` L_max)::

    R_length = 0                          l <= L_max - L_cache
               (L_max - L_cache - l) / L_cache         up to L_max
    L = -1/sum_i |o_i| sum_i sum_t min(rho A_i, clip(rho, 1 - low, 1 + high) A_i)          (Eq. 8)

A_i is the standardised sum of both rewards. Groups that are right throughout or wrong throughout
say nothing and are left out; other problems are drawn until the step has its number of groups.

Deviation: every sample drawn counts against the comparison's budget of 12 a problem, so that a
group has 8 samples and at most half as many problems again are drawn; what the budget does not
fill stays empty. The authors draw up to 10 batches of 16 samples a problem.
"""

from dataclasses import dataclass

import torch

from sgpo.core import losses
from sgpo.core.config import GroupConfig, require
from sgpo.core.scoring import step_totals, surrogate_loss


@dataclass(frozen=True)
class DAPOConfig(GroupConfig):
    """``cache_share``: part of the token budget in which a completion is punished, 0 for none."""

    num_samples: int = 8  # ours: leaves a third of the budget for other problems
    clip_low: float = 0.2  # 2503.14476
    clip_high: float = 0.28  # 2503.14476
    cache_share: float = 0.2  # authors' script: 4,096 of 20,480

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "cache_share", least=0, below=1)


def overlong_penalty(lengths: torch.Tensor, max_tokens: int, cache_share: float) -> torch.Tensor:
    """R_length of completions of ``lengths`` [G] tokens, in [-1, 0] (Eq. 13)."""
    cache = cache_share * max_tokens
    if not cache:
        return torch.zeros_like(lengths, dtype=torch.float)
    return ((max_tokens - cache - lengths) / cache).clamp(-1.0, 0.0)


class DAPO:
    """The ``Method`` of DAPO."""

    totals = staticmethod(step_totals)

    def __init__(self, config: DAPOConfig) -> None:
        self.config = config

    def begin(self, model, num_steps, rollout_config, tokenizer):
        self.max_tokens = rollout_config.max_tokens

    def collect(self, problems, rollout):
        """The groups with right and wrong samples, with advantages of their shaped rewards."""
        collected = []
        for group in rollout.groups(problems, self.config.num_samples):
            rewards = torch.tensor([t.reward for t in group])
            if len(set(rewards.tolist())) == 1:
                continue
            lengths = torch.tensor([len(t.completion_ids) for t in group])
            penalty = overlong_penalty(lengths, self.max_tokens, self.config.cache_share)
            shaped = 2 * rewards - 1 + penalty
            advantages = losses.group_standardized(shaped).tolist()
            collected += [t.with_(advantage=a) for t, a in zip(group, advantages, strict=True)]
        return collected

    def more_problems(self, trajectories, wanted):
        """How many groups the step still lacks."""
        return wanted - len({t.problem_id for t in trajectories})

    def loss(self, model, trajectories, totals):
        """The clipped surrogate as a mean over the update's tokens."""
        tokens = totals["tokens"]
        return surrogate_loss(
            model, trajectories, self.config.clip, reduction="token_mean", denominator=tokens
        )
