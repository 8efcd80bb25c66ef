"""The worker process of the pool: a function's name and arguments in, JSON out; imports no torch.

It limits its own memory and arms a kernel timer around every question, so that a computation stuck
inside one C call, which no Python code could interrupt, still ends. It ends when its input does,
which is when its parent is gone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pkgutil import resolve_name

MEMORY_LIMIT_BYTES = 2 * 1024**3
GRACE_SECONDS = 1.0  # the parent's own deadline comes first


def main() -> None:
    """Answers questions until standard input ends, or the memory does."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # default action: the kernel ends the process
    pipe = Connection(os.dup(1))
    os.dup2(2, 1)  # nothing a library prints may be read as a reply

    def reply(message: str) -> None:
        pipe.send_bytes(json.dumps(message).encode())

    try:
        resolve_name("sgpo.core.verifier.symbolic")  # takes seconds, as sympy does
    except ImportError as error:
        return reply(str(error))
    reply("ready")
    while True:
        seconds, function, *arguments = json.loads(pipe.recv_bytes())
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        try:
            reply("correct" if resolve_name(function)(*arguments) else "wrong")
        except MemoryError:  # a fragmented heap would fail the next questions too
            return reply("error")
        except Exception:  # process boundary: becomes the verdict "error"
            reply("error")
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    with suppress(EOFError):
        sys.exit(main())
