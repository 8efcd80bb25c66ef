"""What starting and running vLLM does to its host process, and how it is contained.

vLLM changes its host process when it starts: random state, thread settings, environment variables
that child processes inherit. ``untouched`` puts all of that back. ``Watchdog`` sees to it that a
silent engine ends in an error, or ends the process, and never in a hang.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sgpo.core.config import EXIT_HUNG

HUNG_GRACE_SECONDS = 15.0

# Read by vLLM when it is imported or started; a value the user has set wins.
_ENGINE_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # engine and worker live in this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",  # no telemetry
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with the trainer
}


class EngineFailed(RuntimeError):
    """The engine did not start, died or stalled; the message says which and what to do."""


class Watchdog:
    """Ends what makes no progress: ``check`` raises between the engine's steps, and a thread ends
    the process when one step itself does not return (native code cannot be interrupted)."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._over.set()
        self._thread.join()

    def alive(self) -> None:
        self._last = time.monotonic()

    def _silence(self) -> float:
        return time.monotonic() - self._last

    def check(self) -> None:
        if self._silence() > self._seconds:
            raise TimeoutError(
                f"no completion finished for {self._seconds:g} s (vllm.stall_seconds)"
            )

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._seconds / 4)):
            if self._silence() > self._seconds + HUNG_GRACE_SECONDS:
                print(
                    f"the vLLM engine hangs: no answer for {self._silence():.0f} s "
                    f"(vllm.stall_seconds={self._seconds:g}); this process ends with code "
                    f"{EXIT_HUNG}, run the same command again to continue",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(EXIT_HUNG)


@contextmanager
def untouched() -> Iterator[None]:
    """Start vLLM in the block and leave the process as it was before.

    Variables named VLLM_* stay, because vLLM reads them while it runs.
    """
    environment, hook = dict(os.environ), sys.excepthook
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    set_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    for name, value in _ENGINE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # spares a compilation of 2 to 14 s
    try:
        yield
    finally:
        for name in set(os.environ) - set(environment):
            if not name.startswith("VLLM_"):
                del os.environ[name]
        os.environ.update(environment)
        sys.excepthook = hook
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)
        torch.set_num_threads = set_threads
        torch.set_num_threads(num_threads)
