"""SGPO's variants in the plan: what each changes, and where and when they are planned."""

from __future__ import annotations

import argparse
import dataclasses
import math

import pytest
from synthetic_study import VARIANTS

from benchmarks.profiles import variants
from benchmarks.profiles.planned import planned_study, user_method
from benchmarks.report.tables import accuracy
from benchmarks.run.launch import selected
from benchmarks.store.records import SGPO_VARIANTS

CHANGES = {  # the paper's ablations and ours, as fields of the run's config
    "sgpo_no_grpo": {"settings.autonomous_term": False},
    "sgpo_no_proximal": {"settings.select_target": False, "settings.kl_threshold": math.inf},
    "sgpo_no_clip": {"settings.kl_threshold": math.inf},
    "sgpo_no_selection": {"settings.select_target": False},
    "sgpo_fixed_alpha": {"settings.alpha_mode": "fixed"},
    "sgpo_group_alpha": {"settings.alpha_mode": "group_advantage"},
    "sgpo_nll": {"settings.distillation": "nll"},
    "sgpo_reverse": {"settings.direction": "reverse"},
    "sgpo_delta0.5": {"settings.kl_threshold": 0.5},
    "sgpo_delta1.2": {"settings.kl_threshold": 1.2},
    "sgpo_delta1.5": {"settings.kl_threshold": 1.5},
    "sgpo_delta2": {"settings.kl_threshold": 2.0},
    "sgpo_delta3": {"settings.kl_threshold": 3.0},
    "sgpo_frozen": {"settings.teacher": "initial"},
    "sgpo_meanlogp": {"settings.length_normalized_selection": True},
}


def flat(config, prefix: str = "") -> dict[str, object]:
    """A dataclass as dotted field -> value."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= flat(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def options(**given) -> argparse.Namespace:
    plain = {"all": False, "only": None, "methods": None, "models": None}
    return argparse.Namespace(**(plain | given))


def methods_of(cells) -> set[str]:
    return {cell.config.method for cell in cells}


@pytest.mark.parametrize("profile", ["mini", "quick"])
def test_a_variant_differs_from_sgpo_in_exactly_the_named_fields(profile):
    grid = planned_study(profile, 2, variants=True)
    model = {"mini": "qwen-m", "quick": "qwen-s"}[profile]
    cells = {(c.config.model, c.config.method, c.config.seed): c for c in grid.cells()}
    for seed in (0, 1):
        sgpo = cells[model, "sgpo", seed]
        budget = sgpo.config.train.budget_steps
        train = dataclasses.replace(sgpo.config.train, num_steps=budget, budget_steps=None)
        plain = flat(dataclasses.replace(sgpo.config, train=train))
        for key, changes in CHANGES.items():
            cell = cells[model, key, seed]
            mine = flat(cell.config)
            assert mine.keys() == plain.keys()
            found = {name: mine[name] for name in mine if mine[name] != plain[name]}
            assert found == {"method": key, **changes}
            assert cell.parent.run_id == sgpo.parent.run_id
    assert len({c.run_id for c in cells.values()}) == len(cells)


def test_variants_are_planned_on_one_model_and_only_when_asked_for():
    grid = planned_study("mini", 3, variants=True)
    placed = {(c.config.model, c.config.method) for c in grid.cells()}
    main = [model.key for model in grid.models]
    assert {method for model, method in placed if model == "qwen-m"} >= set(CHANGES)
    repeated = {(m, k) for m, k in placed if k in CHANGES and m in main and m != "qwen-m"}
    assert repeated == {("llama-m", k) for k in ("sgpo_nll", "sgpo_no_clip", "sgpo_delta3")}
    plain = planned_study("mini", 3).cells()
    assert not methods_of(plain) & set(CHANGES)
    added = {e.key for e in grid.methods if e.extra} | set(CHANGES)
    kept = [c for c in grid.cells() if c.config.method not in added and c.config.model in main]
    assert [c.run_id for c in kept] == [c.run_id for c in plain]


@pytest.mark.parametrize("profile", ["mini", "quick", "lab"])
def test_all_but_the_main_methods_are_trained_to_the_budget_alone(profile):
    grid = planned_study(profile, 1, variants=True)
    short = {e.key for e in grid.methods if e.extra} | set(CHANGES)
    budget = {
        c.config.train.budget_steps for c in grid.cells() if c.config.method in ("grpo", "sgpo")
    }
    trains = [c.config.train for c in grid.cells() if c.config.init == "warmup"
              and c.config.method in short]  # fmt: skip
    assert {t.budget_steps for t in trains} == {None} and len(short) > len(CHANGES)
    assert {t.num_steps for t in trains} == budget and len(budget) == 1


def test_the_report_and_the_profile_name_the_same_variants():
    assert tuple(key for key, *_ in variants.VARIANTS) == SGPO_VARIANTS
    assert set(SGPO_VARIANTS) == set(CHANGES) == set(VARIANTS)
    shown = {m for table in accuracy.VARIANT_TABLES for m, _ in table.rows}
    assert shown == {"sgpo", "grpo", *SGPO_VARIANTS}


def test_an_override_reaches_the_variants_but_not_what_they_stand_for():
    grid = planned_study(
        "mini", 1, overrides=["settings.kl_threshold=2", "train.num_steps=5"], variants=True
    )
    threshold = {
        c.config.method: c.config.settings.kl_threshold
        for c in grid.cells()
        if c.config.method.startswith("sgpo") and c.config.model == "qwen-m"
    }
    assert threshold["sgpo"] == threshold["sgpo_nll"] == 2.0
    assert (threshold["sgpo_delta3"], threshold["sgpo_no_clip"]) == (3.0, math.inf)
    assert {c.config.train.num_steps for c in grid.cells() if c.config.train} == {5}


def test_a_methods_file_cannot_take_the_name_of_a_variant(tmp_path):
    path = tmp_path / "sgpo_nll.py"
    path.write_text("")
    with pytest.raises(ValueError, match="'sgpo_nll' is a method of this profile already"):
        user_method(planned_study("mini", 1), path)


def test_variants_run_only_when_asked_for():
    grid = planned_study("mini", 1, variants=True)
    assert not methods_of(selected(grid, options())) & set(CHANGES)
    assert methods_of(selected(grid, options(all=True))) >= set(CHANGES)
    chosen = selected(grid, options(only=["table7"]))
    assert methods_of(chosen) == {"sft", "sgpo", "sgpo_fixed_alpha", "sgpo_group_alpha"}
    assert {c.config.model for c in chosen} == {"qwen-m"}
    assert methods_of(selected(grid, options(methods=["sgpo_nll"]))) == {"sft", "sgpo_nll"}
