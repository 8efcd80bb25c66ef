"""Test problems cannot reach what chooses: no tuning trial, warm-up or checkpoint sees one."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_study import write_study

from benchmarks.config import Cell, EvalConfig
from benchmarks.data import sources
from benchmarks.report.tables.records import DISJOINTNESS
from benchmarks.run import tune
from benchmarks.run.cell import run_cell
from benchmarks.store.load import load_study
from sgpo.core.types import Problem
from sgpo.mini import sets


class Canary(AssertionError):
    """Raised by whoever asks for a test problem."""


@pytest.fixture
def canary(monkeypatch):
    """Test sets that nobody can look at."""

    # No draw may come from their partition.
    plain = sets.random_task

    def watched(rng, level, partition, kind=""):
        if partition == "test":
            raise Canary("a task was drawn from the test partition")
        return plain(rng, level, partition, kind)

    monkeypatch.setattr(sets, "random_task", watched)


def shortened(cell: Cell) -> Cell:
    """The same cell with next to no work in it; its data and suites are left alone."""
    train = cell.config.train and replace(
        cell.config.train, num_steps=2, problems_per_step=4, checkpoint_every=1
    )
    config = replace(
        cell.config,
        train=train,
        evaluation=replace(cell.config.evaluation, problem_limit=4, sample_limit=1),
        pretrain_steps=2,
        model="qwen-s",
    )
    return Cell(config, shortened(cell.parent) if cell.parent else None)


def one_trial_of(*methods: str) -> list[Cell]:
    chosen = {}
    for method, _, cell in tune.trials():
        chosen.setdefault(method, cell)
    return [shortened(chosen[method]) for method in methods]


def test_tuning_runs_and_chooses_without_any_test_problem(
    canary, shared_bases, tmp_path, monkeypatch
):
    """Whole trials with their parents: training, checkpoints, evaluation, and the table."""
    methods = ("sgpo",)
    monkeypatch.setattr(tune, "METHODS", methods)
    cells = one_trial_of(*methods)
    for cell in cells:
        for one in (cell.parent, cell):
            if one and not (tmp_path / "runs" / one.run_id / "result.json").exists():
                run_cell(one, tmp_path, lambda *_: None)
    planned = [(c.config.method, c.config.train.learning_rate, c) for c in cells]
    text = tune.table(planned, tmp_path / "runs")
    assert text.count("True") == len(methods)
    for scores in tmp_path.glob("runs/*/scores.json"):
        assert set(json.loads(scores.read_text())["benchmarks"]) == {"minidev"}


def test_no_tuning_config_names_a_test_set():
    tests = {t.key for t in sets.TEST_SETS}
    cells = [cell for profile in ("mini", "quick") for *_, cell in tune.trials(profile=profile)]
    cells += [c.parent for c in cells if c.parent]
    assert len(cells) > 100 and min(c.config.seed for c in cells) == tune.WORLDS[0]
    for cell in cells:
        assert not tests & set(cell.config.evaluation.suites)


def test_trials_on_a_published_model_see_its_development_split_alone():
    planned = tune.trials(profile="pocket", overrides=("data.source=data/mine@0123",))
    assert len({Counter(m for m, *_ in planned)[m] for m, *_ in planned}) == 1  # as many each
    cells = [cell for *_, cell in planned]
    for cell in [*cells, *(c.parent for c in cells)]:
        config = cell.config.evaluation
        assert config.suites == ("dev",) and config.files == ("data/mine/dev.jsonl@unprepared",)
    assert {c.config.seed for c in cells}.isdisjoint(range(10))


def test_the_canary_screams_where_a_test_set_is_used(canary):
    tested = EvalConfig(suites=("trained",), max_tokens=8)
    sources.evaluation_problems("minidev", tested, 3)
    with pytest.raises(Canary):
        sources.evaluation_problems("trained", tested, 3)


def test_a_leaked_question_is_counted_whatever_its_spacing():
    found = sources.mini_sets(1)
    leaked = found["test, Harder level"][3]
    respelled = Problem("train-x", leaked.question.upper().replace(" ", "  "), leaked.answer)
    found["training, RL"] = [*found["training, RL"], respelled]
    shared = {(p["first"], p["second"]): p["questions"] for p in sources.overlaps(found)["shared"]}
    assert shared["training, RL", "test, Harder level"] == 1
    assert sum(shared.values()) == 1


def test_the_report_has_a_row_a_set_and_names_a_leak(tmp_path: Path):
    root = write_study(tmp_path / "results")
    study = load_study(root)

    def rows() -> list[list[str]]:
        table = DISJOINTNESS.table(study, DISJOINTNESS.rows(study))
        return [[cell.text for cell in row] for row in table.rows]

    assert rows()[0][0] == "not run"
    content = sources.overlaps(sources.mini_sets(1))
    (root / "disjointness.json").write_text(json.dumps(content))
    found = {row[0]: row for row in rows()}
    assert found["development"][1] == "256" and {r[3] for r in found.values()} == {"none"}
    content["shared"][0]["questions"] = 2
    (root / "disjointness.json").write_text(json.dumps(content))
    assert {row[0]: row[3] for row in rows()}["training, warm-up"] == "2 with training, RL"
