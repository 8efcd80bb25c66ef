"""How trajectories become micro-batches, and how a micro-batch is scored for a policy loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from sgpo.core.logprobs import (
    PaddedSequences,
    TokenStats,
    completion_kl,
    pad_sequences,
    token_stats,
)
from sgpo.core.losses import Reduction, clipped_surrogate, importance_ratio, reduce_tokens
from sgpo.core.types import LossOutput, Problem, Role, Trajectory

if TYPE_CHECKING:  # settings of methods are listed without it
    from transformers import PreTrainedModel


def split_updates(
    problems: Sequence[Problem], trajectories: list[Trajectory], count: int
) -> list[list[Trajectory]]:
    """The trajectories of each of ``count`` consecutive updates, which share the step's
    ``problems``. A problem outside the step (drawn later, or replayed) goes to the update that has
    the fewest problems so far."""
    size = len(problems) // count
    update_of = {p.id: i // size for i, p in enumerate(problems)}
    used = dict.fromkeys(t.problem_id for t in trajectories)
    numbers = [sum(update_of.get(key) == i for key in used) for i in range(count)]
    for key in used:
        if key not in update_of:
            update_of[key] = numbers.index(min(numbers))
            numbers[update_of[key]] += 1
    updates: list[list[Trajectory]] = [[] for _ in range(count)]
    for t in trajectories:
        updates[update_of[t.problem_id]].append(t)
    return updates


def micro_batches(
    trajectories: Sequence[Trajectory], token_budget: int
) -> Iterator[list[Trajectory]]:
    """Trajectories of similar length together, at most ``token_budget`` padded tokens each; one
    longer than the budget forms a batch of its own."""
    batch: list[Trajectory] = []
    for trajectory in sorted(trajectories, key=_length):
        if batch and _length(trajectory) * (len(batch) + 1) > token_budget:
            yield batch
            batch = []
        batch.append(trajectory)
    if batch:
        yield batch


def _length(trajectory: Trajectory) -> int:
    prompt = max(len(trajectory.prompt_ids), len(trajectory.second_prompt_ids or ()))
    return prompt + len(trajectory.completion_ids)


def padded(trajectories: Sequence[Trajectory], *, second_prompt: bool = False) -> PaddedSequences:
    """The completions under their own prompts, or under their second ones."""
    prompts = [t.second_prompt_ids if second_prompt else t.prompt_ids for t in trajectories]
    return pad_sequences(prompts, [t.completion_ids for t in trajectories])


def step_totals(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Counts of an update that its losses divide by: ``problems``, ``trajectories`` and ``tokens``
    of all roles, ``autonomous`` and ``autonomous_tokens`` of the unaided samples alone."""
    own = [t for t in trajectories if t.role is Role.AUTONOMOUS]
    return {
        "problems": float(len({t.problem_id for t in trajectories})),
        "trajectories": float(len(trajectories)),
        "tokens": float(sum(len(t.completion_ids) for t in trajectories)),
        "autonomous": float(len(own)),
        "autonomous_tokens": float(sum(len(t.completion_ids) for t in own)),
    }


@dataclass(frozen=True)
class PolicyScores:
    """A micro-batch under the current policy: ``logprobs``, ``old_logprobs``, ``entropy`` [B, T];
    ``completion_mask`` [B, T] bool; ``advantages`` [B]; ``is_demo`` [B] bool."""

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    entropy: torch.Tensor
    completion_mask: torch.Tensor
    advantages: torch.Tensor
    is_demo: torch.Tensor

    def mean_entropy(
        self, totals: Mapping[str, float], over: Literal["samples", "response"]
    ) -> torch.Tensor:
        """This micro-batch's share of the update's mean token entropy (``totals`` of
        ``step_totals``), a scalar: over on-policy samples, or demonstrations as well."""
        mask, count = self.completion_mask, totals["tokens"]
        if over == "samples":
            mask, count = mask & ~self.is_demo[:, None], totals["autonomous_tokens"]
        return reduce_tokens(
            self.entropy, mask, reduction="token_mean", denominator=max(1.0, count)
        )

    def metrics(self, *, clip_low: float, clip_high: float) -> dict[str, tuple[float, float]]:
        """Entropy and clip share over the tokens that the policy sampled itself."""
        own = self.completion_mask & ~self.is_demo[:, None]
        tokens = float(own.sum())
        ratio = importance_ratio(self.logprobs.detach(), self.old_logprobs)
        outside = (ratio < 1 - clip_low) | (ratio > 1 + clip_high)
        return {
            "entropy": (float(self.entropy.detach()[own].sum()), tokens),
            "clip_share": (float((outside & own).sum()), tokens),
        }


