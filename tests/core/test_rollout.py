"""Rollouts: derived seeds, grading and what is counted."""

import pytest
import torch
from tiny import (
    build_model,
    build_problems,
    build_rollout,
    grader,
)

from sgpo.core.seeding import derive_seed, generator
from sgpo.core.types import FinishReason


def test_sub_seeds_depend_on_every_part_of_their_name():
    names = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 2), (0, "a1"), (0, "a", "1", "")]
    seeds = [derive_seed(*name) for name in names]
    assert len(set(seeds)) == len(seeds) and all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(0, "a") == 7606779636460171844  # a stored run must stay reproducible
    assert torch.equal(
        torch.rand(3, generator=generator(5, "x")), torch.rand(3, generator=generator(5, "x"))
    )


def test_rollout_draws_depend_on_seed_step_and_role():
    problems = build_problems(4)

    def drawn(seed, step, guided=False):
        rollout = build_rollout(build_model(), seed)
        rollout.begin_step(step)
        groups = rollout.groups(problems, 4, guided=guided)
        return [t.completion_ids for group in groups for t in group]

    assert drawn(1, 1) == drawn(1, 1)
    variants = [drawn(1, 1), drawn(2, 1), drawn(1, 2), drawn(1, 1, guided=True)]
    assert all(a != b for i, a in enumerate(variants) for b in variants[i + 1 :])


def test_a_second_group_of_one_step_does_not_repeat_the_first():
    problems = build_problems(4)
    rollout = build_rollout(build_model(), 1)

    def drawn():
        return [t.completion_ids for group in rollout.groups(problems, 4) for t in group]

    rollout.begin_step(1)
    first, second = drawn(), drawn()
    assert first != second
    rollout.begin_step(1)
    assert [drawn(), drawn()] == [first, second]


def test_autonomous_and_guided_draws_have_streams_of_their_own():
    """Equal noise under two prompts would couple the two groups that Eq. 6 compares."""
    rollout = build_rollout(build_model())
    seeds, sample = [], rollout.sampler.sample

    def spy(prompts, n, params, progress=None):
        seeds.append(params.seed)
        return sample(prompts, n, params, progress)

    rollout.sampler.sample = spy
    for step in (1, 2):
        rollout.begin_step(step)
        rollout.groups(build_problems(2), 2)
        rollout.groups(build_problems(2), 2, guided=True)
    assert len(set(seeds)) == 4


def test_rollout_tells_the_grader_what_was_truncated():
    seen = {}

    def grade(pairs, *, truncated):
        seen["flags"], seen["pairs"] = truncated, pairs
        return grader(pairs, truncated=truncated)

    rollout = build_rollout(build_model(), grade=grade)
    rollout.begin_step(1)
    flat = [t for group in rollout.groups(build_problems(3), 8) for t in group]
    assert seen["flags"] == [t.finish_reason is FinishReason.LENGTH for t in flat]
    assert {True, False} == set(seen["flags"])
    assert rollout.stats["truncated_share"] == pytest.approx(sum(seen["flags"]) / 24)
    golds = {p.id: p.answer for p in build_problems(3)}
    assert [gold for gold, _ in seen["pairs"]] == [golds[t.problem_id] for t in flat]
    lengths = [len(t.completion_ids) for t in flat]
    assert rollout.stats["response_length"] == pytest.approx(sum(lengths) / 24)
    assert rollout.stats["reward"] == pytest.approx(sum(t.reward for t in flat) / 24)
