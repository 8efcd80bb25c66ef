"""Who may write to a study directory: one study, or launches of single runs beside each other."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def locked(study_dir: Path, run_ids: Sequence[str] | None = None) -> Iterator[None]:
    """Hold the study directory for this process, or with ``run_ids`` these runs of it: the jobs of
    a cluster make different runs of one study at the same time.

    Raises:
        ValueError: another process holds the directory, or one of the runs; or the file system has
            no locks.
    """
    with ExitStack() as stack:
        shared = run_ids is not None
        if not _hold(stack, study_dir / "study.lock", fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            raise ValueError(
                f"{study_dir}: another study is running in this directory; wait for it, or "
                "choose another one with --out"
            )
        for run_id in run_ids or ():
            if not _hold(stack, study_dir / "locks" / f"{run_id}.lock", fcntl.LOCK_EX):
                raise ValueError(
                    f"{study_dir}: another process is making {run_id}; wait for it, or choose "
                    "another directory with --out"
                )
        yield


def _hold(stack: ExitStack, path: Path, mode: int) -> bool:
    """Whether the lock could be had; it is held until ``stack`` closes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be locked ({error.strerror}); choose a directory with --out on a file "
            "system with flock that holds for all nodes"
        ) from error
    return True
