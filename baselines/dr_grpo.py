"""Dr. GRPO (arXiv 2503.20783): GRPO without its two biases.

The advantage is the reward minus the group's mean, not divided by the standard deviation (no weight
on questions that are nearly always or nearly never solved), and token losses are summed and divided
by a constant (no weight on short right and long wrong answers)::

    L = -1/(N L_max) sum_i sum_t min(rho A_i, clip(rho, 1 - low, 1 + high) A_i),  A_i = R_i - mean R

N is the number of samples of the update, L_max the longest completion that can be sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.config import RolloutConfig, check_fields, require_clip
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput, Problem, Trajectory


@dataclass(frozen=True)
class DrGRPOConfig:
    """``num_samples`` per problem and step; ``clip_low`` / ``clip_high``: half-widths of the trust
    region."""

    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    clip_low: float = 0.2  # authors' code
    clip_high: float = 0.2  # authors' code

    def __post_init__(self) -> None:
        check_fields(self)
        require_clip(self)
        if self.num_samples < 2:
            raise ValueError(f"num_samples={self.num_samples}: a group needs at least 2")


class DrGRPO:
    """The ``Method`` of Dr. GRPO."""

    def __init__(self, config: DrGRPOConfig) -> None:
        self.config = config
        self.max_tokens = 0

    def begin(
        self, model: Any, num_steps: int, rollout_config: RolloutConfig, tokenizer: Any
    ) -> None:
        self.max_tokens = rollout_config.max_tokens

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """Autonomous samples with centred advantages."""
        groups = rollout.groups(problems, self.config.num_samples)
        return losses.with_advantages(groups, losses.group_centered)

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        return step_totals(trajectories)

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """The clipped surrogate over a constant length."""
        config = self.config
        scores = score_policy(model, trajectories, surrogate_only=True)
        clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
        loss = scores.surrogate(
            reduction="constant", denominator=totals["trajectories"] * self.max_tokens, **clip
        )
        return LossOutput(loss, scores.metrics(**clip))
