"""``sgpo train``: one run of a study, with the warm-up that it starts from."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.config import Cell
from benchmarks.plan import preflight
from benchmarks.profiles.overrides import check_overrides
from benchmarks.run.checkpoint import print_scores
from benchmarks.run.launch import conclude, planned_study
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from benchmarks.run.torchrun import run_together
from benchmarks.store.locks import locked
from sgpo.core.config import apply_overrides
from sgpo.core.distributed import launched_by_torchrun
from sgpo.core.files import read_json

# Settings of the base model and the place of a run: its warm-up must have the same ones.
_SHARED = ("checkpoint", "revision", "data.source", "device", "precision", "pretrain_steps")


def train_one(options: argparse.Namespace, results: Path) -> int:
    """Train and evaluate one method on one model, with its warm-up if that is missing."""
    path = Path(options.method) if options.method.endswith(".py") else None
    shared = [o for o in options.overrides if o.partition("=")[0] in _SHARED]
    study = planned_study(
        options.profile,
        options.seed + 1,
        path,
        shared,
        variants=True,
        models=[options.model],
    )
    entry = study.entry(path.stem if path else options.method)
    models = [m.key for m in study.models + study.extra_models]
    if options.model not in models:
        known = ", ".join(models)
        raise ValueError(f"unknown model {options.model!r}: must be one of {known}")
    check_overrides(options.overrides)
    config = apply_overrides(entry.config(options.model, options.seed), options.overrides)
    parent = None
    if config.init == "warmup":
        parent = Cell(study.entry(entry.parent).config(options.model, options.seed))
    cell = Cell(config, parent)
    chain = [c for c in (parent, cell) if c]
    preflight.check(chain, results)
    first = True
    if launched_by_torchrun():
        outcome, first = run_together(chain, results, options.rank_timeout)
    else:
        with locked(results), StudyProgress(chain) as progress:
            outcome = run_study(chain, results, 1, progress)
    if not first:
        return 0 if outcome.ok else 1
    if cell.run_id in outcome.finished:
        directory = results / "runs" / cell.run_id
        print_scores(read_json(directory / "scores.json"))
        print(f"run directory: {directory}")
    return conclude(outcome, Console())
