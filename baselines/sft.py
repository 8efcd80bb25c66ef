"""SFT on expert traces: the warm-up of every RL method, and the row "SFT" of Table 1.

Standard maximum likelihood of the expert's tokens given the unguided prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.logprobs import token_stats
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import padded, step_totals
from sgpo.core.types import LossOutput, Problem, Trajectory


@dataclass(frozen=True)
class SFTConfig:
    """SFT has no settings of its own beyond the training recipe."""


class SFT:
    """The ``Method`` of supervised fine-tuning; it samples nothing."""

    def __init__(self, config: SFTConfig) -> None:
        self.config = config

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        return rollout.demonstrations(problems)

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        return step_totals(trajectories)

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """Mean negative log-likelihood over all expert tokens of the update."""
        batch = padded(trajectories).to(model.device)
        logprobs = token_stats(model, batch, entropy="none").logprobs
        loss = losses.negative_log_likelihood(
            logprobs=logprobs,
            completion_mask=batch.completion_mask,
            reduction="token_mean",
            denominator=totals["tokens"],
        )
        return LossOutput(loss)
