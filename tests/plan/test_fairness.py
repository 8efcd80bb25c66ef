"""Methods of one table differ in their objective and in what was tuned for all of them alike; every
other difference stands here with its reason.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.profiles.planned import planned_study
from benchmarks.store import experiments
from sgpo.core.config import to_dict

# Keys in which an RL method may differ from SFT+GRPO
RL = {
    "settings": "the method's own",
    "train.learning_rate": "tuned with the same number of trials for every method",
}
# SFT replaces the RL stage or comes before it, so its recipe is its own.
SUPERVISED = {
    "settings": "the method's own",
    "init": "starts from the base model",
    "data.split": "sees the part of the pool that RL does not use, or all of it",
    "train.num_steps": "epochs over its own split",
    "train.budget_steps": "its epochs are its budget",
    "train.updates_per_step": "it samples nothing",
    "train.problems_per_step": "paper: batch of 64",
    "train.learning_rate": "tuned (all data), or near the base (warm-up)",
    "train.warmup_share": "paper: 0.1 in SFT",
    "train.held_out_share": "paper: a tenth chooses the checkpoint of the SFT stage",
}
ALLOWED = {
    "base": {
        "settings": "nothing is trained",
        "train": "nothing is trained",
        "rollout": "nothing is sampled in training",
        "init": "it is the base model",
        "data.split": "no training data",
    },
    "sft": SUPERVISED,
    "sft_full": SUPERVISED,
    "hpt": RL | {"train.skip_above": "authors' script: such an update is skipped on Qwen"},
}
# Of methods that are not in Table 1 the weights at the budget are compared.
TO_BUDGET = dict.fromkeys(("train.num_steps", "train.budget_steps"), "trained to the budget alone")

GRID = planned_study("mini", 1, variants=True)
POCKET = planned_study("pocket", None)
TABLE = ("base", "sft", "sft_full", "hpt", "luffy", "sgpo")


def flat(config: object, prefix: str = "") -> dict[str, object]:
    """The values of a run's config, as JSON types, under dotted keys; not what names the run."""
    found = {}
    for key, value in (config if isinstance(config, dict) else to_dict(config)).items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif prefix or key != "method":
            found[prefix + key] = value
    return found


def differing(config: object, origin: object) -> dict[str, object]:
    """Dotted key -> value of ``config`` ("absent" where it has none) where ``origin`` has
    another."""
    mine, theirs = flat(config), flat(origin)
    return {
        key: mine.get(key, "absent")
        for key in sorted({*mine, *theirs})
        if mine.get(key, "absent") != theirs.get(key, "absent")
    }


def unfair(config, grpo) -> list[str]:
    allowed = ALLOWED.get(config.method, RL)
    if config.method not in TABLE:
        allowed = (
            allowed | TO_BUDGET | {"train.samples_per_problem": "dapo draws until it is spent"}
        )
    return [
        key
        for key in differing(config, grpo)
        if not any(f"{key}.".startswith(f"{prefix}.") for prefix in allowed)
    ]


@pytest.mark.parametrize("study", [GRID, POCKET], ids=["mini", "pocket"])
def test_a_method_differs_from_grpo_only_as_allowed(study):
    configs = {(c.config.model, c.config.method): c.config for c in study.cells()}
    assert len(configs) > 13
    for (model, method), config in configs.items():
        assert unfair(config, configs[model, "grpo"]) == [], (model, method)


