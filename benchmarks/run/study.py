"""The grid runner: independent, resumable tasks in parallel processes of one thread each.

A task is a cell of the grid or an analysis of what cells have left (``benchmarks.run.tasks``).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context
from pathlib import Path
from typing import Any

from benchmarks.analyses.planned import analysis_tasks
from benchmarks.config import Plan, load_method_file
from benchmarks.run import tasks
from benchmarks.run.progress import StudyProgress, expected_cost
from benchmarks.run.tasks import Task
from benchmarks.store import records
from benchmarks.store.runs import stored_runs
from sgpo.core.config import EXIT_HUNG
from sgpo.core.files import write_json
from sgpo.core.runlog import source_digest

# A forked worker starts in milliseconds because its server has imported torch already.
_PRELOAD = ["benchmarks.run.tasks", "baselines.grpo", "baselines.hpt", "baselines.luffy",
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
    task: Task
    process: Any
    pipe: connection.Connection
    lifeline: connection.Connection  # open as long as this process lives
    error: str | None = None
    done: bool = False


def write_plan(study: Plan, study_dir: Path) -> None:
    """``study.json``: the grid as the report reads it."""
    stored = stored_runs(study_dir)
    sizes = {
        cell.config.model: stored[cell.run_id].object("result.json")["num_parameters"]
        for cell in study.cells()
        if cell.run_id in stored
    }
    records.Study.planned(study, study_dir, analyses=analysis_tasks(study), sizes=sizes).write()


def run_study(
    cells: Sequence[Task], study_dir: Path, jobs: int, progress: StudyProgress
) -> Outcome:
    """Run every task that is not finished, ``jobs`` at a time; a failing one stops only those
    that need it. KeyboardInterrupt ends the workers; finished tasks stay."""
    context = get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    outcome = Outcome()
    waiting: list[Task] = []
    for task in cells:
        if tasks.is_done(task, study_dir):
            result = tasks.record(task, study_dir)
            if result.get("diverged_fatally"):  # it has a place in the tables, marked; still wrong
                outcome.failed[task.run_id] = result["diverged_reason"]
            else:
                outcome.finished.append(task.run_id)
            progress.skip(task)
            if result.get("source_digest", source_digest()) != source_digest():
                outcome.outdated.append(task.run_id)
        else:
            waiting.append(task)
    # A base model is made by one process and everything of that model waits for it: all of them
    # first, the longest before the others, or cores stand idle at the end.
    waiting.sort(key=lambda task: -expected_cost(task) if _makes_base(task) else 0.0)
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
    """Fill free places with tasks whose needs are finished; drop those whose needs failed."""
    running = {w.task.run_id for w in workers} | {t.run_id for t in waiting}
    bases = {w.task.config.model for w in workers if _makes_base(w.task)}
    for task in list(waiting):
        needs = tasks.needs(task)
        broken = next((n for n in needs if n in outcome.failed or n in outcome.blocked), None)
        if broken:
            waiting.remove(task)
            outcome.blocked.append(task.run_id)
            progress.conclude(task, f"not run: {broken} failed")
        elif (
            len(workers) < jobs and not running & set(needs) and tasks.pretrains(task) not in bases
        ):
            waiting.remove(task)
            workers.append(_started(task, study_dir, context))
            outcome.started.append(task.run_id)
            if _makes_base(task):
                bases.add(task.config.model)
            progress.start(task)


def _makes_base(task: Task) -> bool:
    return tasks.pretrains(task) is not None and task.config.method == "base"


def _started(task: Task, study_dir: Path, context: Any) -> _Worker:
    """A new process that runs ``task``."""
    receiver, sender = context.Pipe(duplex=False)
    lifeline, held = context.Pipe(duplex=False)
    process = context.Process(
        target=_work,
        args=(tasks.method_files(task), study_dir, sender, lifeline),
        daemon=True,
    )
    process.start()
    sender.close()
    lifeline.close()
    held.send(task)
    return _Worker(task, process, receiver, held)


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
                worker.error = _cause_of_death(worker.process.exitcode)
            worker.done = True
            continue
        if kind == "progress":
            progress.update(worker.task, *content)
        else:
            worker.error = content[0]
    progress.refresh()


def _cause_of_death(exit_code: int) -> str:
    if exit_code == EXIT_HUNG:
        return "its vLLM engine hung for longer than vllm.stall_seconds; run it again to continue"
    return f"worker died with exit code {exit_code}"


def _conclude(worker: _Worker, outcome: Outcome, study_dir: Path, progress: StudyProgress) -> None:
    run_id = worker.task.run_id
    if worker.error is None:
        outcome.finished.append(run_id)
        progress.conclude(worker.task, "finished")
        return
    outcome.failed[run_id] = worker.error.strip().splitlines()[-1]
    # A diverged run has its results; a failure record is for tasks that have none.
    if not tasks.is_done(worker.task, study_dir):
        write_json(
            tasks.failure_path(worker.task, study_dir),
            {"error": outcome.failed[run_id], "traceback": worker.error},
        )
    progress.conclude(worker.task, f"FAILED: {outcome.failed[run_id]}")


def _work(
    method_files: Sequence[Path],
    study_dir: Path,
    pipe: connection.Connection,
    lifeline: connection.Connection,
) -> None:
    """Body of a worker process; its task is the first thing that comes down the lifeline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for file in method_files:  # its classes must exist before a task of them can be received
        load_method_file(file)
    task = lifeline.recv()
    threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
    last = 0.0

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5 or done == total:
            last = time.monotonic()
            pipe.send(("progress", stage, done, total))

    try:
        tasks.run(task, study_dir, report)
    except Exception:  # whatever a method raises must reach the study as this task's failure
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
