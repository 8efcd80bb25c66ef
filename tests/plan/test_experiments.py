"""The experiments past the paper: their plan, their worlds, and that the study stays as it is."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import pytest
from synthetic_experiments import NUM_SEEDS

from benchmarks.config import DataConfig
from benchmarks.data.sources import training_problems
from benchmarks.profiles.planned import planned_study
from benchmarks.run.launch import selected, wants_variants
from benchmarks.run.study import write_plan
from benchmarks.store import experiments
from sgpo.core.config import to_dict
from sgpo.mini.expert import DEGRADED, propose_strategy, score_strategy
from sgpo.mini.models import MODELS
from sgpo.mini.pretrain import DEFAULT, content_hash
from sgpo.mini.problems import TYPE_BY_NAME, slot_distribution
from sgpo.mini.suites import _distinct_tasks
from sgpo.mini.text import HABITS, split_pieces

GRID = planned_study("mini", NUM_SEEDS, variants=True)
CELLS = {(c.config.model, c.config.method, c.config.seed): c for c in GRID.cells()}


def flat(config) -> dict:
    """Dotted names of a config's values."""

    def walk(value, prefix):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(inner, f"{prefix}{key}.")
        else:
            yield prefix[:-1], value

    return dict(walk(to_dict(config), ""))


def changed(cell, origin) -> dict:
    mine, theirs = flat(cell.config), flat(origin.config)
    return {k: mine.get(k) for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)}


def options(**given) -> argparse.Namespace:
    plain = {"all": False, "only": None, "methods": None, "models": None}
    return argparse.Namespace(**(plain | given))


def test_the_main_study_is_untouched_by_the_experiments():
    plain = [c.run_id for c in planned_study("mini", NUM_SEEDS).cells()]
    assert set(plain) <= {c.run_id for c in CELLS.values()}
    main = {(c.config.model, c.config.method) for c in planned_study("mini", NUM_SEEDS).cells()}
    keys = {e.key for e in GRID.methods if e.extra}
    assert keys == set(experiments.methods())
    for model, method, _ in CELLS:
        if (model, method) not in main and method not in keys:
            assert model in experiments.extra_models() or method.startswith("sgpo_")


def test_a_cell_of_a_map_differs_from_the_study_in_the_gap_alone_and_starts_from_its_own_warmup():
    for model in {*experiments.DIFFICULTY_MODELS, *experiments.SIZE_MODELS}:
        for seed in range(experiments.SEEDS):
            for gap in (0.0, 0.3):
                warmup = CELLS[model, experiments.gap_method("sft", gap), seed]
                assert warmup.parent is None and warmup.config.data.expert_gap == gap
                for method in experiments.MAP_METHODS:
                    key = experiments.gap_method(method, gap)
                    cell = CELLS[model, key, seed]
                    assert changed(cell, CELLS[model, method, seed]) == {
                        "method": key, "data.expert_gap": gap,
                    }  # fmt: skip
                    assert cell.parent.run_id == warmup.run_id
            assert CELLS[model, "sgpo", seed].config.data.expert_gap == experiments.STUDY_GAP
        assert (model, "sgpo_gap0", experiments.SEEDS) not in CELLS
    assert CELLS["qwen-m-p03", "sgpo", 1].parent.config.model == "qwen-m-p03"


def test_a_budget_changes_the_steps_and_a_spoilt_strategy_the_data_alone():
    for method in experiments.BUDGET_METHODS:
        for steps in experiments.BUDGETS:
            key = experiments.budget_method(method, steps)
            cell, origin = CELLS["qwen-m", key, 2], CELLS["qwen-m", method, 2]
            assert changed(cell, origin) == {"method": key, "train.num_steps": steps}
            assert cell.parent.run_id == origin.parent.run_id
    for quality in experiments.DEGRADED:
        key = experiments.degraded_method(quality)
        cell, origin = CELLS["qwen-m", key, 0], CELLS["qwen-m", "sgpo", 0]
        assert changed(cell, origin) == {"method": key, "data.strategy": quality}
        assert cell.parent.run_id == origin.parent.run_id
    assert set(experiments.DEGRADED) == set(DEGRADED)


def test_a_new_setting_at_its_default_keeps_addresses():
    assert "strategy" not in to_dict(DataConfig())
    assert to_dict(DataConfig(strategy="open"))["strategy"] == "open"


