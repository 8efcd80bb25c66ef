"""Is the miniature informative? What every world leaves to learn, by stage: ``sgpo mini check``.

The base model, the warm-up and SFT+GRPO at its budget are each measured type by type when their
runs end (``sgpo.mini.window``); here the conditions are judged on the means over worlds, with the
numbers of every world beside them. No world is chosen by what comes out.
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

from benchmarks.config import Plan, of_a_world, unknown
from benchmarks.profiles import mini
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from benchmarks.store.locks import locked
from benchmarks.store.runs import stored_runs
from sgpo.core.files import write_json

STAGES = ("base", "sft", "grpo")
Windows = Mapping[str, Sequence[Mapping[str, float]]]  # stage -> of every world that was measured
# name, value from the windows of the stages, lowest and highest allowed
CONDITIONS = (
    ("1 base, share of types below 1/12 unguided", lambda w: _mean(w["base"], "hard"), 0.25, 1.0),
    ("2 base, pass rate unguided", lambda w: _mean(w["base"], "mean_unguided"), 0.05, 0.3),
    ("3 warm-up, pass rate guided", lambda w: _mean(w["sft"], "mean_guided"), 0.6, 1.0),
    (
        "4 base, foreign over own strategy",
        lambda w: _mean(w["base"], "mean_foreign") / max(_mean(w["base"], "mean_guided"), 1e-9),
        0.0,
        0.5,
    ),
    ("5 SFT+GRPO, share of types between .15 and .85", lambda w: _mean(w["grpo"], "open"), 0.5, 1),
    (
        "6 warm-up minus base, pass rate unguided",
        lambda w: _mean(w["sft"], "mean_unguided") - _mean(w["base"], "mean_unguided"),
        -0.05,
        0.05,
    ),
)


def _mean(windows: Sequence[Mapping[str, float]], name: str) -> float:
    return mean(window[name] for window in windows)


def conditions_of(windows: Windows) -> dict[str, Any]:
    """What is known of one model: conditions that must hold, and the numbers of every world."""
    conditions = []
    for name, value_of, low, high in CONDITIONS:
        if all(windows[stage] for stage in STAGES):
            value = value_of(windows)
            conditions.append(
                {
                    "name": name,
                    "value": value,
                    "requirement": f"{low:g} to {high:g}",
                    "passed": low <= value <= high,
                }
            )
    reported = {
        f"{stage}, {name}": {str(i): round(w[name], 4) for i, w in enumerate(windows[stage])}
        for stage in STAGES
        for name in ("mean_unguided", "mean_guided", "open", "hard", "easy")
        if windows[stage]
    }
    return {"conditions": conditions, "reported": reported}


def record_regimes(study: Plan, results: Path) -> dict[str, Any]:
    """Write and return ``regime.json`` from the runs that are there: the conditions of a mini
    study; of real models what ``guidance`` measured, by model, method and seed."""
    runs, cells = stored_runs(results), study.cells()
    measured = [
        (c.config, runs[c.run_id].object("regime.json"))
        for c in cells
        if c.run_id in runs and runs[c.run_id].has("regime.json")
    ]
    content: dict[str, Any] = {}
    for model in (m.key for m in study.models):
        found = [(config, record) for config, record in measured if config.model == model]
        if of_a_world(cells[0].config):
            windows = {s: [r["window"] for c, r in found if c.method == s] for s in STAGES}
            content[model] = conditions_of(windows)
        else:
            content[model] = {f"{c.method}, seed {c.seed}": record for c, record in found}
    if any(content.values()):
        write_json(results / "regime.json", {"models": content})
    return {"models": content}


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
    with locked(results):
        with StudyProgress(cells, runs=results / "runs") as progress:
            outcome = run_study(cells, results, options.jobs or os.cpu_count() or 1, progress)
        content = record_regimes(full, results)
    outcome.print_failures()
    failed = sum(print_conditions(m, content["models"][m]) for m in chosen)
    return 0 if outcome.ok and not failed else 1


def print_conditions(model: str, record: dict[str, Any]) -> int:
    """Print every condition of a model; how many fail or are missing."""
    title = f"{model}: is the miniature informative?"
    table = Table("condition", "mean over worlds", "required", "", title=title)
    for c in record["conditions"]:
        verdict = "holds" if c["passed"] else "FAILS"
        table.add_row(c["name"], f"{c['value']:.4f}", c["requirement"], verdict)
    console = Console()
    console.print(table)
    for name, worlds in record["reported"].items():
        numbers = ", ".join(f"{value:.2f}" for value in worlds.values())
        console.print(f"by world, {name}: {numbers}", highlight=False)
    missing = len(CONDITIONS) - len(record["conditions"])
    if missing:
        console.print("not run: the conditions need base, sft and grpo of one world at least")
    return missing + sum(not c["passed"] for c in record["conditions"])
