"""ReLIFT (arXiv 2506.07527): reinforcement learning interleaved with fine-tuning on what it cannot
solve.

Every problem without a single right sample goes, with the expert's trace, to the front of a buffer.
When it holds ``buffer_size`` traces, the step's RL update is followed by an update of its own on
the newest of them, which leave it::

    L_SFT = -1/sum|y*| sum_t log pi(y*_t | q, y*_<t) - entropy_coefficient mean_t H_t

Deviation: RL is Eq. 1 of arXiv 2606.24064, as in SFT+GRPO, so that the row shows what interleaving
adds; the authors' script leaves out the standard deviation and the clip and divides by a constant.
Both kinds of update share one optimiser and one learning rate (two of 1e-6 each there).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.config import check_fields, require_clip
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput, Problem, Role, Trajectory


@dataclass(frozen=True)
class ReLIFTConfig:
    """``num_samples`` per problem and step; ``buffer_size`` and ``entropy_coefficient`` of the
    fine-tuning update; ``clip_low`` / ``clip_high`` of the RL update."""

    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    buffer_size: int = 16  # authors' script: as many as a step has problems
    entropy_coefficient: float = 0.001  # authors' script
    clip_low: float = 0.2  # ours: as SFT+GRPO
    clip_high: float = 0.28  # ours: as SFT+GRPO

    def __post_init__(self) -> None:
        check_fields(self)
        require_clip(self)
        if self.num_samples < 2:
            raise ValueError(f"num_samples={self.num_samples}: a group needs at least 2")
        if self.buffer_size < 1:
            raise ValueError(f"buffer_size={self.buffer_size}: must be at least 1")


class ReLIFT:
    """The ``Method`` of ReLIFT. The buffer is the same on every rank, newest trace first."""

    def __init__(self, config: ReLIFTConfig) -> None:
        self.config = config
        self.buffer: list[dict[str, Any]] = []

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """Samples with advantages, and this rank's share of the traces that are due."""
        groups = rollout.groups(problems, self.config.num_samples)
        own = losses.with_advantages(groups, losses.group_standardized)
        unsolved = {group[0].problem_id for group in groups if not any(t.reward for t in group)}
        hard = rollout.demonstrations([p for p in problems if p.id in unsolved])
        found = [
            {"id": t.problem_id, "prompt": list(t.prompt_ids), "trace": list(t.completion_ids)}
            for t in hard
        ]
        self.buffer = rollout.gather(found) + self.buffer
        due = self.buffer[: self.config.buffer_size]
        if len(due) < self.config.buffer_size:
            return own
        self.buffer = self.buffer[self.config.buffer_size :]
        return own + [_demonstration(due[i]) for i in rollout.ranks.share(len(due))]

    def separate(
        self, trajectories: Sequence[Trajectory]
    ) -> tuple[list[Trajectory], list[Trajectory]]:
        """The RL update's trajectories, and the traces of the update that follows it."""
        demos = [t for t in trajectories if t.role is Role.DEMO]
        return [t for t in trajectories if t.role is not Role.DEMO], demos

    def state(self) -> dict[str, Any]:
        return {"buffer": self.buffer}

    def load_state(self, state: dict[str, Any]) -> None:
        self.buffer = state["buffer"]

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        return step_totals(trajectories)

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """Of the RL update, or of the fine-tuning update; a batch is of one kind."""
        config = self.config
        if trajectories[0].role is not Role.DEMO:
            scores = score_policy(model, trajectories, surrogate_only=True)
            clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
            count = totals["trajectories"]
            loss = scores.surrogate(reduction="sequence_mean", denominator=count, **clip)
            return LossOutput(loss, scores.metrics(**clip))
        scores = score_policy(model, trajectories, entropy="loss")
        loss = -losses.reduce_tokens(
            scores.logprobs + config.entropy_coefficient * scores.entropy,
            scores.completion_mask,
            reduction="token_mean",
            denominator=totals["tokens"],
        )
        count = float(len(trajectories))
        return LossOutput(loss, {"replayed_traces": (count, count / totals["trajectories"])})


def _demonstration(entry: dict[str, Any]) -> Trajectory:
    prompt, trace = tuple(entry["prompt"]), tuple(entry["trace"])
    return Trajectory(entry["id"], Role.DEMO, prompt, trace, reward=1.0)
