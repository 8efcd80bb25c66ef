"""Table 8: the quality of 500 strategies, judged by a scorer that is not the extractor.

The extractor (``sgpo.mini.teacher``) compares words with the plan it had in mind. The scorer here
reads nothing but the strategy's text, the problem and the rules of the arithmetic: it carries the
strategy out on other lists and looks whether the right answers come out. They share no code but
that arithmetic, so a flaw of one is not a flaw of the other.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.analyses import AnalysisTask
from sgpo.core.types import Problem
from sgpo.mini.sets import training_candidates, training_problems
from sgpo.mini.world import MODULUS, SLOTS, Plan, World, apply_plan, draw_world

NUM_STRATEGIES = 500  # paper
WORLDS = (0, 1)  # the strong model is the same in every world; one has fewer problems
CRITERIA = ("type", "strategy", "steps", "no_leak")
BANDS = (("High", 0.8), ("Medium", 0.5), ("Low", 0.0))  # name, lower limit; the paper's
STAGES = ("order", "combine", "finish")
PROBES = 64  # lists that a strategy is carried out on


def analyse(
    task: AnalysisTask, directories: dict[str, Path], progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """``chosen``, ``candidates`` and ``by_flaw`` (candidates by the flaw that the expert built in)
    as :func:`summary` gives them; ``best_kept``: share of problems whose kept strategy no other
    candidate beats by this scorer."""
    asked = [
        (world, problem, proposed)
        for world in map(draw_world, WORLDS)
        for problem, proposed in zip(
            training_problems(world, "rl", 0.0), training_candidates(world, "rl"), strict=True
        )
    ][:NUM_STRATEGIES]
    chosen: list[dict[str, float]] = []
    by_flaw: dict[str, list[dict[str, float]]] = defaultdict(list)
    best = 0
    for done, (world, problem, proposed) in enumerate(asked, 1):
        scores = [score_text(world, problem, candidate.text) for candidate in proposed]
        chosen.append(score_text(world, problem, problem.strategy))
        best += total(chosen[-1]) >= max(map(total, scores))
        for candidate, score in zip(proposed, scores, strict=True):
            by_flaw[candidate.quality].append(score)
        progress(done, len(asked))
    return {
        "criteria": list(CRITERIA),
        "chosen": summary(chosen),
        "candidates": summary([score for scores in by_flaw.values() for score in scores]),
        "best_kept": best / len(asked),
        "by_flaw": {name: summary(rows) for name, rows in sorted(by_flaw.items())},
    }


def score_text(world: World, problem: Problem, strategy: str) -> dict[str, float]:
    """Scores in [0, 1] of a strategy text for a problem of one task, on the four criteria.

    type: the named type is the question's. strategy: how often the named plan, carried out, gives
    what the right plan gives on ``PROBES`` other lists; where a choice is left open, the mean over
    its options. steps: share of the three stages that the steps name in their order. no_leak: 1
    unless a digit stands anywhere in the text.
    """
    asked = re.fullmatch(r"Find the (\w+) pair: \d+", problem.question)
    assert asked, f"not a problem of one task: {problem.question!r}"
    kind = asked[1]
    named = re.search(r"^Type (\w+)$", strategy, re.MULTILINE)
    stages = re.search(r"^Steps (.*)$", strategy, re.MULTILINE)
    words = re.findall(r"\w+", stages[1]) if stages else []
    return {
        "type": float(bool(named) and named[1] == kind),
        "strategy": success(world, kind, strategy),
        "steps": _in_order(words),
        "no_leak": float(not re.search(r"\d", strategy)),
    }


def success(world: World, kind: str, strategy: str) -> float:
    """How often the plan of a strategy text solves a problem of ``kind``, in [0, 1]."""
    plan_line = re.search(r"^Strategy (\w+) then (\w+) then (\w+)$", strategy, re.MULTILINE)
    if plan_line is None:
        return 0.0
    return _agreement(world.type(kind).plan, plan_line.groups())


@cache
def _agreement(right: Plan, words: tuple[str, ...]) -> float:
    """Share of the probes on which the plan of ``words`` gives what ``right`` does."""
    named = [
        [word] if word in options else list(options)
        for word, options in zip(words, SLOTS, strict=True)
    ]
    rng = random.Random("strategy-probes")
    lists = [tuple(rng.randrange(MODULUS) for _ in range(3 + i % 3)) for i in range(PROBES)]
    return mean(
        float(apply_plan(Plan(*choices), values) == apply_plan(right, values))
        for choices in itertools.product(*named)
        for values in lists
    )


def _in_order(words: Sequence[str]) -> float:
    """Share of the stages that are named, counting on from the last one found."""
    place, found = 0, 0
    for stage in STAGES:
        if stage in words[place:]:
            place = words.index(stage, place) + 1
            found += 1
    return found / len(STAGES)


def total(scores: dict[str, float]) -> float:
    """The mean of the four criteria, in [0, 1]."""
    return mean(scores[name] for name in CRITERIA)


def band(score: float) -> str:
    """The paper's band of a total: High [0.8, 1], Medium [0.5, 0.8), Low [0, 0.5)."""
    return next(name for name, low in BANDS if score >= low)


def summary(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Number of strategies, of those in each band, and mean score of each criterion."""
    totals = [total(row) for row in rows]
    return {
        "count": len(rows),
        "bands": {name: sum(band(t) == name for t in totals) for name, _ in BANDS},
        "mean": round(mean(totals), 5),
        "by_criterion": {name: round(mean(r[name] for r in rows), 5) for name in CRITERIA},
    }
