"""The strong model of a world: a rule-based solver that is asked like a real one.

It responds to a problem, proposes five candidate strategies of varying quality, scores each on four
criteria, and the best is kept (the pipeline of the paper's strategy extraction).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sgpo.mini.world import NAMES, SLOTS, Plan, World
from sgpo.mini.writing import (
    STEPS_LINE,
    THIN_STEPS_LINE,
    VAGUE,
    Task,
    boxed,
    derivation_lines,
    solve,
    strategy_pieces,
)

CRITERIA = ("type", "strategy", "steps", "no_leak")
NUM_CANDIDATES = 5
# What a candidate may be like; five of these ten are drawn, so one problem in twelve is left
# with a flawed strategy (mostly one open choice), as happens with a real model.
QUALITIES = (
    ("sound",) * 3 + ("vague",) * 2 + ("wrong_choice",) * 2 + ("wrong_type", "thin_steps", "leak")
)
_VAGUE_SCORE = 0.3  # an open choice is no error, but little help


@dataclass(frozen=True)
class Candidate:
    """One proposed strategy; ``scores`` has a value in [0, 1] for each of ``CRITERIA``."""

    text: str
    quality: str
    scores: dict[str, float]

    @property
    def mean_score(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


def right_plans(world: World, task: Task) -> list[Plan]:
    """The right plan of each task of the chain, innermost first."""
    return [world.type(step.kind).plan for step in task.chain]


def response(world: World, task: Task, gap: float, seed: str) -> str:
    """The worked answer; ``gap``: probability that an intermediate step is left out."""
    rng = random.Random(f"{seed}-response")
    lines = derivation_lines(task, right_plans(world, task), gap, rng)
    return "".join(piece for line in lines for piece in line)


def candidates(world: World, task: Task, seed: str) -> list[Candidate]:
    """The proposed strategies with their scores; the same seed gives the same ones."""
    rng = random.Random(f"{seed}-strategy")
    qualities = rng.sample(QUALITIES, NUM_CANDIDATES)
    texts = [propose_strategy(world, task, quality, rng) for quality in qualities]
    return [
        Candidate(text, quality, score_strategy(world, task, text))
        for text, quality in zip(texts, qualities, strict=True)
    ]


def best(proposed: list[Candidate]) -> Candidate:
    """The kept one: a strategy that leaks only if every candidate does, which the draw excludes."""
    return max(proposed, key=lambda c: (c.scores["no_leak"], c.mean_score))


def propose_strategy(world: World, task: Task, quality: str, rng: random.Random) -> str:
    """A candidate of the named quality, one of ``QUALITIES``."""
    names = [step.kind for step in task.chain]
    plans = [list(plan.choices) for plan in right_plans(world, task)]
    steps = None
    if quality == "wrong_type":
        names[-1] = rng.choice([name for name in NAMES if name != names[-1]])
        plans[-1] = list(world.type(names[-1]).plan.choices)
    elif quality in ("vague", "wrong_choice"):
        slot = rng.randrange(len(SLOTS))
        wrong = [option for option in SLOTS[slot] if option != plans[-1][slot]]
        plans[-1][slot] = VAGUE if quality == "vague" else rng.choice(wrong)
    elif quality == "thin_steps":
        steps = THIN_STEPS_LINE
    elif quality == "leak":
        steps = [*STEPS_LINE, " giving", *boxed(solve(world, task))]
    else:
        assert quality == "sound", quality
    return "".join(strategy_pieces(names, plans, steps))


def score_strategy(world: World, task: Task, strategy: str) -> dict[str, float]:
    """Scores of a strategy text in [0, 1] on the four criteria, read off the text alone.

    type: share of tasks whose type is named. strategy: share of choices that are right, an open
    one counting 0.3. steps: 1 for the full steps, 0.5 for thin ones. no_leak: 0 if a box or a
    digit stands in it. A text with another number of blocks than the chain has scores 0 on the
    first three.
    """
    leak = "boxed" in strategy or any(c.isdigit() for c in strategy)
    scores = dict.fromkeys(CRITERIA, 0.0) | {"no_leak": 0.0 if leak else 1.0}
    lines = [line.split() for line in strategy.split("\n")]
    types = [line[1] for line in lines if line[0] == "Type"]
    given = [choice for line in lines if line[0] == "Strategy" for choice in line[1::2]]
    steps = [line for line in lines if line[0] == "Steps"]
    wanted = [choice for plan in right_plans(world, task) for choice in plan.choices]
    count = len(task.chain)
    if (len(types), len(given), len(steps)) != (count, len(wanted), count):
        return scores
    full = "".join(STEPS_LINE).split()
    pairs = zip(given, wanted, strict=True)
    scores["type"] = sum(a == b.kind for a, b in zip(types, task.chain, strict=True)) / count
    scores["strategy"] = sum(_VAGUE_SCORE if g == VAGUE else g == w for g, w in pairs) / len(wanted)
    scores["steps"] = sum(1.0 if s[: len(full)] == full else 0.5 for s in steps) / count
    return scores
