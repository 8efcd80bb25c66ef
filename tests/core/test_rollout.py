"""Rollouts: derived seeds, prompts, grading, what is counted, and the engine's numbers beside
the trainer's."""

from dataclasses import replace

import pytest
import torch
from tiny import (
    END,
    SPEC,
    build_model,
    build_problems,
    build_rollout,
    build_trainer,
    dense_logprobs,
    grader,
    metrics,
)

from baselines.grpo import GRPO, GRPOConfig
from sgpo.core.rollout import MEASURED, PER_FORWARD
from sgpo.core.sampling import CompactSampler
from sgpo.core.scoring import own_logprobs
from sgpo.core.seeding import derive_seed, generator
from sgpo.core.types import FinishReason

SHIFT = 0.1


def opened(seed=7, step=1, **changes):
    rollout = build_rollout(build_model(), seed, **changes)
    rollout.begin_step(step)
    return rollout


def test_sub_seeds_depend_on_every_part_of_their_name():
    names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a1"), (0, "a", "1", "")]
    seeds = [derive_seed(*name) for name in names]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(0, "a") == 7606779636460171844  # a stored run must stay reproducible
    first, again = (torch.rand(3, generator=generator(5, "x")) for _ in range(2))
    assert torch.equal(first, again)


def test_draws_depend_on_seed_step_role_and_call_and_on_nothing_else():
    """Equal noise under two prompts would couple the two groups that Eq. 6 compares."""
    problems = build_problems(4)

    def drawn(seed, step, *roles):
        rollout, seeds, drawn = opened(seed, step), [], []
        sample = rollout.sampler.sample
        rollout.sampler.sample = lambda p, n, params: seeds.append(params) or sample(p, n, params)
        for guided in roles:
            groups = rollout.groups(problems, 4, guided=guided)
            drawn.append([t.completion_ids for group in groups for t in group])
        return list(zip((params.seed for params in seeds), drawn, strict=True))

    variants = [*drawn(1, 1, False, False, True), *drawn(2, 1, False), *drawn(1, 2, False, True)]
    for part in zip(*variants, strict=True):  # neither a seed nor a sample twice
        assert all(a != b for i, a in enumerate(part) for b in part[i + 1 :])
    assert drawn(1, 1, True, False)[::-1] == [variants[0], variants[2]]


def test_a_part_of_a_step_draws_what_the_whole_step_draws():
    """So that a method which samples some of its problems has the same samples on all numbers of
    ranks; a problem that was not given out has no place, and is refused."""
    problems = build_problems(5)
    rollout, drawn = opened(), []
    for asked in (problems[:4], problems[2:4], problems[3:4]):
        rollout.begin_step(1, {p.id: i for i, p in enumerate(problems[:4])})
        groups = rollout.groups(asked, 3)
        drawn.append({g[0].problem_id: [t.completion_ids for t in g] for g in groups})
    for part in drawn[1:]:
        assert part == {key: drawn[0][key] for key in part}
    assert rollout.groups([], 3) == []
    with pytest.raises(ValueError, match="rollout.groups: problem 'p4' is none of those"):
        rollout.groups(problems[4:], 3)


def test_statistics_are_means_over_every_call_and_the_grader_sees_what_was_cut():
    seen = {"pairs": [], "flags": [], "right": []}

    def grade(pairs, *, truncated):
        verdicts = grader(pairs, truncated=truncated)
        seen["pairs"] += pairs
        seen["flags"] += truncated
        seen["right"] += [float(v.correct) for v in verdicts]
        return verdicts

    rollout, trajectories = opened(grade=grade), []
    for problems, n in ((build_problems(4), 6), (build_problems(7)[4:], 2)):
        trajectories += [t for group in rollout.groups(problems, n) for t in group]
    assert seen["flags"] == [t.finish_reason is FinishReason.LENGTH for t in trajectories]
    assert {True, False} == set(seen["flags"])
    golds = {p.id: p.answer for p in build_problems(7)}
    assert [gold for gold, _ in seen["pairs"]] == [golds[t.problem_id] for t in trajectories]
    right = seen["right"]
    equal = sum(len(set(right[i : i + 6])) == 1 for i in range(0, 24, 6))
    equal += sum(len(set(right[i : i + 2])) == 1 for i in range(24, 30, 2))
    expected = {
        "reward": sum(right) / 30,
        "truncated_share": sum(seen["flags"]) / 30,
        "response_length": sum(len(t.completion_ids) for t in trajectories) / 30,
        "zero_std_share": equal / 7,
    }
    assert rollout.sums.means() == pytest.approx(expected)
    assert 0 < rollout.sums.means()["reward"] < 1 and 0 < equal < 7


