"""The reliability scripts in short: they pass on the suite as it is, and fail where they should."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.reliability import __main__ as command
from benchmarks.reliability import faults, fuzz
from sgpo.core import checkpoint as resume_states
from sgpo.core.files import read_sealed_json, whole_directory, write_bytes, write_sealed_json


def test_a_short_fuzz_passes_and_counts_every_input():
    figures, passed = fuzz.fuzz(200, print)
    assert passed, figures
    assert figures["inputs"] == sum(figures["verdicts"].values()) >= 200
    assert set(figures["verdicts"]) <= fuzz.REASONS and len(figures["verdicts"]) > 1


def test_fuzz_fails_on_an_exception_and_when_an_answer_is_executed(monkeypatch):
    def fragile(text: str):
        raise RuntimeError("unreadable")

    plain = fuzz.grade_many

    def gullible(pairs, **options):
        for _, text in pairs:
            if "os').system('touch " in text:
                Path(text.split("touch ")[1].split("'")[0]).touch()
        return plain(pairs, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fuzz, "grade_many", gullible)
        attack = "__import__('os').system('touch {}')"
        patch.setattr(fuzz, "completions", lambda path: iter([("1", attack.format(path))]))
        figures, passed = fuzz.fuzz(1, print)
    assert not passed and figures["executed"] >= 1
    monkeypatch.setattr(fuzz, "extract", fragile)
    figures, passed = fuzz.fuzz(50, print)
    assert not passed and "unreadable" in figures["failures"][0]


def test_damaged_resume_states_are_passed_over_and_unchecked_damage_is_noticed(
    shared_bases, monkeypatch
):
    figures, passed = faults.checkpoint(2, print)
    assert passed and figures["noticed"] == figures["ended_with_identical_weights"] == 2
    monkeypatch.setattr(resume_states, "_damage", lambda *_: None)
    monkeypatch.setattr(faults, "DAMAGES", {"one bit flipped": faults.DAMAGES["one bit flipped"]})
    assert not faults.checkpoint(1, print)[1]


def test_every_flipped_bit_of_a_sealed_file_is_noticed_or_changes_nothing(tmp_path):
    path, value = tmp_path / "state.json", {"step": 3, "extra": {"tokens": 120}}
    write_sealed_json(path, value)
    data = path.read_bytes()
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(bytes(damaged))
        try:
            assert read_sealed_json(path) == value
        except ValueError as error:
            assert "state.json" in str(error)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        read_sealed_json(path)


def test_a_full_or_read_only_disk_leaves_the_old_file_and_no_litter(tmp_path):
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(faults.tmpfs(tmp_path / "small", 256))
        except ValueError as error:
            pytest.skip(str(error))
        write_bytes(disk / "kept", b"old")
        with whole_directory(disk / "model") as directory:
            (directory / "weights").write_bytes(b"old weights")
        with pytest.raises(OSError, match="No space left"):
            write_bytes(disk / "kept", bytes(1_000_000))
        with pytest.raises(OSError, match="No space left"):
            with whole_directory(disk / "model") as directory:
                (directory / "weights").write_bytes(bytes(1_000_000))
        faults.remount(disk, "ro")
        with pytest.raises(OSError, match="Read-only"):
            write_bytes(disk / "kept", b"new")
        assert (disk / "kept").read_bytes() == b"old"
        assert (disk / "model" / "weights").read_bytes() == b"old weights"
        assert sorted(p.name for p in disk.iterdir()) == ["kept", "model"]


def study_at(root: Path, *files: str) -> Path:
    for name in ("study.json", *files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"cells": [{"run_id": "a"}, {"run_id": "b"}]}))
    return root


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        (["runs/a/config.json"], "training"),
        (["runs/a/config.json", "runs/a/model/x"], "evaluation and grading"),
        (["runs/a/config.json", "runs/a/scores.json"], "closing a run"),
        (["runs/a/result.json"], "between runs"),
        (["runs/a/result.json", "runs/b/result.json"], "report"),
    ],
)
def test_the_stage_of_a_killed_study_is_read_off_its_files(tmp_path, files, stage):
    assert faults.stage_of(study_at(tmp_path / "s", *files)) == stage
    assert faults.stage_of(tmp_path) == "start-up"


@pytest.mark.parametrize(
    ("command", "stage", "problem"),
    [
        (["sleep", "60"], "report", ""),
        (["true"], faults.ENDED, ""),
        (["false"], "report", "ended with 1 before the kill"),
    ],
)
def test_only_a_study_that_ended_badly_is_a_problem(tmp_path, monkeypatch, command, stage, problem):
    """Stand-ins for the study: one that lives, one that has ended well, one that fails."""

    @contextlib.contextmanager
    def study(out: Path):
        yield subprocess.Popen(command, start_new_session=True)

    monkeypatch.setattr(faults, "started_study", study)
    monkeypatch.setattr(faults, "wait_for_first_run", lambda out, process: None)
    monkeypatch.setattr(faults, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(faults.Bench, "continued", lambda *_: {"lost": 0, "problem": ""})
    ran = ("runs/a/result.json", "runs/b/result.json")
    place = faults.Bench(study_at(tmp_path / "start", *ran), tmp_path, {}, 1.0)
    trial = faults.killed(place, 0.1, only_launcher=True)
    assert (trial["stage"], trial["problem"]) == (stage, problem)


@pytest.mark.parametrize(("late", "passed"), [(2, True), (3, False)])
def test_kills_that_mostly_came_too_late_are_no_pass(tmp_path, monkeypatch, late, passed):
    stages = iter([faults.ENDED] * late + ["training"] * (4 - late))
    place = faults.Bench(tmp_path, tmp_path, {}, 1.0)
    monkeypatch.setattr(faults, "bench", lambda say: contextlib.nullcontext(place))
    trial = {"lost": 0, "problem": ""}
    monkeypatch.setattr(faults, "killed", lambda *_, **__: trial | {"stage": next(stages)})
    assert faults.kill(4, print)[1] is passed


def test_a_study_that_fails_or_differs_is_a_problem_and_times_are_not_compared(
    tmp_path, monkeypatch
):
    for name, seconds, score in (("a", 1.0, "c"), ("b", 9.0, "c"), ("c", 1.0, "w")):
        study = study_at(tmp_path / name, "tables/table1.csv", "CLAIMS.md", "runs/r/scores.json")
        (study / "tables" / "table1.csv").write_text(score)
        (study / "tables" / "budget.csv").write_text(str(seconds))
        metrics = json.dumps({"step": 1, "seconds": seconds}) + "\n"
        (study / "runs" / "r" / "metrics.jsonl").write_text(metrics)
    a, b, c = (faults.outcome_of(tmp_path / name) for name in "abc")
    assert faults.differences(a, b) == [] and faults.differences(a, c) == ["tables/table1.csv"]
    place = faults.Bench(tmp_path / "a", tmp_path / "a", a, 1.0)
    ended = subprocess.CompletedProcess([], 0, "", "")
    monkeypatch.setattr(faults, "run_study", lambda out: ended)
    lost = {"lost": 1, "problem": "differs in tables/table1.csv"}
    assert place.continued(tmp_path / "c", {"gone": 5}) == lost
    ended = subprocess.CompletedProcess([], 2, "first\n", "sgpo study: error: broken\n")
    problem = place.continued(tmp_path / "a", {})["problem"]
    assert problem == "ended with 2: first | sgpo study: error: broken"


def test_every_case_is_a_function_and_its_outcome_becomes_a_page(tmp_path, capsys):
    for name, (module, *_) in command.CASES.items():
        assert callable(getattr(importlib.import_module(f"benchmarks.reliability.{module}"), name))
    assert command.main(["cases", "--count", "20", "--out", str(tmp_path / "r")]) == 0
    text = (tmp_path / "r.md").read_text()
    assert "| cases | verdicts on answers decided by hand | passed: 80 of 80 |" in text
    assert "- cases: 80" in text and "failures: none" in text and "Machine: " in text


def test_the_committed_page_says_what_the_committed_outcomes_say(tmp_path):
    stored = faults.ROOT / command.RESULTS
    directory = shutil.copytree(stored, tmp_path / "reliability")
    assert command.write_page(directory).read_text() == stored.with_suffix(".md").read_text()
    for path in directory.glob("*.json"):
        outcome = json.loads(path.read_text())
        assert outcome["case"] == path.stem and path.stem in command.CASES
        assert outcome["passed"] and outcome["environment"]["git_dirty"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no case named"),
        (["flood"], "unknown case 'flood'"),
        (["kill", "--count", "0"], "--count 0: must be at least 1"),
        (["--page"], "no outcomes here"),
        (["fuzz"], "case 'fuzz' needs benchmarks.reliability.absent: pip"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(command.CASES, "fuzz", ("absent", *command.CASES["fuzz"][1:]))
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
