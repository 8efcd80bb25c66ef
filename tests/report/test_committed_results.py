"""The committed study is the one that the profile describes, with the settings that were tuned."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.cli import main
from benchmarks.config import RunConfig
from benchmarks.profiles import mini
from benchmarks.profiles.planned import planned_study
from benchmarks.report.build import ARTEFACTS
from benchmarks.run import tune
from benchmarks.store import experiments
from benchmarks.store.load import ADDED, load_study
from benchmarks.store.runs import TABLES, stored_runs
from sgpo.core.config import to_dict

RESULTS = Path(__file__).resolve().parents[2] / "results" / "mini"
STUDY = json.loads((RESULTS / "study.json").read_text())
GRID = planned_study("mini", len(STUDY["seeds"]), variants=True)
PLANNED = STUDY["cells"]


def profile_configs() -> dict[tuple[str, str, int], RunConfig]:
    cells = GRID.cells()
    return {(c.config.model, c.config.method, c.config.seed): c.config for c in cells}


def test_the_stored_runs_have_the_configs_of_the_profile():
    configs, stored = profile_configs(), stored_runs(RESULTS)
    compared = {entry.key for entry in mini.METHODS}
    for cell in PLANNED:
        config = to_dict(configs[cell["model"], cell["method"], cell["seed"] or 0])
        if cell["run_id"] not in stored:
            assert cell["method"] not in compared  # a variant, and the report says "not run"
            continue
        found = stored[cell["run_id"]].object("config.json")
        kept = {key: value for key, value in found.items() if key not in ADDED}
        assert kept == json.loads(json.dumps(config)), cell["run_id"]


@pytest.mark.parametrize(
    ("study", "artefact"),
    [*(("mini", name) for name in ("table1", "kin", "distil", "fig5")), ("worlds", "teacher")],
)
def test_the_command_of_an_artefact_plans_the_runs_that_it_shows(study, artefact, tmp_path, capsys):
    """In a new directory: nothing is remembered of the study. The rows of a table are over the
    seeds that all of them have."""
    loaded = load_study(RESULTS.parent / study)
    needs = next(a for a in ARTEFACTS if a.name == artefact).needs(loaded)
    rows = [cells for need in needs if (cells := loaded.cells_of(*need))]
    common = set.intersection(*({cell.seed for cell in cells} for cells in rows))
    shown = {cell.run_id for cells in rows for cell in cells if cell.seed in common}
    configs = [loaded.runs[run_id].stored.object("config.json") for run_id in shown]
    words = shlex.split(loaded.command(artefact, needs))[2:]
    assert main(["study", *words, "--out", str(tmp_path), "--dry-run", "--jobs", "1"]) == 0
    printed = re.findall(r"(?m)^(\S+-s\d+-[0-9a-f]{8}) ", capsys.readouterr().out)
    assert set(printed) == shown | {config["parent"] for config in configs} - {None}


def test_one_command_makes_the_study_of_many_worlds(tmp_path, capsys):
    text = (RESULTS.parent / "README.md").read_text()
    (command,) = re.findall(r"(?m)^bash reproduce.sh (.* --out results/worlds)$", text)
    words = [*shlex.split(command), "--out", str(tmp_path), "--dry-run", "--jobs", "1"]
    assert main(["study", *words]) == 0
    printed = re.findall(r"(?m)^(\S+-s\d+-[0-9a-f]{8}) ", capsys.readouterr().out)
    assert {*printed} == {cell.run_id for cell in load_study(RESULTS.parent / "worlds").cells}


def tuned() -> list[dict[str, str]]:
    """Every stored trial, with the model that it is of."""
    found = []
    for path in sorted(RESULTS.glob("tuning*.csv")):
        with path.open() as file:
            model = path.stem.partition("-")[2] or tune.MODELS["mini"]
            found += [row | {"model": model} for row in csv.DictReader(file)]
    return found


CHOSEN = {
    (r["model"], r["method"]): r
    for r in tuned()
    if r["chosen"] == "True" and r["method"] not in experiments.TRIALS
}


@pytest.mark.parametrize("model, method", CHOSEN)
def test_the_profile_has_the_settings_that_tuning_chose(model, method):
    config = GRID.entry(method).config(model, 0)
    assert config.train.learning_rate == float(CHOSEN[model, method]["learning_rate"])


ROWS = [(row, model) for row, chosen in mini.CHOSEN.items() for model in chosen]


def test_knobs_were_chosen_on_every_model_of_the_table_or_none():
    assert {frozenset(chosen) for chosen in mini.CHOSEN.values()} <= {
        frozenset(), frozenset(mini.TABLE_MODELS),
    }  # fmt: skip


@pytest.mark.parametrize("row, model", ROWS)
def test_a_tuned_knob_and_its_rate_are_the_best_of_48_trials(row, model):
    knob = experiments.TUNED[row]
    trials = pd.DataFrame(r for r in tuned() if r["model"] == model and r["method"] in knob.values)
    assert len(trials) == 48
    accuracy = trials.dev_accuracy.astype(float)
    method, rate = accuracy.groupby([trials.method, trials.learning_rate]).mean().idxmax()
    config = GRID.entry(knob.of if method == knob.of else row).config(model, 0)
    found = getattr(config.settings, knob.field), config.train.learning_rate
    assert found == mini.CHOSEN[row][model] == (knob.values[method], float(rate))


def test_every_rate_of_the_profile_was_tuned_with_as_many_trials_that_saw_no_test_set():
    rows = tuned()
    counts = Counter((row["model"], row["method"]) for row in rows)
    assert set(counts.values()) == {len(tune.LEARNING_RATES) * len(tune.WORLDS)}
    usual = {(tune.MODELS["mini"], method) for method in mini.LEARNING_RATE}
    others = {(model, method) for model, rates in mini.ON_MODEL.items() for method in rates}
    variants = {(model, method) for method, rates in mini.VARIANT_RATE.items() for model in rates}
    own = usual | others
    found = {(m, k) for m, k in counts if k not in experiments.TRIALS}
    assert own | variants <= found
    kept = found - own - variants  # SGPO's rate was chosen
    assert all(GRID.entry(k).config(m, 0).train.learning_rate == 2e-4 for m, k in kept)
    trials = stored_runs(RESULTS / "tuning")
    for row in rows:
        assert set(trials[row["run_id"]].object("scores.json")["benchmarks"]) == {"minidev"}


def test_the_documented_lines_give_the_numbers_of_table_1(monkeypatch, capsys):
    monkeypatch.chdir(RESULTS.parents[1])
    names: dict = {}
    text = (RESULTS.parent / "README.md").read_text()
    for example in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(example, names)
    frame = names["verdicts"]
    assert set(frame.budget) == {1.0}
    counts = frame.groupby(["model", "method", "benchmark"], observed=True).correct.mean()
    table = pd.read_csv(RESULTS / "tables" / "table1.csv")
    cells = table[(table.benchmark != "average") & (table.status == "finished")]
    assert len(cells) > 50
    for cell in cells.itertuples():
        share = counts[cell.model, cell.method, cell.benchmark]
        assert 100 * share == pytest.approx(float(cell.mean), abs=1e-5)
    assert names["metrics"].step.min() == 1
    capsys.readouterr()


def test_every_column_of_the_tables_is_documented():
    text = (RESULTS.parent / "README.md").read_text()
    known = set(re.findall(r"`([a-z_.*]+)`", text))
    for name in TABLES:
        for column in pq.read_schema(RESULTS / f"{name}.parquet").names:
            assert any(fnmatch(column, pattern) for pattern in known), (name, column)


def test_the_committed_results_are_few_and_small():
    """Only what git would take: figures and pages, no run directories, no large file."""
    files = [p for p in RESULTS.rglob("*") if p.is_file() and "/runs/" not in str(p)]
    sizes = [p.stat().st_size for p in files if p.suffix != ".lock" and "/cache/" not in str(p)]
    assert len(sizes) <= 150 and max(sizes) <= 5 * 2**20 and sum(sizes) <= 15 * 2**20


def test_the_stored_curve_of_trl_is_within_the_band_and_near_our_run_of_its_world(capsys):
    curve = RESULTS.parent / "reliability" / "trl_grpo.csv"
    words = ["check-port", str(curve), "--method", "grpo", "--model", "qwen-m"]
    assert main([*words, "--out", str(RESULTS)]) == 0
    assert "reward: within the band, steps 1 to 24" in capsys.readouterr().out
    rows = pd.read_parquet(RESULTS / "metrics.parquet", filters=[("model", "==", "qwen-m")])
    ours = rows[(rows.method == "grpo") & (rows.seed == 0)].sort_values("step").reward
    apart = abs(pd.read_csv(curve).reward.to_numpy() - ours.to_numpy())
    assert f"{apart.mean():.2f} from our own run" in (RESULTS.parent / "README.md").read_text()
