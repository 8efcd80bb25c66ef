"""How far a study is: ``sgpo status``, and Table 1 on the terminal. Starts without torch."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.analyses import failure_path, result_path
from benchmarks.store.runs import is_finished, stored_runs
from sgpo.core.files import inside, read_json


def status_command(options: argparse.Namespace) -> int:
    """One line a cell or analysis: finished, published (results without the local samples or
    weights that they were made from), started, failed, missing."""
    results = options.out
    path = results / "study.json"
    if not path.exists():
        start = f"bash reproduce.sh --profile {options.profile} --out {results}"
        raise ValueError(f"{path}: no study here yet; start one with `{start}`")
    plan, runs = read_json(path), results / "runs"
    if not isinstance(plan, dict) or "cells" not in plan:
        raise ValueError(f"{path}: does not describe a study; remove it and repeat")
    published = stored_runs(results)
    states = {
        c["run_id"]: _cell_state(inside(runs, c["run_id"]), c["run_id"] in published)
        for c in plan["cells"]
    }
    states |= {a["run_id"]: _analysis_state(results, a) for a in plan.get("analyses", [])}
    for run_id, state in states.items():
        print(f"{run_id:40} {state}")
    beside = sorted(p for p in runs.glob("*") if p.is_dir() and p.name not in states)
    for path in beside:
        state = _cell_state(path, path.name in published)
        if state in ("failed", "started"):  # of `sgpo train`; finished ones are only counted
            print(f"{path.name:40} {state}, beside the plan")
    counts = sorted(Counter(states.values()).items())
    print(f"{results}: " + ", ".join(f"{count} {state}" for state, count in counts))
    if beside:
        print(f"{len(beside)} runs beside the plan, of other settings or commands")
    return 0


def _cell_state(run_dir: Path, published: bool) -> str:
    if is_finished(run_dir, weights=False):
        return "finished"
    if published:
        return "published"
    if (run_dir / "failed.json").exists():
        return "failed"
    return "started" if run_dir.exists() else "missing"


def _analysis_state(results: Path, entry: dict[str, Any]) -> str:
    path = result_path(results, entry["run_id"])
    if path.exists() and sorted(read_json(path)["inputs"]) == sorted(entry["inputs"]):
        local = all(is_finished(results / "runs" / run_id) for run_id in entry["inputs"])
        return "finished" if local else "published"
    return "failed" if failure_path(results, entry["run_id"]).exists() else "missing"


def print_scoreboard(results: Path, console: Console) -> None:
    """Accuracy in percent by model, method and benchmark, with the seeds behind it: a row whose
    seeds have not all ended yet is shown too."""
    from benchmarks.store.load import load_study  # reads tables, which the states need not

    study = load_study(results)
    labels = [benchmark.label for benchmark in study.benchmarks]
    table = Table("Model", "Method", *labels, "Average", "Seeds", title="Accuracy in percent")
    for model in study.models:
        for method in study.method_order:
            runs = [run for run in study.runs_so_far(model.key, method) if run.accuracy]
            if runs:
                scores = [[100 * r.accuracy[b.key].mean() for r in runs] for b in study.benchmarks]
                means = [sum(found) / len(found) for found in scores]
                texts = [f"{mean:.1f}" for mean in (*means, sum(means) / len(means))]
                seeds = f"{len(runs)} of {len(study.cells_of(model.key, method))}"
                table.add_row(model.label, study.method_label(method), *texts, seeds)
    if table.rows:
        console.print(table)
    if study.profile == "quick":
        console.print("quick runs every stage; its models learn too little to score in any test")
