"""LUFFY (arXiv 2504.14945): policy gradient on a group that the expert's trace has joined.

As the authors' public training script runs it: advantages are rewards minus the mean of the whole
group, expert included, with no standard deviation; on-policy tokens carry the plain ratio and
expert tokens the shaped weight p / (p + shaping), neither is clipped; token losses are summed and
divided by a constant; an entropy bonus is added. That loss of one problem's group is averaged over
the problems of the update.

Deviation: 11 on-policy samples and 1 trace instead of 7 and 1, the comparison's 12 per problem.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from sgpo.core import losses
from sgpo.core.config import added, check_fields, require_positive
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class LUFFYConfig:
    """Args:
    num_samples: on-policy samples per problem; the expert's trace comes on top.
    shaping: gamma of f(p) = p / (p + gamma).
    entropy_coefficient: weight of the mean token entropy.
    max_tokens: the constant divisor of summed token losses (maximal completion length).
    entropy_over: tokens of that mean: of on-policy ``samples``, or of every ``response``.
    scaling: ``problems``: a mean over the update's problems. ``authors``: that times
        ``losses.AUTHORS_SCALE``, on which their clip of the norm acts.
    """

    max_tokens: int
    num_samples: int = 11  # paper's 12 in all
    shaping: float = 0.1  # authors' script
    entropy_coefficient: float = 0.001  # authors' script (0.01 in the text of the paper)
    entropy_over: Literal["samples", "response"] = added("samples")  # authors' script: response
    scaling: Literal["problems", "authors"] = added("problems")

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "max_tokens num_samples shaping")


def luffy_loss(
    *, logprobs, old_logprobs, advantages, completion_mask, is_demo, normalizer, shaping=0.1
) -> torch.Tensor:
    """The mixed-policy loss to minimise, a scalar: ``-sum(weight * advantage) / normalizer``.

    Tensors are [B, T], ``advantages`` and ``is_demo`` may be [B]; ``old_logprobs`` of
    demonstration tokens is not read.
    """
    advantages, is_demo = (x[:, None] if x.dim() == 1 else x for x in (advantages, is_demo))
    p = logprobs.exp()
    ratio = losses.importance_ratio(logprobs, old_logprobs)
    weight = torch.where(is_demo.bool(), p / (p + shaping), ratio)
    return -losses.reduce_tokens(
        weight * advantages, completion_mask, reduction="constant", denominator=normalizer
    )


class LUFFY:
    """The ``Method`` of LUFFY."""

    totals = staticmethod(step_totals)

    def __init__(self, config: LUFFYConfig) -> None:
        self.config = config

    def collect(self, problems, rollout):
        """On-policy samples and the expert's trace, with advantages over their joint group."""
        groups = rollout.groups(problems, self.config.num_samples)
        demos = rollout.demonstrations(problems)
        joined = [[*group, demo] for group, demo in zip(groups, demos, strict=True)]
        return losses.with_advantages(joined, losses.group_centered)

    def loss(self, model, trajectories, totals):
        config = self.config
        scores = score_policy(model, trajectories, entropy="loss")
        loss = luffy_loss(
            logprobs=scores.logprobs,
            old_logprobs=scores.old_logprobs,
            advantages=scores.advantages,
            completion_mask=scores.completion_mask,
            is_demo=scores.is_demo,
            shaping=config.shaping,
            normalizer=config.max_tokens * totals["problems"],
        )
        loss = loss - config.entropy_coefficient * scores.mean_entropy(totals, config.entropy_over)
        loss = loss * (losses.AUTHORS_SCALE if config.scaling == "authors" else 1.0)
        return LossOutput(loss, scores.metrics(clip_low=0.2, clip_high=0.28))
