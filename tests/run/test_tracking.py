"""Trackers get what metrics.jsonl says; the names are those of the packages."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from benchmarks.cli import main
from benchmarks.run import tracking
from sgpo.core.files import write_json

SCORES = {"benchmarks": {"minimath": {"verdicts": ["cw", "cc"]}}}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def run_dir(tmp_path):
    write_json(tmp_path / "config.json", {"method": "sgpo"})
    return tmp_path


def test_a_tracker_is_told_settings_steps_samples_and_scores(run_dir, monkeypatch):
    told = []
    fake = SimpleNamespace(
        init=lambda **options: told.append(options),
        log=lambda values, step: told.append((step, values)),
        finish=lambda: told.append("finished"),
    )
    monkeypatch.setitem(sys.modules, "trackio", fake)
    tracker = tracking.Tracker("trackio", run_dir)
    assert told.pop() == {"project": "sgpo", "name": run_dir.name, "resume": "allow",
                          "config": {"method": "sgpo"}}  # fmt: skip
    tracker.follow()  # nothing is there yet
    tracker.grader([("2", "so \\boxed{2}"), ("3", "no")], truncated=[False, False])
    log = run_dir / "metrics.jsonl"
    log.write_text(lines({"step": 1, "reward": 0.5}) + '{"step": 2, "rew')  # half a line
    tracker.follow()
    step, values = told.pop()
    assert step == 1 and values["reward"] == 0.5
    assert "gold '2', correct" in values["samples"] and "gold '3', wrong" in values["samples"]
    log.write_text(lines({"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.25}))
    tracker.close(SCORES)
    assert told == [(2, {"reward": 0.25}), (2, {"accuracy/minimath": 75.0}), "finished"]


def test_tensorboard_can_be_read_back(run_dir):
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed (extra: tensorboard)",
    )
    tracker = tracking.Tracker("tensorboard", run_dir)
    rows = ({"step": 1, "reward": 0.5, "alpha_mean": None}, {"step": 2, "reward": 0.25})
    (run_dir / "metrics.jsonl").write_text(lines(*rows))
    tracker.close(SCORES)
    found = accumulator.EventAccumulator(str(run_dir / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("reward")] == [(1, 0.5), (2, 0.25)]
    assert found.Scalars("accuracy/minimath")[0].value == 75.0
    assert found.Tags()["scalars"] == ["reward", "accuracy/minimath"]


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(tracking.MODULES, "trackio", "no_such_module")
    words = ["train", "--model", "qwen-s", "--method", "grpo", "--log", "trackio"]
    assert main([*words, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "sgpo: error: --log trackio: is not installed; "
        ".venv/bin/pip install -e '.[trackio]' in the checkout\n"
    )
