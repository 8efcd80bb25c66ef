"""The ablations of Tables 2, 3, 6 and 7 and the variants past the paper, as methods of a study.

Each is the study's SGPO with the named fields of ``SGPOConfig`` changed and nothing else: the same
warm-up checkpoint, learning rate, steps and samples. "w/o strategy distillation" (Table 2) is
SFT+GRPO, which every study has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmarks.config import MethodEntry, Plan, RunConfig

# key, label, fields of SGPOConfig that differ from SGPO's
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sgpo_no_grpo", "SGPO w/o autonomous GRPO", {"autonomous_term": False}),  # paper, Table 2
    (
        "sgpo_no_proximal",
        "SGPO w/o all proximal constraints",
        {"select_target": False, "kl_threshold": math.inf},  # paper, Table 2
    ),
    ("sgpo_no_clip", "SGPO w/o KL clipping", {"kl_threshold": math.inf}),  # paper, Table 2
    ("sgpo_no_selection", "SGPO w/o target selection", {"select_target": False}),  # paper, Table 2
    (
        "sgpo_fixed_alpha",
        "SGPO, fixed alpha=1.0",
        {"alpha_mode": "fixed", "alpha_fixed": 1.0},  # paper, Tables 2 and 7
    ),
    (
        "sgpo_group_alpha",
        "SGPO, group-advantage alpha",
        {"alpha_mode": "group_advantage"},  # paper, Table 7
    ),
    ("sgpo_nll", "SGPO, direct SFT", {"distillation": "nll"}),  # paper, Table 3
    ("sgpo_reverse", "SGPO, reverse KL", {"direction": "reverse"}),  # paper, Table 6
    ("sgpo_delta0.5", "SGPO, delta=0.5", {"kl_threshold": 0.5}),  # ours
    ("sgpo_delta1.2", "SGPO, delta=1.2", {"kl_threshold": 1.2}),  # ours
    ("sgpo_delta1.5", "SGPO, delta=1.5", {"kl_threshold": 1.5}),  # ours
    ("sgpo_delta2", "SGPO, delta=2", {"kl_threshold": 2.0}),  # ours
    ("sgpo_delta3", "SGPO, delta=3", {"kl_threshold": 3.0}),  # ours
    ("sgpo_frozen", "SGPO, teacher frozen", {"teacher": "initial"}),  # ours
    (
        "sgpo_meanlogp",
        "SGPO, length-normalised selection",
        {"length_normalized_selection": True},  # ours
    ),
)


def with_variants(study: Plan, models: tuple[str, ...]) -> Plan:
    """``study`` with every variant of its SGPO, on ``models`` only.

    Overrides come first: the variants start from the study's SGPO as overridden, and what a variant
    changes wins over an override of the same field, so that its label stays true.
    """
    sgpo = study.entry("sgpo")
    extra = tuple(_variant(sgpo, models, *variant) for variant in VARIANTS)
    return replace(study, methods=study.methods + extra)


def _variant(
    sgpo: MethodEntry, models: tuple[str, ...], key: str, label: str, changes: dict[str, Any]
) -> MethodEntry:
    def change(full: RunConfig) -> RunConfig:
        plain = to_budget(full)
        return replace(plain, method=key, settings=replace(plain.settings, **changes))

    return derived(sgpo, change, key=key, label=label, models=models)


def to_budget(full: RunConfig) -> RunConfig:
    """``full``, not trained or judged past the study's own number of steps or on the way there."""
    train = full.train
    if train is None or train.budget_steps is None:
        return full
    steps = min(train.num_steps, train.budget_steps)
    return replace(full, train=replace(train, num_steps=steps, budget_steps=None))


def derived(
    entry: MethodEntry, change: Callable[[RunConfig], RunConfig], **fields: Any
) -> MethodEntry:
    """``entry`` with ``change`` applied to each of its configs, and with other ``fields``."""

    def config(model: str, seed: int) -> RunConfig:
        return change(entry.config(model, seed))

    return replace(entry, config=config, **fields)
