"""Worker processes for symbolic questions, with a hard deadline for every item and every batch.

Processes, not threads: a computation stuck in big-integer arithmetic holds the interpreter lock and
cannot be interrupted, only killed. Plain pipes and JSON lines, not multiprocessing: the workers
import neither the caller's ``__main__`` nor torch, and nothing is pickled.

A batch has one thread a worker, which takes item after item and waits for its worker's answers.
Workers start with the first item and stay for the next batch. A worker that is late is killed,
reaped and replaced. Workers end with the parent: at exit they are killed, and a worker whose parent
was killed sees its input end or its parent id change.
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
from collections import deque
from collections.abc import Callable, Sequence
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
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sgpo.core.verifier.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=0,
        )
        self.started = time.monotonic()
        self.ready = False
        self._buffer = b""

    def wait_ready(self, is_over: Callable[[], bool]) -> bool:
        """Returns when the worker can be asked, or False once ``is_over``.

        Raises:
            VerifierUnavailable: it does not start.
        """
        while not self.ready:
            try:
                message = self._receive(time.monotonic() + POLL_SECONDS)
            except _Late:
                if is_over():
                    return False
                if time.monotonic() < self.started + STARTUP_SECONDS:
                    continue
                raise VerifierUnavailable(
                    f"the verifier's worker did not start within {STARTUP_SECONDS:.0f} seconds;"
                    " free some memory or CPU time and run again"
                ) from None
            except _Gone:
                message = {"detail": "it ended without a message"}
            if not message.get("ready"):
                raise VerifierUnavailable(
                    f"the verifier's worker cannot start: {message['detail']}; run `sgpo doctor`"
                )
            self.ready = True
        return True

    def put(self, due: float, work: str, *arguments: str) -> Any:
        """The answer to one question. Raises _Late, _Failed or _Gone."""
        seconds = due - time.monotonic()
        if seconds <= 0:
            raise _Late
        question = {"work": work, "arguments": arguments, "seconds": seconds}
        view = memoryview(json.dumps(question).encode() + b"\n")
        assert self.process.stdin is not None
        try:
            while view:
                view = view[self.process.stdin.write(view) :]
        except (BrokenPipeError, ValueError):  # ValueError: the pool was shut down meanwhile
            raise _Gone from None
        reply = self._receive(due)
        if "error" in reply:
            raise _Failed(reply["error"])
        return reply["result"]

    def _receive(self, due: float) -> dict[str, Any]:
        try:
            descriptor = self.process.stdout.fileno()  # type: ignore[union-attr]
            while b"\n" not in self._buffer:
                readable, _, _ = select.select([descriptor], [], [], max(0, due - time.monotonic()))
                if not readable:
                    raise _Late
                chunk = os.read(descriptor, 1 << 16)
                if not chunk:
                    raise _Gone
                self._buffer += chunk
        except (OSError, ValueError):  # the pool was shut down meanwhile
            raise _Gone from None
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)

    def kill(self) -> None:
        """Ends and reaps the process; safe to call twice."""
        self.process.kill()
        self.process.wait()
        self.close_pipes()

    def close_pipes(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Pool:
    """Leases workers to batches. Batches of different threads run side by side."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def lease(self, fresh: bool = False) -> _Worker:
        """An idle worker if there is one and no fresh one is wanted, else a new one."""
        with self._lock:
            while self._idle and not fresh:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._all.discard(worker)
                worker.kill()
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def give_back(self, worker: _Worker) -> None:
        with self._lock:
            if worker in self._all and len(self._idle) < MAX_WORKERS:
                self._idle.append(worker)
                return
        self.discard(worker)

    def discard(self, worker: _Worker) -> None:
        worker.kill()
        with self._lock:
            self._all.discard(worker)

    def worker_pids(self) -> list[int]:
        """Process ids of the live workers."""
        with self._lock:
            return [w.process.pid for w in self._all if w.process.poll() is None]

    def shutdown(self) -> None:
        """Kills and reaps every worker. The pool can be used again."""
        with self._lock:
            workers, self._all, self._idle = list(self._all), set(), []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """In a forked child: drops the parent's workers without touching them."""
        for worker in self._all:
            worker.process.returncode = 0  # not our child: nothing to reap
            worker.close_pipes()
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
            item_seconds: wall-clock limit of one job; its worker is killed when it is over.
            batch_seconds: limit of the whole batch, from the moment the first worker is ready;
                jobs not done by then are timeouts. None: only the item limit.
            num_workers: at most this many workers at once.
        Raises:
            VerifierUnavailable: a worker does not start.
        """
        batch = _Batch(self, jobs, item_seconds, batch_seconds)
        threads = [
            threading.Thread(target=batch.work, daemon=True)
            for _ in range(min(num_workers, len(jobs)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            batch.queue.clear()  # after Ctrl-C: no thread takes another item
        if batch.unavailable is not None:
            raise batch.unavailable
        return [outcome or "timeout" for outcome in batch.outcomes]


class _Batch:
    """One call of Pool.run; every thread of it runs ``work``."""

    def __init__(
        self, pool: Pool, jobs: Sequence[Job], item_seconds: float, batch_seconds: float | None
    ) -> None:
        self.pool, self.jobs = pool, jobs
        self.item_seconds, self.batch_seconds = item_seconds, batch_seconds
        self.outcomes: list[str | None] = [None] * len(jobs)
        self.queue = deque(range(len(jobs)))
        self.crashed: set[int] = set()
        self.deadline: float | None = None
        self.unavailable: VerifierUnavailable | None = None
        self._lock = threading.Lock()

    def work(self) -> None:
        """Takes item after item until none is left or the batch's time is over."""
        worker: _Worker | None = None
        while self.queue and self.unavailable is None and not self._is_over():
            try:
                # After a crash only a new worker is trusted: idle ones may have been killed too.
                worker = worker or self.pool.lease(fresh=bool(self.crashed))
                if not worker.wait_ready(self._is_over):
                    break
                due = self._due()
                item = self.queue.popleft()
            except VerifierUnavailable as error:
                self.unavailable = error
                break
            except IndexError:  # another thread was faster
                break
            if time.monotonic() >= due or not self._judge(worker, item, due):
                self.pool.discard(worker)
                worker = None
        if worker is not None:
            self.pool.give_back(worker)  # ready or still starting

    def _is_over(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _due(self) -> float:
        now = time.monotonic()
        with self._lock:
            if self.deadline is None and self.batch_seconds is not None:
                self.deadline = now + self.batch_seconds
        due = now + self.item_seconds
        return due if self.deadline is None else min(due, self.deadline)

    def _judge(self, worker: _Worker, item: int, due: float) -> bool:
        """Fills in the outcome of one item; whether its worker can be used again."""
        try:
            right = self.jobs[item](lambda *question: worker.put(due, *question))
            self.outcomes[item] = "correct" if right else "wrong"
        except _Late:
            self.outcomes[item] = "timeout"
            return False
        except _Failed:
            self.outcomes[item] = "error"
        except _Gone:
            # Once more: the worker may have been killed from outside.
            if item in self.crashed:
                self.outcomes[item] = "error"
            else:
                self.crashed.add(item)
                self.queue.append(item)
            return False
        return True


POOL = Pool()
atexit.register(POOL.shutdown)
os.register_at_fork(after_in_child=POOL.forget)
