"""The shared rollout component: groups of samples with their verdicts, as trajectories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.config import RolloutConfig
from sgpo.core.distributed import Ranks
from sgpo.core.prompts import PromptSpec
from sgpo.core.sampling import Sampler, SamplingParams
from sgpo.core.scoring import own_logprobs
from sgpo.core.seeding import derive_seed
from sgpo.core.teacher import Teacher
from sgpo.core.types import Completion, FinishReason, Problem, Role, Spent, Sums, Trajectory
from sgpo.core.verifier import Verdict, grade_many

Grader = Callable[..., Sequence[Verdict]]
PromptIds = tuple[int, ...]

MEASURED = 16  # completions scored per call: about one in a hundred of a paper-scale step
PER_FORWARD = 4  # fixed, so that every rank of a sharded model runs as many forward passes


@dataclass(kw_only=True, eq=False)
class Rollout:
    """Samples, grades and scores for one step of one run.

    Every draw is a function of (run seed, step, role), so that two methods that sample the same
    thing at the same step get the same samples, and a resumed run repeats itself. ``sums`` are the
    statistics of the step on this rank (``guided_`` in front of those with help).
    """

    model: PreTrainedModel
    sampler: Sampler
    tokenizer: PreTrainedTokenizerBase
    prompt_spec: PromptSpec
    config: RolloutConfig
    seed: int
    token_budget: int = 16384
    grader: Grader = grade_many
    ranks: Ranks = Ranks()  # the trainer's, once it has this rollout
    alike: bool = True  # whether all ranks call it equally often

    def __post_init__(self) -> None:
        self.spent = Spent()
        self.begin_step(0)

    def begin_step(self, step: int, places: Mapping[str, int] | None = None) -> None:
        """Open ``step``: the seeds of its draws follow from it, and its statistics start at 0.
        ``places``: problem id -> place in the whole step, where this process samples a part of it.
        """
        self.step, self.sums = step, Sums()
        self.begin_round(0, places)

    def begin_round(self, number: int, places: Mapping[str, int] | None = None) -> None:
        """Open round ``number`` of the step's sampling, 0 for the first; its draws are its own."""
        self.round, self.places = number, dict(places or {})
        self.calls: dict[Role, int] = {}

    def groups(
        self,
        problems: Sequence[Problem],
        n: int,
        *,
        guided: bool = False,
        prompts: Sequence[PromptIds] | None = None,
    ) -> list[list[Trajectory]]:
        """``n`` graded samples of every problem: result[p][g], rewards in {0, 1}.

        Args:
            guided: draw from pi(.|q, s); the trajectory is scored under the unguided prompt, with
                the guided one as ``second_prompt_ids``.
            prompts: token ids to draw from in place of the problems' own prompts, one each. Plain
                samples are scored under them, guided ones have them as ``second_prompt_ids``.
        """
        role = Role.GUIDED if guided else Role.AUTONOMOUS
        scored, shown = self._prompts_of(problems, guided, prompts)
        groups = self.sampler.sample(shown, n, self._params(problems, role))
        flat = [(i, completion) for i, group in enumerate(groups) for completion in group]
        sampled = [(shown[i], completion) for i, completion in flat]
        self._add(role, sampler_mismatch(self.model, sampled), len(problems))
        verdicts = self._graded([(problems[i], completion) for i, completion in flat])
        trajectories = [
            Trajectory(
                problem_id=problems[i].id,
                role=role,
                prompt_ids=scored[i],
                completion_ids=completion.token_ids,
                reward=float(verdict.correct),
                second_prompt_ids=shown[i] if guided else None,
                finish_reason=completion.finish_reason,
                sampler_logprobs=completion.sampler_logprobs,
            )
            for (i, completion), verdict in zip(flat, verdicts, strict=True)
        ]
        self._record(trajectories, n)
        return [trajectories[i : i + n] for i in range(0, len(trajectories), n)]

    def _prompts_of(
        self, problems: Sequence[Problem], guided: bool, prompts: Sequence[PromptIds] | None
    ) -> tuple[list[PromptIds], list[PromptIds]]:
        """For each problem the prompt that its samples are scored under, and the one that they are
        drawn from."""
        plain = [self.prompt_spec.prompt_ids(self.tokenizer, p) for p in problems]
        if prompts is None:
            return plain, self.prompts(problems, shown="strategy") if guided else plain
        own = [tuple(prompt) for prompt in prompts]
        if len(own) != len(problems) or not all(own):
            raise ValueError(
                f"rollout.groups: {len(own)} prompts for {len(problems)} problems, of which "
                f"{sum(not p for p in own)} without tokens; give each problem one with at least one"
            )
        return plain if guided else own, own

    def _params(self, problems: Sequence[Problem], role: Role) -> SamplingParams:
        """How the next call of ``role`` samples: in a stream of its own, so that a second group of
        the same kind in one step does not repeat the first one's draws."""
        foreign = next((p.id for p in problems if self.places and p.id not in self.places), None)
        if foreign is not None:
            raise ValueError(
                f"rollout.groups: problem {foreign!r} is none of those that collect was given; "
                "sample only those"
            )
        call = self.calls.get(role, 0)
        self.calls[role] = call + 1
        stream = (self.step, role.value, *([call] if call else []))
        stream += ("more", self.round) if self.round else ()
        return SamplingParams(
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            seed=derive_seed(self.seed, "rollout", *stream),
            logprobs=True,
            places=tuple(self.places[p.id] for p in problems) if self.places else None,
        )

    def _graded(self, sampled: Sequence[tuple[Problem, Completion]]) -> Sequence[Verdict]:
        read = [self.prompt_spec.graded_text(c.text) for _, c in sampled]
        return self.grader(
            [(p.answer, text) for (p, _), (text, _) in zip(sampled, read, strict=True)],
            truncated=[
                c.finish_reason is FinishReason.LENGTH and not ended
                for (_, c), (_, ended) in zip(sampled, read, strict=True)
            ],
        )

    def demonstrations(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """The expert's trace of every problem, graded like any other completion; ValueError when a
        problem has none."""
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
    ) -> list[PromptIds]:
        """The prompt ids of every problem with its strategy or the expert's solution in them;
        ValueError when a problem has none."""
        flag = {"strategy": "guided", "solution": "solved"}[shown]
        return [self.prompt_spec.prompt_ids(self.tokenizer, p, **{flag: True}) for p in problems]

    def logprobs(
        self, trajectories: Sequence[Trajectory], *, teacher: Teacher | None = None
    ) -> list[torch.Tensor]:
        """Log-probabilities [len(completion)] of every trajectory under its own prompt and the full
        softmax of the current policy, or of ``teacher``."""
        self.spent.scored_tokens += sum(len(t.completion_ids) for t in trajectories)
        model = self.model if teacher is None else teacher.model
        return own_logprobs(model, trajectories, self.token_budget)

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """The ``values`` (plain Python data) of all ranks in one list, the same on every rank; they
        all call it equally often. What a method keeps from step to step goes through here."""
        if not self.alike:
            raise ValueError(
                "rollout.gather: not for a method with more_problems, in whose later rounds a rank "
                "may have no problem and would not take part; keep what is known on one rank"
            )
        return [value for part in self.ranks.gather(list(values)) for value in part]

    def _add(self, role: Role, means: Mapping[str, float], count: int) -> None:
        prefix = "guided_" if role is Role.GUIDED else ""
        for name, mean in means.items():
            self.sums.add(prefix + name, mean * count, count)

    def _record(self, trajectories: Sequence[Trajectory], n: int) -> None:
        if not trajectories:
            return
        count = len(trajectories)
        rewards = torch.tensor([t.reward for t in trajectories], dtype=torch.float64).view(-1, n)
        tokens = sum(len(t.completion_ids) for t in trajectories)
        cut = sum(t.finish_reason is FinishReason.LENGTH for t in trajectories)
        of_samples = {
            "reward": float(rewards.mean()),
            "response_length": tokens / count,
            "truncated_share": cut / count,
        }
        equal = (rewards == rewards[:, :1]).all(1).double()
        self._add(trajectories[0].role, of_samples, count)
        self._add(trajectories[0].role, {"zero_std_share": float(equal.mean())}, len(equal))
        self.spent.sampled_tokens += tokens
        self.spent.num_samples += count


def sampler_mismatch(
    model: PreTrainedModel, sampled: Sequence[tuple[PromptIds, Completion]]
) -> dict[str, float]:
    """How far the log-probabilities that the sampler reported are off those of the policy
    ``model``: mean and maximum of the size of the difference in nats over the tokens of
    ``MEASURED`` (prompt, completion) pairs, evenly picked; {} where it reported none.

    An engine with weights of its own computes the same policy in another precision and order of
    operations. The trainer recomputes its numbers: the difference is watched, not corrected.
    """
    if not sampled or sampled[0][1].sampler_logprobs is None:
        return {}
    picked = sampled[:: max(1, len(sampled) // MEASURED)][:MEASURED]
    rows = [Trajectory("", Role.AUTONOMOUS, prompt, c.token_ids, 0.0) for prompt, c in picked]
    ours = [
        values
        for start in range(0, len(rows), PER_FORWARD)
        for values in own_logprobs(model, rows[start : start + PER_FORWARD], 1 << 62)
    ]
    theirs = [torch.tensor(c.sampler_logprobs) for _, c in picked]
    gap = (torch.cat(ours).cpu().double() - torch.cat(theirs).double()).abs()
    return {"mismatch_mean": float(gap.mean()), "mismatch_max": float(gap.max())}
