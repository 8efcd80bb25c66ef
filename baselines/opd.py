"""On-policy distillation from a separate teacher (arXiv 2306.13649, GKD, on the student's samples).

A frozen, stronger model of the same tokenizer scores the student's own samples; the student moves
towards it at every token. No reward enters the loss, no problem needs a solution or a strategy::

    L = 1/sum|y| sum_t D( teacher(.|q, y_<t), pi(.|q, y_<t) ),  y ~ pi(.|q)

with D = KL(pi || teacher) (``reverse``, the usual choice), KL(teacher || pi) (``forward``), or the
generalised Jensen-Shannon divergence.

Deviation: the divergence is over the full vocabulary, where many recipes use the sampled token's
log-ratio as a reward: the same gradient in expectation, without its noise.
"""

from dataclasses import dataclass
from typing import Literal

from sgpo.core import losses
from sgpo.core.config import check_fields, require, require_positive
from sgpo.core.scoring import step_totals, taught_divergence
from sgpo.core.teacher import Teacher
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class OPDConfig:
    """Args:
    teacher: directory or hub name of the teacher's checkpoint.
    num_samples: per problem and step.
    direction, beta: of the divergence, named from the teacher's side; see ``kl_divergence``.
    """

    teacher: str = ""
    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    direction: Literal["forward", "reverse", "jensen_shannon"] = "reverse"  # ours: the usual choice
    beta: float = 0.5  # 2306.13649

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "num_samples")
        require(self, "beta", above=0, below=1)


class OPD:
    """The ``Method`` of on-policy distillation. ValueError when no teacher is named."""

    totals = staticmethod(step_totals)

    def __init__(self, config: OPDConfig) -> None:
        if not config.teacher:
            raise ValueError(
                "settings.teacher: names no checkpoint; set it to the directory or hub name of a "
                "stronger model with the same tokenizer"
            )
        self.config, self.teacher = config, Teacher(config.teacher)

    def collect(self, problems, rollout):
        """The student's samples. Rewards are only logged."""
        return [t for group in rollout.groups(problems, self.config.num_samples) for t in group]

    def loss(self, model, trajectories, totals):
        """Mean divergence over the sampled tokens of the update, in nats."""
        how = {"direction": self.config.direction, "beta": self.config.beta}
        divergence, _, read = taught_divergence(
            model, trajectories, second_prompt=False, teacher=self.teacher, **how
        )
        mask, count = read.completion_mask, totals["tokens"]
        loss = losses.reduce_tokens(divergence, mask, reduction="token_mean", denominator=count)
        mass = float(divergence.detach()[mask].sum())
        return LossOutput(loss, {"divergence_mean": (mass, float(mask.sum()))})
