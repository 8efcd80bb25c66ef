"""A time limit stops behind a step or benchmark, and the same command ends at the same numbers."""

from __future__ import annotations

import argparse
import time

import pytest
from rich.console import Console
from test_checkpoint_eval import PROBLEMS, TOKENIZER, Scripted
from tiny import METHODS, build_trainer, metrics

from benchmarks.cli import _parser
from benchmarks.config import EvalConfig
from benchmarks.profiles.planned import planned_study
from benchmarks.run import evaluate as ev
from benchmarks.run.launch import deadline_of
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.trainer import Stopped


def test_training_stops_behind_a_step_and_goes_on_to_the_same_numbers(tmp_path):
    whole = build_trainer(METHODS["sgpo"](), tmp_path / "whole", num_steps=3)
    whole.run()
    for steps in (1, 2):
        part = build_trainer(METHODS["sgpo"](), tmp_path / "part", num_steps=3)
        part.stop = lambda: True
        with pytest.raises(Stopped):
            part.run()
        assert len(metrics(tmp_path / "part")) == steps
    last = build_trainer(METHODS["sgpo"](), tmp_path / "part", num_steps=3)
    last.stop = lambda: True  # nothing is left behind the last step
    last.run()
    assert metrics(tmp_path / "part") == metrics(tmp_path / "whole")


def test_evaluation_stops_behind_a_benchmark_and_goes_on(tmp_path):
    def scores(folder, stop=None):
        return ev.evaluate(
            sampler=Scripted(),
            tokenizer=TOKENIZER,
            prompt_spec=PROMPT_SPECS["qwen2.5-instruct"],
            config=EvalConfig(suites=(), max_tokens=9),
            seed=5,
            samples_dir=folder,
            suites={"a": (PROBLEMS, 2), "b": (PROBLEMS, 3)},
            stop=stop,
        )

    with pytest.raises(Stopped):
        scores(tmp_path / "part", lambda: True)
    assert [p.name for p in (tmp_path / "part").glob("*.gz")] == ["a.jsonl.gz"]
    assert scores(tmp_path / "part") == scores(tmp_path / "whole")


def test_past_its_time_a_study_starts_nothing_and_says_what_is_left(tmp_path):
    cells = planned_study("quick", 1).cells()
    with StudyProgress(cells, Console(quiet=True)) as progress:
        outcome = run_study(cells, tmp_path, 2, progress, deadline=time.time() - 1)
    assert outcome.ok and not outcome.started
    assert set(outcome.left) == {c.run_id for c in cells}


def test_time_for_a_report_is_kept_where_one_is_made():
    options = argparse.Namespace(began=7.0, time_limit=300)
    assert deadline_of(options, report=0) == 307
    assert deadline_of(options, report=40) == 267
    assert deadline_of(argparse.Namespace(began=7.0, time_limit=50), report=40) == 47


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("8m", 480), ("2h", 7200), ("30", 30)])
def test_a_time_is_read(text, seconds):
    assert _parser().parse_args(["study", "--time-limit", text]).time_limit == seconds
