"""The six conditions of the mini world, gathered from runs: ``sgpo mini check``.

Conditions 1 to 4 are measured on each base model when its cell runs, before anything is trained.
Condition 5 reads the training reward of SFT+GRPO, condition 6 the development accuracy of the
warm-up at five expert gaps; the cells for those are ``calibration_cells``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.config import Cell, Plan
from benchmarks.data.sources import DEVELOPMENT
from benchmarks.profiles import mini
from benchmarks.run.progress import StudyProgress
from benchmarks.store.runs import SCORES, StoredRun, stored_runs
from sgpo.core.files import write_json
from sgpo.mini import regime

LAST_STEPS = 8  # steps over which the final training reward is averaged
TOLERANCE = 0.03  # accuracy by which the warm-up may differ from the base


def calibration_cells(model: str) -> dict[float | None, Cell]:
    """Cells judged on the development set only: the warm-up at each expert gap, and under None
    the base model."""
    evaluation = replace(mini.EVALUATION, suites=(DEVELOPMENT,))
    cells: dict[float | None, Cell] = {
        None: Cell(replace(mini.base(model, 0), method="base_dev", evaluation=evaluation))
    }
    warmup = next(e for e in mini.METHODS if e.key == "sft").config(model, 0)
    for gap in regime.EXPERT_GAPS:
        config = replace(
            warmup,
            method=f"sft_gap{gap:g}",
            data=replace(warmup.data, expert_gap=gap),
            evaluation=evaluation,
        )
        cells[gap] = Cell(config)
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
    conditions = list(record["conditions"])
    rewards = [r for r in (_final_reward(runs.get(c.run_id)) for c in grpo) if r is not None]
    if rewards:
        conditions.append(regime.saturation_condition(mean(rewards)).to_json())
    cells = calibration_cells(model)
    accuracy = {gap: dev_accuracy(runs.get(cell.run_id)) for gap, cell in cells.items()}
    if all(value is not None for value in accuracy.values()):
        start = accuracy.pop(None)
        change = accuracy[mini.EXPERT_GAP] - start
        near = [gap for gap, a in accuracy.items() if abs(a - start) <= TOLERANCE]
        record["reported"]["largest_gap_near_base"] = max(near, default=-1.0)
        conditions.append(
            regime.within(
                f"6 warm-up minus base at expert gap {mini.EXPERT_GAP:g}",
                change, -TOLERANCE, TOLERANCE,
            ).to_json()
        )  # fmt: skip
        record["reported"]["dev_accuracy_base"] = start
        record["reported"]["dev_accuracy_by_gap"] = {f"{g:g}": a for g, a in accuracy.items()}
    return {"conditions": conditions, "reported": record["reported"]}


def _final_reward(run: StoredRun | None) -> float | None:
    return mean(step["reward"] for step in run.metrics()[-LAST_STEPS:]) if run else None


def record_regimes(study: Plan, results: Path) -> dict[str, Any]:
    """Write and return ``regime.json`` of a mini study from the runs that are there; other worlds
    have no such conditions."""
    if study.cells()[0].config.data.source != "mini":
        return {}
    cells, runs = study.cells(), stored_runs(results)
    models = {}
    for model in [m.key for m in study.models]:
        base = next(c for c in cells if c.config.model == model and c.config.method == "base")
        grpo = [c for c in cells if c.config.model == model and c.config.method == "grpo"]
        models[model] = conditions_of(model, grpo, base, runs)
    content = {"models": models}
    write_json(results / "regime.json", content)
    return content


def check(results: Path, models: Sequence[str] | None, jobs: int) -> int:
    """Run what the conditions need, print them; 0 when all hold, 1 when one does not."""
    from benchmarks.run.study import run_study
    from benchmarks.store.locks import locked

    full = mini.study(1)
    known = [m.key for m in full.models]
    for name in models or []:
        if name not in known:
            raise ValueError(f"unknown model {name!r}: must be one of {', '.join(known)}")
    study = replace(
        full,
        models=tuple(m for m in full.models if m.key in (models or known)),
        methods=tuple(e for e in full.methods if e.key in ("base", "sft", "grpo")),
    )
    cells = study.cells()
    for model in study.models:
        cells += calibration_cells(model.key).values()
    with locked(results):
        with StudyProgress(cells) as progress:
            outcome = run_study(cells, results, jobs, progress)
        content = record_regimes(mini.study(), results)  # all that is known, not only this
    content = {"models": {m: r for m, r in content["models"].items() if m in (models or known)}}
    for run_id, why in outcome.failed.items():
        print(f"FAILED {run_id}: {why}")
    return max(print_conditions(content), 0 if outcome.ok else 1)


def print_conditions(content: dict[str, Any]) -> int:
    """Print every condition of every model; 1 when one fails or is missing."""
    failed = 0
    console = Console()
    for model, record in content["models"].items():
        table = Table(title=f"{model}: is the miniature informative?")
        for column in ("condition", "measured", "required", ""):
            table.add_column(column)
        for c in record["conditions"]:
            verdict = "holds" if c["passed"] else "FAILS"
            table.add_row(c["name"], f"{c['value']:.4f}", c["requirement"], verdict)
            failed += not c["passed"]
        console.print(table)
        kinds = {c["name"][0] for c in record["conditions"]}
        for number in sorted(set("12456") - kinds):
            console.print(f"condition {number}: not run")
            failed += 1
        kl = record["reported"].get("kl")
        console.print("condition 3, reported:", kl, highlight=False)
        gaps = record["reported"].get("dev_accuracy_by_gap")
        console.print("development accuracy of the warm-up by expert gap:", gaps, "base:",
                      record["reported"].get("dev_accuracy_base"), highlight=False)  # fmt: skip
    return 1 if failed else 0
