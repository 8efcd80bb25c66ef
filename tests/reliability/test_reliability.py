"""The reliability scripts in short: they pass on the suite as it is, and fail where they should."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest

from benchmarks.reliability import __main__ as command
from benchmarks.reliability import fuzz, kill

RUN, TABLE, METRICS = "runs/r/result.json", "tables/table1.csv", "runs/r/metrics.jsonl"
TIMES = itertools.count(1)


def test_a_short_fuzz_passes_and_counts_every_input():
    figures, passed = fuzz.fuzz(100, print)
    assert passed, figures
    assert figures["inputs"] == sum(figures["verdicts"].values()) == 100
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
    assert not passed and figures["executed"] == 1
    monkeypatch.setattr(fuzz, "extract", fragile)
    figures, passed = fuzz.fuzz(50, print)
    assert not passed and "unreadable" in figures["failures"][0]


def write(study: Path, score: str = "c", seconds: int = 1) -> None:
    """A study with one finished run that has ``score`` in its table."""
    metrics = json.dumps({"step": 1, "seconds": seconds}) + "\n"
    for name, text in {RUN: "{}", TABLE: score, "CLAIMS.md": "", METRICS: metrics}.items():
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(text)
    os.utime(study / RUN, ns=(0, next(TIMES)))


def ends_badly(out: Path) -> None:
    raise RuntimeError("the study ended with 1")


@pytest.mark.parametrize(
    ("after_the_kill", "late", "failure"),
    [
        (write, 0, ""),
        (write, 2, ""),
        (write, 3, "none"),  # most kills met no living study
        (lambda out: write(out, "w"), 0, "trial 0: "),
        (lambda out: write(out, seconds=9), 0, ""),
        (ends_badly, 0, "trial 0: the study ended with 1"),
    ],
)
def test_a_kill_passes_where_the_study_ends_the_same(monkeypatch, after_the_kill, late, failure):
    """With a stand-in for the study: what it leaves once it goes on."""
    killed = iter([1.0] * late + [None] * (4 - late))

    def study(out: Path, moment: float | None = None, **_) -> float | None:
        if moment is not None:
            return next(killed)
        write(out) if out.name == "reference" else after_the_kill(out)
        return 1.0

    monkeypatch.setattr(kill, "_run", study)
    monkeypatch.setattr(kill, "run_cell", lambda cell, start, _: start.mkdir())
    figures, held = kill.kill(4, print)
    assert held is (not failure) and figures["kills"] == 4 - late
    assert [*figures["failures"], "none"][0].startswith(failure or "none")


def test_the_committed_page_says_what_the_committed_outcomes_say(tmp_path):
    stored = kill.ROOT / "results" / "reliability"
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
