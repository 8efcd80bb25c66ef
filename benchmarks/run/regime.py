"""The six conditions of the mini world, gathered from runs: ``sgpo mini check``.

Conditions 1 to 4 are measured on each base model when its cell runs, before anything is trained.
Condition 5 reads the training reward of SFT+GRPO, condition 6 the development accuracy of the
warm-up at five expert gaps; the cells for those are ``calibration_cells``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.config import Cell, Plan, unknown
from benchmarks.data.sources import DEVELOPMENT
from benchmarks.profiles import mini
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from benchmarks.store.locks import locked
from benchmarks.store.runs import SCORES, StoredRun, stored_runs
from sgpo.core.files import write_json
from sgpo.mini import regime

LAST_STEPS = 8  # steps over which the final training reward is averaged
TOLERANCE = 0.03  # accuracy by which the warm-up may differ from the base


def calibration_cells(model: str) -> dict[float | None, Cell]:
    """Cells judged on the development set only: the warm-up at each expert gap, and under None
    the base model."""
    evaluation = replace(mini.EVALUATION, suites=(DEVELOPMENT,))
    base = replace(mini.base(model, 0), method="base_dev", evaluation=evaluation)
    cells: dict[float | None, Cell] = {None: Cell(base)}
    warmup = next(e for e in mini.METHODS if e.key == "sft").config(model, 0)
    for gap in regime.EXPERT_GAPS:
        data = replace(warmup.data, expert_gap=gap)
        plain = replace(warmup, method=f"sft_gap{gap:g}", data=data, evaluation=evaluation)
        cells[gap] = Cell(plain)
    return cells


def dev_accuracy(run: StoredRun | None) -> float | None:
    """Share of correct development samples of a run, None where it was not run."""
    if run is None or not run.has(SCORES):
        return None
    letters = "".join(run.object(SCORES)["benchmarks"][DEVELOPMENT]["verdicts"])
    return letters.count("c") / len(letters)


def conditions_of(
    model: str, grpo: Sequence[Cell], base: Cell, runs: Mapping[str, StoredRun]
) -> dict[str, Any]:
    """What is known of one model: conditions that must hold, and what is only reported."""
    record: dict[str, Any] = {"conditions": [], "reported": {}}
    if base.run_id in runs and runs[base.run_id].has("regime.json"):
        record = runs[base.run_id].object("regime.json")
    conditions, reported = list(record["conditions"]), dict(record["reported"])
    steps = [runs[c.run_id].metrics()[-LAST_STEPS:] for c in grpo if c.run_id in runs]
    if steps:
        reward = mean(mean(step["reward"] for step in last) for last in steps)
        conditions.append(regime.saturation_condition(reward).to_json())
    cells = calibration_cells(model)
    accuracy = {gap: dev_accuracy(runs.get(cell.run_id)) for gap, cell in cells.items()}
    if all(value is not None for value in accuracy.values()):
        start = accuracy.pop(None)
        near = [gap for gap, a in accuracy.items() if abs(a - start) <= TOLERANCE]
        name = f"6 warm-up minus base at expert gap {mini.EXPERT_GAP:g}"
        change = accuracy[mini.EXPERT_GAP] - start
        conditions.append(regime.within(name, change, -TOLERANCE, TOLERANCE).to_json())
        reported |= {
            "largest_gap_near_base": max(near, default=-1.0),
            "dev_accuracy_base": start,
            "dev_accuracy_by_gap": {f"{g:g}": a for g, a in accuracy.items()},
        }
    return {"conditions": conditions, "reported": reported}


def record_regimes(study: Plan, results: Path) -> dict[str, Any]:
    """Write and return ``regime.json`` of a mini study from the runs that are there; other worlds
    have no such conditions."""
    cells, runs = study.cells(), stored_runs(results)
    if cells[0].config.data.source != "mini":
        return {}
    models = {}
    for model in [m.key for m in study.models]:
        base, grpo = (
            [c for c in cells if (c.config.model, c.config.method) == (model, method)]
            for method in ("base", "grpo")
        )
        models[model] = conditions_of(model, grpo, base[0], runs)
    content = {"models": models}
    write_json(results / "regime.json", content)
    return content


def check_command(options: argparse.Namespace) -> int:
    """``sgpo mini check``: run what the conditions need and print them; 0 when all hold."""
    full, results = mini.study(1), options.out
    known = [m.key for m in full.models]
    for name in options.models or []:
        if name not in known:
            raise ValueError(unknown("model", name, known, "`sgpo list models`"))
    chosen = options.models or known
    study = replace(
        full,
        models=tuple(m for m in full.models if m.key in chosen),
        methods=tuple(e for e in full.methods if e.key in ("base", "sft", "grpo")),
    )
    cells = study.cells()
    for model in chosen:
        cells += calibration_cells(model).values()
    with locked(results):
        with StudyProgress(cells, runs=results / "runs") as progress:
            outcome = run_study(cells, results, options.jobs or os.cpu_count() or 1, progress)
        content = record_regimes(mini.study(), results)  # all that is known, not only this
    outcome.print_failures()
    failed = sum(print_conditions(m, content["models"][m]) for m in chosen)
    return 0 if outcome.ok and not failed else 1


def print_conditions(model: str, record: dict[str, Any]) -> int:
    """Print every condition of a model; how many fail or are missing."""
    title = f"{model}: is the miniature informative?"
    table = Table("condition", "measured", "required", "", title=title)
    for c in record["conditions"]:
        verdict = "holds" if c["passed"] else "FAILS"
        table.add_row(c["name"], f"{c['value']:.4f}", c["requirement"], verdict)
    console = Console()
    console.print(table)
    missing = sorted(set("12456") - {c["name"][0] for c in record["conditions"]})
    for number in missing:
        console.print(f"condition {number}: not run")
    for name, value in record["reported"].items():
        console.print(f"reported, {name}: {_short(value)}", highlight=False)
    return len(missing) + sum(not c["passed"] for c in record["conditions"])


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(inner)}" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
