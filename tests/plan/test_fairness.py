"""Methods of one table differ in their objective and in what was tuned for all of them alike; every
other difference stands in ``profiles.fairness`` with its reason.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks.cli import main
from benchmarks.profiles import fairness, mini
from benchmarks.profiles.planned import planned_study
from benchmarks.run import tune
from benchmarks.store import experiments
from sgpo.core.config import to_dict

GRID = planned_study("mini", 1, variants=True)
POCKET = planned_study("pocket", None)
TABLE = ("base", "sft", "sft_full", "hpt", "luffy", "sgpo")


def differing(config: object, origin: object) -> dict[str, object]:
    """Dotted key -> value of ``config`` where ``origin`` has another."""
    found = fairness.differences(to_dict(config), to_dict(origin))
    return {key: mine for key, (mine, _) in found.items()}


def unfair(config, grpo) -> list[str]:
    allowed = fairness.allowed_beside_grpo(config.method)
    return [key for key in differing(config, grpo) if fairness.reason(key, allowed) is None]


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
    for key in {*fairness.allowed_beside_grpo(method)} - optional:
        assert any(f"{other}.".startswith(f"{key}.") for other in found), key


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"num_steps": 56}},
        {"train": {"problems_per_step": 64}},
        {"train": {"updates_per_step": 1}},
        {"train": {"budget_steps": 32}},
        {"rollout": {"top_p": 0.8}},
        {"evaluation": {"temperature": 0.2}},
        {"data": {"expert_gap": 0.0}},
        {"prompt": "other"},
        {"init": "base"},
    ],
)
def test_an_advantage_that_is_not_the_objective_is_noticed(changes):
    plain, grpo = (GRID.entry(key).config("qwen-m", 0) for key in ("luffy", "grpo"))
    better = {
        key: replace(getattr(plain, key), **value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    assert unfair(replace(plain, **better), grpo)


def test_settings_of_one_name_have_one_value():
    settings = [e.config("qwen-m", 0).settings for e in GRID.methods if e.key in TABLE]
    for name in ("clip_low", "clip_high"):
        assert len({getattr(s, name) for s in settings if hasattr(s, name)}) == 1, name


def test_the_rate_of_what_was_not_tuned_has_a_reason_of_its_own():
    tuned = fairness.allowed_beside_grpo("luffy")["train.learning_rate"]
    rate = {
        key: fairness.allowed_beside_grpo(key)["train.learning_rate"]
        for key in ("opsd", "sgpo_initial", "sgpo_nll", "sgpo_frozen", "kl_sharp", "distil_own")
    }
    assert rate["opsd"] == rate["sgpo_initial"] == rate["sgpo_nll"] == tuned
    assert rate["sgpo_frozen"] == "SGPO's: its teacher alone changes"
    assert rate["kl_sharp"] == "that of the row whose one factor it changes"
    assert rate["distil_own"] == "on-policy self-distillation's, not tuned for this"


def test_what_is_not_in_table_1_is_trained_to_the_budget_alone_on_its_samples():
    twice = ("sgpo_initial",)  # judged after twice the budget, as Table 1's rows
    for entry in GRID.methods:
        if entry.key in (*TABLE, "grpo", *twice):
            continue
        train = entry.config("qwen-m", 0).train
        assert (train.num_steps, train.budget_steps) == (12, None), entry.key
        assert train.samples_per_problem == (12 if entry.key == "dapo" else None), entry.key


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
    ("kl_no_first", "sgpo_no_clip"): {"settings.leave_out": "first"},
    ("kl_frozen", "sgpo_no_clip"): FROZEN,
    ("kl_sharp", "sgpo_no_clip"): {"settings.sharpness": 2.0},
    ("nll_unverified", "sgpo_nll"): {"settings.verified": False},
}


def test_a_variant_or_experiment_differs_from_what_it_stands_beside_in_what_it_says():
    cells = {(c.config.model, c.config.method): c for c in GRID.cells()}
    for model in ("qwen-m", experiments.SECOND_MODEL):
        for key in {*VARIANTS} & {method for m, method in cells if m == model}:
            cell, sgpo = cells[model, key], cells[model, "sgpo"]
            rate = mini.VARIANT_RATE.get(key, {}).get(model)
            own = {} if rate is None else {"train.learning_rate": rate}
            assert differing(cell.config, sgpo.config) == VARIANTS[key] | own | BUDGET, key
            assert cell.parent.run_id == sgpo.parent.run_id
    rates = {"sgpo_nll": 8e-4, "sgpo_no_clip": 1e-4, "sgpo_reverse": 4e-4, "sgpo_meanlogp": 2e-4}
    for key, rate in rates.items():
        assert cells["qwen-m", key].config.train.learning_rate == rate
    for (key, beside), changes in STEPS.items():
        found = differing(*(cells["qwen-m", name].config for name in (key, beside)))
        assert found == changes, key
    assert {*experiments.DISTIL, *experiments.FACTORS} <= {key for key, _ in STEPS}
    assert (
        cells["qwen-m", "distil_plain"].config.train == cells["qwen-m", "distil_own"].config.train
    )


def test_every_tuned_row_has_as_many_trials_that_differ_in_its_knob_and_rate_alone():
    trials = tune.trials()
    for row, knob in experiments.TUNED.items():
        mine = [(method, cell) for method, _, cell in trials if method in knob.values]
        assert len(mine) == 48 and len({*knob.values.values()}) == 4, row
        for method, cell in mine:
            own = GRID.entry(knob.of).config("qwen-m", cell.config.seed)
            value = getattr(cell.config.settings, knob.field)
            assert value == knob.values[method] and type(value) is type(knob.usual)
            allowed = {f"settings.{knob.field}", "train.learning_rate", "evaluation.suites"}
            assert {*differing(cell.config, own)} <= allowed | {*BUDGET}, method
        for model in mini.TABLE_MODELS:
            settings = GRID.entry(knob.of).config(model, 0).settings
            assert getattr(settings, knob.field) == knob.usual


def test_a_tuned_row_is_planned_where_trials_chose_another_value_than_usual(monkeypatch):
    chosen = {"qwen-s": (2, 1e-4), "qwen-m": (0, 8e-4), "llama-m": (3, 2e-4)}
    monkeypatch.setitem(mini.CHOSEN, "hpt_tuned", chosen)
    row, *trials = mini._tuned("hpt_tuned")
    assert (row.key, row.label, row.models) == (
        "hpt_tuned",
        "HPT, gate tuned",
        ("qwen-m", "llama-m"),
    )
    assert [(t.key, t.models) for t in trials] == [(f"hpt_gate{n}", ()) for n in (0, 1, 3)]
    for model, (gate, rate) in chosen.items():
        config, own = (entry.config(model, 0) for entry in (row, GRID.entry("hpt")))
        changes = {"settings.gate": gate, "train.learning_rate": rate} | BUDGET
        plain = {"settings.gate": 2, "train.learning_rate": own.train.learning_rate}
        kept = {key for key, value in plain.items() if changes[key] == value}
        assert differing(config, own) == {k: v for k, v in changes.items() if k not in kept}
        assert unfair(config, GRID.entry("grpo").config(model, 0)) == []


def test_diff_configs_prints_the_differences_of_two_methods_with_reasons(capsys, refused, tmp_path):
    command = ["diff-configs", "grpo", "hpt", "--out", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} values differ"
    assert (
        "train.skip_above: absent -> 80.0   (authors' script: such an update is skipped on Qwen)"
        in lines
    )
    own = tmp_path / "mine.py"
    own.write_text(
        "from dataclasses import dataclass\n"
        "from baselines.grpo import GRPO as METHOD, GRPOConfig\n"
        "@dataclass(frozen=True)\nclass CONFIG(GRPOConfig):\n    num_samples: int = 7\n"
    )
    plan = {"methods": [{"key": "grpo"}, {"key": "mine", "file": str(own)}]}
    (tmp_path / "study.json").write_text(json.dumps(plan))
    assert main(["diff-configs", "grpo", "mine", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("settings.num_samples: 12 -> 7   (the method's own)")
    refused([*command[:2], "hppt"], "did you mean 'hpt'")


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
