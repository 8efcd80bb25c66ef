"""What the grid runner runs: cells, and the analyses of what cells have left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.analyses import run as analyses
from benchmarks.analyses.planned import AnalysisTask
from benchmarks.config import Cell, user_method_file
from benchmarks.run import cell as cells
from sgpo.core.files import read_json

Task = Cell | AnalysisTask


def needs(task: Task) -> tuple[str, ...]:
    """Run ids that must be finished before ``task`` can start."""
    if isinstance(task, AnalysisTask):
        return tuple(cell.run_id for cell in task.inputs)
    return (task.parent.run_id,) if task.parent else ()


def pretrains(task: Task) -> str | None:
    """The base model that ``task`` may have to make first; None for an analysis."""
    return None if isinstance(task, AnalysisTask) else task.config.model


def is_done(task: Task, study_dir: Path) -> bool:
    """Whether nothing of ``task`` is left to do on this machine. An analysis is finished when its
    inputs are and it was made from them, so it is made again when one of them is."""
    if isinstance(task, AnalysisTask):
        ready = all(is_done(cell, study_dir) for cell in task.inputs)
        return ready and analyses.is_finished(task, study_dir)
    return cells.is_finished(study_dir / "runs" / task.run_id)


def record(task: Task, study_dir: Path) -> dict:
    """What a finished task says of itself: ``source_digest`` and, of a cell, how it ended."""
    if isinstance(task, AnalysisTask):
        return read_json(analyses.result_path(study_dir, task.run_id))
    return read_json(study_dir / "runs" / task.run_id / "result.json")


def failure_path(task: Task, study_dir: Path) -> Path:
    """Where the reason is kept when ``task`` fails."""
    if isinstance(task, AnalysisTask):
        return analyses.failure_path(study_dir, task.run_id)
    return study_dir / "runs" / task.run_id / "failed.json"


def method_files(task: Task) -> tuple[Path, ...]:
    """Files of the user's methods that a worker must load before it can receive ``task``."""
    found = task.inputs if isinstance(task, AnalysisTask) else (task,)
    files = [user_method_file(cell.config.settings) for cell in found]
    return tuple(dict.fromkeys(file for file in files if file))


def run(task: Task, study_dir: Path, progress: Callable[[str, int, int], None]) -> None:
    """Run ``task`` to its end in this process."""
    runner = analyses.run_analysis if isinstance(task, AnalysisTask) else cells.run_cell
    runner(task, study_dir, progress)
