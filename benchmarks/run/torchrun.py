"""Cells that all ranks of a torchrun launch run together, one after another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.config import Cell, Plan
from benchmarks.run.cell import run_cell
from benchmarks.run.failures import record_failure
from benchmarks.run.progress import StudyProgress
from benchmarks.run.rundir import is_finished
from benchmarks.run.study import Outcome, write_plan
from benchmarks.store.locks import locked
from sgpo.core.distributed import RankLost, Ranks, join, leave, select_device
from sgpo.core.files import read_json
from sgpo.core.trainer import Diverged

REPORT_EVERY = 0.5  # seconds


def run_together(
    cells: Sequence[Cell], study_dir: Path, timeout: float, study: Plan | None = None
) -> tuple[Outcome, bool]:
    """Run ``cells`` in this process as one of the ranks that torchrun started. Several launches may
    make different cells of one study at the same time.

    Args:
        timeout: seconds that a rank waits for the others before it gives up.
        study: what the cells are of; its plan, from which ``sgpo report`` makes the tables, is
            written. None leaves the plan as it is.

    Returns:
        What became of the cells, and whether this is rank 0, which prints.

    Raises:
        RankLost: another rank ended or did not answer in time.
        ValueError: the cells ask for different devices, or another process holds the study or one
            of the cells; nothing was written then.
    """
    devices = {cell.config.device for cell in cells}
    if len(devices) > 1:
        raise ValueError(f"device: the cells of one launch ask for {sorted(devices)}; choose one")
    ranks = join(select_device(devices.pop()), timeout)
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        with ranks.one_after_first():
            if ranks.first:
                left = [c.run_id for c in cells if not is_finished(study_dir / "runs" / c.run_id)]
                stack.enter_context(locked(study_dir, left))
                _write_plan(study, study_dir)
        console = Console(quiet=not ranks.first)
        progress = stack.enter_context(StudyProgress(cells, console))
        for cell in cells:
            _run_one(cell, study_dir, ranks, outcome, progress)
            if outcome.failed:
                break
        if ranks.first:
            _write_plan(study, study_dir)  # with the sizes of the models
    leave()
    return outcome, ranks.first


def _write_plan(study: Plan | None, study_dir: Path) -> None:
    if study is not None:
        write_plan(study, study_dir)


def _run_one(
    cell: Cell, study_dir: Path, ranks: Ranks, outcome: Outcome, progress: StudyProgress
) -> None:
    run_dir, last = study_dir / "runs" / cell.run_id, 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        if ranks.first and (time.monotonic() - last > REPORT_EVERY or done == total):
            last = time.monotonic()
            progress.update(cell, stage, done, total)
            progress.refresh()

    if ranks.from_first(is_finished(run_dir)):
        progress.skip(cell)
        why = read_json(run_dir / "result.json")
        if why.get("diverged_fatally"):
            outcome.failed[cell.run_id] = why["diverged_reason"]
        else:
            outcome.finished.append(cell.run_id)
        return
    outcome.started.append(cell.run_id)
    progress.start(cell)
    try:
        result = run_cell(cell, study_dir, report, ranks)
    except Diverged as error:  # evaluated, stored and marked
        result = {"diverged_fatally": True, "diverged_reason": str(error), "status": "diverged"}
    except RankLost:
        raise
    except Exception as error:  # kept beside the run, like that of a cell in a worker process
        record_failure(run_dir / "failed.json", error, rank=ranks.rank)
        raise
    if result["diverged_fatally"]:
        outcome.failed[cell.run_id] = result["diverged_reason"]
    else:
        outcome.finished.append(cell.run_id)
    progress.conclude(cell, result["status"])
