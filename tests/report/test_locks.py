"""One study in a directory, or launches of different runs beside each other."""

from __future__ import annotations

import errno
import os

import pytest

from benchmarks.store import locks
from benchmarks.store.locks import locked


def test_launches_of_different_runs_share_a_directory(tmp_path):
    with locked(tmp_path, ["a"]), locked(tmp_path, ["b", "c"]), locked(tmp_path, []):
        with pytest.raises(ValueError, match="another process is making b"):
            with locked(tmp_path, ["d", "b"]):
                raise AssertionError("b is held")
        with locked(tmp_path, ["d"]):  # what the refused launch had taken is free again
            pass


def test_a_file_system_without_locks_is_one_clear_line(tmp_path, monkeypatch):
    def flock(file, mode):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(ValueError, match="study.lock: cannot be locked .No locks available.; ch"):
        with locked(tmp_path):
            raise AssertionError("nothing is held")


def test_a_study_and_a_launch_exclude_each_other(tmp_path):
    with locked(tmp_path, ["a"]):
        with pytest.raises(ValueError, match="another study is running in this directory"):
            with locked(tmp_path):
                raise AssertionError("a launch runs")
    with locked(tmp_path):
        with pytest.raises(ValueError, match="another study is running in this directory"):
            with locked(tmp_path, ["a"]):
                raise AssertionError("a study runs")
    with locked(tmp_path):
        pass
