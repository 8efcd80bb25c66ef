"""HPT (arXiv 2509.04419): per problem either imitation or reinforcement, chosen by a gate.

As the authors' public training script runs it: a problem with at most ``gate`` correct on-policy
samples contributes the SFT loss of its expert trace and no RL loss; any other contributes a
policy gradient with centred advantages (no standard deviation), no clipping and summed token losses
over a constant length; an entropy bonus is added. Problems are averaged.
"""

from dataclasses import dataclass
from typing import Literal

from sgpo.core import losses
from sgpo.core.config import added, check_fields, require_positive
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class HPTConfig:
    """Args:
    num_samples: on-policy samples per problem.
    gate: imitate when at most this many of them are correct.
    sft_coefficient: weight of the imitation loss.
    entropy_coefficient: weight of the mean token entropy.
    max_tokens: the constant divisor of summed token losses (maximal completion length).
    entropy_over: tokens of that mean: of on-policy ``samples``, or of every ``response``.
    scaling: ``problems``: every term is a mean over the update's problems. ``authors``: the
        imitation loss is a mean over the update's expert tokens, whatever share of problems
        imitates, and all is times ``losses.AUTHORS_SCALE``, on which their clip of the norm acts.
    """

    max_tokens: int
    num_samples: int = 12  # paper: "same total sample budget"
    gate: int = 0  # authors' script (Qwen; 2 for Llama)
    sft_coefficient: float = 1.0  # authors' script (0.3 for 1.5B)
    entropy_coefficient: float = 0.001  # authors' script
    entropy_over: Literal["samples", "response"] = added("samples")  # authors' script: response
    scaling: Literal["problems", "authors"] = added("problems")

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "max_tokens")
        if not 0 <= self.gate < self.num_samples:
            raise ValueError(
                f"gate={self.gate}: must be at least 0 and below num_samples={self.num_samples}"
            )


class HPT:
    """The ``Method`` of HPT."""

    totals = staticmethod(step_totals)

    def __init__(self, config: HPTConfig) -> None:
        self.config = config

    def collect(self, problems, rollout):
        """Per problem the expert's trace, or the on-policy group with centred advantages."""
        collected = []
        groups = rollout.groups(problems, self.config.num_samples)
        for group, demo in zip(groups, rollout.demonstrations(problems), strict=True):
            if sum(t.reward for t in group) <= self.config.gate:
                collected.append(demo)
            else:
                collected += losses.with_advantages([group], losses.group_centered)
        return collected

    def loss(self, model, trajectories, totals):
        """Mean over problems of (coefficient * SFT loss of the trace) or the RL loss."""
        config, as_authors = self.config, self.config.scaling == "authors"
        scores = score_policy(model, trajectories, entropy="loss")
        demo = scores.completion_mask & scores.is_demo[:, None]
        ratio = losses.importance_ratio(scores.logprobs, scores.old_logprobs)
        reinforce = -losses.reduce_tokens(
            ratio * scores.advantages[:, None],
            scores.completion_mask & ~demo,
            reduction="constant",
            denominator=config.max_tokens * totals["problems"],
        )
        expert_tokens = max(1.0, totals["tokens"] - totals["autonomous_tokens"])
        imitate = losses.negative_log_likelihood(
            logprobs=scores.logprobs,
            completion_mask=demo,
            reduction="token_mean" if as_authors else "sequence_mean",
            denominator=expert_tokens if as_authors else totals["problems"],
        )
        bonus = scores.mean_entropy(totals, config.entropy_over)
        loss = reinforce + config.sft_coefficient * imitate - config.entropy_coefficient * bonus
        loss = loss * (losses.AUTHORS_SCALE if as_authors else 1.0)
        imitated = float(scores.is_demo.sum()) / totals["problems"]
        share = len(trajectories) / totals["trajectories"]
        metrics = scores.metrics(clip_low=0.2, clip_high=0.28)
        return LossOutput(loss, metrics | {"imitated_share": (imitated, share)})
