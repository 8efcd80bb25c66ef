"""The strong model of the mini world: a rule-based solver that is asked like a real one.

It responds to a problem, proposes five candidate strategies of varying quality from its response,
scores each on four criteria, and the best is kept (the pipeline of the paper's strategy
extraction). ``expert_gap`` is the probability that the response leaves out an intermediate step.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from sgpo.core.types import Problem
from sgpo.mini.problems import SLOTS, TYPE_BY_NAME, TYPES, Plan, Task, solve
from sgpo.mini.text import (
    STEPS_LINE,
    THIN_STEPS_LINE,
    VAGUE,
    boxed,
    derivation_pieces,
    split_pieces,
    strategy_pieces,
)

CRITERIA = ("type", "strategy", "steps", "no_leak")
NUM_CANDIDATES = 5
# What a candidate may be like; five of these ten are drawn, so one problem in twelve is left
# with a flawed strategy (mostly one open choice), as happens with a real model.
_QUALITIES = (
    ("sound",) * 3 + ("vague",) * 2 + ("wrong_choice",) * 2 + ("wrong_type", "thin_steps", "leak")
)
_VAGUE_SCORE = 0.3  # an open choice is no error, but little help
# Strategies that are bad on purpose, to see what a method makes of them.
DEGRADED = ("wrong_type", "wrong_choice", "open", "leak")


@dataclass(frozen=True)
class Candidate:
    """One proposed strategy; ``scores`` has a value in [0, 1] for each of ``CRITERIA``."""

    text: str
    quality: str
    scores: dict[str, float]

    @property
    def mean_score(self) -> float:
        return sum(self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class ExpertRecord:
    """The strong model's response, its candidate strategies and the index of the kept one."""

    response: str
    candidates: tuple[Candidate, ...]
    kept: int

    @property
    def strategy(self) -> Candidate:
        return self.candidates[self.kept]

    def attach_to(self, problem: Problem) -> Problem:
        """The problem with the kept strategy and the response beside it."""
        return replace(problem, strategy=self.strategy.text, expert=self.response)


def right_plans(task: Task) -> tuple[Plan, ...]:
    """The right plan of each task of the chain, innermost first."""
    return tuple(TYPE_BY_NAME[step.kind].plan for step in task.chain)


def propose_strategy(task: Task, quality: str, rng: random.Random) -> str:
    """A candidate of the named quality: one of ``_QUALITIES``, or ``open``, which leaves every
    choice open."""
    names = [step.kind for step in task.chain]
    plans = [list(plan.choices) for plan in right_plans(task)]
    steps = None
    if quality == "wrong_type":
        other = rng.choice([t for t in TYPES if t.name != names[-1]])
        names[-1], plans[-1] = other.name, list(other.plan.choices)
    elif quality in ("vague", "wrong_choice"):
        slot = rng.randrange(len(SLOTS))
        wrong = [option for option in SLOTS[slot] if option != plans[-1][slot]]
        plans[-1][slot] = VAGUE if quality == "vague" else rng.choice(wrong)
    elif quality == "open":
        plans = [[VAGUE] * len(SLOTS) for _ in names]
    elif quality == "thin_steps":
        steps = THIN_STEPS_LINE
    elif quality == "leak":
        steps = [*STEPS_LINE, " giving", *boxed(solve(task))]
    else:
        assert quality == "sound", quality
    return "".join(strategy_pieces(names, plans, steps=steps))


def score_strategy(task: Task, strategy: str) -> dict[str, float]:
    """Scores of a strategy text in [0, 1] on the four criteria, read off the text alone.

    type: share of tasks whose type is named. strategy: share of choices that are right, an open
    one counting 0.3. steps: 1 for the full steps, 0.5 for thin ones. no_leak: 0 if a box or a
    digit stands in it. A text with another number of blocks than the chain has scores 0 on the
    first three.
    """
    pieces = split_pieces(strategy)
    lines = [line.split() for line in strategy.split("\n")]
    types = [line[1] for line in lines if line[:1] == ["Type"]]
    plans = [line[1::2] for line in lines if line[:1] == ["Strategy"]]
    steps = [line for line in lines if line[:1] == ["Steps"]]
    right = right_plans(task)
    leak = any(piece.isdigit() or "boxed" in piece for piece in pieces)
    scores = dict.fromkeys(CRITERIA, 0.0) | {"no_leak": 0.0 if leak else 1.0}
    if not len(types) == len(plans) == len(steps) == len(right):
        return scores
    full = "".join(STEPS_LINE).split()
    named = zip(types, task.chain, strict=True)
    scores["type"] = sum(name == step.kind for name, step in named) / len(types)
    given = [c for plan in plans for c in plan]
    wanted = [c for plan in right for c in plan.choices]
    if len(given) == len(wanted):
        marks = [
            _VAGUE_SCORE if g == VAGUE else float(g == w)
            for g, w in zip(given, wanted, strict=True)
        ]
        scores["strategy"] = sum(marks) / len(marks)
    scores["steps"] = sum(1.0 if s[: len(full)] == full else 0.5 for s in steps) / len(steps)
    return scores


def ask_expert(task: Task, gap: float, seed: str) -> ExpertRecord:
    """The strong model's response and strategies for a task; the same seed gives the same record.

    Response and strategies are drawn independently, so the strategy of a problem does not depend
    on ``gap``. A strategy that leaks is kept only if every candidate does, which the draw excludes.
    """
    rng = random.Random(f"{seed}-strategy")
    qualities = rng.sample(_QUALITIES, NUM_CANDIDATES)
    texts = [propose_strategy(task, quality, rng) for quality in qualities]
    candidates = tuple(
        Candidate(text, quality, score_strategy(task, text))
        for text, quality in zip(texts, qualities, strict=True)
    )
    kept = max(
        range(len(candidates)),
        key=lambda i: (candidates[i].scores["no_leak"], candidates[i].mean_score),
    )
    response = derivation_pieces(
        task, right_plans(task), gap=gap, rng=random.Random(f"{seed}-response")
    )
    return ExpertRecord("".join(response), candidates, kept)
