"""One small study, finished once for all tests of a session."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from tiny_study import study_words

from benchmarks.cli import main


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The study's results directory. Read it; copy it before changing anything."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # beside the folders of all workers of this session
        folder = folder.parent
    out, done = folder / "small_study", folder / "small_study.done"
    with (folder / "small_study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            assert main(study_words(out)) == 0
            done.touch()
    return out
