"""SGPO's variants and the experiments past the paper, as methods and models added to a study.

Each variant is the study's SGPO with the named fields of ``SGPOConfig`` changed, and where the
profile tuned it a learning rate of its own: the same warm-up checkpoint, steps and samples. "w/o
strategy distillation" (Table 2) is SFT+GRPO, which every study has. What an experiment varies is
the only thing that differs from the run of the study that it stands beside, whose tuned settings it
keeps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.config import MethodEntry, Model, Plan, RunConfig
from benchmarks.store import experiments as names
from sgpo.mini.specs import MODELS

Rates = Mapping[str, float]  # model -> learning rate

# key, label, fields of SGPOConfig that differ from SGPO's
VARIANTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("sgpo_no_grpo", "SGPO w/o autonomous GRPO", {"autonomous_term": False}),  # paper, Table 2
    ("sgpo_no_proximal", "SGPO w/o all proximal constraints",
     {"select_target": False, "kl_threshold": math.inf}),  # paper, Table 2
    ("sgpo_no_clip", "SGPO w/o KL clipping", {"kl_threshold": math.inf}),  # paper, Table 2
    ("sgpo_no_selection", "SGPO w/o target selection", {"select_target": False}),  # paper, Table 2
    ("sgpo_fixed_alpha", "SGPO, fixed alpha=1.0",
     {"alpha_mode": "fixed", "alpha_fixed": 1.0}),  # paper, Tables 2 and 7
    ("sgpo_group_alpha", "SGPO, group-advantage alpha",
     {"alpha_mode": "group_advantage"}),  # paper, Table 7
    ("sgpo_nll", "SGPO, direct SFT", {"distillation": "nll"}),  # paper, Table 3
    ("sgpo_reverse", "SGPO, reverse KL", {"direction": "reverse"}),  # paper, Table 6
    *((f"sgpo_delta{delta:g}", f"SGPO, delta={delta:g}", {"kl_threshold": delta})
      for delta in (0.5, 1.2, 1.5, 2.0, 3.0)),  # ours
    ("sgpo_frozen", "SGPO, teacher frozen", {"teacher": "initial"}),  # ours
    ("sgpo_meanlogp", "SGPO, length-normalised selection",
     {"length_normalized_selection": True}),  # ours
)  # fmt: skip


def derived(
    entry: MethodEntry, change: Callable[[RunConfig], RunConfig], **fields: Any
) -> MethodEntry:
    """``entry`` with ``change`` applied to each of its configs, and with other ``fields``."""

    def config(model: str, seed: int) -> RunConfig:
        changed = change(entry.config(model, seed))
        return replace(changed, method=fields.get("key", changed.method))

    return replace(entry, config=config, **fields)


def to_budget(full: RunConfig) -> RunConfig:
    """``full``, not trained or judged past the study's own number of steps or on the way there."""
    train = full.train
    if train is None or train.budget_steps is None:
        return full
    steps = min(train.num_steps, train.budget_steps)
    return replace(full, train=replace(train, num_steps=steps, budget_steps=None))


def with_settings(full: RunConfig, rates: Rates | None = None, **settings: Any) -> RunConfig:
    """``full`` to the budget, with other ``settings``, and the rate of its model in ``rates``."""
    plain = to_budget(full)
    rate = (rates or {}).get(full.model, plain.train.learning_rate)
    return replace(
        plain,
        settings=replace(plain.settings, **settings),
        train=replace(plain.train, learning_rate=rate),
    )


def _own_rates(study: Plan, tuned: Mapping[str, Rates]) -> Mapping[str, Rates]:
    """``tuned``, unless the user set one rate for all."""
    return {} if any(o.startswith("train.learning_rate=") for o in study.overrides) else tuned


