"""The mini world's problem sets: training pool, development set, four test benchmarks.

Sets are disjoint by construction: a hash of the digits of a task puts it into one partition
(train, development or test), and pretraining text, training pool and expert traces come from the
first alone. Within the test partition no problem is used twice.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

from sgpo.core.types import Problem
from sgpo.mini.expert import DEGRADED, ExpertRecord, ask_expert, propose_strategy
from sgpo.mini.problems import MODULUS, TYPES, Task, answer_text, solve
from sgpo.mini.text import question_pieces

Partition = Literal["train", "development", "test"]
_BUCKETS: dict[int, Partition] = {7: "development", 8: "test", 9: "test"}  # of 10; the rest train

LEVEL_LENGTHS = {1: 3, 2: 4, 3: 5}  # level -> length of the list
# Compositions: level -> (digits of the outer list, length of the inner list).
COMPOSITION_LENGTHS = {4: (1, 3), 5: (2, 3), 6: (3, 5)}

WARMUP_PROBLEMS = 512
RL_PROBLEMS = 1024
DEVELOPMENT_PROBLEMS = 304  # 19 a type


class Benchmark(NamedTuple):
    """A test set: ``levels`` are cycled through, ``k`` is the samples per problem at evaluation."""

    key: str
    label: str
    num_problems: int
    k: int
    levels: tuple[int, ...]


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("minimath", "MiniMATH", 500, 4, (1, 2, 3)),
    Benchmark("miniamc", "MiniAMC", 40, 32, (3,)),
    Benchmark("miniolympiad", "MiniOlympiad", 674, 4, (4, 5)),
    Benchmark("miniaime", "MiniAIME", 30, 32, (6,)),
)


def partition_of(task: Task) -> Partition:
    """Where a task belongs; depends on its digits alone, so it holds for every type at once."""
    digits = "|".join("".join(map(str, step.digits)) for step in task.chain)
    first = hashlib.sha256(digits.encode()).digest()[0]
    return _BUCKETS.get(first % 10, "train")


def random_task(rng: random.Random, level: int, partition: Partition, kind: str = "") -> Task:
    """A task of this level, uniform over the partition; ``kind`` fixes the (outer) type."""
    while True:
        outer = kind or rng.choice(TYPES).name
        if level in LEVEL_LENGTHS:
            task = Task(outer, _digits(rng, LEVEL_LENGTHS[level]))
        else:
            outer_digits, inner_length = COMPOSITION_LENGTHS[level]
            inner = Task(rng.choice(TYPES).name, _digits(rng, inner_length))
            task = Task(outer, _digits(rng, outer_digits), inner)
        if partition_of(task) == partition:
            return task


def _digits(rng: random.Random, count: int) -> tuple[int, ...]:
    return tuple(rng.randrange(MODULUS) for _ in range(count))


def _distinct_tasks(
    seed: str, levels: tuple[int, ...], partition: Partition, count: int
) -> list[tuple[int, Task]]:
    """``count`` different (level, task), levels and types taken in turn so that sets balance."""
    rng = random.Random(seed)
    seen: set[Task] = set()
    out: list[tuple[int, Task]] = []
    kinds = _endless_shuffles(rng, [t.name for t in TYPES])
    for i in range(count):
        level = levels[i % len(levels)]
        kind = next(kinds)
        task = random_task(rng, level, partition, kind)
        while task in seen:
            task = random_task(rng, level, partition, kind)
        seen.add(task)
        out.append((level, task))
    return out


def _endless_shuffles(rng: random.Random, names: list[str]) -> Iterator[str]:
    while True:
        yield from rng.sample(names, len(names))


def to_problem(problem_id: str, level: int, task: Task) -> Problem:
    """The task as a problem record, without strategy or expert trace."""
    return Problem(
        id=problem_id,
        question="".join(question_pieces(task)),
        answer=answer_text(solve(task)),
        kind=task.kind,
        level=level,
    )


def training_problems(
    split: Literal["warmup", "rl"], expert_gap: float, seed: int = 0, strategy: str = "kept"
) -> list[Problem]:
    """The training pool with the strong model's strategy and trace beside each problem.

    Args:
        split: ``warmup`` (512 problems, for SFT) or ``rl`` (1024); the two share no problem.
        expert_gap: probability in [0, 1] that the trace leaves out an intermediate step.
        seed: of the pool; the same tasks come back whatever ``expert_gap`` is.
        strategy: ``kept``, the one that the extraction kept, or one of ``expert.DEGRADED``.

    Raises:
        ValueError: for another split or strategy, or a gap outside [0, 1].
    """
    if strategy != "kept" and strategy not in DEGRADED:
        names = ", ".join(("kept", *DEGRADED))
        raise ValueError(f"unknown strategy {strategy!r}; choose one of {names}")
    out = []
    for i, task, problem, record in _asked(split, expert_gap, seed):
        problem = record.attach_to(problem)
        if strategy != "kept":
            draws = random.Random(f"degraded-{seed}-{i}")
            problem = replace(problem, strategy=propose_strategy(task, strategy, draws))
        out.append(problem)
    return out


def training_records(
    split: Literal["warmup", "rl"], expert_gap: float, seed: int = 0
) -> list[tuple[Problem, ExpertRecord]]:
    """The same problems, bare, each with all that the strong model left: its candidates too."""
    return [(problem, record) for _, _, problem, record in _asked(split, expert_gap, seed)]


def _asked(
    split: str, expert_gap: float, seed: int
) -> Iterator[tuple[int, Task, Problem, ExpertRecord]]:
    """Place in the pool, task, bare problem and what the strong model made of it."""
    if split not in ("warmup", "rl"):
        raise ValueError(f"unknown split {split!r}; choose 'warmup' or 'rl'")
    if not 0.0 <= expert_gap <= 1.0:
        raise ValueError(f"expert_gap must be in [0, 1], got {expert_gap}")
    pool = _distinct_tasks(
        f"pool-{seed}", tuple(LEVEL_LENGTHS), "train", WARMUP_PROBLEMS + RL_PROBLEMS
    )
    start, stop = (0, WARMUP_PROBLEMS) if split == "warmup" else (WARMUP_PROBLEMS, len(pool))
    for i in range(start, stop):
        level, task = pool[i]
        problem = to_problem(f"train-{seed}-{i:04d}", level, task)
        yield i, task, problem, ask_expert(task, expert_gap, seed=f"expert-{seed}-{i}")


@cache
def _development() -> tuple[Problem, ...]:
    tasks = _distinct_tasks(
        "development", tuple(LEVEL_LENGTHS), "development", DEVELOPMENT_PROBLEMS
    )
    return tuple(to_problem(f"dev-{i:04d}", level, task) for i, (level, task) in enumerate(tasks))


def development_problems() -> list[Problem]:
    """The 304 problems on which hyper-parameters are chosen; no strategy, no trace."""
    return list(_development())


@cache
def _test_sets() -> dict[str, tuple[Problem, ...]]:
    taken: set[Task] = set()
    sets = {}
    # Smallest first: what a small set drew is left out of the next one, drawn larger by as much.
    for bench in sorted(BENCHMARKS, key=lambda b: b.num_problems):
        drawn = _distinct_tasks(bench.key, bench.levels, "test", bench.num_problems + len(taken))
        kept = [(level, task) for level, task in drawn if task not in taken]
        kept = kept[: bench.num_problems]
        taken.update(task for _, task in kept)
        sets[bench.key] = tuple(
            to_problem(f"{bench.key}-{i:04d}", level, task) for i, (level, task) in enumerate(kept)
        )
    return sets


def benchmark_problems(key: str) -> list[Problem]:
    """The problems of one test benchmark; they never carry a strategy or a trace.

    Raises ValueError that lists the known keys.
    """
    sets = _test_sets()
    if key not in sets:
        raise ValueError(f"unknown mini benchmark {key!r}; choose one of {', '.join(sets)}")
    return list(sets[key])
