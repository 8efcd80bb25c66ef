"""What a training method is: three hooks. The trainer knows nothing else about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedModel

from sgpo.core.rollout import Rollout
from sgpo.core.types import LossOutput, Problem, Trajectory

Totals = dict[str, float]


class Method(Protocol):
    """One way of turning problems into a loss. Methods hold their configuration and no state."""

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """The step's training data: sample, grade, weigh. Runs before any update of the step."""
        ...

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        """Denominators of each loss component over a whole update, counted before the trainer
        splits it, so that the split changes nothing. Values add up over ranks."""
        ...

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """The micro-batch's share of the update's loss, and its metrics."""
        ...
