"""Is the miniature informative? What every world leaves to learn, by stage: ``sgpo mini check``.

``benchmarks.report.regime`` has the conditions and judges them; here the runs that they need are
made, and what is found is printed, with the numbers of every world.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.config import unknown
from benchmarks.profiles import mini
from benchmarks.report.regime import CONDITIONS, MEAN, STAGES, holds, judged, means, windows_of
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from benchmarks.store.locks import locked
from benchmarks.store.runs import stored_runs


def check_command(options: argparse.Namespace) -> int:
    """``sgpo mini check``: run what the conditions need and print them; 0 when all hold."""
    full, results = mini.study(), options.out
    known = [m.key for m in full.models]
    for name in options.models or []:
        if name not in known:
            raise ValueError(unknown("model", name, known, "`sgpo list models`"))
    chosen = options.models or known
    study = replace(
        full,
        models=tuple(m for m in full.models if m.key in chosen),
        methods=tuple(e for e in full.methods if e.key in STAGES),
    )
    cells = study.cells()
    with locked(results), StudyProgress(cells, runs=results / "runs") as progress:
        outcome = run_study(cells, results, options.jobs or os.cpu_count() or 1, progress)
    outcome.print_failures()
    failed, runs = 0, stored_runs(results)
    for model in chosen:
        measured = [
            (cell.config.method, cell.config.seed, runs[cell.run_id])
            for cell in full.cells()
            if cell.config.model == model and cell.run_id in runs
        ]
        failed += print_conditions(model, judged(windows_of(measured)))
    return 0 if outcome.ok and not failed else 1


def print_conditions(model: str, records: Sequence[Mapping[str, Any]]) -> int:
    """Print every condition of a model; how many fail or are missing."""
    title, found = f"{model}: is the miniature informative?", means(records)
    table = Table("condition", "mean over worlds", "required", "", "world by world", title=title)
    for c in found:
        verdict = "holds" if c["passed"] else "FAILS"
        table.add_row(c["condition"], f"{c['value']:.4f}", c["requirement"], verdict, holds(c))
    console = Console()
    console.print(table)
    by_world = [r for r in records if r["world"] != MEAN]
    for name, worlds in groupby(by_world, lambda record: record["condition"]):
        numbers = ", ".join(f"{record['value']:.2f}" for record in worlds)
        console.print(f"by world, {name}: {numbers}", highlight=False)
    missing = len(CONDITIONS) - len(found)
    if missing:
        console.print("not run: the conditions need base, sft and grpo of one world at least")
    return missing + sum(not c["passed"] for c in found)
