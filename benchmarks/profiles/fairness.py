"""Where two runs differ, and which differences between methods are allowed, with the reason.

The comparison in Table 1 is fair when methods of one stage differ in nothing but their objective
and what was tuned for all of them alike. ``sgpo diff-configs`` prints the differences, a test
fails on any that is not allowed here.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.profiles.planned import planned_study
from benchmarks.store.experiments import DISTIL
from benchmarks.store.runs import stored_runs
from sgpo.core.config import to_dict
from sgpo.core.files import read_json

ABSENT = "(absent)"
# What config.json holds besides the config: names of the run, not settings.
IDENTITY = ("run_id", "config_hash", "parent", "method", "settings_class", "profile")

# Keys in which an RL method may differ from SFT+GRPO, with the reason.
RL = {
    "settings": "the method's own",
    "train.learning_rate": "tuned with the same number of trials for every method",
}
# Where one of two is a variant or one of the kin: the weights at the budget are compared.
TO_BUDGET = dict.fromkeys(("train.num_steps", "train.budget_steps"), "trained to the budget alone")
# Variants were not tuned; prefix of their keys.
VARIANT, VARIANT_RATE = "sgpo_", "SGPO's, not tuned for the variant"
# Settings of this name mean the same in every method that has them, and must be equal.
COMMON_SETTINGS = ("clip_low", "clip_high")
# SFT replaces the RL stage or comes before it, so its recipe is its own.
_SUPERVISED = {
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
# By method key; an RL method that is not named has RL and nothing else.
ALLOWED: dict[str, dict[str, str]] = {
    "base": {
        "settings": "nothing is trained",
        "train": "nothing is trained",
        "rollout": "nothing is sampled in training",
        "init": "it is the base model",
        "data.split": "no training data",
    },
    "sft": _SUPERVISED,
    "sft_full": _SUPERVISED,
    "hpt": RL
    | {
        "train.skip_above": "authors' script: an update of a norm above 80 is skipped on Qwen",
    },
}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values under dotted keys; names of the run are left out."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if not prefix and key in IDENTITY:
            continue
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value
    return out


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """``(key, value in a, value in b)`` of every dotted key whose values differ, in order."""
    left, right = flat(a), flat(b)
    return [
        (key, left.get(key, ABSENT), right.get(key, ABSENT))
        for key in sorted({*left, *right})
        if left.get(key, ABSENT) != right.get(key, ABSENT)
    ]


def reason(key: str, allowed: Mapping[str, str]) -> str | None:
    """Why ``key`` may differ: the reason given for it or for what it lies in; None if it may
    not."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((allowed[p] for p in prefixes if p in allowed), None)


def allowed_beside_grpo(method: str) -> dict[str, str]:
    """The keys in which ``method`` may differ from SFT+GRPO, with the reason."""
    rate = {"train.learning_rate": VARIANT_RATE} if method.startswith(VARIANT) else {}
    if method in DISTIL:
        rate = {"train.learning_rate": "on-policy self-distillation's, not tuned for this"}
    return ALLOWED.get(method, RL | TO_BUDGET | rate)


def stored_or_planned(name: str, profile: str, model: str | None, results: Path) -> dict[str, Any]:
    """The config of a run directory, of a run id below ``results``, or of a method of ``profile``
    (on ``model``, default the first it has), as JSON types.

    Raises:
        ValueError: ``name`` is none of the three.
    """
    if (Path(name) / "config.json").is_file():
        return read_json(Path(name) / "config.json")
    for runs in map(stored_runs, (results, results / "tuning")):
        if name in runs:
            return runs[name].object("config.json")
    study = planned_study(profile, 1, variants=True)
    entries = {entry.key: entry for entry in study.methods}
    if name not in entries:
        near = difflib.get_close_matches(name, entries, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{name!r}: no run directory, no run of {results} and no method of profile "
            f"{profile!r} ({', '.join(entries)}){hint}"
        )
    models = entries[name].models or [m.key for m in study.models]
    if model is not None and model not in models:
        raise ValueError(f"unknown model {model!r} of {name}: must be one of {', '.join(models)}")
    return to_dict(entries[name].config(model or models[0], study.seeds[0]))


def shared_model(names: Sequence[str], profile: str) -> str | None:
    """The first model on which both of two methods are planned (a variant is on few); None where
    one is a run, or there is none."""
    study = planned_study(profile, 1, variants=True)
    placed = [e.models or [m.key for m in study.models] for e in study.methods if e.key in names]
    both = [key for key in placed[0] if key in placed[1]] if len(placed) == 2 else []
    return both[0] if both else None


def differences_command(options: argparse.Namespace) -> int:
    """``sgpo diff-configs``: print every differing value of two runs or methods."""
    names = (options.a, options.b)
    model = options.model or shared_model(names, options.profile)
    first, second = (stored_or_planned(name, options.profile, model, options.out) for name in names)
    rows = differences(first, second)
    methods = {first["method"], second["method"]}
    allowed: Mapping[str, str] = {}
    if "grpo" in methods and len(methods) == 2:
        allowed = allowed_beside_grpo((methods - {"grpo"}).pop())
    for key, left, right in rows:
        why = reason(key, allowed)
        print(f"{key}: {left} -> {right}" + (f"   ({why})" if why else ""))
    print(f"{len(rows)} values differ" if rows else "no value differs")
    return 0
