"""Whether any problem is in two sets that must not share one: warm-up, RL, development, tests.

Written once a study (it needs the problems, and so torch); the report's table reads the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.config import Plan
from benchmarks.data.sources import problem_set_sha256
from sgpo.core.files import write_json
from sgpo.core.types import Problem
from sgpo.mini import suites

FILE = "disjointness.json"


def mini_sets() -> dict[str, list[Problem]]:
    """Every problem set of the mini world by name."""
    return {
        "training, warm-up": suites.training_problems("warmup", 0.0),
        "training, RL": suites.training_problems("rl", 0.0),
        "development": suites.development_problems(),
    } | {f"test, {b.label}": suites.benchmark_problems(b.key) for b in suites.BENCHMARKS}


def overlaps(sets: Mapping[str, Sequence[Problem]]) -> dict[str, Any]:
    """Sizes and hashes of the sets, and for every pair how many questions both hold.

    Questions count as equal when they are in lower case and without spacing and punctuation.
    """
    questions = {name: {_normalised(p.question) for p in found} for name, found in sets.items()}
    return {
        "sets": {
            name: {
                "problems": len(found),
                "distinct_questions": len(questions[name]),
                "sha256": problem_set_sha256(list(found)),
            }
            for name, found in sets.items()
        },
        "shared": [
            {"first": a, "second": b, "questions": len(questions[a] & questions[b])}
            for a, b in combinations(sets, 2)
        ],
    }


def record_disjointness(study: Plan, results: Path) -> None:
    """Write disjointness.json of a study on the mini world; other data are checked where they are
    prepared."""
    entry = study.methods[0]
    if entry.config(study.models[0].key, study.seeds[0]).data.source == "mini":
        write_json(results / FILE, overlaps(mini_sets()))


def _normalised(question: str) -> str:
    return "".join(c for c in question.casefold() if c.isalnum())
