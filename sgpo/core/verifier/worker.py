"""The worker process of the pool: JSON lines in, JSON lines out; imports no torch.

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

MEMORY_LIMIT_BYTES = 2 * 1024**3
GRACE_SECONDS = 1.0  # the parent's own deadline comes first


def main() -> int:
    """Answers questions until standard input ends. Exit status 1 after running out of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # default action: the kernel ends the process
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing a library prints may be read as a reply

    def reply(message: object) -> None:
        replies.write(json.dumps(message).encode() + b"\n")

    try:
        from sgpo.core.verifier import symbolic
    except ImportError as error:
        reply({"unavailable": str(error)})
        return 1
    work = {
        "expressions": symbolic.same_expression,
        "answers": symbolic.same,
        "stock": symbolic.stock,
    }
    reply({"ready": True})
    for line in sys.stdin.buffer:
        seconds, name, *arguments = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE_SECONDS)
        try:
            reason = "correct" if work[name](*arguments) else "wrong"
        except MemoryError:
            reply("error")
            return 1  # a fragmented heap would fail the next questions too
        except Exception:  # process boundary: becomes the verdict "error"
            reason = "error"
        reply(reason)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
