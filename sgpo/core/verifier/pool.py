"""Worker processes for symbolic questions, with a hard deadline for every item and every batch.

Processes: what is stuck in big-integer arithmetic can only be killed. Lines in pipes: workers of
multiprocessing (and pebble) import the caller's ``__main__`` and torch, and unpickle. They start
with the first question and end with the parent; one that is late is killed and replaced.
"""

import atexit
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from math import inf
from multiprocessing.connection import wait
from pathlib import Path
from pkgutil import resolve_name
from subprocess import DEVNULL, PIPE, Popen

STARTUP_SECONDS = 90.0
GRACE_SECONDS = 1.0  # the parent's own deadline comes first
MEMORY_LIMIT_BYTES = 2 * 1024**3
MAX_WORKERS = 16
_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV")
_ROOT = str(Path(__file__).resolve().parents[3])
Question = tuple[str | None, ...]  # what judges, ``module:function`` of ours, and its arguments


class VerifierUnavailable(RuntimeError):
    """The worker process cannot start, e.g. because math-verify is not installed."""


class _Worker:
    """One child process, used by one thread at a time."""

    def __init__(self) -> None:
        """Returns when the process can be asked. VerifierUnavailable: it does not start."""
        kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [_ROOT, kept.get("PYTHONPATH", "")]))
        # A fixed hash seed makes sympy's orderings, and so its verdicts, the same in every worker.
        kept |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-c", f"from {__name__} import serve; serve()"]
        # Without buffers: a process forked meanwhile has none to send once more.
        self.process = Popen(command, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=kept)
        if (message := self.ask((), STARTUP_SECONDS)) != "ready":
            self.close()
            raise VerifierUnavailable(
                f"the verifier's worker cannot start in {STARTUP_SECONDS:.0f} seconds: {message}; "
                "run `sgpo doctor`, or free some memory and CPU time"
            )

    def ask(self, question: Question, seconds: float) -> str:
        """correct, wrong, error, "timeout" after ``seconds``, or "gone": the process ended."""
        with suppress(OSError, ValueError):  # it ended, or the pool was shut down meanwhile
            if question:
                self.process.stdin.write(json.dumps([seconds, *question]).encode() + b"\n")
            if not wait([self.process.stdout], seconds):
                return "timeout"
            if reply := self.process.stdout.readline():
                return reply.decode().strip()
        return "gone"

    def close(self) -> None:
        """Ends and reaps the process; safe to call twice, and in a forked child."""
        with self.process:
            self.process.kill()


class Pool:
    """Lends workers to the batches of all threads: what these do to its collections is one step."""

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()

    def _borrow(self, fresh: bool = False) -> _Worker:
        """An idle worker if there is one and no fresh one is wanted, else a new one."""
        with suppress(IndexError):  # none is left
            if not fresh:
                return self._idle.pop()
        self._all.add(worker := _Worker())
        return worker

    def _return(self, worker: _Worker, reusable: bool = True) -> None:
        if reusable and worker in self._all and len(self._idle) < MAX_WORKERS:
            self._idle.append(worker)
        else:
            self._all.discard(worker)
            worker.close()

    def shutdown(self) -> None:
        """Closes every worker. The pool can be used again."""
        workers, self._all, self._idle = self._all, set(), []
        for worker in workers:
            worker.close()

    def run(
        self, questions: Sequence[Question], *, item_seconds: float, batch_seconds: float = inf
    ) -> list[str]:
        """correct, wrong, timeout or error for each question, by one worker a core. A question has
        ``item_seconds``, all of them ``batch_seconds`` once the workers are ready."""
        if not questions:
            return []

        def outcome(question: Question) -> str:
            # Once more where it is gone: it may have been killed from outside, as the idle ones.
            for fresh in (False, True):
                if (left := end - time.monotonic()) <= 0:
                    return "timeout"
                worker = self._borrow(fresh)
                reason = worker.ask(question, min(item_seconds, left))
                self._return(worker, reusable=reason not in ("timeout", "gone"))
                if reason != "gone":
                    return reason
            return "error"

        count = min(len(os.sched_getaffinity(0)), MAX_WORKERS, len(questions))
        with ThreadPoolExecutor(count) as threads:
            for worker in list(threads.map(lambda _: self._borrow(), range(count))):
                self._return(worker)
            end = time.monotonic() + batch_seconds
            return list(threads.map(outcome, questions))


def serve() -> None:
    """The worker: lines with a function's name and arguments in, reasons out, until the parent or
    the memory is gone. The kernel's timer ends even what is stuck inside one C call."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # default action: the kernel ends the process
    reply = partial(print, file=os.fdopen(os.dup(1), "w"), flush=True)
    os.dup2(2, 1)  # nothing a library prints may be read as a reply
    try:
        resolve_name("sgpo.core.verifier.symbolic:same")  # takes seconds, as sympy does
    except ImportError as error:
        return reply(error)
    reply("ready")
    for line in sys.stdin:
        seconds, function, *arguments = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        try:
            reply("correct" if resolve_name(function)(*arguments) else "wrong")
        except MemoryError:  # a fragmented heap would fail the next questions too
            return reply("error")
        except Exception:  # process boundary: becomes the verdict "error"
            reply("error")
        signal.setitimer(signal.ITIMER_REAL, 0)


POOL = Pool()
atexit.register(POOL.shutdown)
os.register_at_fork(after_in_child=POOL.shutdown)
