"""The reliability scripts in short: they pass on the suite as it is, and fail where they should."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from benchmarks.reliability import __main__ as command
from benchmarks.reliability import faults, fuzz
from sgpo.core import checkpoint as resume_states
from sgpo.core.files import read_sealed_json, whole_directory, write_bytes, write_sealed_json


def quiet(_: str) -> None:
    pass


def test_a_short_fuzz_passes_and_counts_every_input():
    figures, passed = fuzz.fuzz(400, quiet)
    assert passed, figures
    assert figures["inputs"] == sum(figures["verdicts"].values()) >= 400
    assert set(figures["verdicts"]) <= fuzz.REASONS and len(figures["verdicts"]) > 1


def test_fuzz_fails_on_an_exception(monkeypatch):
    def fragile(text: str):
        raise RuntimeError("unreadable")

    monkeypatch.setattr(fuzz, "extract", fragile)
    figures, passed = fuzz.fuzz(50, quiet)
    assert not passed and "unreadable" in figures["failures"][0]


def test_fuzz_fails_when_an_answer_is_executed(monkeypatch):
    plain = fuzz.grade_many

    def gullible(pairs, **options):
        for _, text in pairs:
            if "os').system('touch " in text:
                Path(text.split("touch ")[1].split("'")[0]).touch()
        return plain(pairs, **options)

    monkeypatch.setattr(fuzz, "grade_many", gullible)
    figures, passed = fuzz.fuzz(400, quiet)
    assert not passed and figures["executed"] >= 1


def test_damaged_resume_states_are_passed_over():
    figures, passed = faults.checkpoint(2, quiet)
    assert passed and figures["noticed"] == figures["ended_with_identical_weights"] == 2


def test_the_checkpoint_case_notices_unchecked_damage(monkeypatch):
    monkeypatch.setattr(resume_states, "_damage", lambda state: None)
    monkeypatch.setattr(faults, "DAMAGES", {"one bit flipped": faults._flip_a_bit})
    _, passed = faults.checkpoint(1, quiet)
    assert not passed


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


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0 or not faults.mount_works(tmp_path):
        pytest.skip("a tmpfs cannot be mounted here (needs root and Linux)")
    with faults.tmpfs(tmp_path / "small", 256) as path:
        yield path


def test_a_full_disk_leaves_the_old_file_and_no_litter(small_disk):
    write_bytes(small_disk / "kept", b"old")
    with whole_directory(small_disk / "model") as directory:
        (directory / "weights").write_bytes(b"old weights")
    with pytest.raises(OSError, match="No space left"):
        write_bytes(small_disk / "kept", bytes(1_000_000))
    with pytest.raises(OSError, match="No space left"):
        with whole_directory(small_disk / "model") as directory:
            (directory / "weights").write_bytes(bytes(1_000_000))
    assert (small_disk / "kept").read_bytes() == b"old"
    assert (small_disk / "model" / "weights").read_bytes() == b"old weights"
    assert sorted(p.name for p in small_disk.iterdir()) == ["kept", "model"]


def test_a_directory_that_cannot_be_written_is_an_error_and_stays(small_disk):
    write_bytes(small_disk / "kept", b"old")
    faults.remount(small_disk, "ro")
    with pytest.raises(OSError, match="Read-only"):
        write_bytes(small_disk / "kept", b"new")
    assert (small_disk / "kept").read_bytes() == b"old"


def study_at(root: Path, **files: str) -> Path:
    cells = [{"run_id": "a"}, {"run_id": "b"}]
    (root / "runs" / "a").mkdir(parents=True)
    (root / "study.json").write_text(json.dumps({"cells": cells}))
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        ({"runs__a__config_json": ""}, "training"),
        ({"runs__a__config_json": "", "runs__a__model__x": ""}, "evaluation and grading"),
        ({"runs__a__config_json": "", "runs__a__scores_json": ""}, "closing a run"),
        ({"runs__a__result_json": ""}, "between runs"),
        ({"runs__a__result_json": "", "runs__b__result_json": ""}, "report"),
    ],
)
def test_the_stage_of_a_killed_study_is_read_off_its_files(tmp_path, files, stage):
    assert faults.stage_of(study_at(tmp_path / "s", **files)) == stage
    assert faults.stage_of(tmp_path) == "start-up"


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("false", 1)])
def test_a_study_that_ended_before_the_kill_gives_its_length_or_fails_the_trial(
    tmp_path, monkeypatch, command, code
):
    @contextlib.contextmanager
    def ended(out: Path):
        process = subprocess.Popen([command])
        process.wait()
        yield process

    monkeypatch.setattr(faults, "started_study", ended)
    place = faults.Bench(tmp_path, study_at(tmp_path / "start"), tmp_path, {}, 1.0)
    trial = faults._kill_at(place, 5.0, only_launcher=True)
    if code == 0:
        assert 0 <= trial < 5.0
    else:
        assert trial["problem"] == "ended with 1 before the kill"


def test_a_trial_is_repeated_at_its_share_of_the_newest_length_and_not_for_ever():
    asked, outcomes = [], iter([40.0, 20.0, {"same": True}])

    def attempt(moment: float):
        asked.append(moment)
        return next(outcomes)

    assert faults.alive_trial(attempt, 0.5, 80.0) == ({"same": True}, 20.0)
    assert asked == [40.0, 20.0, 10.0]
    with pytest.raises(RuntimeError, match="ended 10 times before its kill .last after 3.0 s"):
        faults.alive_trial(lambda moment: 3.0, 0.5, 80.0)


def test_studies_are_compared_by_all_but_their_times(tmp_path):
    for name, seconds, score in (("a", 1.0, "c"), ("b", 9.0, "c"), ("c", 1.0, "w")):
        study = tmp_path / name
        (study / "tables").mkdir(parents=True)
        (study / "tables" / "table1.csv").write_text(score)
        (study / "tables" / "budget.csv").write_text(str(seconds))
        (study / "CLAIMS.md").write_text("claims")
        run = study / "runs" / "r"
        run.mkdir(parents=True)
        (run / "scores.json").write_text(score)
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": seconds}) + "\n")
    a, b, c = (faults.outcome_of(tmp_path / name) for name in "abc")
    assert faults.differences(a, b) == []
    assert faults.differences(a, c) == ["runs/r/scores.json", "tables/table1.csv"]


def test_outcomes_become_a_page_with_machine_and_commit(tmp_path):
    figures = {"kills": 40, "by_stage": {"report": 3}, "failures": [], "seconds": 61.2}
    figures["finished_with_identical_tables"] = 39
    command.keep("kill", figures, True, tmp_path / "reliability")
    command.keep("disk", {"seconds": 1.0}, False, tmp_path / "reliability")
    text = command.write_page(tmp_path / "reliability").read_text()
    assert f"| kill | {command.CASES['kill'].what} | passed: 39 of 40 | 61 |" in text
    assert f"| disk | {command.CASES['disk'].what} | FAILED | 1 |" in text
    assert "- kills: 40" in text and "by stage: report 3" in text and "failures: none" in text
    assert "Machine: " in text and "torch " in text


def test_the_committed_page_says_what_the_committed_outcomes_say(tmp_path):
    stored = faults.ROOT / command.RESULTS
    if not stored.exists():
        pytest.skip("results/reliability comes with a source checkout")
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
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    assert command.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_missing_package_is_named_with_its_remedy(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(
        command.CASES, "fuzz", dataclasses.replace(command.CASES["fuzz"], module="absent")
    )
    assert command.main(["fuzz", "--out", str(tmp_path)]) == 2
    assert "case 'fuzz' needs benchmarks.reliability.absent: pip" in capsys.readouterr().err


def test_every_case_is_a_function_and_the_hand_decided_answers_come_out_right(tmp_path, capsys):
    for case in command.CASES.values():
        module = importlib.import_module(f"benchmarks.reliability.{case.module}")
        assert callable(getattr(module, case.name)), case.name
    assert command.main(["cases", "--count", "20", "--out", str(tmp_path / "r")]) == 0
    assert "passed: 80 of 80" in (tmp_path / "r.md").read_text()


def test_a_failing_study_is_an_error_with_its_last_lines(tmp_path, monkeypatch):
    def failed(out: Path):
        return subprocess.CompletedProcess([], 2, "first\n", "small study: error: broken\n")

    monkeypatch.setattr(faults, "run_study", failed)
    with pytest.raises(RuntimeError, match="ended with 2: .*broken"):
        faults.must_finish(tmp_path)
