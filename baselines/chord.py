"""CHORD (arXiv 2508.11408): GRPO on samples and SFT on the expert's traces, mixed by a schedule.

::

    L = (1 - mu) L_GRPO + mu L_SFT
    L_SFT = -1/sum|y*| sum_t phi(p_t) log pi(y*_t | q, y*_<t),   phi = p_t (1 - p_t) or 1

mu rises linearly to ``mu_peak`` over the first ``rise`` of the steps and falls as a cosine to
``mu_valley`` over the next ``fall``. phi (CHORD-phi) weighs a trace's tokens by how undecided the
policy is about them and carries no gradient; without it the method is CHORD-mu. L_GRPO is Eq. 1 of
arXiv 2606.24064.

Deviation: the traces are those of the step's problems, not a data set of their own, and each counts
as one of the comparison's 12 samples. The schedule is in shares of the run instead of steps.
"""

import math
from dataclasses import dataclass

import torch

from sgpo.core import losses
from sgpo.core.config import GroupConfig, require
from sgpo.core.scoring import score_policy, step_totals
from sgpo.core.types import LossOutput


@dataclass(frozen=True)
class CHORDConfig(GroupConfig):
    """``num_samples`` per problem, the trace on top; ``mu_*``, ``rise``, ``fall``, ``phi``: above;
    the trust region of L_GRPO is SFT+GRPO's."""

    num_samples: int = 11  # paper (2606.24064): 12 in all
    mu_peak: float = 0.9  # ours: not checked against the authors' script
    mu_valley: float = 0.05  # ours: as above
    rise: float = 0.0  # ours: the run starts from a warm-up already
    fall: float = 0.5  # ours
    phi: bool = True  # ours: of the two variants the one with both weights

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "mu_peak mu_valley rise fall", least=0, most=1)


def mu_at(done: float, config: CHORDConfig) -> float:
    """mu after the share ``done`` (0 to 1) of the run's steps."""
    if done < config.rise:
        return config.mu_peak * done / config.rise
    if done >= config.rise + config.fall:
        return config.mu_valley
    cosine = 0.5 * (1 + math.cos(math.pi * (done - config.rise) / config.fall))
    return config.mu_valley + (config.mu_peak - config.mu_valley) * cosine


class CHORD:
    """The ``Method`` of CHORD. mu travels in the weight of the step's trajectories."""

    totals = staticmethod(step_totals)

    def __init__(self, config: CHORDConfig) -> None:
        self.config = config

    def begin(self, model, num_steps, rollout_config, tokenizer):
        self.num_steps = num_steps

    def collect(self, problems, rollout):
        """Samples with standardised advantages, and the expert's traces."""
        mu = mu_at((rollout.step - 1) / self.num_steps, self.config)
        groups = rollout.groups(problems, self.config.num_samples)
        own = losses.with_advantages(groups, losses.group_standardized)
        demos = rollout.demonstrations(problems)
        return [t.with_(weight=1 - mu) for t in own] + [t.with_(weight=mu) for t in demos]

    def loss(self, model, trajectories, totals):
        """(1 - mu) L_GRPO + mu L_SFT of the micro-batch."""
        scores = score_policy(model, trajectories)
        weight = torch.tensor([[t.weight] for t in trajectories]).to(scores.logprobs)
        demo = scores.completion_mask & scores.is_demo[:, None]
        reinforce = losses.clipped_surrogate(
            logprobs=scores.logprobs,
            old_logprobs=scores.old_logprobs,
            advantages=weight * scores.advantages[:, None],
            completion_mask=scores.completion_mask & ~demo,
            denominator=totals["autonomous"],
            **self.config.clip,
        )
        p = scores.logprobs.detach().exp()
        phi = p * (1 - p) if self.config.phi else torch.ones_like(p)
        imitate = losses.negative_log_likelihood(
            logprobs=weight * phi * scores.logprobs,
            completion_mask=demo,
            denominator=totals["tokens"] - totals["autonomous_tokens"],
        )
        mu = float((weight * demo).sum()), float(demo.sum())
        return LossOutput(reinforce + imitate, scores.metrics(**self.config.clip) | {"mu": mu})
