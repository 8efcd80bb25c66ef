"""The grid runner end to end on the quick wiring: resume, kill, isolation of failures, locks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.config import Plan
from benchmarks.profiles import quick
from benchmarks.profiles.planned import planned_study
from benchmarks.run.rundir import is_finished

# As little pretraining as possible: these tests are about the runner, not about learning.
TINY = "pretrain_steps=12"
METHODS = ("base", "sft", "sft_full", "grpo", "hpt", "luffy", "sgpo")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """A base model, pretrained once for all studies of this module."""
    from benchmarks.data.sources import base_model

    directory = tmp_path_factory.mktemp("cache")
    base_model(small_study().entry("base").config(quick.MODEL, 0), directory)
    return directory


def small_study() -> Plan:
    return planned_study("quick", 1, overrides=[TINY])


def sgpo(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", *arguments],
        capture_output=True, text=True, env=environment, timeout=1200, **options,
    )  # fmt: skip


def study_arguments(out: Path, *more: str) -> list[str]:
    fixed = ["--profile", "quick", "--seeds", "1", "--jobs", "2", "--set", TINY]
    fixed += ["--only", "table1"]  # the whole report has tests of its own
    return ["study", *fixed, "--out", str(out), *more]


def tables(out: Path) -> dict[str, bytes]:
    """Everything that reports a score; budgets hold wall times and are left out."""
    return {p.name: p.read_bytes() for p in (out / "tables").iterdir() if "table1" in p.name}


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("study")
    shutil.copytree(cache, out / "cache")
    done = sgpo(*study_arguments(out))
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_cell_leaves_a_complete_run_directory(finished):
    for cell in small_study().cells():
        run = finished / "runs" / cell.run_id
        assert is_finished(run)
        result = json.loads((run / "result.json").read_text())
        assert result["status"] == "finished" and result["config_hash"] == cell.hash
        config = json.loads((run / "config.json").read_text())
        assert config["seed"] == cell.config.seed
        environment = json.loads((run / "environment.json").read_text())
        assert environment["packages"]["torch"]
        scores = json.loads((run / "scores.json").read_text())
        assert all(len(b["verdicts"]) == 40 for k, b in scores["benchmarks"].items()
                   if k != "miniaime")  # fmt: skip


def test_rl_methods_draw_twelve_answers_a_problem(finished):
    drawn = {}
    for cell in small_study().cells():
        result = json.loads((finished / "runs" / cell.run_id / "result.json").read_text())
        drawn[cell.config.method] = result["num_samples"]
    per_run = quick.TRAIN_STEPS * 16 * 12
    assert drawn["grpo"] == drawn["hpt"] == drawn["sgpo"] == per_run
    assert drawn["luffy"] == per_run * 11 // 12  # the twelfth is the expert's
    assert drawn["sft"] == drawn["base"] == 0


def test_a_second_call_trains_nothing(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/result.json")}
    score = tables(finished)
    assert sgpo(*study_arguments(finished)).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/result.json")} == before
    assert tables(finished) == score


def test_a_deleted_cell_is_the_only_one_to_run_again_and_comes_back_equal(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/result.json")}
    score = tables(finished)
    victim = next(p.parent for p in before if "-grpo-" in str(p))
    scores = (victim / "scores.json").read_bytes()
    shutil.rmtree(victim)
    assert sgpo(*study_arguments(finished)).returncode == 0
    after = {p: p.stat().st_mtime_ns for p in finished.glob("runs/*/result.json")}
    changed = {p.parent for p in after if after[p] != before[p]}
    assert changed == {victim}
    assert (victim / "scores.json").read_bytes() == scores
    assert tables(finished) == score


@pytest.mark.parametrize("method", ["sft", "sgpo"])
def test_kill_in_training_then_continue_equals_uninterrupted(finished, tmp_path, method):
    """kill -9 of the whole study as soon as the method's run has written two steps. Every method
    is killed and resumed inside the trainer (test_trainer, test_ranks)."""
    shutil.copytree(finished, tmp_path / "s")
    out = tmp_path / "s"
    cell = next(c for c in small_study().cells() if c.config.method == method)
    run = out / "runs" / cell.run_id
    expected = (run / "scores.json").read_bytes()
    metrics = (run / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(run)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cli", *study_arguments(out, "--methods", method)],
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    log = run / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # workers die with the study; none may write on
    assert not (run / "result.json").exists()
    lines = log.read_text().count("\n")
    time.sleep(0.5)
    assert log.read_text().count("\n") == lines
    assert sgpo(*study_arguments(out)).returncode == 0
    assert (run / "scores.json").read_bytes() == expected

    def numbers(text: list[str]) -> list[dict]:
        return [{k: v for k, v in json.loads(s).items() if k != "seconds"} for s in text]

    assert numbers(log.read_text().splitlines()) == numbers(metrics)
    assert tables(out) == tables(finished)


BROKEN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class CONFIG:
    pass

class METHOD:
    def __init__(self, config):
        pass
    def collect(self, problems, rollout):
        raise RuntimeError("this method is broken")
    def totals(self, trajectories):
        return {}
    def loss(self, model, trajectories, totals):
        return None
"""

