"""The grid runner: independent, resumable tasks in parallel processes of one thread each.

A task is a cell of the grid or an analysis of what cells have left.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import connection, forkserver, get_context
from pathlib import Path
from typing import Any

from benchmarks.analyses import AnalysisTask, analysis_tasks
from benchmarks.analyses import run as analyses
from benchmarks.config import (
    Cell,
    MethodEntry,
    Plan,
    RunConfig,
    load_method_file,
    user_method_file,
)
from benchmarks.data.sources import record_problems
from benchmarks.run.cell import run_cell
from benchmarks.run.progress import StudyProgress, at_intervals, expected_cost
from benchmarks.run.rundir import ended, record_failure, summary_of
from benchmarks.store import records
from benchmarks.store.runs import is_finished, stored_runs
from sgpo.core.config import EXIT_HUNG
from sgpo.core.files import read_json, write_json
from sgpo.core.runlog import source_digest
from sgpo.core.trainer import Stopped

Task = Cell | AnalysisTask
SAMPLES_A_PROBLEM = 12  # paper: of SFT+GRPO, where none of its runs has ended

# A forked worker starts in milliseconds because its server has imported torch already.
_PRELOAD = ["benchmarks.run.study", "baselines.grpo", "baselines.hpt", "baselines.luffy",
            "baselines.opsd", "baselines.srft"]  # fmt: skip

_ALLOCATOR = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 1 << 30,
        "trim_threshold": 1 << 32,
        "top_pad": 1 << 26,
    }.items()
)


@dataclass
class Outcome:
    """What a study run did: run ids by what became of them, and why the failed ones failed."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: list[str] = field(default_factory=list)  # their parent failed
    outdated: list[str] = field(default_factory=list)  # finished, by other source code
    started: list[str] = field(default_factory=list)  # not finished when the study began
    left: list[str] = field(default_factory=list)  # stopped or not started: out of time

    @property
    def ok(self) -> bool:
        return not self.failed and not self.blocked

    def add(self, run_id: str, result: dict[str, Any]) -> None:
        """File an ended task by its result. A run whose loss became non-finite has its place in
        the tables, marked, and is still wrong."""
        if result.get("diverged_fatally"):
            self.failed[run_id] = result["diverged_reason"]
        else:
            self.finished.append(run_id)

    def print_failures(self) -> None:
        """One line each."""
        for run_id, why in self.failed.items():
            print(f"FAILED {run_id}: {why}")
        for run_id in self.blocked:
            print(f"not run {run_id}: its starting checkpoint failed")


def is_done(task: Task, study_dir: Path) -> bool:
    """Whether nothing of ``task`` is left to do on this machine. An analysis is finished when its
    inputs are and it was made from them, so it is made again when one of them is."""
    if isinstance(task, AnalysisTask):
        ready = all(is_done(cell, study_dir) for cell in task.inputs)
        return ready and analyses.is_finished(task, study_dir)
    return is_finished(study_dir / "runs" / task.run_id)


def unfinished(tasks: Sequence[Task], study_dir: Path) -> list[Task]:
    """Those of ``tasks``, which stand behind what they need, that are left to run here. A run whose
    results are here without its weights is left where something that is left needs those."""
    left: list[Task] = []
    for task in reversed(tasks):
        wanted = {cell.run_id for other in left for cell in needs(other)}
        has_results = isinstance(task, Cell) and is_finished(
            study_dir / "runs" / task.run_id, weights=False
        )
        if not is_done(task, study_dir) and (task.run_id in wanted or not has_results):
            left.append(task)
    return left[::-1]


def needs(task: Task) -> tuple[Cell, ...]:
    """The cells that must be finished before ``task`` can start."""
    if isinstance(task, AnalysisTask):
        return task.inputs
    return (task.parent,) if task.parent else ()


def record_paths(task: Task, study_dir: Path) -> tuple[Path, Path]:
    """Where a task's result is kept, and the reason when it fails."""
    if isinstance(task, AnalysisTask):
        names = analyses.result_path, analyses.failure_path
        return tuple(name(study_dir, task.run_id) for name in names)
    run_dir = study_dir / "runs" / task.run_id
    return run_dir / "result.json", run_dir / "failed.json"


def run_study(
    tasks: Sequence[Task],
    study_dir: Path,
    jobs: int,
    progress: StudyProgress,
    deadline: float = math.inf,
    log: str | None = None,
) -> Outcome:
    """Run every task that is not finished, ``jobs`` at a time; a failing one stops only those
    that need it. KeyboardInterrupt ends the workers; finished tasks stay.

    After ``deadline`` (of ``time.time``) nothing is started, and what runs stops behind its
    training step or benchmark; the outcome lists both as ``left``.
    """
    return _Runner(study_dir, jobs, progress, deadline, log).run(tasks)


