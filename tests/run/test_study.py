"""The grid runner end to end on the quick wiring: resume, kill, failures, addresses."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_study import SETTINGS, small_cells, study_words

from baselines.opd import OPDConfig
from benchmarks.cli import main
from benchmarks.config import Cell
from benchmarks.profiles import quick
from benchmarks.profiles.planned import planned_run
from benchmarks.run import rundir
from benchmarks.run.cell import budget_of_step
from benchmarks.store.runs import is_finished
from sgpo.core.config import apply_overrides
from sgpo.core.distributed import Ranks
from sgpo.core.files import UMASK, read_json, read_jsonl
from sgpo.core.trainer import Diverged


def tables(out: Path) -> dict[str, bytes]:
    """Everything that reports a score, but for the directory's name in the command that made it."""
    found = [path for path in (out / "tables").iterdir() if "table1" in path.name]
    return {path.name: re.sub(rb"\s--out\s+[\w/.-]+", b"", path.read_bytes()) for path in found}


def changed_runs(out: Path) -> dict[str, int]:
    """Run -> when its result was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("runs/*/result.json")}


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "study"))


def test_every_cell_leaves_a_complete_run_directory(finished):
    drawn = {}
    for method, cell in small_cells().items():
        run = finished / "runs" / cell.run_id
        assert is_finished(run)
        result, config, place, scores = (
            read_json(run / f"{name}.json")
            for name in ("result", "config", "environment", "scores")
        )
        assert result["status"] == "finished" and result["config_hash"] == cell.hash
        assert config["seed"] == cell.config.seed and place["packages"]["torch"]
        assert all(len(b["verdicts"]) == 4 for b in scores["benchmarks"].values())
        drawn[method] = result["num_samples"]
    per_run = quick.TRAIN_STEPS * SETTINGS["train.problems_per_step"] * 12
    assert drawn["grpo"] == drawn["hpt"] == drawn["sgpo"] == per_run
    assert drawn["luffy"] == per_run * 11 // 12  # the twelfth is the expert's
    assert drawn["sft"] == drawn["base"] == 0


def test_a_models_directory_says_what_it_is_and_others_may_read_it(finished):
    run = finished / "runs" / small_cells()["sgpo"].run_id
    card = (run / "model" / "README.md").read_text()
    assert f"# {run.name}" in card and "This is a miniature" in card
    letters = "".join(read_json(run / "scores.json")["benchmarks"]["trained"]["verdicts"])
    assert f"| trained | 4 | 2 | {100 * letters.count('c') / 8:.1f} |" in card
    for path in (run, *run.rglob("*")):
        mode = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == mode & ~UMASK, path


def test_a_second_call_trains_nothing_and_a_deleted_cell_comes_back_equal(copied, capsys):
    before, score = changed_runs(copied), tables(copied)
    assert main(study_words(copied)) == 0
    assert changed_runs(copied) == before and tables(copied) == score
    printed = capsys.readouterr().out
    assert "Accuracy in percent" in printed and "1 of 1" in printed
    victim = copied / "runs" / small_cells()["grpo"].run_id
    scores = (victim / "scores.json").read_bytes()
    shutil.rmtree(victim)
    assert main(study_words(copied)) == 0
    after = changed_runs(copied)
    assert {run for run in after if after[run] != before[run]} == {victim.name}
    assert (victim / "scores.json").read_bytes() == scores and tables(copied) == score


def test_kill_in_training_then_continue_equals_uninterrupted(finished, copied):
    """kill -9 of the whole study as soon as SGPO's run has written two steps. Every method is
    killed and resumed inside the trainer (tests/core)."""
    run = copied / "runs" / small_cells()["sgpo"].run_id
    shutil.rmtree(run)
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cli", *study_words(copied, "--methods", "sgpo")],
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    log, deadline = run / "metrics.jsonl", time.monotonic() + 600
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # workers die with the study; none may write on
    assert not (run / "result.json").exists()
    lines = log.read_text()
    time.sleep(0.5)
    assert log.read_text() == lines
    assert main(study_words(copied)) == 0
    whole = finished / "runs" / run.name
    assert (run / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    steps, expected = (read_jsonl(path / "metrics.jsonl") for path in (run, whole))
    for row in steps + expected:
        del row["seconds"]
    assert steps == expected and tables(copied) == tables(finished)


BROKEN = """
from baselines.grpo import GRPO
from dataclasses import dataclass
from sgpo.core.types import LossOutput

@dataclass(frozen=True)
class CONFIG:
    num_samples: int = 12

