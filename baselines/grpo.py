"""SFT+GRPO: group-relative policy optimisation from the warm-up checkpoint.

Implements Eq. 1 of arXiv 2606.24064 (GRPO, arXiv 2402.03300, with DAPO's asymmetric clip and no
reference KL), the row "SFT+GRPO" of its Table 1.
"""

from dataclasses import dataclass

from sgpo.core import losses
from sgpo.core.config import check_fields, require_clip
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class GRPOConfig:
    """``num_samples`` per problem and step; ``clip_low`` / ``clip_high``: see Eq. 1."""

    num_samples: int = 12  # paper: "same total sample budget"
    clip_low: float = 0.2  # paper
    clip_high: float = 0.28  # paper

    def __post_init__(self) -> None:
        check_fields(self)
        require_clip(self)
        if self.num_samples < 2:
            raise ValueError(f"num_samples={self.num_samples}: a group needs at least 2")


class GRPO:
    """The ``Method`` of SFT+GRPO."""

    totals = staticmethod(step_totals)

    def __init__(self, config: GRPOConfig) -> None:
        self.config = config

    def collect(self, problems, rollout):
        """Autonomous samples with advantages standardised within their group."""
        groups = rollout.groups(problems, self.config.num_samples)
        return losses.with_advantages(groups, losses.group_standardized)

    def loss(self, model, trajectories, totals):
        clip = {"clip_low": self.config.clip_low, "clip_high": self.config.clip_high}
        scores = score_policy(model, trajectories, surrogate_only=True)
        count = totals["trajectories"]
        loss = scores.surrogate(reduction="sequence_mean", denominator=count, **clip)
        return LossOutput(loss, scores.metrics(**clip))
