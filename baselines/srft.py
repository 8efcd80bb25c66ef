"""SRFT (arXiv 2506.19767): SFT and reinforcement learning in one stage, weighted by entropy.

Three terms are added up, H the policy's entropy and sg a stopped gradient::

    L_SFT  = E_demo[ -w_SFT log pi(y|q) ],     w_SFT = 0.5 sg[exp(-H)]                    (Eq. 8)
    L_demo = -E_demo[ min(r A, clip(r) A) ],   r = pi / pi_b with pi_b = 1
    L_self = E_self[ -w A log pi(y|q) ],  w = 0.1 sg[exp(H)] where A > 0, else 1     (Eq. 11, 12)

A in L_demo is the group-relative advantage over samples and demonstration together (LUFFY's mixed
group, standardised); in L_self the paper has rewards of +1 and -1 in its place. The authors' own
repository could not be had; in the code of SRFT that HPT's authors published H is a mean over the
sequence and A of L_self the reward. Field defaults are those of the first published runs.

Deviation: L_self has the clipped ratio of GRPO's Eq. 1, which is 1 in a single update. Each term is
a mean over sequences of the mean over tokens. The run starts from the comparison's common warm-up
checkpoint, not from the base model, and has 11 samples and 1 trace a problem instead of 8 and 1.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from sgpo.core import losses
from sgpo.core.config import GroupConfig, added
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput, Role


@dataclass(frozen=True)
class SRFTConfig(GroupConfig):
    """Args:
    num_samples: on-policy samples per problem; the expert's trace comes on top.
    sft_scale, sft_entropy_sign: w_SFT = scale * exp(sign * H); positive_scale: w_RL's scale.
    entropy_coefficient: weight of the mean token entropy.
    entropy_over: tokens of that mean: of on-policy ``samples``, or of every ``response``.
    entropy_level: H of both weights: of the ``token``, or its mean over the ``sequence``.
    self_signal: A of L_self: the group's ``advantage``, or the ``reward`` as +1 or -1.
    """

    num_samples: int = 11  # paper (2606.24064): 12 in all
    sft_scale: float = 0.5  # 2506.19767, Eq. 8
    sft_entropy_sign: Literal[-1, 1] = -1  # 2506.19767, Eq. 8
    positive_scale: float = 0.1  # 2506.19767, Eq. 12
    entropy_coefficient: float = 0.001  # HPT authors' script
    entropy_over: Literal["samples", "response"] = added("samples")  # HPT authors: response
    entropy_level: Literal["token", "sequence"] = added("token")  # HPT authors: sequence
    self_signal: Literal["advantage", "reward"] = added("advantage")  # 2506.19767: reward


class SRFT:
    """The ``Method`` of SRFT."""

    totals = staticmethod(step_totals)

    def __init__(self, config: SRFTConfig) -> None:
        self.config = config

    def collect(self, problems, rollout):
        """On-policy samples and the expert's trace, with advantages over their joint group."""
        groups = rollout.groups(problems, self.config.num_samples)
        demos = rollout.demonstrations(problems)
        joined = [[*group, demo] for group, demo in zip(groups, demos, strict=True)]
        collected = losses.with_advantages(joined, losses.group_standardized)
        own_reward = self.config.self_signal == "reward"
        return [
            t.with_(advantage=2.0 * t.reward - 1.0) if own_reward and t.role is not Role.DEMO else t
            for t in collected
        ]

    def loss(self, model, trajectories, totals):
        """L_SFT + L_demo + L_self of the micro-batch, minus the entropy bonus."""
        config = self.config
        scores = score_policy(model, trajectories, entropy="loss")
        mask, is_demo = scores.completion_mask, scores.is_demo[:, None]
        demo, own, advantages = mask & is_demo, mask & ~is_demo, scores.advantages[:, None]
        entropy = scores.entropy.detach()
        if config.entropy_level == "sequence":
            entropy = (entropy.sum(-1) / mask.sum(-1))[:, None].expand(mask.shape)
        sft = config.sft_scale * (config.sft_entropy_sign * entropy).exp()
        loss = losses.negative_log_likelihood(
            logprobs=sft * scores.logprobs,
            completion_mask=demo,
            reduction="sequence_mean",
            denominator=totals["problems"],
        )
        eager = (advantages > 0) & ~is_demo
        weights = torch.where(eager, config.positive_scale * entropy.exp(), 1.0)
        for part, count in ((demo, totals["problems"]), (own, totals["autonomous"])):
            loss = loss + losses.clipped_surrogate(
                logprobs=scores.logprobs,
                # pi_b = 1: a demonstration's log-probability under its writer is taken as 0.
                old_logprobs=scores.old_logprobs.masked_fill(is_demo, 0.0),
                advantages=weights * advantages,
                completion_mask=part,
                denominator=count,
                **config.clip,
            )
        loss = loss - config.entropy_coefficient * scores.mean_entropy(totals, config.entropy_over)
        weight = float(sft[demo].sum()), float(demo.sum())
        return LossOutput(loss, scores.metrics(**config.clip) | {"sft_weight": weight})
