"""Cells that all ranks of a torchrun launch run together, one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.config import Cell, Plan
from benchmarks.run.cell import run_cell
from benchmarks.run.progress import StudyProgress, at_intervals
from benchmarks.run.rundir import ended, record_failure
from benchmarks.run.study import Outcome, record_paths, unfinished, write_plan
from benchmarks.store.locks import locked
from sgpo.core.distributed import RankLost, Ranks, join, leave, select_device
from sgpo.core.files import read_json
from sgpo.core.trainer import Diverged


def run_together(
    cells: Sequence[Cell],
    study_dir: Path,
    timeout: float,
    study: Plan | None = None,
    log: str | None = None,
) -> tuple[Outcome, bool]:
    """Run ``cells`` in this process as one of the ranks that torchrun started. Several launches may
    make different cells of one study at the same time.

    Args:
        timeout: seconds that a rank waits for the others before it gives up.
        study: what the cells are of; its plan is written, from which ``sgpo report`` makes the
            tables. None leaves the plan as it is.

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
        left: list[str] = []
        with ranks.one_after_first():
            if ranks.first:
                left = [cell.run_id for cell in unfinished(cells, study_dir)]
                stack.enter_context(locked(study_dir, left))
                if study:
                    write_plan(study, study_dir)
        left = ranks.from_first(left)
        console = Console(quiet=not ranks.first)
        progress = stack.enter_context(StudyProgress(cells, console, study_dir / "runs"))

        def tell(cell: Cell, *news: Any) -> None:
            if ranks.first:
                progress.update(cell, *news)
                progress.refresh()

        for cell in cells:
            if cell.run_id not in left:
                progress.skip(cell)
                outcome.add(cell.run_id, read_json(record_paths(cell, study_dir)[0]))
            else:
                outcome.started.append(cell.run_id)
                progress.start(cell)
                report = at_intervals(lambda *news, of=cell: tell(of, *news))
                result = _result(cell, study_dir, ranks, report, log)
                outcome.add(cell.run_id, result)
                progress.conclude(cell, ended(result, result["status"]))
            if outcome.failed:
                break
        if ranks.first and study:
            write_plan(study, study_dir)  # with the sizes of the models
    leave()
    return outcome, ranks.first


def _result(
    cell: Cell, study_dir: Path, ranks: Ranks, report: Callable[..., None], log: str | None
) -> dict[str, Any]:
    """What became of ``cell``; an error is kept beside the run, like that of a worker process."""
    try:
        return run_cell(cell, study_dir, report, ranks, log=log)
    except Diverged as error:  # evaluated, stored and marked
        return {"diverged_fatally": True, "diverged_reason": str(error), "status": "diverged"}
    except RankLost:
        raise
    except Exception as error:
        path = study_dir / "runs" / cell.run_id / "failed.json"
        record_failure(path, error, rank=ranks.rank)
        raise