def test_extra_runs_are_made_only_when_asked_for(tmp_path):
    assert wants_variants(options(only=["map_size"]), tmp_path)
    assert wants_variants(options(methods=["srft"]), tmp_path)
    assert wants_variants(options(models=["qwen-l"]), tmp_path)
    assert not wants_variants(options(), tmp_path)
    write_plan(GRID, tmp_path)
    assert wants_variants(options(), tmp_path)  # once planned, they stay in the plan

    def chosen(**given):
        return {
            (c.config.model, c.config.method) for c in selected(GRID, tmp_path, options(**given))
        }

    plain = {(c.config.model, c.config.method) for c in planned_study("mini", 1).cells()}
    assert {pair for pair in chosen() if not pair[1].startswith(("base_dev", "sft_gap"))} == plain
    assert {model for model, _ in chosen(methods=["sgpo"])} == {"qwen-s", "qwen-m", "llama-m"}
    assert chosen(only=["degraded"]) == {
        ("qwen-m", "sft"), ("qwen-m", "grpo"), ("qwen-m", "sgpo"),
        *(("qwen-m", experiments.degraded_method(q)) for q in DEGRADED),
    }  # fmt: skip
    assert chosen(methods=["opsd"], models=["qwen-s"]) == {("qwen-s", "sft"), ("qwen-s", "opsd")}
    everything = {(c.config.model, c.config.method) for c in GRID.cells()}
    assert chosen(all=True) >= everything
    assert chosen(models=["qwen-l"]) == {
        ("qwen-l", m) for m in ("base", "sft", "grpo", "luffy", "sgpo")
    }


@pytest.mark.parametrize(
    ("key", "digest"),
    [("qwen-s", "79778d6ef7bf"), ("qwen-m", "fb694ca288cc"), ("llama-m", "6658135ef45b")],
)
def test_base_models_keep_their_cache_keys(key, digest):
    assert content_hash(MODELS[key], DEFAULT) == digest


@pytest.mark.parametrize(
    ("key", "rate"),
    [("qwen-m", 0.164), ("qwen-m-p30", 0.30), ("qwen-m-p10", 0.10), ("qwen-m-p03", 0.03),
     ("qwen-m-p01", 0.01)],
)  # fmt: skip
def test_priors_of_the_harder_worlds_give_the_pass_rates_that_they_are_named_after(key, rate):
    """Closed form: all three choices right, and no jump at any of the three lines."""
    assert (MODELS[key].family, MODELS[key].hidden_size) == ("qwen2", MODELS["qwen-m"].hidden_size)
    total = 0.0
    for problem_type in TYPE_BY_NAME.values():
        product = HABITS.continue_unguided**3
        for slot, choice in enumerate(problem_type.plan.choices):
            product *= slot_distribution(problem_type.name, slot, MODELS[key].knowledge)[choice]
        total += product / len(TYPE_BY_NAME)
    assert total == pytest.approx(rate, rel=0.12)


def test_style_world_writes_the_style_line_into_every_guided_text():
    assert MODELS["qwen-m-style"].style == 1.0
    names = {content_hash(MODELS[k], DEFAULT) for k in ("qwen-m", "qwen-m-style")}
    assert len(names) == 2
    assert "style" in MODELS["qwen-m-style"].architecture()
    assert "style" not in MODELS["qwen-m"].architecture()


POOL = _distinct_tasks("pool-0", (1, 2, 3), "train", 1536)[512:]


@pytest.mark.parametrize("quality", DEGRADED)
def test_spoilt_strategies_are_spoilt_in_the_way_they_are_named(quality):
    """Judged by the extraction's own scorer and by the text, on every problem of the pool."""
    problems = training_problems(DataConfig(split="rl", strategy=quality))
    plain = training_problems(DataConfig(split="rl"))
    assert [(p.id, p.question, p.expert) for p in problems] == [
        (p.id, p.question, p.expert) for p in plain
    ]
    named_right = choices_right = 0
    for problem, (_, task) in zip(problems, POOL, strict=True):
        scores = score_strategy(task, problem.strategy)
        pieces = split_pieces(problem.strategy)
        named_right += scores["type"] == 1.0
        choices_right += scores["strategy"] == 1.0
        assert scores["no_leak"] == (quality != "leak")
        if quality == "leak":
            assert problem.strategy.startswith(propose_strategy(task, "sound", random.Random(0)))
            assert problem.answer in problem.strategy
        if quality == "wrong_choice":
            assert scores["strategy"] == pytest.approx(2 / 3)
        if quality == "open":
            assert pieces.count(" suitable") == 3
    assert named_right == (0 if quality == "wrong_type" else len(problems))
    assert choices_right == (len(problems) if quality == "leak" else 0)


def test_an_unknown_strategy_quality_is_refused():
    from sgpo.mini.suites import training_problems as pool

    with pytest.raises(ValueError, match="unknown strategy 'bad'; choose one of kept, wrong_type"):
        pool("rl", 0.0, strategy="bad")


def test_plan_marks_extra_models_and_methods(tmp_path: Path):
    write_plan(GRID, tmp_path)
    plan = json.loads((tmp_path / "study.json").read_text())
    assert {m["key"] for m in plan["models"] if m.get("extra")} == set(experiments.extra_models())
    assert {m["key"] for m in plan["methods"] if m.get("extra")} == set(experiments.methods())
    assert len(plan["cells"]) == len(CELLS)
