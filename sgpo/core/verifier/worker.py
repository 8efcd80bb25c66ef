"""The worker process of the pool: reads JSON lines, writes JSON lines, imports no torch.

Started by pool as ``python -P -m sgpo.core.verifier.worker``. It limits its own memory, ends when
its parent is gone, and arms a kernel timer around every question, so that a computation stuck
inside one C call (which no Python code could interrupt) still ends the process.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from typing import Any

MEMORY_LIMIT_BYTES = 2 * 1024**3
GRACE_SECONDS = 1.0  # the parent's own deadline comes first
PARENT_CHECK_SECONDS = 2.0


def _reply(line: bytes) -> dict[str, Any]:
    """``{"result": ..}`` for one question of the table ``_WORK``, or ``{"error": its type}``."""
    from sgpo.core.verifier import symbolic

    work = {"compare": symbolic.answer, "stock": symbolic.stock}
    task = json.loads(line)
    signal.setitimer(signal.ITIMER_REAL, task["seconds"] + GRACE_SECONDS)
    try:
        return {"result": work[task["work"]](*task["arguments"])}
    except Exception as error:  # process boundary: becomes the verdict "error", never swallowed
        return {"error": type(error).__name__}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main() -> int:
    """Serves requests until standard input ends. Exit status 1 after running out of memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # default action: the kernel ends the process
    parent = os.getppid()
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing a library prints may be read as a reply
    try:
        import sgpo.core.verifier.symbolic  # noqa: F401
    except ImportError as error:
        replies.write(json.dumps({"ready": False, "detail": str(error)}).encode() + b"\n")
        return 1
    replies.write(b'{"ready": true}\n')
    buffer = b""
    while True:
        readable, _, _ = select.select([0], [], [], PARENT_CHECK_SECONDS)
        if not readable:
            if os.getppid() != parent:
                return 0
            continue
        chunk = os.read(0, 1 << 16)
        if not chunk:
            return 0
        buffer += chunk
        while b"\n" in buffer:
            line, buffer = buffer.split(b"\n", 1)
            reply = _reply(line)
            replies.write(json.dumps(reply).encode() + b"\n")
            if reply.get("error") == "MemoryError":
                return 1  # a fragmented heap would fail the next questions too


if __name__ == "__main__":
    sys.exit(main())
