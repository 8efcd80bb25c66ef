"""The stored samples of a study under every grader: ``sgpo grade results/quick --grader all``.

What is found goes to ``graders.json`` of the study, which the report reads without judging anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.run.evaluate import judged, summarize
from benchmarks.store.records import GRADERS_FILE, Study
from benchmarks.store.runs import AT, StoredRun, stored_runs
from sgpo.core.files import read_json, write_json
from sgpo.core.verifier.explain import explain

OTHERS = ("stock", "exact")
EXAMPLES = 3  # of each kind of disagreement


def grade_study(results: Path) -> int:
    """Judge every stored sample of the planned runs of ``results``, write its ``graders.json`` and
    say how often graders disagree; 0.

    Raises:
        ValueError: no study, or no samples below it.
    """
    if not (results / "study.json").exists():
        raise ValueError(f"{results}: --grader all takes a study's directory")
    planned, stored = Study.read(results), stored_runs(results)
    _keeps(results / GRADERS_FILE, stored)
    runs: dict[str, dict[str, Any]] = {}
    kinds: dict[tuple[str, bool, str], dict[str, Any]] = {}
    for run_id in (cell.run_id for cell in planned.cells if cell.run_id in stored):
        run = stored[run_id]
        # What the run scored at another budget is in no table.
        for key in (key for key in run.sampled() if AT not in key):
            runs.setdefault(run_id, {})[key] = letters(run.samples(key), kinds)
    if not runs:
        raise ValueError(f"{results}: no samples below runs/; texts are kept where runs are made")
    found = sorted(kinds.values(), key=lambda kind: -kind["count"])
    write_json(results / GRADERS_FILE, {"runs": runs, "disagreements": found})
    for grader in OTHERS:
        number = sum(kind["count"] for kind in found if kind["grader"] == grader)
        print(f"{grader}: {number} verdicts differ from ours")
    print(f"{results / GRADERS_FILE}: {len(runs)} runs; sgpo report shows them")
    return 0


def _keeps(path: Path, stored: Mapping[str, StoredRun]) -> None:
    """ValueError when ``path`` holds grades of texts that are not here: they would be lost."""
    graded = read_json(path)["runs"] if path.exists() else {}
    lost = [run for run in graded if run not in stored or not stored[run].sampled()]
    if lost:
        raise ValueError(
            f"{path}: holds the grades of {len(lost)} runs whose texts are not here; grade where "
            "they were made, or move the file away"
        )


def letters(
    rows: list[dict[str, Any]], kinds: dict[tuple[str, bool, str], dict[str, Any]]
) -> dict[str, list[str]]:
    """Grader -> verdict letters, one word a problem; what differs from ours is added to ``kinds``,
    under the rule by which ours decided."""
    ids = list(dict.fromkeys(row["problem_id"] for row in rows))
    ours, found = judged(rows), {}
    for grader in OTHERS:
        theirs = judged(rows, grader)
        found[grader] = summarize(theirs, ids, len(rows) // len(ids))["verdicts"]
        for row, other in zip(ours, theirs, strict=True):
            if row["correct"] == other["correct"]:
                continue
            rule = explain(row["gold"], row["text"]).decided_by
            entry = kinds.setdefault(
                (grader, row["correct"], rule),
                {"grader": grader, "ours_right": row["correct"], "kind": rule, "count": 0,
                 "examples": []},
            )  # fmt: skip
            entry["count"] += 1
            example = {"gold": row["gold"], "answer": row["extracted"] or ""}
            if len(entry["examples"]) < EXAMPLES and example not in entry["examples"]:
                entry["examples"].append(example)
    return found