@pytest.mark.parametrize("method", TABLE)
def test_every_reason_is_needed_by_its_method(method):
    """A list of allowed differences that grows on its own would allow anything in the end."""
    config, grpo = (GRID.entry(key).config("qwen-m", 0) for key in (method, "grpo"))
    found = differing(config, grpo)
    optional = set() if method in ("sft", "sft_full") else {"train.learning_rate"}
    for key in {*ALLOWED.get(method, RL)} - optional:
        assert any(f"{other}.".startswith(f"{key}.") for other in found), key


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"num_steps": 56}},
        {"train": {"problems_per_step": 64}},
        {"train": {"updates_per_step": 1}},
        {"train": {"budget_steps": 32}},
        {"rollout": {"top_p": 0.8}},
        {"evaluation": {"max_tokens": 128}},
        {"evaluation": {"temperature": 0.2}},
        {"data": {"expert_gap": 0.0}},
        {"prompt": "other"},
        {"init": "base"},
        {"pretrain_steps": 900},
    ],
)
@pytest.mark.parametrize("method", ["sgpo", "luffy"])
def test_an_advantage_that_is_not_the_objective_is_noticed(method, changes):
    plain, grpo = (GRID.entry(key).config("qwen-m", 0) for key in (method, "grpo"))
    better = {
        key: replace(getattr(plain, key), **value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    assert unfair(replace(plain, **better), grpo)


def test_settings_of_one_name_have_one_value_and_all_methods_draw_twelve_samples():
    settings = {e.key: e.config("qwen-m", 0).settings for e in GRID.methods if e.key in TABLE}
    for name in ("clip_low", "clip_high"):
        values = {getattr(s, name) for s in settings.values() if hasattr(s, name)}
        assert len(values) == 1, name
    for key in ("hpt", "luffy", "sgpo"):
        counts = (
            getattr(settings[key], f"num_{n}", 0) for n in ("samples", "autonomous", "guided")
        )
        assert sum(counts) == (11 if key == "luffy" else 12), key  # its twelfth: the expert's trace


VARIANTS = {  # the paper's ablations and ours: what each changes of SGPO, as JSON types
    "sgpo_no_grpo": {"settings.autonomous_term": False},
    "sgpo_no_proximal": {"settings.select_target": False, "settings.kl_threshold": "inf"},
    "sgpo_no_clip": {"settings.kl_threshold": "inf"},
    "sgpo_no_selection": {"settings.select_target": False},
    "sgpo_fixed_alpha": {"settings.alpha_mode": "fixed"},
    "sgpo_group_alpha": {"settings.alpha_mode": "group_advantage"},
    "sgpo_nll": {"settings.distillation": "nll"},
    "sgpo_nll_masked": {"settings.distillation": "nll_masked"},
    "sgpo_reverse": {"settings.direction": "reverse"},
    "sgpo_delta0.5": {"settings.kl_threshold": 0.5},
    "sgpo_delta1.2": {"settings.kl_threshold": 1.2},
    "sgpo_delta1.5": {"settings.kl_threshold": 1.5},
    "sgpo_delta2": {"settings.kl_threshold": 2.0},
    "sgpo_delta3": {"settings.kl_threshold": 3.0},
    "sgpo_frozen": {"settings.teacher": "initial"},
    "sgpo_meanlogp": {"settings.length_normalized_selection": True},
}
BUDGET = {"train.num_steps": 12, "train.budget_steps": "absent"}
PLAIN = {"settings.kl_threshold": "inf", "settings.select_target": False}
FROZEN = {"settings.teacher": "initial"}
# From SGPO's distillation to on-policy self-distillation: one change after another
STEPS = {
    ("distil_rate", "sgpo_no_grpo"): {"train.learning_rate": 8e-4},
    ("distil_plain", "distil_rate"): PLAIN | {"settings.alpha_mode": "fixed"},
    ("distil_guided", "distil_plain"): FROZEN,
    ("distil_own", "opsd"): {"settings.direction": "forward", "settings.teacher": "absent"},
    ("distil_frozen", "distil_own"): FROZEN,
    ("opsd", "distil_frozen"): {"settings.direction": "jensen_shannon"},
    ("sgpo_initial", "sgpo"): FROZEN | {"train.learning_rate": 8e-4},
}


def test_a_variant_or_experiment_differs_from_what_it_stands_beside_in_what_it_says():
    cells = {(c.config.model, c.config.method): c for c in GRID.cells()}
    for model in ("qwen-m", experiments.SECOND_MODEL):
        for key in {*VARIANTS} & {method for m, method in cells if m == model}:
            cell, sgpo = cells[model, key], cells[model, "sgpo"]
            assert differing(cell.config, sgpo.config) == VARIANTS[key] | BUDGET, key
            assert cell.parent.run_id == sgpo.parent.run_id
    for (key, beside), changes in STEPS.items():
        found = differing(*(cells["qwen-m", name].config for name in (key, beside)))
        assert found == changes, key
    assert {*experiments.DISTIL} <= {key for key, _ in STEPS}
    assert (
        cells["qwen-m", "distil_plain"].config.train == cells["qwen-m", "distil_own"].config.train
    )
