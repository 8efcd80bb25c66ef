"""SFT on expert traces: the warm-up of every RL method, and the row "SFT" of Table 1.

Standard maximum likelihood of the expert's tokens given the unguided prompt; it samples nothing.
"""

from dataclasses import dataclass

from sgpo.core import losses
from sgpo.core.logprobs import token_stats
from sgpo.core.scoring import padded, step_totals
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class SFTConfig:
    """SFT has no settings of its own beyond the training recipe."""


class SFT:
    """The ``Method`` of supervised fine-tuning."""

    totals = staticmethod(step_totals)

    def __init__(self, config: SFTConfig) -> None:
        self.config = config

    def collect(self, problems, rollout):
        return rollout.demonstrations(problems)

    def loss(self, model, trajectories, totals):
        """Mean negative log-likelihood over all expert tokens of the update."""
        batch = padded(trajectories).to(model.device)
        loss = losses.negative_log_likelihood(
            logprobs=token_stats(model, batch, entropy="none").logprobs,
            completion_mask=batch.completion_mask,
            denominator=totals["tokens"],
        )
        return LossOutput(loss)
