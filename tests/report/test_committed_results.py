"""The committed study is the one that the profile describes, with the settings that were tuned."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from benchmarks.config import RunConfig
from benchmarks.profiles import mini
from benchmarks.profiles.planned import planned_study
from benchmarks.run import tune
from benchmarks.store.load import ADDED
from benchmarks.store.runs import stored_runs
from sgpo.core.config import to_dict

RESULTS = Path(__file__).resolve().parents[2] / "results" / "mini"
PLANNED = [c for c in json.loads((RESULTS / "study.json").read_text())["cells"]]


def profile_configs() -> dict[tuple[str, str, int], RunConfig]:
    cells = planned_study("mini", None, variants=True).cells()
    return {(c.config.model, c.config.method, c.config.seed): c.config for c in cells}


def test_the_stored_runs_have_the_configs_of_the_profile():
    configs, stored = profile_configs(), stored_runs(RESULTS)
    for cell in PLANNED:
        config = to_dict(configs[cell["model"], cell["method"], cell["seed"] or 0])
        found = stored[cell["run_id"]].object("config.json")
        kept = {key: value for key, value in found.items() if key not in ADDED}
        assert kept == json.loads(json.dumps(config)), cell["run_id"]


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
    trials = stored_runs(RESULTS / "tuning")
    for row in rows:
        assert set(trials[row["run_id"]].object("scores.json")["benchmarks"]) == {"minidev"}