class METHOD(GRPO):
    def collect(self, problems, rollout):
        raise RuntimeError("this method is broken")
"""
NAN = BROKEN.partition("    def collect")[0].replace("class CONFIG:", "class CONFIG(GRPOConfig):")
NAN = (
    NAN.replace("import GRPO", "import GRPO, GRPOConfig")
    + """
    def loss(self, model, trajectories, totals):
        out = super().loss(model, trajectories, totals)
        return LossOutput(out.loss * float("nan"), out.sums)
"""
)


def test_failing_methods_are_named_and_the_others_stay(finished, copied, tmp_path, capsys):
    why = {"broken": "broken.py, line 12, in collect", "nan": "not finite; lower train.learning"}
    files = []
    for name, source in (("broken", BROKEN), ("nan", NAN)):
        (tmp_path / f"{name}.py").write_text(source)
        files += ["--method-file", tmp_path / f"{name}.py"]
    assert main(study_words(copied, *files, "--methods", "broken,nan")) == 1
    printed = capsys.readouterr().out
    assert all(f"FAILED {quick.MODEL}-{name}-s0" in printed for name in why)
    assert all(reason in printed for reason in why.values())
    (failed,) = copied.glob("runs/*-broken-*/failed.json")
    assert read_json(failed)["error"].endswith("this method is broken")
    assert "in collect" in failed.with_suffix(".txt").read_text()
    assert main(study_words(copied, "--methods", "nan")) == 1  # a diverged run stays an error
    assert f"FAILED {quick.MODEL}-nan-s0" in capsys.readouterr().out
    table, original = (set((p / "tables" / "table1.csv").read_text().splitlines())
                       for p in (copied, finished))  # fmt: skip
    assert original <= table


def test_a_finished_model_is_evaluated_and_judged_again(finished, tmp_path, capsys, refused):
    run, out = finished / "runs" / small_cells()["sgpo"].run_id, tmp_path / "o"
    words = ["evaluate", "--model", str(run), "--suite", "harder", "--samples", "2"]
    assert main([*words, "--problem-limit", "4", "--out", str(out)]) == 0
    assert "avg@2" in capsys.readouterr().out and main(["grade", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "8 samples" in printed and "0 verdicts changed" in printed
    assert run.name in (out / "table.md").read_text()
    shutil.copytree(run / "model", tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*"))
    refused(
        ["evaluate", "--model", str(tmp_path / "m"), *words[3:], "--out", "x"],
        "tokenizer_config.json is missing; save",
    )


def test_a_training_that_ends_before_its_budget_is_judged_at_shares_of_its_own_end():
    train = planned_run("mini", "grpo").config.train
    assert (train.num_steps, train.budget_steps) == (24, 12)
    assert budget_of_step(train) == {3: 0.25, 6: 0.5, 24: 2.0}
    assert budget_of_step(replace(train, num_steps=8)) == {2: 0.25, 4: 0.5}
    assert budget_of_step(replace(train, budget_steps=None)) == {}


@pytest.mark.parametrize("setting", ["checkpoint", "settings.teacher"])
def test_other_weights_under_the_same_path_are_another_run(tmp_path, setting):
    """Whatever setting names them: a teacher, or a base model of the user's own."""
    plain = replace(planned_run("quick", "grpo").config, settings=OPDConfig())
    config = apply_overrides(plain, [f"{setting}={tmp_path}"])
    hashes = [Cell(config).hash]
    for content in (b"a", b"b", b"a"):
        (tmp_path / "model.safetensors").write_bytes(content)
        hashes.append(Cell(config).hash)
    assert hashes[1] == hashes[3] and len(set(hashes)) == 3


def test_what_diverged_past_its_budget_is_marked_and_nothing_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir.sharding, "export", lambda model, target: None)
    tokenizer, said = SimpleNamespace(save_pretrained=lambda target: None), {}
    for name, past in (("whole", None), ("past", Diverged("step 5: nan", fatal=True, step=5))):
        run = rundir.RunDir(tmp_path / name, small_cells()["grpo"], Ranks())
        run.path.mkdir(parents=True)
        run.store(None, tokenizer, None, past)
        said[name] = read_json(run.path / "train.json"), run._training()
    assert set(said["whole"][0]) == {"seconds", "diverged"}
    mark = {"diverged_past_budget": {"step": 5, "reason": "step 5: nan"}}
    assert said["past"] == tuple(plain | mark for plain in said["whole"])
    assert rundir.ended(said["whole"][1], "finished") == "finished"
    assert "past its budget it diverged: step 5" in rundir.ended(mark, "finished")
