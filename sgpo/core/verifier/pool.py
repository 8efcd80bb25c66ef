"""Worker processes for symbolic questions, with a hard deadline for every item and every batch.

Processes, not threads: a computation stuck in big-integer arithmetic holds the interpreter lock and
can only be killed. Plain pipes and JSON lines, not multiprocessing: the workers import neither the
caller's ``__main__`` nor torch, and nothing is pickled. Workers start with the first item and stay
for the next batch; one that is late is killed and replaced. All end with the parent.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

STARTUP_SECONDS = 90.0
POLL_SECONDS = 0.2  # a starting worker is waited for in steps of this
MAX_WORKERS = 16
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_ROOT = str(Path(__file__).resolve().parents[3])

# Puts one question (a name of worker's table and its arguments) and returns the answer.
Put = Callable[..., Any]
Job = Callable[[Put], bool | None]


class VerifierUnavailable(RuntimeError):
    """The worker process cannot start, e.g. because math-verify is not installed."""


class _Late(Exception):
    """The item's time is over."""


class _Failed(Exception):
    """The worker reports an error on this question."""


class _Gone(Exception):
    """The worker process ended."""


def default_workers() -> int:
    """Number of CPU cores this process may use, at most MAX_WORKERS."""
    return max(1, min(len(os.sched_getaffinity(0)), MAX_WORKERS))


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, kept.get("PYTHONPATH", "")]))
    # A fixed hash seed makes sympy's orderings, and so its verdicts, the same in every worker.
    return kept | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