@dataclass
class _Worker:
    task: Task
    process: Any
    pipe: connection.Connection
    lifeline: connection.Connection  # open as long as this process lives
    end: tuple[str, ...] = ("finished",)  # or stopped, or failed and why, as it says itself


@contextmanager
def _allocator() -> Iterator[None]:
    """What is started meanwhile keeps its memory, in large pages: a tenth less time, since a step
    asks for the same again."""
    if "GLIBC_TUNABLES" in os.environ:  # the user's own
        yield
        return
    os.environ["GLIBC_TUNABLES"] = _ALLOCATOR
    try:
        yield
    finally:
        del os.environ["GLIBC_TUNABLES"]


class _Runner:
    """Tasks that wait, workers that run them, and what became of those that ended."""

    def __init__(
        self,
        study_dir: Path,
        jobs: int,
        progress: StudyProgress,
        deadline: float,
        log: str | None,
    ) -> None:
        self.study_dir, self.jobs, self.progress = study_dir, jobs, progress
        self.deadline, self.log = deadline, log
        self.context = get_context("forkserver")
        self.context.set_forkserver_preload(_PRELOAD)
        # Started with SIGINT ignored: Ctrl-C while it imports torch would show a traceback of it.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        with _allocator():
            forkserver.ensure_running()
        signal.signal(signal.SIGINT, handler)
        self.waiting: list[Task] = []
        self.workers: list[_Worker] = []
        self.outcome = Outcome()

    def run(self, tasks: Sequence[Task]) -> Outcome:
        self.waiting = unfinished(tasks, self.study_dir)
        left = {task.run_id for task in self.waiting}
        for task in tasks:
            if task.run_id not in left:
                self._skip(task)
        # A base model is made by one process and everything of that model waits for it: all of
        # them first, the longest before the others, or cores stand idle at the end.
        self.waiting.sort(key=lambda t: -expected_cost(t) if _base_of(t) else 0.0)
        try:
            while self.waiting or self.workers:
                if time.time() > self.deadline:
                    self.outcome.left += [task.run_id for task in self.waiting]
                    self.waiting.clear()
                self._start_ready()
                pipes = [worker.pipe for worker in self.workers]
                ready = connection.wait(pipes, timeout=1.0) if pipes else []
                for worker in [w for w in self.workers if w.pipe in ready]:
                    self._hear(worker)
                self.progress.refresh()
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second changes nothing
            for worker in self.workers:
                worker.process.kill()
            raise
        return self.outcome

    def _skip(self, task: Task) -> None:
        """``task`` was finished before this study run began."""
        result = read_json(record_paths(task, self.study_dir)[0])
        self.outcome.add(task.run_id, result)
        self.progress.skip(task)
        if result.get("source_digest", source_digest()) != source_digest():
            self.outcome.outdated.append(task.run_id)

    def _start_ready(self) -> None:
        """Fill free places with tasks whose needs are finished; drop those whose needs failed."""
        coming = {w.task.run_id for w in self.workers} | {t.run_id for t in self.waiting}
        bases = {_base_of(w.task) for w in self.workers} - {None}
        for task in list(self.waiting):
            needed = {cell.run_id for cell in needs(task)}
            broken = needed & {*self.outcome.failed, *self.outcome.blocked}
            model = task.config.model if isinstance(task, Cell) else None
            if broken:
                self.waiting.remove(task)
                self.outcome.blocked.append(task.run_id)
                self.progress.conclude(task, f"not run: {' '.join(broken)} failed")
            elif len(self.workers) < self.jobs and not needed & coming and model not in bases:
                self.waiting.remove(task)
                self.workers.append(self._started(task))
                self.outcome.started.append(task.run_id)
                bases |= {_base_of(task)} - {None}
                self.progress.start(task)

    def _started(self, task: Task) -> _Worker:
        """A new process that runs ``task``."""
        receiver, sender = self.context.Pipe(duplex=False)
        lifeline, held = self.context.Pipe(duplex=False)
        cells = task.inputs if isinstance(task, AnalysisTask) else (task,)
        files = [user_method_file(cell.config.settings) for cell in cells]
        files = [file for file in files if file]
        failure = record_paths(task, self.study_dir)[1]
        process = self.context.Process(
            target=_work,
            args=(
                *(files, self.study_dir, failure, sender, lifeline, self.deadline, self.log),
                min(self.jobs, 1 + len(self.workers) + len(self.waiting)),
            ),
            daemon=True,
        )
        process.start()
        sender.close()
        lifeline.close()
        held.send(task)
        return _Worker(task, process, receiver, held)

    def _hear(self, worker: _Worker) -> None:
        """Take the next report of a worker; file its task when it has ended."""
        try:
            kind, *content = worker.pipe.recv()
        except EOFError:  # the process ended
            worker.process.join()
            self.workers.remove(worker)
            self._conclude(worker)
            return
        if kind == "progress":
            self.progress.update(worker.task, *content)
        else:
            worker.end = (kind, *content)

    def _conclude(self, worker: _Worker) -> None:
        run_id, (what, *why) = worker.task.run_id, worker.end
        result, failure = record_paths(worker.task, self.study_dir)
        if what == "finished" and worker.process.exitcode:
            what, why = "failed", [_cause_of_death(worker.process.exitcode)]
            write_json(failure, {"error": why[0], "traceback": None})
        if what == "finished":
            self.outcome.finished.append(run_id)
            said = ended(read_json(result), "finished")
        elif what == "stopped":
            self.outcome.left.append(run_id)
            said = "stopped, out of time"
        else:
            self.outcome.failed[run_id] = why[0]
            said = "FAILED"  # why is said once, at the end
        self.progress.conclude(worker.task, said)


