"""The records that move through the suite, and the one legend of dimensions.

Dimensions, used in every docstring and comment of the project:
    B  sequences in a (micro-)batch      T  tokens of a completion
    V  vocabulary                        G  group: samples of one problem
    P  problems in an optimiser step     K  samples per problem at evaluation

Names of tensors: ``input_ids``, ``completion_mask``, ``logprobs`` (``logprobs[b, t]`` is the
log-probability *of* token t), ``old_logprobs`` (policy that sampled, full softmax, recomputed by
the trainer), ``advantages``, ``rewards``, ``guided_logits`` / ``unguided_logits``.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # problems are listed and compared without it
    import torch


class FinishReason(enum.StrEnum):
    """Why a completion ended: the model closed it, or the token budget did."""

    STOP = "stop"
    LENGTH = "length"


class Role(enum.StrEnum):
    """What a trajectory is for; a method tells its trajectories apart by this alone."""

    AUTONOMOUS = "autonomous"  # sampled from pi(.|q)
    GUIDED = "guided"  # sampled from pi(.|q, s)
    DEMO = "demo"  # written by the expert


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer (without ``\\boxed``), and what a strong model left beside
    it: None where nothing was extracted. ``kind`` and ``level`` serve analyses alone."""

    id: str
    question: str
    answer: str
    strategy: str | None = None
    expert: str | None = None
    kind: str = ""
    level: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled answer. ``token_ids`` hold the stop token or stop text, if one ended it; ``text``
    has no special tokens. ``sampler_logprobs``: of every token as an engine with weights of its own
    computed it (full softmax, temperature 1); None where there is none."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    sampler_logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Trajectory:
    """A completion under a prompt with what its method wants done with it.

    SGPO trains the completion under ``prompt_ids`` (unguided) towards its distribution under
    ``second_prompt_ids`` (guided). ``weight`` is a factor of the method's own (alpha of Eq. 6, a
    gate); ``reward`` is in {0, 1}. ``old_logprobs`` [len(completion_ids)] is None while the policy
    has not moved since it sampled: then it equals the current log-probabilities.
    ``sampler_logprobs`` (see ``Completion``) are under the prompt that was sampled from.
    """

    problem_id: str
    role: Role
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    reward: float
    advantage: float = 0.0
    weight: float = 1.0
    second_prompt_ids: tuple[int, ...] | None = None
    finish_reason: FinishReason = FinishReason.STOP
    old_logprobs: torch.Tensor | None = None
    sampler_logprobs: tuple[float, ...] | None = None

    def with_(self, **changes: Any) -> Trajectory:
        return replace(self, **changes)


@dataclass
class Spent:
    """What a run has cost so far on this rank: tokens and completions that were sampled, and
    completion tokens that went through a forward pass of scoring, a teacher's passes included."""

    sampled_tokens: int = 0
    num_samples: int = 0
    scored_tokens: int = 0


class Sums(dict[str, tuple[float, float]]):
    """Metric name -> (numerator, denominator), summed over calls, micro-batches and ranks before
    the one is divided by the other."""

    def add(self, name: str, numerator: float, denominator: float = 1.0) -> None:
        before = self.get(name, (0.0, 0.0))
        self[name] = (before[0] + numerator, before[1] + denominator)

    def add_all(self, sums: Mapping[str, tuple[float, float]]) -> None:
        for name, pair in sums.items():
            self.add(name, *pair)

    def means(self) -> dict[str, float]:
        return {name: a / b for name, (a, b) in sorted(self.items()) if b > 0}


@dataclass(frozen=True)
class LossOutput:
    """``loss``: scalar tensor, already divided by the step's totals, so that losses of
    micro-batches add up. ``sums``: metric name -> (numerator, denominator), plain floats."""

    loss: torch.Tensor
    sums: dict[str, tuple[float, float]] = field(default_factory=dict)
