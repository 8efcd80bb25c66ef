"""The grid runner: independent, resumable cells in parallel processes of one thread each."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from benchmarks.cells import is_finished, run_cell
from benchmarks.config import SUITE_VERSION, Cell, Study, load_method_file, user_method_file
from benchmarks.progress import StudyProgress
from sgpo.core.files import read_json, write_json
from sgpo.core.runlog import source_digest

# A forked worker starts in milliseconds because its server has imported torch already.
_PRELOAD = ["benchmarks.cells", "baselines.grpo", "baselines.hpt", "baselines.luffy",
            "baselines.opsd", "baselines.srft"]  # fmt: skip


@dataclass
class Outcome:
    """What a study run did: run ids by what became of them, and why the failed ones failed."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)  # their parent failed
    outdated: list[str] = field(default_factory=list)  # finished, by other source code
    started: list[str] = field(default_factory=list)  # not finished when the study began

    @property
    def ok(self) -> bool:
        return not self.failed and not self.blocked


@dataclass
class _Worker:
    cell: Cell
    process: Any
    pipe: connection.Connection
    lifeline: connection.Connection  # open as long as this process lives
    error: str | None = None
    done: bool = False


@contextmanager
def locked(study_dir: Path) -> Iterator[None]:
    """Hold the study directory for this process.

    Raises:
        ValueError: another process holds it.
    """
    study_dir.mkdir(parents=True, exist_ok=True)
    with (study_dir / "study.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{study_dir}: another study is running in this directory; wait for it, or "
                "choose another one with --out"
            ) from None
        yield


def write_plan(study: Study, study_dir: Path) -> None:
    """``study.json``: the grid as the report reads it."""
    sizes = {}
    for cell in study.cells():
        result = study_dir / "runs" / cell.run_id / "result.json"
        if result.exists():
            sizes[cell.config.model] = read_json(result)["num_parameters"]
    write_json(
        study_dir / "study.json",
        {
            "profile": study.name,
            "suite_version": SUITE_VERSION,
            "seeds": list(study.seeds),
            "models": [
                {"key": k, "label": label, "family": family, "parameters": sizes.get(k)}
                for k, label, family in study.models
            ],
            "methods": [{"key": e.key, "label": e.label} for e in study.methods],
            "benchmarks": [
                {"key": k, "label": label, "num_problems": n, "k": samples}
                for k, label, n, samples in study.benchmarks
            ],
            "cells": [
                {
                    "run_id": c.run_id,
                    "model": c.config.model,
                    "method": c.config.method,
                    "seed": None if c.config.method == "base" else c.config.seed,
                }
                for c in study.cells()
            ],
        },
    )


def run_study(
    cells: Sequence[Cell], study_dir: Path, jobs: int, progress: StudyProgress
) -> Outcome:
    """Run every cell that is not finished, ``jobs`` at a time; a failing cell stops only those
    that start from it. KeyboardInterrupt ends the workers; finished cells stay."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    outcome = Outcome()
    waiting = []
    for cell in cells:
        if is_finished(study_dir / "runs" / cell.run_id):
            result = read_json(study_dir / "runs" / cell.run_id / "result.json")
            if result.get("diverged_fatally"):  # it has a place in the tables, marked; still wrong
                outcome.failed[cell.run_id] = result["diverged_reason"]
            else:
                outcome.finished.append(cell.run_id)
            progress.skip(cell)
            if result.get("source_digest", source_digest()) != source_digest():
                outcome.outdated.append(cell.run_id)
        else:
            waiting.append(cell)
    workers: list[_Worker] = []
    try:
        while waiting or workers:
            _start_ready(waiting, workers, outcome, study_dir, jobs, context, progress)
            if not workers:
                continue
            _listen(workers, progress)
            for worker in [w for w in workers if w.done]:
                workers.remove(worker)
                _conclude(worker, outcome, study_dir, progress)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second one changes nothing
        for worker in workers:
            worker.process.kill()
        raise
    return outcome


def _start_ready(waiting, workers, outcome, study_dir, jobs, context, progress) -> None:
    """Fill free places with cells whose parent is finished; drop those whose parent failed."""
    running = {w.cell.run_id for w in workers} | {c.run_id for c in waiting}
    bases = {w.cell.config.model for w in workers if w.cell.config.method == "base"}
    for cell in list(waiting):
        parent = cell.parent.run_id if cell.parent else None
        if parent in outcome.failed or parent in outcome.blocked:
            waiting.remove(cell)
            outcome.blocked.append(cell.run_id)
            progress.conclude(cell, f"not run: {parent} failed")
        elif len(workers) < jobs and parent not in running and cell.config.model not in bases:
            waiting.remove(cell)
            receiver, sender = context.Pipe(duplex=False)
            lifeline, held = context.Pipe(duplex=False)
            process = context.Process(
                target=_work,
                args=(user_method_file(cell.config.settings), study_dir, sender, lifeline),
                daemon=True,
            )
            process.start()
            sender.close()
            lifeline.close()
            held.send(cell)
            workers.append(_Worker(cell, process, receiver, held))
            outcome.started.append(cell.run_id)
            if cell.config.method == "base":
                bases.add(cell.config.model)
            progress.start(cell)


def _listen(workers: list[_Worker], progress: StudyProgress) -> None:
    """Take what the workers report for up to a second; mark those that are through."""
    ready = connection.wait([w.pipe for w in workers], timeout=1.0)
    for worker in workers:
        if worker.pipe not in ready:
            continue
        try:
            kind, *content = worker.pipe.recv()
        except EOFError:  # the process ended
            worker.process.join()
            if worker.error is None and worker.process.exitcode != 0:
                worker.error = f"worker died with exit code {worker.process.exitcode}"
            worker.done = True
            continue
        if kind == "progress":
            progress.update(worker.cell, *content)
        else:
            worker.error = content[0]
    progress.refresh()


def _conclude(worker: _Worker, outcome: Outcome, study_dir: Path, progress: StudyProgress) -> None:
    run_id = worker.cell.run_id
    if worker.error is None:
        outcome.finished.append(run_id)
        progress.conclude(worker.cell, "finished")
        return
    outcome.failed[run_id] = worker.error.strip().splitlines()[-1]
    # A diverged run has its results; a failure record is for cells that have none.
    if not is_finished(study_dir / "runs" / run_id):
        write_json(
            study_dir / "runs" / run_id / "failed.json",
            {"error": outcome.failed[run_id], "traceback": worker.error},
        )
    progress.conclude(worker.cell, f"FAILED: {outcome.failed[run_id]}")


def _work(
    method_file: Path | None,
    study_dir: Path,
    pipe: connection.Connection,
    lifeline: connection.Connection,
) -> None:
    """Body of a worker process; its cell is the first thing that comes down the lifeline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if method_file:  # its classes must exist before a cell of them can be received
        load_method_file(method_file)
    cell = lifeline.recv()
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    last = 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5 or done == total:
            last = time.monotonic()
            pipe.send(("progress", stage, done, total))

    try:
        run_cell(cell, study_dir, report)
    except Exception:  # whatever a method raises must reach the study as this cell's failure
        pipe.send(("failed", traceback.format_exc()))
        sys.exit(1)
    finally:
        pipe.close()


def _die_with(lifeline: connection.Connection) -> None:
    """End this process at once when the study that started it is gone, however it ended.

    Nothing more is sent: the wait ends when the other side closes, by exit or by kill.
    """
    try:
        lifeline.recv()
    except (EOFError, OSError):
        os._exit(1)
