"""The problem sets of a world: training pool, development set, four test sets.

Sets are disjoint by construction: a hash of the digits of a task puts it into one partition
(train, development or test), whatever its type; texts that base models learn from, training pool
and expert traces come from the first alone. Within a set no problem occurs twice.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

from sgpo.core.types import Problem
from sgpo.mini.teacher import Candidate, best, candidates, response
from sgpo.mini.world import MODULUS, NAMES, World
from sgpo.mini.writing import Task, question_pieces, solve

Partition = Literal["train", "development", "test"]
_BUCKETS: dict[int, Partition] = {7: "development", 8: "test", 9: "test"}  # of 10; the rest train

# Level -> digits of the list, or of the outer list (which gets a pair fed in) and the inner one.
LEVELS: dict[int, tuple[int, ...]] = {1: (3,), 2: (4,), 3: (5,), 4: (1, 3), 5: (2, 4), 6: (3, 5)}
TRAINED = (1, 2)  # RL and the warm-up see these alone
WARMUP_PROBLEMS, RL_PROBLEMS = 4 * len(NAMES), 5 * len(NAMES)
TEST_PROBLEMS = 4 * len(NAMES)  # of each test set
SAMPLES = 4  # a problem, at evaluation


class TestSet(NamedTuple):
    """``levels`` are taken in turn; every type has the same share of the problems."""

    key: str
    label: str
    levels: tuple[int, ...]
    num_problems: int = TEST_PROBLEMS
    k: int = SAMPLES


TEST_SETS = (
    TestSet("trained", "Trained levels", TRAINED),  # in the place of MATH500
    TestSet("harder", "Harder level", (3,)),  # AMC23
    TestSet("composed", "Compositions", (4, 5)),  # OlympiadBench
    TestSet("long", "Long compositions", (6,)),  # AIME24
)


def partition_of(task: Task) -> Partition:
    """Where a task belongs; depends on its digits alone, so it holds for every type at once."""
    digits = "|".join("".join(map(str, step.digits)) for step in task.chain)
    return _BUCKETS.get(hashlib.sha256(digits.encode()).digest()[0] % 10, "train")


def random_task(rng: random.Random, level: int, partition: Partition, kind: str = "") -> Task:
    """A task of this level, uniform over the partition; ``kind`` fixes the (outer) type."""
    outer, *inner = LEVELS[level]
    while True:
        fed = Task(rng.choice(NAMES), _digits(rng, inner[0])) if inner else None
        task = Task(kind or rng.choice(NAMES), _digits(rng, outer), fed)
        if partition_of(task) == partition:
            return task


def _digits(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(MODULUS) for _ in range(count))


def _tasks(
    seed: str, levels: tuple[int, ...], partition: Partition, count: int
) -> Iterator[tuple[int, Task]]:
    """``count`` different (level, task); every type once, then every type again on the next level,
    so that sets balance."""
    rng = random.Random(seed)
    seen: set[Task] = set()
    for i in range(count):
        if i % len(NAMES) == 0:
            kinds = rng.sample(NAMES, len(NAMES))
        level = levels[i // len(NAMES) % len(levels)]
        task = random_task(rng, level, partition, kinds[i % len(NAMES)])
        while task in seen:
            task = random_task(rng, level, partition, task.kind)
        seen.add(task)
        yield level, task


def to_problem(world: World, name: str, level: int, task: Task) -> Problem:
    """The task as a problem record, without strategy or expert trace."""
    first, second = solve(world, task)
    return Problem(
        id=name,
        question="".join(question_pieces(task)),
        answer=f"({first},{second})",
        kind=task.kind,
        level=level,
    )


def test_problems(world: World, key: str) -> list[Problem]:
    """The problems of a test set; they never carry a strategy or a trace.

    Raises ValueError that lists the known keys.
    """
    known = {test_set.key: test_set.levels for test_set in TEST_SETS}
    if key not in known:
        raise ValueError(f"unknown test set {key!r}: must be one of {', '.join(known)}")
    drawn = _tasks(f"{key}-{world.seed}", known[key], "test", TEST_PROBLEMS)
    return [
        to_problem(world, f"{key}-{world.seed}-{i:04d}", level, task)
        for i, (level, task) in enumerate(drawn)
    ]


def development_problems(world: World) -> list[Problem]:
    """The problems on which settings are chosen: every type once of each of the four kinds."""
    return [
        to_problem(world, f"dev-{world.seed}-{test_set.key}-{i:04d}", level, task)
        for test_set in TEST_SETS
        for i, (level, task) in enumerate(
            _tasks(
                f"development-{test_set.key}-{world.seed}",
                test_set.levels[-1:],
                "development",
                len(NAMES),
            )
        )
    ]


def training_problems(
    world: World, split: Literal["warmup", "rl"], expert_gap: float
) -> list[Problem]:
    """The training pool with the strong model's strategy and trace beside each problem.

    Args:
        split: ``warmup`` (for SFT) or ``rl``; the two share no problem.
        expert_gap: probability in [0, 1] that the trace leaves out an intermediate step.

    Raises:
        ValueError: for another split, or a gap outside [0, 1].
    """
    if not 0.0 <= expert_gap <= 1.0:
        raise ValueError(f"expert_gap={expert_gap}: must be in [0, 1]")
    out = []
    for seed, level, task in _pool(world, split):
        text = best(candidates(world, task, seed)).text
        bare = to_problem(world, seed, level, task)
        trace = response(world, task, expert_gap, seed)
        out.append(Problem(bare.id, bare.question, bare.answer, text, trace, bare.kind, level))
    return out


def training_candidates(world: World, split: Literal["warmup", "rl"]) -> list[list[Candidate]]:
    """All that the strong model proposed for each problem of ``training_problems``."""
    return [candidates(world, task, seed) for seed, _, task in _pool(world, split)]


def _pool(world: World, split: str) -> Iterator[tuple[str, int, Task]]:
    """(id, level, task) of the split; the id also seeds what the strong model makes of it."""
    if split not in ("warmup", "rl"):
        raise ValueError(f"unknown split {split!r}: must be warmup or rl")
    drawn = _tasks(f"pool-{world.seed}", TRAINED, "train", WARMUP_PROBLEMS + RL_PROBLEMS)
    for i, (level, task) in enumerate(drawn):
        if (i < WARMUP_PROBLEMS) == (split == "warmup"):
            yield f"train-{world.seed}-{i:04d}", level, task
