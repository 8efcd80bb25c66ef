"""On-policy self-distillation: the policy that sees the solution teaches the policy that does not.

It samples y from pi(.|q); every token of its own sample is then scored under a second prompt that
holds privileged context c (the expert's solution), and the policy is moved towards that
distribution p. No reward enters the loss, D over the full vocabulary::

    OPSD, arXiv 2601.18734:  sum_t D( sg[p(.|c, q, y_<t)], pi(.|q, y_<t) )

As the authors' public script runs it D is the Jensen-Shannon divergence with beta 0.5 and p are the
policy's first weights (``direction="jensen_shannon"``, ``teacher="initial"``): so the comparison
has it. The field defaults, a KL and the current policy as its own teacher, are those of the first
published runs. ``direction="reverse"`` is the KL of SDPO (arXiv 2601.20802).

Deviation: the sum over tokens is a mean over the update's tokens. The authors sample at temperature
1.1 and top-k 20 and divide both sides' logits by that temperature; here it is 1. Their teacher's
first weights are those without a low-rank adapter, which alone is trained; here all weights are.
"""

from dataclasses import dataclass
from typing import Literal

from sgpo.core import losses
from sgpo.core.config import added, check_fields, require, require_positive
from sgpo.core.scoring import step_totals, taught_divergence
from sgpo.core.teacher import Teacher
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class OPSDConfig:
    """Args:
    num_samples: on-policy samples per problem and step.
    direction: of the divergence, see ``kl_divergence``; ``beta``: the teacher's weight in the
        mixture of ``jensen_shannon``.
    teacher: the policy ``itself``, or its ``initial`` weights.
    context: what the teacher reads: the expert's ``solution``, or the problem's ``strategy``.
    """

    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    direction: Literal["forward", "reverse", "jensen_shannon"] = "forward"
    context: Literal["solution", "strategy"] = "solution"  # 2601.18734
    beta: float = added(0.5)  # authors' script
    teacher: Literal["itself", "initial"] = added("itself")  # authors' script: initial

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "num_samples")
        require(self, "beta", above=0, below=1)


class OPSD:
    """The ``Method`` of on-policy self-distillation."""

    totals = staticmethod(step_totals)

    def __init__(self, config: OPSDConfig) -> None:
        self.config, self.shows = config, (config.context,)
        self.teacher = Teacher() if config.teacher == "initial" else None

    def collect(self, problems, rollout):
        """On-policy samples; the teacher's prompt is their second one. Rewards are only logged."""
        groups = rollout.groups(problems, self.config.num_samples)
        seen = rollout.prompts(problems, shown=self.config.context)
        pairs = zip(groups, seen, strict=True)
        return [t.with_(second_prompt_ids=prompt) for group, prompt in pairs for t in group]

    def loss(self, model, trajectories, totals):
        """Mean divergence over all sampled tokens of the update, in nats."""
        how = {"direction": self.config.direction, "beta": self.config.beta}
        kl, _, read = taught_divergence(model, trajectories, teacher=self.teacher, **how)
        mask, count = read.completion_mask, totals["tokens"]
        loss = losses.reduce_tokens(kl, mask, reduction="token_mean", denominator=count)
        return LossOutput(loss, {"kl_mean": (float(kl.detach()[mask].sum()), float(mask.sum()))})
