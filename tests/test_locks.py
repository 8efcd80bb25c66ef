"""One study in a directory, or launches of different runs beside each other."""

from __future__ import annotations

import pytest

from benchmarks.locks import locked


def test_launches_of_different_runs_share_a_directory(tmp_path):
    with locked(tmp_path, ["a"]), locked(tmp_path, ["b", "c"]), locked(tmp_path, []):
        with pytest.raises(ValueError, match="another process is making b"):
            with locked(tmp_path, ["d", "b"]):
                raise AssertionError("b is held")
        with locked(tmp_path, ["d"]):  # what the refused launch had taken is free again
            pass


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
