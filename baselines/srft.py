"""SRFT (arXiv 2506.19767): supervised and reinforcement fine-tuning in one stage, weighted by
entropy.

Three terms are added up, H the policy's entropy and sg a stopped gradient::

    L_SFT  = E_demo[ -w_SFT log pi(y|q) ],     w_SFT = 0.5 sg[exp(-H)]                    (Eq. 8)
    L_demo = -E_demo[ min(r A, clip(r) A) ],   r = pi / pi_b with pi_b = 1
    L_self = E_self[ -w A log pi(y|q) ],       w = w_RL = 0.1 sg[exp(H)] where A > 0, else 1
                                                                                     (Eq. 11, 12)

A in L_demo is the group-relative advantage over samples and demonstration together (LUFFY's mixed
group, standardised); in L_self the paper has rewards of +1 and -1 in its place.

The authors' own repository could not be had; the code that HPT's authors published for SRFT was
read instead. It has exp(-H) with H the mean entropy of the sequence, and +1 and -1 in L_self
(``entropy_level="sequence"``, ``self_signal="reward"``, as the comparison runs it). The field
defaults, H at the token and the group's advantage, are those of the first published runs.

Deviation: L_self has the clipped ratio of GRPO's Eq. 1, which is 1 in a single update. Each term is
a mean over sequences of the mean over tokens. The run starts from the comparison's common warm-up
checkpoint, not from the base model, and has 11 samples and 1 trace a problem instead of 8 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedModel

from sgpo.core import losses
from sgpo.core.config import added, check_fields, require_clip
from sgpo.core.method import Totals
from sgpo.core.rollout import Rollout
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput, Problem, Role, Trajectory


@dataclass(frozen=True)
class SRFTConfig:
    """Args:
    num_samples: on-policy samples per problem; the expert's trace comes on top.
    sft_scale, sft_entropy_sign: w_SFT = scale * exp(sign * H).
    positive_scale: w_RL = scale * exp(H), the weight of samples with a positive advantage.
    clip_low, clip_high: trust region of both policy-gradient terms.
    entropy_coefficient: weight of the mean token entropy.
    entropy_over: tokens of that mean: of on-policy ``samples``, or of every ``response``.
    entropy_level: H of both weights: of the ``token``, or its mean over the ``sequence``.
    self_signal: A of L_self: the group's ``advantage``, or the ``reward`` as +1 or -1.
    """

    num_samples: int = 11  # paper (2606.24064): 12 in all
    sft_scale: float = 0.5  # 2506.19767, Eq. 8
    sft_entropy_sign: Literal[-1, 1] = -1  # 2506.19767, Eq. 8
    positive_scale: float = 0.1  # 2506.19767, Eq. 12
    clip_low: float = 0.2  # ours: as SFT+GRPO
    clip_high: float = 0.28  # ours: as SFT+GRPO
    entropy_coefficient: float = 0.001  # HPT authors' script
    entropy_over: Literal["samples", "response"] = added("samples")  # HPT authors: response
    entropy_level: Literal["token", "sequence"] = added("token")  # HPT authors: sequence
    self_signal: Literal["advantage", "reward"] = added("advantage")  # 2506.19767: reward

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples}: must be at least 1")
        require_clip(self)


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
        collected = losses.with_advantages(joined, losses.group_standardized)
        if self.config.self_signal == "reward":
            collected = [
                t if t.role is Role.DEMO else t.with_(advantage=2.0 * t.reward - 1.0)
                for t in collected
            ]
        return collected

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
        if config.entropy_level == "sequence":
            entropy = entropy.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)
            entropy = entropy.expand(mask.shape)
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
        bonus = scores.mean_entropy(totals, config.entropy_over)
        loss = imitate + reinforce[0] + reinforce[1] - config.entropy_coefficient * bonus
        metrics = scores.metrics(clip_low=config.clip_low, clip_high=config.clip_high)
        weight = float(sft_weights[demo].sum())
        return LossOutput(loss, metrics | {"sft_weight": (weight, float(demo.sum()))})