class _Worker:
    """One child process, used by one thread at a time."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-m", "sgpo.core.verifier.worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=_environment(), bufsize=0, **pipes)  # type: ignore[call-overload]
        self.started = time.monotonic()
        self.ready = False
        self._buffer = b""

    def wait_ready(self, is_over: Callable[[], bool]) -> None:
        """Returns when the worker can be asked. Raises _Late once ``is_over``, VerifierUnavailable
        where it does not start."""
        while not self.ready:
            try:
                message = self._receive(time.monotonic() + POLL_SECONDS)
            except _Late:
                if is_over():
                    raise
                if time.monotonic() < self.started + STARTUP_SECONDS:
                    continue
                raise VerifierUnavailable(
                    f"the verifier's worker did not start within {STARTUP_SECONDS:.0f} seconds;"
                    " free some memory or CPU time and run again"
                ) from None
            except _Gone:
                message = {"unavailable": "it ended without a message"}
            if "unavailable" in message:
                reason = message["unavailable"]
                raise VerifierUnavailable(
                    f"the verifier's worker cannot start: {reason}; run `sgpo doctor`"
                )
            self.ready = True

    def put(self, due: float, work: str, *arguments: str) -> Any:
        """The answer to one question. Raises _Late, _Failed or _Gone."""
        seconds = due - time.monotonic()
        if seconds <= 0:
            raise _Late
        question = {"work": work, "arguments": arguments, "seconds": seconds}
        view = memoryview(json.dumps(question).encode() + b"\n")
        try:
            while view:
                view = view[self.process.stdin.write(view) :]  # type: ignore[union-attr]
        except (OSError, ValueError):  # ValueError: the pool was shut down meanwhile
            raise _Gone from None
        reply = self._receive(due)
        if "error" in reply:
            raise _Failed(reply["error"])
        return reply["result"]

    def _receive(self, due: float) -> dict[str, Any]:
        """The next message: there is never more than one on its way."""
        try:
            descriptor = self.process.stdout.fileno()  # type: ignore[union-attr]
            while not self._buffer.endswith(b"\n"):
                if not select.select([descriptor], [], [], max(0, due - time.monotonic()))[0]:
                    raise _Late
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    raise _Gone
                self._buffer += chunk
        except (OSError, ValueError):  # the pool was shut down meanwhile
            raise _Gone from None
        line, self._buffer = self._buffer, b""
        return json.loads(line)

    def close(self, *, kill: bool = True) -> None:
        """Ends and reaps the process (one of a parent's is only let go); safe to call twice."""
        if kill:
            self.process.kill()
            self.process.wait()
        else:
            self.process.returncode = 0
        for pipe in (self.process.stdin, self.process.stdout):
            pipe.close()  # type: ignore[union-attr]


class _Clock:
    """The deadline of a batch, which counts from the moment its first worker is ready."""

    def __init__(self, item_seconds: float, batch_seconds: float | None) -> None:
        self.item_seconds, self.batch_seconds = item_seconds, batch_seconds
        self.end: float | None = None
        self._lock = threading.Lock()

    def is_over(self) -> bool:
        return self.end is not None and time.monotonic() >= self.end

    def due(self) -> float:
        """When an item that begins now must be done."""
        now = time.monotonic()
        with self._lock:
            if self.end is None and self.batch_seconds is not None:
                self.end = now + self.batch_seconds
        return min(now + self.item_seconds, self.end or now + self.item_seconds)


class Pool:
    """Lends workers to batches. Batches of different threads run side by side."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def lease(self, fresh: bool) -> _Worker:
        """An idle worker if there is one and no fresh one is wanted, else a new one."""
        with self._lock:
            while self._idle and not fresh:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._all.discard(worker)
                worker.close()
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def give_back(self, worker: _Worker, reusable: bool) -> None:
        with self._lock:
            if reusable and worker in self._all and len(self._idle) < MAX_WORKERS:
                self._idle.append(worker)
                return
            self._all.discard(worker)
        worker.close()

    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        with self._lock:
            return [w.process.pid for w in self._all if w.process.poll() is None]

    def shutdown(self) -> None:
        """Kills and reaps every worker. The pool can be used again."""
        with self._lock:
            workers, self._all, self._idle = list(self._all), set(), []
        for worker in workers:
            worker.close()

    def forget(self) -> None:
        """In a forked child: lets go of the parent's workers."""
        for worker in self._all:
            worker.close(kill=False)
        self._reset()

    def run(
        self,
        jobs: Sequence[Job],
        *,
        item_seconds: float,
        batch_seconds: float | None,
        num_workers: int,
    ) -> list[str]:
        """The reason (correct, wrong, timeout, error) of each job.

        Args:
            jobs: each is called with the function that puts a question to a worker, and returns
                whether the answer is right. It may be called twice.
            item_seconds: limit of one job; its worker is killed when it is over.
            batch_seconds: limit of the whole batch from the moment the first worker is ready;
                jobs not done by then are timeouts. None: only the item limit.
            num_workers: at most this many workers at once.
        Raises:
            VerifierUnavailable: a worker does not start.
        """
        if not jobs:
            return []
        clock = _Clock(item_seconds, batch_seconds)
        with ThreadPoolExecutor(min(num_workers, len(jobs))) as threads:
            return list(threads.map(partial(self._outcome, clock), jobs))

    def _outcome(self, clock: _Clock, job: Job) -> str:
        """The reason of one job. Once more where the worker is gone: it may have been killed from
        outside, and the idle ones too."""
        for is_retry in (False, True):
            loan = _Loan(self, clock, fresh=is_retry)
            try:
                return "correct" if job(loan.put) else "wrong"
            except _Late:
                loan.is_reusable = loan.worker is None or not loan.worker.ready
                return "timeout"
            except _Failed:
                return "error"
            except _Gone:
                loan.is_reusable = False
            finally:
                if loan.worker is not None:
                    self.give_back(loan.worker, loan.is_reusable)
        return "error"


class _Loan:
    """One job's worker, leased with its first question: what is remembered needs none."""

    def __init__(self, pool: Pool, clock: _Clock, fresh: bool) -> None:
        self.pool, self.clock, self.fresh = pool, clock, fresh
        self.worker: _Worker | None = None
        self.is_reusable = True
        self.due = 0.0

    def put(self, *question: str) -> Any:
        if self.worker is None:
            if self.clock.is_over():
                raise _Late
            self.worker = self.pool.lease(self.fresh)
            self.worker.wait_ready(self.clock.is_over)
            self.due = self.clock.due()
        return self.worker.put(self.due, *question)


POOL = Pool()
atexit.register(POOL.shutdown)
os.register_at_fork(after_in_child=POOL.forget)
