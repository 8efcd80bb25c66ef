"""Worker processes for the symbolic judge, with a hard deadline for every item and every batch.

Processes, not threads: a computation stuck in big-integer arithmetic holds the interpreter lock and
cannot be interrupted, only killed. Plain pipes and JSON lines, not multiprocessing: the workers
import neither the caller's ``__main__`` nor torch, and nothing is pickled.

Workers start with the first item and stay for the next batch. A worker that is late is killed,
reaped and replaced. Workers end with the parent: at exit they are killed, and a worker whose parent
was killed sees its input end or its parent id change.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

STARTUP_SECONDS = 90.0
MAX_WORKERS = 16
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_ROOT = str(Path(__file__).resolve().parents[3])


class VerifierUnavailable(RuntimeError):
    """The worker process cannot start, e.g. because math-verify is not installed."""


def default_workers() -> int:
    """Number of CPU cores this process may use, at most MAX_WORKERS."""
    return max(1, min(len(os.sched_getaffinity(0)), MAX_WORKERS))


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, kept.get("PYTHONPATH", "")]))
    # A fixed hash seed makes sympy's orderings, and so its verdicts, the same in every worker.
    return kept | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}


class _Worker:
    """One child process. ``item`` is the index it works on; ``due`` when that must be over."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sgpo.core.verifier.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=0,
        )
        self.ready = False
        self.item: int | None = None
        self.due = time.monotonic() + STARTUP_SECONDS
        self._buffer = b""

    def send(self, item: int, gold: str, answer: str, seconds: float) -> bool:
        """Hands over one item; False if the worker is gone."""
        line = json.dumps({"gold": gold, "answer": answer, "seconds": seconds}).encode() + b"\n"
        try:
            assert self.process.stdin is not None
            view = memoryview(line)
            while view:
                view = view[self.process.stdin.write(view) :]
        except BrokenPipeError:
            return False
        self.item, self.due = item, time.monotonic() + seconds
        return True

    def receive(self) -> dict | None:
        """The next message, {} if it is not complete yet, None if the worker is gone."""
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        if not chunk:
            return None
        self._buffer += chunk
        if b"\n" not in self._buffer:
            return {}
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


class JudgePool:
    """Leases workers to batches. Batches of different threads run side by side."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def spawn(self) -> _Worker:
        worker = _Worker()
        with self._lock:
            self._all.add(worker)
        return worker

    def lease(self) -> _Worker:
        """An idle worker if there is one, else a new one."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.process.poll() is None:
                    return worker
                self._all.discard(worker)
                worker.kill()
        return self.spawn()

    def give_back(self, worker: _Worker) -> None:
        with self._lock:
            if len(self._idle) < MAX_WORKERS:
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
        tasks: Sequence[tuple[str, str]],
        *,
        item_seconds: float,
        batch_seconds: float | None,
        num_workers: int,
    ) -> list[str]:
        """The reason (correct, wrong, timeout, error) of each ``(gold, answer)`` task.

        Args:
            tasks: canonical texts.
            item_seconds: wall-clock limit of one item; its worker is killed when it is over.
            batch_seconds: limit of the whole batch, from the moment the first worker is ready;
                items not judged by then are timeouts. None: only the item limit.
            num_workers: at most this many workers at once.
        Raises:
            VerifierUnavailable: a worker does not start.
        """
        return _Batch(self, tasks, item_seconds, batch_seconds, num_workers).run()


