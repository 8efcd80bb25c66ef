"""Is a world informative for a model? Judged type by type, since a mean of types that are solved
and types that never will be says nothing.

Exploration must be able to find something in a type, and must not find it all; guidance must help.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import Sampler, SamplingParams
from sgpo.core.types import Problem
from sgpo.mini.sets import training_problems
from sgpo.mini.world import NAMES, World
from sgpo.mini.writing import is_right

MAX_TOKENS = 96  # the longest text of the world, with room
OPEN = (0.15, 0.85)  # a type whose pass rate lies here can still tell methods apart
MIN_GUIDED = 0.5


@dataclass(frozen=True)
class TypeRate:
    """Pass rates of one type at temperature 1, in [0, 1]. ``declared``: how often the world's
    writers find its plan unguided; ``foreign``: guided by another type's strategy."""

    kind: str
    declared: float
    unguided: float
    guided: float
    foreign: float


def type_rates(
    sampler: Sampler,
    tokenizer: Any,
    world: World,
    *,
    per_type: int = 2,
    unguided_samples: int = 16,
    guided_samples: int = 4,
) -> list[TypeRate]:
    """The rates of every type on ``per_type`` RL training problems, in the order of ``NAMES``."""
    # The pool goes through the types in turn, so its start is balanced; half a round on, every
    # neighbour is another type.
    problems = training_problems(world, "rl", 0.0)[: per_type * len(NAMES)]
    donors = problems[len(problems) // 2 + 1 :] + problems[: len(problems) // 2 + 1]
    foreign = [replace(p, strategy=d.strategy) for p, d in zip(problems, donors, strict=True)]
    spec = PROMPT_SPECS["mini"]

    def rates(asked: Sequence[Problem], guided: bool, count: int, seed: int) -> dict[str, float]:
        prompts = [spec.prompt_ids(tokenizer, p, guided=guided) for p in asked]
        samples = sampler.sample(prompts, count, SamplingParams(MAX_TOKENS, seed=seed))
        groups = defaultdict(list)
        for problem, row in zip(asked, samples, strict=True):
            groups[problem.kind] += [is_right(c.text, problem.answer) for c in row]
        return {kind: mean(values) for kind, values in groups.items()}

    unguided = rates(problems, False, unguided_samples, 0)
    guided = rates(problems, True, guided_samples, 1)
    other = rates(foreign, True, guided_samples, 2)
    return [
        TypeRate(name, world.type(name).found, unguided[name], guided[name], other[name])
        for name in NAMES
    ]


def window(rates: Sequence[TypeRate]) -> dict[str, float]:
    """Shares of types, in [0, 1]: which exploration cannot be expected to find in eight samples
    (``hard``), which it mostly finds (``easy``), which are open, and for which a strategy works."""
    return {
        "hard": mean(r.unguided < 1 / 12 for r in rates),
        "easy": mean(r.unguided > OPEN[1] for r in rates),
        "open": mean(OPEN[0] <= r.unguided <= OPEN[1] for r in rates),
        "guided": mean(r.guided >= MIN_GUIDED for r in rates),
        "helped": mean(r.guided > r.unguided for r in rates),
        "mean_unguided": mean(r.unguided for r in rates),
        "mean_guided": mean(r.guided for r in rates),
        "mean_foreign": mean(r.foreign for r in rates),
    }
