"""Fair tuning on the development set: the same number of full-length runs for every method.

Every method has the same learning rates; a knob that a baseline's authors themselves varied is in
that method's grid. Methods with fewer settings spend the rest of their runs on more seeds, so the
budget is equal and their choice is the better measured one. Test sets are not reachable from
here: the only suite that these configs name is the development set.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import Cell
from benchmarks.data.sources import DEVELOPMENT
from benchmarks.profiles import mini
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from benchmarks.store.locks import locked
from sgpo.core.files import read_json, write_text

MODEL = "qwen-m"
LEARNING_RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4)
RUNS_PER_METHOD = 20
FIRST_SEED = 1000  # tuning seeds and study seeds never meet
KNOBS: dict[str, tuple[dict[str, Any], ...]] = {
    "sft_full": ({},),
    "grpo": ({},),
    "hpt": tuple(
        {"sft_coefficient": c, "gate": g} for c in (1.0, 0.3) for g in (0, 2)
    ),  # authors' scripts
    "luffy": ({"entropy_coefficient": 0.001}, {"entropy_coefficient": 0.01}),  # script, paper
    "sgpo": ({},),
    "opsd": tuple(
        {"direction": d, "context": c}
        for d in ("forward", "reverse")
        for c in ("solution", "strategy")
    ),  # direction: 2601.18734, 2601.20802; context: ours, what the base can read is a strategy
    "srft": tuple({"sft_entropy_sign": s} for s in (-1, 1)),  # paper, authors' script
    "dr_grpo": ({},),
    "dapo": ({},),
    "relift": ({},),
    "chord": tuple({"phi": phi} for phi in (True, False)),  # 2508.11408 has both variants
    "sdpo": ({},),
}


def trials(
    methods: Sequence[str] | None = None,
) -> list[tuple[str, float, dict[str, Any], Cell]]:
    """(method, learning rate, knobs, cell) of every tuning run, or of those of ``methods``."""
    entries = {e.key: e for e in mini.METHODS + mini.KIN + mini.NEWER}
    evaluation = replace(mini.EVALUATION, suites=(DEVELOPMENT,))
    out = []
    for method, knobs in KNOBS.items():
        if methods is not None and method not in methods:
            continue
        seeds = RUNS_PER_METHOD // (len(LEARNING_RATES) * len(knobs))
        for rate in LEARNING_RATES:
            for knob in knobs:
                for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                    plain = entries[method].config(MODEL, seed)
                    config = replace(
                        plain,
                        evaluation=evaluation,
                        settings=replace(plain.settings, **knob),
                        train=replace(plain.train, learning_rate=rate),
                    )
                    parent = None
                    if config.init == "warmup":
                        warmup = entries["sft"].config(MODEL, seed)
                        parent = Cell(replace(warmup, evaluation=evaluation))
                    out.append((method, rate, knob, Cell(config, parent)))
    return out


def tune_command(options: argparse.Namespace) -> int:
    """``sgpo tune``: run all trials below ``results/tuning`` and write ``results/tuning.csv``.

    With ``--methods`` only theirs are run, and the rows of the others stay as they are.

    Raises:
        ValueError: a method that is not tuned.
    """
    results, jobs, methods = options.out, options.jobs, options.methods
    for name in methods or []:
        if name not in KNOBS:
            raise ValueError(f"unknown method {name!r}: must be one of {', '.join(KNOBS)}")
    directory = results / "tuning"
    planned = trials(methods)
    cells: dict[str, Cell] = {}
    for _, _, _, cell in planned:
        if cell.parent:
            cells.setdefault(cell.parent.run_id, cell.parent)
        cells.setdefault(cell.run_id, cell)
    with locked(directory):
        with StudyProgress(list(cells.values())) as progress:
            outcome = run_study(list(cells.values()), directory, jobs, progress)
        if not outcome.ok:
            for run_id, why in outcome.failed.items():
                print(f"FAILED {run_id}: {why}")
            return 1
        others = _stored(results / "tuning.csv", [m for m in KNOBS if m not in (methods or KNOBS)])
        write_text(results / "tuning.csv", table(planned, directory / "runs", others))
    print(f"{len(planned)} trials: {results / 'tuning.csv'}")
    return 0


def _stored(path: Path, methods: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of ``methods`` in an earlier tuning.csv."""
    if not methods or not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["method"] in methods]


def table(planned: list, runs: Path, others: Sequence[dict[str, Any]] = ()) -> str:
    """CSV of all trials; the setting with the highest mean development accuracy over its seeds
    is marked chosen (the lower learning rate among equals). ``others``: rows taken over, which
    come first; trials are numbered on from there."""
    rows = []
    for number, (method, rate, knob, cell) in enumerate(planned, len(others)):
        scores = read_json(runs / cell.run_id / "scores.json")["benchmarks"][DEVELOPMENT]
        rates = np.array([v.count("c") / len(v) for v in scores["verdicts"]])
        half = 1.96 * rates.std(ddof=1) / np.sqrt(len(rates))
        rows.append(
            {
                "method": method,
                "trial": number,
                "settings": json.dumps(knob, sort_keys=True),
                "learning_rate": rate,
                "seed": cell.config.seed,
                "dev_accuracy": round(float(rates.mean()), 5),
                "dev_ci_low": round(float(rates.mean() - half), 5),
                "dev_ci_high": round(float(rates.mean() + half), 5),
                "run_id": cell.run_id,
            }
        )
    best: dict[str, tuple] = {}
    for method in {row["method"]: None for row in rows}:
        groups: dict[tuple[float, str], list[float]] = {}
        for row in rows:
            if row["method"] == method:
                key = (row["learning_rate"], row["settings"])
                groups.setdefault(key, []).append(row["dev_accuracy"])
        best[method] = max(groups, key=lambda k, g=groups: (float(np.mean(g[k])), -k[0]))
    for row in rows:
        row["chosen"] = (row["learning_rate"], row["settings"]) == best[row["method"]]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*others, *rows])
    return text.getvalue()
