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

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.config import RolloutConfig, check_fields, require_clip
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput, Problem, Trajectory


@dataclass(frozen=True)
class DAPOConfig:
    """``num_samples`` of a group; ``clip_low`` / ``clip_high``: half-widths of the trust region;
    ``cache_share``: part of the token budget in which a completion is punished, 0 for none."""

    num_samples: int = 8  # ours: leaves a third of the budget for other problems
    clip_low: float = 0.2  # 2503.14476
    clip_high: float = 0.28  # 2503.14476
    cache_share: float = 0.2  # authors' script: 4,096 of 20,480

    def __post_init__(self) -> None:
        check_fields(self)
        require_clip(self)
        if self.num_samples < 2:
            raise ValueError(f"num_samples={self.num_samples}: a group needs at least 2")
        if not 0 <= self.cache_share < 1:
            raise ValueError(f"cache_share={self.cache_share}: must be at least 0 and below 1")


def overlong_penalty(lengths: torch.Tensor, *, max_tokens: int, cache_share: float) -> torch.Tensor:
    """R_length of completions of ``lengths`` [G] tokens, in [-1, 0] (Eq. 13)."""
    cache = cache_share * max_tokens
    if not cache:
        return torch.zeros_like(lengths, dtype=torch.float)
    return ((max_tokens - cache - lengths) / cache).clamp(-1.0, 0.0)


class DAPO:
    """The ``Method`` of DAPO."""

    def __init__(self, config: DAPOConfig) -> None:
        self.config = config
        self.max_tokens = 0

    def begin(
        self, model: Any, num_steps: int, rollout_config: RolloutConfig, tokenizer: Any
    ) -> None:
        self.max_tokens = rollout_config.max_tokens

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """The groups with right and wrong samples, with advantages of their shaped rewards."""
        groups = rollout.groups(problems, self.config.num_samples)
        mixed = [group for group in groups if len({t.reward for t in group}) > 1]
        return [t for group in mixed for t in self._valued(group)]

    def _valued(self, group: Sequence[Trajectory]) -> list[Trajectory]:
        lengths = torch.tensor([len(t.completion_ids) for t in group])
        punished = overlong_penalty(
            lengths, max_tokens=self.max_tokens, cache_share=self.config.cache_share
        )
        shaped = 2 * torch.tensor([t.reward for t in group]) - 1 + punished
        advantages = losses.group_standardized(shaped)
        return [t.with_(advantage=float(a)) for t, a in zip(group, advantages, strict=True)]

    def more_problems(self, trajectories: Sequence[Trajectory], wanted: int) -> int:
        """How many groups the step still lacks."""
        return wanted - len({t.problem_id for t in trajectories})

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        return step_totals(trajectories)

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """The clipped surrogate as a mean over the update's tokens."""
        config = self.config
        scores = score_policy(model, trajectories, surrogate_only=True)
        clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
        loss = scores.surrogate(reduction="token_mean", denominator=totals["tokens"], **clip)
        return LossOutput(loss, scores.metrics(**clip))
