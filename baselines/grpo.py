"""SFT+GRPO: group-relative policy optimisation from the warm-up checkpoint.

Implements Eq. 1 of arXiv 2606.24064 (GRPO, arXiv 2402.03300, with DAPO's asymmetric clip and no
reference KL), the row "SFT+GRPO" of its Table 1.
"""

from dataclasses import dataclass

from sgpo.core import losses
from sgpo.core.config import GroupConfig
from sgpo.core.scoring import step_totals, surrogate_loss


@dataclass(frozen=True)
class GRPOConfig(GroupConfig):
    """See ``GroupConfig``."""


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
        """Eq. 1."""
        count = totals["trajectories"]
        return surrogate_loss(model, trajectories, self.config.clip, denominator=count)
