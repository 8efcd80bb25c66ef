"""Where two runs differ, and which differences between methods are fair, with the reason.

The comparison of a table is fair when its methods differ in nothing but their objective and what
was tuned for all of them alike. ``sgpo diff-configs`` prints differences; a test fails on any that
is not allowed here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.config import unknown
from benchmarks.profiles.planned import planned_study, remembered
from benchmarks.store.experiments import DISTIL, FACTORS, TUNED
from benchmarks.store.runs import stored_runs
from sgpo.core.config import to_dict
from sgpo.core.files import read_json

ABSENT = "absent"
# What config.json holds besides the config: names of the run, not settings.
IDENTITY = ("run_id", "config_hash", "parent", "method", "settings_class", "profile")
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
# What was not tuned for itself has another's rate.
BORROWED = dict.fromkeys(DISTIL, "on-policy self-distillation's, not tuned for this")
BORROWED |= dict.fromkeys(FACTORS, "that of the row whose one factor it changes")
BORROWED["sgpo_frozen"] = "SGPO's: its teacher alone changes"
BORROWED |= {
    row: f"chosen together with {knob.name}, from four times as many trials"
    for row, knob in TUNED.items()
}
# Of methods that are not in Table 1 the weights at the budget are compared.
TO_BUDGET = dict.fromkeys(("train.num_steps", "train.budget_steps"), "trained to the budget alone")
# Methods in whose table the weights after twice the budget are judged, too.
TABLE = ("base", "sft", "sft_full", "grpo", "hpt", "luffy", "sgpo")


def allowed_beside_grpo(method: str) -> dict[str, str]:
    """The keys in which ``method`` may differ from SFT+GRPO, with the reason."""
    allowed = ALLOWED.get(TUNED[method].of if method in TUNED else method, RL)
    if method in TABLE:
        return allowed
    if method == "dapo":
        allowed = allowed | {"train.samples_per_problem": "it draws until they are spent"}
    rate = BORROWED.get(method, allowed["train.learning_rate"])
    return allowed | TO_BUDGET | {"train.learning_rate": rate}


def reason(key: str, allowed: Mapping[str, str]) -> str | None:
    """Why ``key`` may differ: the reason given for it or for what it lies in; None if it may
    not."""
    return next((why for name, why in allowed.items() if f"{key}.".startswith(f"{name}.")), None)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys; not what names the run."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        elif prefix or key not in IDENTITY:
            found[prefix + key] = value
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in ``a``, value in ``b``), ``ABSENT`` where one has none, where they
    differ."""
    left, right = flat(a), flat(b)
    pairs = {key: (left.get(key, ABSENT), right.get(key, ABSENT)) for key in {**left, **right}}
    return {key: pair for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}


def _config(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Of a run directory, of a run id below the results, or of a method of the profile."""
    if (Path(name) / "config.json").is_file():
        return read_json(Path(name) / "config.json")
    for runs in map(stored_runs, (options.out, options.out / "tuning")):
        if name in runs:
            return runs[name].object("config.json")
    own = remembered(options.out, "methods")
    study = planned_study(options.profile, 1, own, variants=True)
    entries = {entry.key: entry for entry in study.methods}
    if name not in entries:
        where = f"`sgpo list methods` (runs: `sgpo status --out {options.out}`)"
        raise ValueError(unknown("run or method", name, [*entries], where))
    models = entries[name].models or [m.key for m in study.models]
    model = options.model or next((m for m in models if m in _shared(entries, options)), models[0])
    if model not in models:
        raise ValueError(unknown("model", model, models, "`sgpo list models`"))
    return to_dict(entries[name].config(model, study.seeds[0]))


def _shared(entries: Mapping[str, Any], options: argparse.Namespace) -> set[str]:
    """Models on which all of the named methods are planned (a variant is on few)."""
    placed = [entries[n].models for n in (options.a, options.b) if n in entries]
    placed = [set(models) for models in placed if models]
    return set.intersection(*placed) if placed else set()


def differences_command(options: argparse.Namespace) -> int:
    """``sgpo diff-configs``: print every differing value of two runs or methods."""
    first, second = (_config(name, options) for name in (options.a, options.b))
    methods = {first["method"], second["method"]}
    other = methods - {"grpo"}
    allowed = allowed_beside_grpo(other.pop()) if len(methods) == 2 and len(other) == 1 else {}
    found = differences(first, second)
    for key, (left, right) in found.items():
        why = reason(key, allowed)
        print(f"{key}: {left} -> {right}" + (f"   ({why})" if why else ""))
    print(f"{len(found)} values differ" if found else "no value differs")
    return 0