NAN = """
from dataclasses import dataclass

from baselines.grpo import GRPO, GRPOConfig
from sgpo.core.types import LossOutput

@dataclass(frozen=True)
class CONFIG(GRPOConfig):
    pass

class METHOD(GRPO):
    def loss(self, model, trajectories, totals):
        out = super().loss(model, trajectories, totals)
        return LossOutput(out.loss * float("nan"), out.sums)
"""


@pytest.mark.parametrize(
    ("source", "why"),
    [(BROKEN, "mine.py, line 12, in collect"), (NAN, "not finite; lower train.learning_rate")],
)
def test_a_failing_method_is_named_and_the_others_stay(finished, tmp_path, source, why):
    out = tmp_path / "s"
    shutil.copytree(finished, out)
    (tmp_path / "mine.py").write_text(source)
    done = sgpo(*study_arguments(out, "--method-file", str(tmp_path / "mine.py")))
    assert done.returncode == 1
    assert f"FAILED {quick.MODEL}-mine-s0" in done.stdout and why in done.stdout
    table = (out / "tables" / "table1.csv").read_text()
    original = (finished / "tables" / "table1.csv").read_text()
    assert set(original.splitlines()) <= set(table.splitlines())
    if source == NAN:  # a diverged run stays an error
        again = sgpo(*study_arguments(out, "--method-file", str(tmp_path / "mine.py")))
        assert again.returncode == 1 and why in again.stdout


def test_published_results_do_not_count_as_finished(finished, tmp_path):
    """A fresh checkout holds results without samples: they are shown, and run again on demand."""
    cell = small_study().cells()[0]
    shutil.copytree(finished / "runs" / cell.run_id, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "samples")
    assert (tmp_path / "run" / "result.json").exists() and not is_finished(tmp_path / "run")


def test_a_checkpoint_without_tokenizer_is_named(finished, tmp_path):
    cell = next(c for c in small_study().cells() if c.config.method == "sft")
    shutil.copytree(finished / "runs" / cell.run_id / "model", tmp_path / "m")
    for file in (tmp_path / "m").glob("tokenizer*"):
        file.unlink()
    done = sgpo("evaluate", "--model", str(tmp_path / "m"), "--suite", "miniamc",
                "--out", str(tmp_path / "o"))  # fmt: skip
    assert done.returncode == 2 and "tokenizer_config.json is missing; save" in done.stderr


def test_evaluate_and_grade_agree(finished, tmp_path):
    cell = next(c for c in small_study().cells() if c.config.method == "sgpo")
    model = finished / "runs" / cell.run_id / "model"
    done = sgpo("evaluate", "--model", str(model), "--suite", "miniamc", "--samples", "2",
                "--out", str(tmp_path / "o"))  # fmt: skip
    assert done.returncode == 0 and "avg@2" in done.stdout
    regraded = sgpo("grade", str(tmp_path / "o"))
    assert regraded.returncode == 0 and "80 samples" in regraded.stdout
    assert "0 verdicts changed" in regraded.stdout


def test_seeds_change_the_address_and_equal_configs_share_it():
    one, two = planned_study("quick", 2), planned_study("quick", 2)
    assert [c.run_id for c in one.cells()] == [c.run_id for c in two.cells()]
    assert len({c.run_id for c in one.cells()}) == len(one.cells())


def test_an_override_changes_every_trained_run_and_its_address():
    plain = {c.config.method: c for c in planned_study("quick", 1).cells()}
    other = planned_study("quick", 1, overrides=["train.grad_clip=0.5"])
    changed = {c.config.method: c for c in other.cells()}
    assert changed["base"].hash == plain["base"].hash
    for method in METHODS[1:]:
        assert changed[method].hash != plain[method].hash
        assert changed[method].config == replace(
            plain[method].config, train=replace(plain[method].config.train, grad_clip=0.5)
        )
