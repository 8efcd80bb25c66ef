"""Verifier cases decided by hand: how many come out as they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import ROOT, Say
from sgpo.core.verifier import grade_many

WHAT = "verdicts on answers decided by hand"
NUM_TRIALS = 10**6  # all there are
DATA = ROOT / "tests" / "data"
SHARED = 89  # cases of the peers' trackers, at the head of verifier_cases.jsonl


def cases() -> dict[str, list[tuple[str, str, bool]]]:
    """(gold, completion, right) by origin."""
    tracked = [(c["gold"], c["pred"], bool(c["expected"])) for c in _rows("verifier_cases.jsonl")]
    pairs = [
        (row["gold"], f"\\boxed{{{text}}}", right)
        for row in _rows("verifier_pairs.jsonl")
        for key, right in (("right", True), ("wrong", False))
        for text in row[key]
    ]
    whole = [
        (r["gold"], r["completion"], r["correct"]) for r in _rows("verifier_completions.jsonl")
    ]
    return {
        "from the peers' trackers": tracked[:SHARED],
        "ours, single": tracked[SHARED:],
        "ours, right and wrong spellings": pairs,
        "ours, whole completions": whole,
    }


def run(count: int, say: Say) -> tuple[dict[str, Any], bool]:
    """Figures of the first ``count`` cases of every origin, and whether all are right."""
    figures: dict[str, Any] = {}
    wrong: list[str] = []
    total = 0
    for origin, found in cases().items():
        found = found[:count]
        verdicts = grade_many([(gold, text) for gold, text, _ in found])
        other = [c for c, v in zip(found, verdicts, strict=True) if v.correct != c[2]]
        total += len(found)
        figures[origin] = f"{len(found) - len(other)} of {len(found)} right"
        wrong += [f"{gold} / {text}" for gold, text, _ in other]
        say(f"{origin}: {figures[origin]}")
    totals = {"cases": total, "right": total - len(wrong)}
    return figures | totals | {"failures": wrong}, not wrong


def _rows(name: str) -> list[dict[str, Any]]:
    path: Path = DATA / name
    if not path.exists():
        raise ValueError(f"{path.name} is absent: the cases come with a source checkout")
    return [json.loads(line) for line in path.read_text().splitlines()]