def with_variants(
    study: Plan, models: tuple[str, ...], tuned: Mapping[str, Rates] | None = None
) -> Plan:
    """``study`` with every variant of its SGPO, on ``models`` only; ``tuned``: variant -> its own
    learning rates, elsewhere it keeps SGPO's.

    Overrides come first: the variants start from the study's SGPO as overridden, and what a variant
    changes wins over an override of the same field, so that its label stays true.
    """
    sgpo, rates = study.entry("sgpo"), _own_rates(study, tuned or {})
    extra = tuple(
        derived(
            sgpo, partial(with_settings, rates=rates.get(key), **fields), key=key, label=label,
            models=models,
        )
        for key, label, fields in VARIANTS
    )  # fmt: skip
    return replace(study, methods=study.methods + extra)


def with_experiments(study: Plan, tuned: Mapping[str, Rates] | None = None) -> Plan:
    """The mini ``study``, with SGPO's variants in it, and the runs of every experiment."""
    large, seeds = MODELS[names.LARGE_MODEL], len(study.seeds)
    placed: dict[str, dict[str, int]] = {entry.key: {} for entry in study.methods}
    for key in names.LARGE_METHODS:
        placed[key][large.key] = names.SEEDS
    for key in placed.keys() & {*names.REPEATED}:
        placed[key][names.SECOND_MODEL] = seeds
    masked = derived(
        study.entry("sgpo"),
        partial(
            with_settings,
            rates=_own_rates(study, tuned or {}).get("sgpo_nll_masked"),
            distillation="nll_masked",
        ),
        key="sgpo_nll_masked",
        label="SGPO, direct SFT with the mask",
        extra=True,
        models=study.entry("sgpo_nll").models,
        also_on={names.SECOND_MODEL: seeds},
    )
    methods = [replace(entry, also_on=placed[entry.key]) for entry in study.methods]
    return replace(
        study,
        methods=(*methods, masked, *_distilled(study), *_factors(study)),
        extra_models=(Model(large.key, large.label, large.family, extra=True),),
    )


def _distilled(study: Plan) -> list[MethodEntry]:
    """The way from SGPO's distillation to on-policy self-distillation, one change after another."""
    guided, own = study.entry("sgpo_no_grpo"), study.entry("opsd")
    plain = {"kl_threshold": math.inf, "select_target": False, "alpha_mode": "fixed"}

    def faster(full: RunConfig, **settings: Any) -> RunConfig:
        rate = own.config(full.model, full.seed).train.learning_rate
        changed = with_settings(full, **settings)
        return replace(changed, train=replace(changed.train, learning_rate=rate))

    forward = partial(with_settings, direction="forward")
    steps = (
        (guided, "distil_rate", "SGPO's distillation, faster", faster),
        (guided, "distil_plain", "KL on all correct guided samples", partial(faster, **plain)),
        (guided, "distil_guided", "KL on all correct guided samples, first weights teach",
         partial(faster, teacher="initial", **plain)),
        (own, "distil_own", "KL on own samples", partial(forward, teacher="itself")),
        (own, "distil_frozen", "KL on own samples, first weights teach",
         partial(forward, teacher="initial")),
    )  # fmt: skip
    fields = {"extra": True, "models": names.DISTIL_MODELS, "also_on": {}}
    return [
        derived(entry, change, key=key, label=label, **fields)
        for entry, key, label, change in steps
    ]


def _factors(study: Plan) -> list[MethodEntry]:
    """What separates direct SFT from the KL, one factor at a time; rates are those of the row that
    each departs from."""
    rows: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("sgpo_no_clip", "KL, no mask, without the first token", {"leave_out": "first"}),
        ("sgpo_no_clip", "KL, no mask, first weights teach", {"teacher": "initial"}),
        ("sgpo_no_clip", "KL, no mask, teacher's logits doubled", {"sharpness": 2.0}),
        ("sgpo_nll", "Direct SFT on unverified targets", {"verified": False}),
    )
    fields = {"extra": True, "also_on": {}}
    return [
        derived(study.entry(of), partial(with_settings, **changed), key=key, label=label, **fields)
        for key, (of, label, changed) in zip(names.FACTORS, rows, strict=True)
    ]
