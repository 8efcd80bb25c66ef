"""On-policy self-distillation: the policy that sees the solution teaches the policy that does not.

Both sides are one network. It samples from pi(.|q); every token of its own sample is then scored
under a second prompt that holds privileged context c (the expert's solution), and the policy is
moved towards that distribution. No reward enters the loss::

    SDPO, arXiv 2601.20802:  sum_t KL( pi(.|q, y_<t) || sg[pi(.|c, q, y_<t)] )   direction reverse
    OPSD, arXiv 2601.18734:  sum_t KL( sg[pi(.|c, q, y_<t)] || pi(.|q, y_<t) )   direction forward

over the full vocabulary, y ~ pi(.|q). In OPSD c is the expert's solution; in SDPO it is a
successful attempt of the same group or the environment's feedback.

Deviation: c is the expert's solution in either direction (or the problem's strategy, see
``context``), the same privileged text that the other methods of the comparison are given. The
teacher is the current policy with its gradient stopped, not a moving average (SDPO) or the initial
policy (OPSD): methods hold no state. The sum over tokens is a mean over the update's tokens. OPSD's
cap on a single token's divergence and SDPO's top-K approximation are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.logprobs import completion_kl
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import padded, step_totals
from sgpo.core.types import LossOutput, Problem, Trajectory


@dataclass(frozen=True)
class OPSDConfig:
    """Args:
    num_samples: on-policy samples per problem and step.
    direction: ``forward`` KL(teacher || student), as in OPSD; ``reverse``, as in SDPO.
    context: what the teacher reads: the expert's ``solution``, or the problem's ``strategy``.
    """

    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    direction: Literal["forward", "reverse"] = "forward"  # 2601.18734
    context: Literal["solution", "strategy"] = "solution"  # 2601.18734

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples}: must be at least 1")


class OPSD:
    """The ``Method`` of on-policy self-distillation."""

    def __init__(self, config: OPSDConfig) -> None:
        self.config = config

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """On-policy samples; the teacher's prompt is their second one. Rewards are only logged."""
        groups = rollout.groups(problems, self.config.num_samples)
        seen = rollout.prompts(problems, shown=self.config.context)
        return [
            t.with_(second_prompt_ids=prompt)
            for group, prompt in zip(groups, seen, strict=True)
            for t in group
        ]

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        return step_totals(trajectories)

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """Mean divergence over all sampled tokens of the update, in nats."""
        student = padded(trajectories).to(model.device)
        shown = padded(trajectories, second_prompt=True).to(model.device)
        kl, _ = completion_kl(model, student, shown, direction=self.config.direction)
        mask = student.completion_mask
        loss = losses.reduce_tokens(kl, mask, reduction="token_mean", denominator=totals["tokens"])
        mass, tokens = float(kl.detach()[mask].sum()), float(mask.sum())
        return LossOutput(loss, {"kl_mean": (mass, tokens)})
