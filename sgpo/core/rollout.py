"""The shared rollout component: groups of samples with their verdicts, as trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.config import RolloutConfig
from sgpo.core.mismatch import sampler_mismatch
from sgpo.core.prompts import PromptSpec
from sgpo.core.sampling.sampler import Sampler, SamplingParams
from sgpo.core.scoring import own_logprobs
from sgpo.core.seeding import derive_seed
from sgpo.core.types import FinishReason, Problem, Role, Trajectory
from sgpo.core.verifier import Verdict, grade_many

Grader = Callable[..., Sequence[Verdict]]


class Rollout:
    """Samples, grades and scores for one step of one run.

    Every draw is a function of (run seed, step, role), so that two methods that sample the same
    thing at the same step get the same samples, and a resumed run repeats itself.
    """

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        sampler: Sampler,
        tokenizer: PreTrainedTokenizerBase,
        prompt_spec: PromptSpec,
        config: RolloutConfig,
        seed: int,
        token_budget: int = 16384,
        grader: Grader = grade_many,
    ) -> None:
        self.model, self.sampler, self.tokenizer = model, sampler, tokenizer
        self.prompt_spec, self.config, self.seed, self.grader = prompt_spec, config, seed, grader
        self.token_budget = token_budget
        self.step = 0
        self.stats: dict[str, float] = {}
        self.calls: dict[Role, int] = {}
        self.places: dict[str, int] = {}
        self.sampled_tokens = self.num_samples = self.scored_tokens = 0

    def groups(
        self, problems: Sequence[Problem], n: int, *, guided: bool = False
    ) -> list[list[Trajectory]]:
        """``n`` graded samples of every problem: result[p][g], rewards in {0, 1}.

        ``guided`` samples are drawn from pi(.|q, s); their trajectory is scored under the
        unguided prompt, with the guided one as ``second_prompt_ids``.
        """
        role = Role.GUIDED if guided else Role.AUTONOMOUS
        plain = [self.prompt_spec.prompt_ids(self.tokenizer, p) for p in problems]
        shown = plain
        if guided:
            shown = [self.prompt_spec.prompt_ids(self.tokenizer, p, guided=True) for p in problems]
        # A second group of the same kind in one step must not repeat the first one's draws.
        calls = self.calls.get(role, 0)
        self.calls[role] = calls + 1
        stream = (self.step, role.value, *([calls] if calls else []))
        params = SamplingParams(
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            seed=derive_seed(self.seed, "rollout", *stream),
            logprobs=True,
            places=tuple(self.places[p.id] for p in problems) if self.places else None,
        )
        groups = self.sampler.sample(shown, n, params)
        flat = [c for group in groups for c in group]
        prefix = "guided_" if guided else ""
        sampled = [(shown[i // n], c) for i, c in enumerate(flat)]
        for name, value in sampler_mismatch(self.model, sampled).items():
            self.stats[f"{prefix}{name}"] = value
        verdicts = self.grader(
            [(p.answer, c.text) for p, group in zip(problems, groups, strict=True) for c in group],
            truncated=[c.finish_reason is FinishReason.LENGTH for c in flat],
        )
        trajectories = [
            Trajectory(
                problem_id=problems[i // n].id,
                role=role,
                prompt_ids=plain[i // n],
                completion_ids=completion.token_ids,
                reward=float(verdict.correct),
                second_prompt_ids=shown[i // n] if guided else None,
                finish_reason=completion.finish_reason,
            )
            for i, (completion, verdict) in enumerate(zip(flat, verdicts, strict=True))
        ]
        self._record(trajectories, n)
        return [trajectories[i : i + n] for i in range(0, len(trajectories), n)]

    def demonstrations(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """The expert's trace of every problem, graded like any other completion.

        Raises:
            ValueError: a problem has no expert trace.
        """
        missing = next((p.id for p in problems if not p.expert), None)
        if missing is not None:
            raise ValueError(
                f"problem {missing!r} has no expert trace: this method learns from "
                "demonstrations; use data with traces or another method"
            )
        verdicts = self.grader([(p.answer, p.expert) for p in problems])
        return [
            Trajectory(
                problem_id=p.id,
                role=Role.DEMO,
                prompt_ids=self.prompt_spec.prompt_ids(self.tokenizer, p),
                completion_ids=self.prompt_spec.target_ids(self.tokenizer, p.expert),
                reward=float(verdict.correct),
            )
            for p, verdict in zip(problems, verdicts, strict=True)
        ]

    def prompts(
        self, problems: Sequence[Problem], *, shown: Literal["strategy", "solution"]
    ) -> list[tuple[int, ...]]:
        """The prompt ids of every problem with its strategy or the expert's solution in them.

        Raises:
            ValueError: a problem has none.
        """
        flag = {"strategy": "guided", "solution": "solved"}[shown]
        return [self.prompt_spec.prompt_ids(self.tokenizer, p, **{flag: True}) for p in problems]

    def logprobs(self, trajectories: Sequence[Trajectory]) -> list[torch.Tensor]:
        """Log-probabilities [len(completion)] of every trajectory under the unguided prompt and
        the full softmax of the current policy."""
        self.scored_tokens += sum(len(t.completion_ids) for t in trajectories)
        return own_logprobs(self.model, trajectories, self.token_budget)

    def begin_step(self, step: int, places: Mapping[str, int] | None = None) -> None:
        """Open ``step``: the seeds of its draws follow from it, and its statistics start at 0.

        ``places``: problem id -> place in the whole step, where this process samples only a part
        of the step's problems.
        """
        self.step = step
        self.stats, self.calls = {}, {}
        self.places = dict(places or {})

    def _record(self, trajectories: Sequence[Trajectory], n: int) -> None:
        role = trajectories[0].role
        prefix = "guided_" if role is Role.GUIDED else ""
        count = len(trajectories)
        rewards = torch.tensor([t.reward for t in trajectories]).view(-1, n)
        lengths = [len(t.completion_ids) for t in trajectories]
        cut = sum(t.finish_reason is FinishReason.LENGTH for t in trajectories)
        self.stats |= {
            f"{prefix}reward": float(rewards.mean()),
            f"{prefix}response_length": sum(lengths) / count,
            f"{prefix}truncated_share": cut / count,
            f"{prefix}zero_std_share": float((rewards == rewards[:, :1]).all(1).float().mean()),
        }
        self.sampled_tokens += sum(lengths)
        self.num_samples += count