def score_policy(
    model: PreTrainedModel,
    trajectories: Sequence[Trajectory],
    *,
    entropy: Literal["metric", "loss"] = "metric",
    surrogate_only: bool = False,
) -> PolicyScores:
    """``PolicyScores`` of ``trajectories`` under their own prompts, with gradient.

    ``surrogate_only``: the caller's loss multiplies every log-probability by its advantage and uses
    nothing else of the scores. Where the advantage is 0 so is the gradient, and no graph is kept.
    """
    batch = padded(trajectories).to(model.device)
    if surrogate_only and torch.is_grad_enabled():
        assert entropy == "metric"
        moving = torch.tensor([t.advantage != 0.0 for t in trajectories], device=model.device)
        stats = _stats_of_moving(model, batch, moving)
    else:
        stats = token_stats(model, batch, entropy=entropy)
    make = stats.logprobs.new_tensor
    return PolicyScores(
        logprobs=stats.logprobs,
        old_logprobs=old_values(trajectories, stats.logprobs),
        entropy=stats.entropy,
        completion_mask=batch.completion_mask,
        advantages=make([t.advantage for t in trajectories]),
        is_demo=torch.tensor([t.role is Role.DEMO for t in trajectories], device=model.device),
    )


def surrogate_loss(
    model: PreTrainedModel,
    trajectories: Sequence[Trajectory],
    clip: Mapping[str, float],
    *,
    denominator: float,
    reduction: Reduction = "sequence_mean",
) -> LossOutput:
    """``losses.clipped_surrogate`` of sampled trajectories and nothing else, with its metrics;
    ``clip``: ``clip_low`` and ``clip_high``."""
    scores = score_policy(model, trajectories, surrogate_only=True)
    loss = clipped_surrogate(
        logprobs=scores.logprobs,
        old_logprobs=scores.old_logprobs,
        advantages=scores.advantages,
        completion_mask=scores.completion_mask,
        reduction=reduction,
        denominator=denominator,
        **clip,
    )
    return LossOutput(loss, scores.metrics(**clip))


def taught_divergence(
    model: PreTrainedModel,
    trajectories: Sequence[Trajectory],
    *,
    second_prompt: bool = True,
    **how: Any,
) -> tuple[torch.Tensor, torch.Tensor, PaddedSequences]:
    """``logprobs.completion_kl`` (which has ``how``) of the policy under the trajectories' own
    prompts from a teacher under their second ones, or the same: divergence [B, T],
    log-probabilities [B, T], and what the policy read."""
    student = padded(trajectories).to(model.device)
    shown = padded(trajectories, second_prompt=True).to(model.device) if second_prompt else student
    return *completion_kl(model, student, shown, **how), student


def old_values(trajectories: Sequence[Trajectory], logprobs: torch.Tensor) -> torch.Tensor:
    """``old_logprobs`` [B, T] of ``trajectories`` whose current ones are ``logprobs`` [B, T]. Where
    there are none the policy has not moved since it sampled: the current ones, detached, are exact.
    """
    old = logprobs.detach().clone()
    for row, trajectory in enumerate(trajectories):
        if trajectory.old_logprobs is not None:
            old[row, : len(trajectory.completion_ids)] = trajectory.old_logprobs
    return old


def _stats_of_moving(
    model: PreTrainedModel, batch: PaddedSequences, moving: torch.Tensor
) -> TokenStats:
    """``token_stats`` of ``batch``, with a graph for the rows where ``moving`` [B] alone."""
    parts, places = [], []
    for rows, graph in ((moving, True), (~moving, False)):
        place = rows.nonzero().squeeze(1)
        if len(place):
            with torch.set_grad_enabled(graph):
                parts.append(token_stats(model, batch.rows(place)))
            places.append(place)
    back = torch.cat(places).argsort()
    return TokenStats(
        torch.cat([p.logprobs for p in parts])[back], torch.cat([p.entropy for p in parts])[back]
    )


def own_logprobs(
    model: PreTrainedModel, trajectories: Sequence[Trajectory], token_budget: int
) -> list[torch.Tensor]:
    """Log-probabilities [len(completion)] of every trajectory under its own prompt (the unguided
    one) and the full softmax of ``model``, in the order given."""
    values: dict[int, torch.Tensor] = {}
    for batch in micro_batches(trajectories, token_budget):
        sequences = padded(batch).to(model.device)
        with torch.no_grad():
            rows = token_stats(model, sequences, entropy="none").logprobs
        for row, trajectory in zip(rows, batch, strict=True):
            values[id(trajectory)] = row[: len(trajectory.completion_ids)]
    return [values[id(t)] for t in trajectories]