def _base_of(task: Task) -> str | None:
    """The base model that ``task`` makes; None for a task that makes none."""
    makes = isinstance(task, Cell) and task.config.method == "base"
    return task.config.model if makes else None


def _cause_of_death(exit_code: int) -> str:
    if exit_code == EXIT_HUNG:
        return "its vLLM engine hung for longer than vllm.stall_seconds; run it again to continue"
    return f"worker died with exit code {exit_code}"


def _work(
    method_files: Sequence[Path],
    study_dir: Path,
    failure: Path,
    pipe: connection.Connection,
    lifeline: connection.Connection,
    deadline: float,
    log: str | None,
    jobs: int,
) -> None:
    """Body of a worker process; its task is the first thing that comes down the lifeline."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    report = at_intervals(lambda *news: pipe.send(("progress", *news)))
    task = None
    try:
        for file in method_files:  # its classes must exist before a task of them can be received
            load_method_file(file)
        task = lifeline.recv()
        threading.Thread(target=_die_with, args=(lifeline,), daemon=True).start()
        if isinstance(task, AnalysisTask):
            analyses.run_analysis(task, study_dir, report)
        else:
            how = {"stop": lambda: time.time() > deadline, "log": log, "beside": jobs - 1}
            run_cell(task, study_dir, report, **how)
    except Stopped:
        pipe.send(("stopped",))
    except Exception as error:  # whatever a method raises must reach the study as this task's
        why = summary_of(error)
        if task is None or not is_done(task, study_dir):  # a diverged run has its results
            why = record_failure(failure, error, method_files)
        pipe.send(("failed", why))
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


def write_plan(study: Plan, study_dir: Path) -> None:
    """``study.json``, the grid as the report reads it, beside it what it asks."""
    record_problems(study, study_dir)
    stored = stored_runs(study_dir)
    ended = [
        (cell.config, stored[cell.run_id].object("result.json"))
        for cell in study.cells()
        if cell.run_id in stored
    ]
    sizes = {config.model: result["num_parameters"] for config, result in ended}
    study = _with_budgets(study, ended)
    records.Study.planned(study, study_dir, analyses=analysis_tasks(study), sizes=sizes).write()


def _with_budgets(study: Plan, ended: Sequence[tuple[RunConfig, dict[str, Any]]]) -> Plan:
    """``study`` with own methods that drew another number of samples a problem than SFT+GRPO marked
    by their label, which every table shows."""
    drawn = {
        config.method: result["num_samples"] / (result["num_steps"] * train.problems_per_step)
        for config, result in ended
        if (train := config.train) and result["num_steps"]
    }
    usual = drawn.get("grpo", SAMPLES_A_PROBLEM)

    def marked(entry: MethodEntry) -> MethodEntry:
        found = drawn.get(entry.key, usual)
        if not entry.file or abs(found - usual) < 0.01 * usual:
            return entry
        label = f"{entry.label} ({found:.3g} samples a problem, others {usual:.3g})"
        return replace(entry, label=label)

    return replace(study, methods=tuple(map(marked, study.methods)))
