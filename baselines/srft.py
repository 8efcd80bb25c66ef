"""SRFT (arXiv 2506.19767): supervised and reinforcement fine-tuning in one stage, weighted by
entropy.

Three terms are added up, H the policy's entropy and sg a stopped gradient::

    L_SFT  = E_demo[ -w_SFT log pi(y|q) ],     w_SFT = 0.5 sg[exp(-H)]                    (Eq. 8)
    L_demo = -E_demo[ min(r A, clip(r) A) ],   r = pi / pi_b with pi_b = 1
    L_self = E_self[ -w A log pi(y|q) ],       w = w_RL = 0.1 sg[exp(H)] where A > 0, else 1
                                                                                     (Eq. 11, 12)

A is the group-relative advantage over samples and demonstration together (LUFFY's mixed group,
standardised).

Deviation: the paper writes L_self for rewards of +1 and -1; here the group's advantages stand in
their place, with the clipped ratio of Eq. 1 of GRPO, as in the authors' public code. H is the
entropy at the token, as in that code, not of the batch: a micro-batch does not know the batch's.
In the public code the sign of H in w_SFT is the opposite of Eq. 8's: ``sft_entropy_sign`` has
both, the equation's is the default. Each term is a mean over sequences of the mean over tokens.
The run starts from the comparison's common warm-up checkpoint, not from the base model, and has 11
samples and 1 trace a problem instead of 8 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput, Problem, Trajectory


@dataclass(frozen=True)
class SRFTConfig:
    """Args:
    num_samples: on-policy samples per problem; the expert's trace comes on top.
    sft_scale, sft_entropy_sign: w_SFT = scale * exp(sign * H).
    positive_scale: w_RL = scale * exp(H), the weight of samples with a positive advantage.
    clip_low, clip_high: trust region of both policy-gradient terms.
    entropy_coefficient: weight of the mean token entropy of on-policy tokens.
    """

    num_samples: int = 11  # paper (2606.24064): 12 in all
    sft_scale: float = 0.5  # 2506.19767, Eq. 8
    sft_entropy_sign: Literal[-1, 1] = -1  # 2506.19767, Eq. 8 (authors' script: 1)
    positive_scale: float = 0.1  # 2506.19767, Eq. 12
    clip_low: float = 0.2  # ours: as SFT+GRPO
    clip_high: float = 0.28  # ours: as SFT+GRPO
    entropy_coefficient: float = 0.001  # authors' script

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples}: must be at least 1")
        if self.sft_entropy_sign not in (-1, 1):
            raise ValueError(f"sft_entropy_sign={self.sft_entropy_sign}: must be -1 or 1")


def self_weights(
    *, advantages: torch.Tensor, entropy: torch.Tensor, positive_scale: float
) -> torch.Tensor:
    """Weight of each sampled token in L_self, [B, T]: ``positive_scale * exp(H)`` in samples with
    a positive advantage [B], 1 in all others; carries no gradient (Eq. 12)."""
    eager = positive_scale * entropy.detach().exp()
    return torch.where(advantages[:, None] > 0, eager, torch.ones_like(eager))


class SRFT:
    """The ``Method`` of SRFT."""

    def __init__(self, config: SRFTConfig) -> None:
        self.config = config

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """On-policy samples and the expert's trace, with advantages over their joint group."""
        groups = rollout.groups(problems, self.config.num_samples)
        demos = rollout.demonstrations(problems)
        joined = [[*group, demo] for group, demo in zip(groups, demos, strict=True)]
        return losses.with_advantages(joined, losses.group_standardized)

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        return step_totals(trajectories)

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """L_SFT + L_demo + L_self of the micro-batch, minus the entropy bonus."""
        config = self.config
        scores = score_policy(model, trajectories, entropy="loss")
        mask, is_demo = scores.completion_mask, scores.is_demo[:, None]
        own, demo = mask & ~is_demo, mask & is_demo
        entropy = scores.entropy.detach()
        sft_weights = config.sft_scale * (config.sft_entropy_sign * entropy).exp()
        imitate = -losses.reduce_tokens(
            sft_weights * scores.logprobs,
            demo,
            reduction="sequence_mean",
            denominator=totals["problems"],
        )
        weights = self_weights(
            advantages=scores.advantages, entropy=entropy, positive_scale=config.positive_scale
        )
        advantages = scores.advantages[:, None] * torch.where(is_demo, 1.0, weights)
        # pi_b = 1: the log-probability of the demonstration under its writer is taken as 0.
        old = scores.old_logprobs.masked_fill(is_demo, 0.0)
        reinforce = [
            losses.clipped_surrogate(
                logprobs=scores.logprobs,
                old_logprobs=old,
                advantages=advantages,
                completion_mask=part,
                clip_low=config.clip_low,
                clip_high=config.clip_high,
                reduction="sequence_mean",
                denominator=count,
            )
            for part, count in ((demo, totals["problems"]), (own, totals["autonomous"]))
        ]
        bonus = losses.reduce_tokens(
            scores.entropy, own, reduction="token_mean", denominator=totals["autonomous_tokens"]
        )
        loss = imitate + reinforce[0] + reinforce[1] - config.entropy_coefficient * bonus
        metrics = scores.metrics(clip_low=config.clip_low, clip_high=config.clip_high)
        weight = float(sft_weights[demo].sum())
        return LossOutput(loss, metrics | {"sft_weight": (weight, float(demo.sum()))})
