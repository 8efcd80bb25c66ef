"""The committed study is the one that the profile describes, with the settings that were tuned."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import pytest

from benchmarks.config import RunConfig
from benchmarks.profiles import mini
from benchmarks.run import tune
from benchmarks.run.launch import planned_study
from sgpo.core.config import to_dict

RESULTS = Path(__file__).resolve().parents[2] / "results" / "mini"
PLANNED = [c for c in json.loads((RESULTS / "study.json").read_text())["cells"]]
ADDED = ("run_id", "config_hash", "settings_class", "parent")


@cache
def profile_configs() -> dict[tuple[str, str, int], RunConfig]:
    cells = planned_study("mini", None, variants=True).cells()
    return {(c.config.model, c.config.method, c.config.seed): c.config for c in cells}


def stored_config(run_id: str) -> dict:
    config = json.loads((RESULTS / "runs" / run_id / "config.json").read_text())
    return {key: value for key, value in config.items() if key not in ADDED}


@pytest.mark.parametrize("cell", PLANNED, ids=lambda c: c["run_id"])
def test_a_stored_run_has_the_config_of_the_profile(cell):
    config = profile_configs()[cell["model"], cell["method"], cell["seed"] or 0]
    assert stored_config(cell["run_id"]) == json.loads(json.dumps(to_dict(config)))


def chosen() -> dict[str, dict]:
    with (RESULTS / "tuning.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file) if row["chosen"] == "True"}


@pytest.mark.parametrize("method", tune.KNOBS)
def test_the_profile_has_the_settings_that_tuning_chose(method):
    config = next(e for e in mini.METHODS + mini.KIN if e.key == method).config("qwen-m", 0)
    row = chosen()[method]
    assert config.train.learning_rate == float(row["learning_rate"])
    knobs = json.loads(row["settings"])
    assert {k: getattr(config.settings, k) for k in knobs} == knobs


def test_every_method_had_the_same_number_of_trials_and_none_saw_a_test_set():
    with (RESULTS / "tuning.csv").open() as file:
        rows = list(csv.DictReader(file))
    counts = {m: sum(r["method"] == m for r in rows) for m in tune.KNOBS}
    assert set(counts.values()) == {tune.RUNS_PER_METHOD}
    for row in rows:
        scores = json.loads((RESULTS / "tuning/runs" / row["run_id"] / "scores.json").read_text())
        assert set(scores["benchmarks"]) == {"minidev"}