class _Batch:
    """One call of JudgePool.run."""

    def __init__(
        self,
        pool: JudgePool,
        tasks: Sequence[tuple[str, str]],
        item_seconds: float,
        batch_seconds: float | None,
        num_workers: int,
    ) -> None:
        self.pool, self.tasks = pool, tasks
        self.item_seconds, self.batch_seconds = item_seconds, batch_seconds
        self.outcomes: list[str | None] = [None] * len(tasks)
        # Hostile items last, so that they cannot use up the batch's time before the others.
        self.queue = deque(sorted(range(len(tasks)), key=lambda i: _cost_hint(tasks[i])))
        self.crashed: set[int] = set()
        self.wanted = min(num_workers, len(tasks))
        self.workers: list[_Worker] = []
        self.selector = selectors.DefaultSelector()
        self.deadline: float | None = None

    def run(self) -> list[str]:
        try:
            while any(w.item is not None for w in self.workers) or self.queue:
                self._staff()
                self._wait()
                if self.deadline is not None and time.monotonic() >= self.deadline:
                    break
        finally:
            self.selector.close()
            for worker in self.workers:
                idle = worker.ready and worker.item is None
                (self.pool.give_back if idle else self.pool.discard)(worker)
        return [outcome or "timeout" for outcome in self.outcomes]

    def _staff(self) -> None:
        """Brings the number of workers up and gives every idle one an item."""
        busy = sum(w.item is not None for w in self.workers)
        while len(self.workers) < min(self.wanted, busy + len(self.queue)):
            # After a crash only a new worker is trusted: idle ones may have been killed as well.
            worker = self.pool.spawn() if self.crashed else self.pool.lease()
            self.workers.append(worker)
            self.selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
        for worker in list(self.workers):
            if worker.ready and worker.item is None and self.queue:
                self._start_clock()
                seconds = self.item_seconds
                if self.deadline is not None:
                    seconds = max(0.01, min(seconds, self.deadline - time.monotonic()))
                item = self.queue.popleft()
                if not worker.send(item, *self.tasks[item], seconds):
                    self.queue.appendleft(item)
                    self._drop(worker)

    def _start_clock(self) -> None:
        if self.deadline is None and self.batch_seconds is not None:
            self.deadline = time.monotonic() + self.batch_seconds

    def _wait(self) -> None:
        """Waits for messages or the next limit, whichever comes first, and acts on them."""
        limits = [w.due for w in self.workers if w.item is not None or not w.ready]
        limits += [self.deadline] if self.deadline is not None else []
        pause = max(0.0, min(limits) - time.monotonic()) if limits else 0.0
        for key, _ in self.selector.select(pause):
            self._on_message(key.data, key.data.receive())
        now = time.monotonic()
        for worker in list(self.workers):
            if not worker.ready and now >= worker.due:
                raise VerifierUnavailable(
                    f"the verifier's worker did not start within {STARTUP_SECONDS:.0f} seconds;"
                    " free some memory or CPU time and run again"
                )
            if worker.item is not None and now >= worker.due:
                self.outcomes[worker.item] = "timeout"
                self._drop(worker)

    def _on_message(self, worker: _Worker, message: dict | None) -> None:
        if message is None and not worker.ready or message and message.get("ready") is False:
            detail = (message or {}).get("detail", "it ended without a message")
            raise VerifierUnavailable(
                f"the verifier's worker cannot start: {detail}; run `sgpo doctor`"
            )
        if message is None:
            if worker.item is not None:
                self._crashed_on(worker.item)
            self._drop(worker)
        elif "ready" in message:
            worker.ready = True
            self._start_clock()
        elif "reason" in message:
            assert worker.item is not None
            self.outcomes[worker.item] = message["reason"]
            worker.item = None

    def _crashed_on(self, item: int) -> None:
        """Tries an item once more: its worker may have been killed from outside."""
        if item in self.crashed:
            self.outcomes[item] = "error"
        else:
            self.crashed.add(item)
            self.queue.append(item)

    def _drop(self, worker: _Worker) -> None:
        self.selector.unregister(worker.process.stdout)
        self.workers.remove(worker)
        self.pool.discard(worker)


def _cost_hint(task: tuple[str, str]) -> int:
    text = task[0] + task[1]
    return len(text) + 200 * (text.count("^{") + text.count("!") + text.count("\\sum"))


POOL = JudgePool()
atexit.register(POOL.shutdown)
os.register_at_fork(after_in_child=POOL.forget)
