"""The experiments past the paper: their plan, their worlds, and that the study stays as it is."""

from __future__ import annotations

import argparse

from benchmarks.profiles import fairness
from benchmarks.profiles.planned import planned_study
from benchmarks.run.launch import selected
from benchmarks.store import experiments
from sgpo.core.config import to_dict

NUM_SEEDS = 6  # more than an experiment's five
GRID = planned_study("mini", NUM_SEEDS, variants=True)
CELLS = {(c.config.model, c.config.method, c.config.seed): c for c in GRID.cells()}


def changed(cell, origin) -> dict:
    """What ``cell`` has another value of, besides that it is trained to the budget alone."""
    assert cell.config.train.num_steps == origin.config.train.budget_steps
    return {k: mine for k, mine in differing(cell, origin).items() if k not in fairness.TO_BUDGET}


def differing(cell, origin) -> dict:
    """Dotted key -> value of ``cell`` of all settings in which it is not as ``origin``."""
    found = fairness.differences(to_dict(origin.config), to_dict(cell.config))
    return {key: mine for key, _, mine in found}


def options(**given) -> argparse.Namespace:
    plain = {"all": False, "only": None, "methods": None, "models": None}
    return argparse.Namespace(**(plain | given))


def test_the_main_study_is_untouched_by_the_experiments():
    plain = [c.run_id for c in planned_study("mini", NUM_SEEDS).cells()]
    assert set(plain) <= {c.run_id for c in CELLS.values()}
    main = {(c.config.model, c.config.method) for c in planned_study("mini", NUM_SEEDS).cells()}
    keys = {e.key for e in GRID.methods if e.extra}
    assert keys == set(experiments.METHODS)
    for model, method, _ in CELLS:
        if (model, method) not in main and method not in keys:
            assert model == experiments.LARGE_MODEL or method.startswith("sgpo_")


def test_direct_sft_with_the_mask_differs_from_sgpo_in_that_alone():
    for model in experiments.MASK_MODELS:
        for seed in range(NUM_SEEDS):
            cell, sgpo = (CELLS[model, m, seed] for m in ("sgpo_nll_masked", "sgpo"))
            assert changed(cell, sgpo) == {"settings.distillation": "nll_masked"}
            assert cell.parent.run_id == sgpo.parent.run_id
    assert ("qwen-l", "sgpo", experiments.SEEDS) not in CELLS
    assert CELLS["qwen-l", "sgpo", 1].parent.config.model == "qwen-l"


def test_every_step_from_sgpos_distillation_to_self_distillation_changes_what_it_says():
    wide = {"settings.kl_threshold": "inf", "settings.select_target": False}
    start, rate, plain, own, frozen, end = (
        CELLS["qwen-m", key, 3] for key in ("sgpo_no_grpo", *experiments.DISTIL, "opsd")
    )
    assert differing(rate, start) == {"train.learning_rate": 8e-4}
    assert differing(plain, rate) == wide | {"settings.alpha_mode": "fixed"}
    assert own.config.train == plain.config.train
    default = {"settings.direction": "forward", "settings.teacher": fairness.ABSENT}
    assert differing(own, end) == default
    assert differing(frozen, own) == {"settings.teacher": "initial"}
    assert differing(end, frozen) == {"settings.direction": "jensen_shannon"}


def test_extra_runs_are_made_only_when_asked_for():
    def chosen(**given):
        return {(c.config.model, c.config.method) for c in selected(GRID, options(**given))}

    plain = {(c.config.model, c.config.method) for c in planned_study("mini", 1).cells()}
    assert chosen() == plain
    assert {model for model, _ in chosen(methods=["sgpo"])} == {"qwen-s", "qwen-m", "llama-m"}
    assert chosen(only=["fig6"]) == {("qwen-m", m) for m in ("sft", "sgpo", "sgpo_nll")}
    assert chosen(methods=["opsd"], models=["qwen-s"]) == {("qwen-s", "sft"), ("qwen-s", "opsd")}
    everything = {(c.config.model, c.config.method) for c in GRID.cells()}
    assert chosen(all=True) >= everything
    assert chosen(models=["qwen-l"]) == {
        ("qwen-l", m) for m in ("base", "sft", "grpo", "luffy", "sgpo")
    }
