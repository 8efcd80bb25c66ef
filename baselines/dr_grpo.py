"""Dr. GRPO (arXiv 2503.20783): GRPO without its two biases.

The advantage is the reward minus the group's mean, not divided by the standard deviation (no weight
on questions that are nearly always or nearly never solved), and token losses are summed and divided
by a constant (no weight on short right and long wrong answers)::

    L = -1/(N L_max) sum_i sum_t min(rho A_i, clip(rho, 1 - low, 1 + high) A_i),  A_i = R_i - mean R

N is the number of samples of the update, L_max the longest completion that can be sampled.
"""

from dataclasses import dataclass

from sgpo.core import losses
from sgpo.core.config import GroupConfig
from sgpo.core.scoring import step_totals, surrogate_loss


@dataclass(frozen=True)
class DrGRPOConfig(GroupConfig):
    """See ``GroupConfig``."""

    clip_low: float = 0.2  # authors' code
    clip_high: float = 0.2  # authors' code


class DrGRPO:
    """The ``Method`` of Dr. GRPO."""

    totals = staticmethod(step_totals)

    def __init__(self, config: DrGRPOConfig) -> None:
        self.config = config

    def begin(self, model, num_steps, rollout_config, tokenizer):
        self.max_tokens = rollout_config.max_tokens

    def collect(self, problems, rollout):
        """Autonomous samples with centred advantages."""
        groups = rollout.groups(problems, self.config.num_samples)
        return losses.with_advantages(groups, losses.group_centered)

    def loss(self, model, trajectories, totals):
        """The clipped surrogate over a constant length."""
        constant = totals["trajectories"] * self.max_tokens
        return surrogate_loss(
            model, trajectories, self.config.clip, reduction="constant", denominator=constant
        )
