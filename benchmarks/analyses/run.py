"""Runs one analysis and leaves its file, whole or not at all."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import logging as transformers_logging

from benchmarks.analyses import AnalysisTask, failure_path, result_path
from benchmarks.config import SUITE_VERSION, Cell
from sgpo.core.files import read_json, sha256_of, write_text
from sgpo.core.runlog import package_versions, source_digest

WEIGHTS = "model.safetensors"


def is_finished(task: AnalysisTask, study_dir: Path) -> bool:
    """Whether the file is there and was made by today's code from the very weights that lie here
    (all of them must lie here)."""
    path = result_path(study_dir, task.run_id)
    stored = read_json(path) if path.exists() else {}
    return bool(stored) and _sources(task, study_dir).items() <= stored.items()


def run_analysis(
    task: AnalysisTask, study_dir: Path, progress: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Run ``task`` and write its file; what the file holds: ``result``, and where it comes from."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    failure_path(study_dir, task.run_id).unlink(missing_ok=True)
    module = importlib.import_module(f"benchmarks.analyses.{task.key}")
    directories = {c.config.method: _model(study_dir, c) for c in task.inputs}
    result = module.analyse(task, directories, functools.partial(progress, "analyse"))
    stored = {
        "analysis": task.key,
        "run_id": task.run_id,
        "model": task.model,
        "seed": task.seed,
        **_sources(task, study_dir),
        "suite_version": SUITE_VERSION,
        "source_digest": source_digest(),
        "packages": package_versions(),
        "result": result,
    }
    # One line: thousands of small numbers, each on a line of its own, would be half white space.
    text = json.dumps(stored, sort_keys=True, allow_nan=False, separators=(",", ":"))
    write_text(result_path(study_dir, task.run_id), text + "\n")
    return stored


def _model(study_dir: Path, cell: Cell) -> Path:
    return study_dir / "runs" / cell.run_id / "model"


def _sources(task: AnalysisTask, study_dir: Path) -> dict[str, Any]:
    """Digests of the code and, by run id, of the weights."""
    return {
        "analysis_sha256": sha256_of(Path(__file__).with_name(f"{task.key}.py")),
        "inputs": {c.run_id: sha256_of(_model(study_dir, c) / WEIGHTS) for c in task.inputs},
    }