def test_own_prompts_are_sampled_graded_and_counted():
    problems, prompts = build_problems(3), [(2, 9, 10, 3), (2, 11, 3), (2, 12, 13, 3)]
    rollout = opened()
    groups = rollout.groups(problems, 4, prompts=prompts)
    assert opened().groups(problems, 4, prompts=prompts) == groups
    assert opened().groups(problems, 4) != groups
    for problem, prompt, group in zip(problems, prompts, groups, strict=True):
        for t in group:
            assert t.prompt_ids == prompt and t.second_prompt_ids is None
            shown = rollout.tokenizer.decode(t.completion_ids, skip_special_tokens=True)
            [verdict] = grader([(problem.answer, shown)], truncated=[False])
            assert t.reward == float(verdict.correct)
    assert rollout.spent.num_samples == 12
    guided = rollout.groups(problems, 2, guided=True, prompts=prompts)
    for problem, prompt, group in zip(problems, prompts, guided, strict=True):
        own = SPEC.prompt_ids(rollout.tokenizer, problem)
        assert {(t.prompt_ids, t.second_prompt_ids) for t in group} == {(own, prompt)}
    with pytest.raises(ValueError, match="2 prompts for 3 problems"):
        rollout.groups(problems, 2, prompts=prompts[:2])


class ShiftedSampler(CompactSampler):
    """Reports log-probabilities that are ``SHIFT`` too low, under the prompt it was given, and
    notes what it is told."""

    def __init__(self, rollout):
        super().__init__(rollout.model, rollout.tokenizer, stop_ids=[END])
        self.order = []

    def sample(self, prompts, n, params, progress=None):
        assert params.logprobs
        self.order.append("sample")
        groups = super().sample(prompts, n, params, progress)
        return [
            [self.shifted(tuple(prompt), c) for c in group]
            for prompt, group in zip(prompts, groups, strict=True)
        ]

    def shifted(self, prompt, completion):
        values = dense_logprobs(self.model, prompt, completion.token_ids).detach() - SHIFT
        return replace(completion, sampler_logprobs=tuple(values.tolist()))

    def release(self):
        self.order.append("release")

    def sync(self, model):
        self.order.append("sync")


@pytest.mark.parametrize("guided", [False, True])
def test_the_rollout_measures_under_the_prompt_that_was_sampled(guided, monkeypatch):
    rollout = opened()
    rollout.groups(build_problems(4), 3, guided=guided)
    assert "mismatch" not in str(rollout.sums)  # shared weights: nothing to say
    rollout.sampler = ShiftedSampler(rollout)
    scored = []

    def counted(model, rows, budget):
        scored.append(len(rows))
        return own_logprobs(model, rows, budget)

    monkeypatch.setattr("sgpo.core.rollout.own_logprobs", counted)
    groups = rollout.groups(build_problems(4), 8, guided=guided)
    # As many forward passes on every rank, whatever the lengths there.
    assert scored == [PER_FORWARD] * (MEASURED // PER_FORWARD)
    prefix = "guided_" if guided else ""
    assert rollout.sums.means()[f"{prefix}mismatch_mean"] == pytest.approx(SHIFT, abs=1e-5)
    assert rollout.sums.means()[f"{prefix}mismatch_max"] == pytest.approx(SHIFT, abs=1e-4)
    t = groups[0][0]
    values = dense_logprobs(rollout.model, t.second_prompt_ids or t.prompt_ids, t.completion_ids)
    assert t.sampler_logprobs == pytest.approx((values - SHIFT).tolist())


def test_it_is_logged_and_the_sampler_is_told_when_to_let_go(tmp_path):
    trainer = build_trainer(GRPO(GRPOConfig(num_samples=4)), tmp_path, num_steps=2)
    trainer.rollout.sampler = ShiftedSampler(trainer.rollout)
    trainer.run()
    assert trainer.rollout.sampler.order == ["sync"] + ["sample", "release", "sync"] * 2
    assert [r["mismatch_max"] for r in metrics(tmp_path)] == pytest.approx([SHIFT] * 2, abs=1e-4)
