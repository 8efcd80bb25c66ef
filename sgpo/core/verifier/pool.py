"""Worker processes for symbolic questions, with a hard deadline for every item and every batch.

Processes, not threads: a computation stuck in big-integer arithmetic holds the interpreter lock and
can only be killed. A socket and JSON lines, not multiprocessing: the workers import neither the
caller's ``__main__`` nor torch, and nothing is pickled. Workers start with the first question and
stay for the next batch; one that is late is killed and replaced. All end with the parent.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

STARTUP_SECONDS = 90.0
MAX_WORKERS = 16
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_ROOT = str(Path(__file__).resolve().parents[3])

# Puts one question (a name of worker's table and its arguments) and returns the answer.
Put = Callable[..., Any]
Job = Callable[[Put], bool | None]


class VerifierUnavailable(RuntimeError):
    """The worker process cannot start, e.g. because math-verify is not installed."""


class _NoAnswer(Exception):
    """Why a question has none: "timeout", "error", or "gone" where the process ended."""


def default_workers() -> int:
    """Number of CPU cores this process may use, at most MAX_WORKERS."""
    return max(1, min(len(os.sched_getaffinity(0)), MAX_WORKERS))


class _Worker:
    """One child process, used by one thread at a time."""

    def __init__(self) -> None:
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, kept.get("PYTHONPATH", "")]))
        # A fixed hash seed makes sympy's orderings, and so its verdicts, the same in every worker.
        kept |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "sgpo.core.verifier.worker"]
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, env=kept
            )
        self.replies = self.socket.makefile("rb")
        self.started = time.monotonic()
        self.ready, self.due = False, 0.0

    def wait_ready(self, end: float) -> None:
        """Returns when the worker can be asked. Raises _NoAnswer at the batch's ``end``,
        VerifierUnavailable where the worker does not start."""
        if self.ready:
            return
        until = min(end, self.started + STARTUP_SECONDS)
        if select.select([self.socket], [], [], max(0.0, until - time.monotonic()))[0]:
            message = json.loads(self.replies.readline() or b"{}")
            self.ready = message.get("ready", False)
            reason = message.get("unavailable", "it ended without a message")
            advice = f"cannot start: {reason}; run `sgpo doctor`"
        elif until == end:
            raise _NoAnswer("timeout")
        else:
            limit = f"did not start within {STARTUP_SECONDS:.0f} seconds"
            advice = f"{limit}; free some memory or CPU time and run again"
        if not self.ready:
            raise VerifierUnavailable(f"the verifier's worker {advice}")

    def put(self, work: str, *arguments: str) -> Any:
        """The answer to one question before ``due``, or _NoAnswer."""
        seconds = self.due - time.monotonic()
        if seconds <= 0:
            raise _NoAnswer("timeout")
        question = {"work": work, "arguments": arguments, "seconds": seconds}
        try:
            self.socket.settimeout(seconds)
            self.socket.sendall(json.dumps(question).encode() + b"\n")
            line = self.replies.readline()
        except TimeoutError:
            raise _NoAnswer("timeout") from None
        except (OSError, ValueError):  # the pool was shut down meanwhile
            raise _NoAnswer("gone") from None
        reply = json.loads(line or b'{"error": "gone"}')
        if "error" in reply:
            raise _NoAnswer(reply["error"])
        return reply["result"]

    def close(self, *, kill: bool = True) -> None:
        """Ends and reaps the process (one of a parent's is only let go); safe to call twice."""
        if kill:
            self.process.kill()
            self.process.wait()
        else:
            self.process.returncode = 0
        self.replies.close()
        self.socket.close()


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
        batch_seconds: float | None = None,
        num_workers: int,
    ) -> list[str]:
        """The reason (correct, wrong, timeout, error) of each job, a function that is given ``put``
        and returns whether the answer is right; it may be called twice. A worker is killed when its
        job takes longer than ``item_seconds``; ``batch_seconds`` counts from the moment the first
        worker is ready. VerifierUnavailable: a worker does not start."""
        if not jobs:
            return []
        end, starting = float("inf"), threading.Lock()

        def outcome(job: Job) -> str:
            # Once more where the worker is gone: it may have been killed from outside, and the
            # idle ones too.
            found = _on_a_worker(job, fresh=False)
            found = _on_a_worker(job, fresh=True) if found == "gone" else found
            return found if found in ("correct", "wrong", "timeout") else "error"

        def _on_a_worker(job: Job, fresh: bool) -> str:
            lent: list[_Worker] = []

            def put(*question: str) -> Any:
                """Leases a worker with the first question: what is remembered needs none."""
                nonlocal end
                if not lent:
                    if time.monotonic() >= end:
                        raise _NoAnswer("timeout")
                    lent.append(self.lease(fresh))
                    with nullcontext() if lent[0].ready else starting:
                        lent[0].wait_ready(end)
                        now = time.monotonic()
                        end = min(end, now + (batch_seconds or end))
                    lent[0].due = min(now + item_seconds, end)
                return lent[0].put(*question)

            reason = "gone"
            try:
                reason = "correct" if job(put) else "wrong"
            except _NoAnswer as why:
                reason = str(why)
            finally:
                for worker in lent:
                    usable = reason not in ("timeout", "gone") or not worker.ready
                    self.give_back(worker, usable)
            return reason

        with ThreadPoolExecutor(min(num_workers, len(jobs))) as threads:
            return list(threads.map(outcome, jobs))


POOL = Pool()
atexit.register(POOL.shutdown)
os.register_at_fork(after_in_child=POOL.forget)
