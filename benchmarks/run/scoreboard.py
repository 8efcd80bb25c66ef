"""Table 1 on the terminal, as far as its runs have ended."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.store.load import load_study


def print_scoreboard(results: Path, console: Console) -> None:
    """Accuracy in percent by model, method and benchmark, with the seeds behind it: a row whose
    seeds have not all ended yet is shown too."""
    study = load_study(results)
    labels = [benchmark.label for benchmark in study.benchmarks]
    table = Table("Model", "Method", *labels, "Average", "Seeds", title="Accuracy in percent")
    for model in study.models:
        for method in study.method_order:
            runs = [run for run in study.runs_so_far(model.key, method) if run.accuracy]
            if runs:
                means = [
                    100 * np.mean([run.accuracy[b.key].mean() for run in runs])
                    for b in study.benchmarks
                ]
                texts = [f"{mean:.1f}" for mean in (*means, np.mean(means))]
                seeds = f"{len(runs)} of {len(study.cells_of(model.key, method))}"
                table.add_row(model.label, study.method_label(method), *texts, seeds)
    if table.rows:
        console.print(table)
