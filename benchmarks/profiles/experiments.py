"""The runs of the experiments past the paper, as methods and models added to the mini study.

Everything keeps the settings that were tuned on the study's own model and gap; what an experiment
varies is the only thing that differs from the study's run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.config import MethodEntry, Model, Plan, RunConfig
from benchmarks.store import experiments as names
from sgpo.mini.models import MODELS

WARMUP = "sft"
DEGRADED_LABELS = {
    "wrong_choice": "one choice wrong",
    "wrong_type": "another type's plan",
    "open": "every choice open",
    "leak": "answer given away",
}


def with_experiments(study: Plan) -> Plan:
    """``study`` (with SGPO's variants in it) and the runs of every experiment."""
    placed = _placed(study)
    methods = tuple(replace(e, also_on=placed.get(e.key, {})) for e in study.methods)
    study = replace(
        study,
        methods=methods,
        extra_models=tuple(
            Model(k, MODELS[k].label, MODELS[k].family, extra=True) for k in names.extra_models()
        ),
    )
    added = (*_masked(study), *_gaps(study), *_budgets(study), *_degraded(study))
    return replace(study, methods=study.methods + added)


def _placed(study: Plan) -> dict[str, dict[str, int]]:
    """Method -> further models with their number of seeds, for methods that the study has."""
    placed: dict[str, dict[str, int]] = {entry.key: {} for entry in study.methods}
    for model in names.extra_models():
        methods = (*names.MAP_METHODS, WARMUP)
        if model == names.STYLE_MODEL:
            methods = ("grpo", WARMUP, *names.SWEEP)
        for method in methods:
            placed[method][model] = names.SEEDS
        placed["base"][model] = 1
    for method in names.REPEATED:
        placed.setdefault(method, {})[names.SECOND_MODEL] = names.SEEDS
    return placed


def _masked(study: Plan) -> list[MethodEntry]:
    """SGPO's direct SFT with the token mask of Eq. 5, where the variants run."""

    def config(model: str, seed: int) -> RunConfig:
        plain = study.entry("sgpo").config(model, seed)
        settings = replace(plain.settings, distillation="nll_masked")
        return replace(plain, method="sgpo_nll_masked", settings=settings)

    models = study.entry("sgpo_nll").models
    also = {names.SECOND_MODEL: names.SEEDS}
    label = "SGPO, direct SFT with the mask"
    return [MethodEntry("sgpo_nll_masked", label, config, models, also, extra=True)]


def _gaps(study: Plan) -> list[MethodEntry]:
    """Warm-up and methods of the maps at the other teacher gaps."""
    models = dict.fromkeys((*names.DIFFICULTY_MODELS, *names.SIZE_MODELS), names.SEEDS)
    return [
        _at_gap(study.entry(method), gap, models)
        for gap in names.GAPS
        if gap != names.STUDY_GAP
        for method in (WARMUP, *names.MAP_METHODS)
    ]


def _at_gap(entry: MethodEntry, gap: float, models: Mapping[str, int]) -> MethodEntry:
    key = names.gap_method(entry.key, gap)

    def config(model: str, seed: int) -> RunConfig:
        plain = entry.config(model, seed)
        return replace(plain, method=key, data=replace(plain.data, expert_gap=gap))

    parent = names.gap_method(WARMUP, gap)
    return MethodEntry(key, f"{entry.label}, gap {gap:g}", config, (), models, parent, extra=True)


def _budgets(study: Plan) -> list[MethodEntry]:
    models = {names.BUDGET_MODEL: names.SEEDS}
    return [
        _with_steps(study.entry(method), steps, models)
        for steps in names.BUDGETS
        for method in names.BUDGET_METHODS
    ]


def _with_steps(entry: MethodEntry, steps: int, models: Mapping[str, int]) -> MethodEntry:
    key = names.budget_method(entry.key, steps)

    def config(model: str, seed: int) -> RunConfig:
        plain = entry.config(model, seed)
        return replace(plain, method=key, train=replace(plain.train, num_steps=steps))

    return MethodEntry(key, f"{entry.label}, {steps} steps", config, (), models, extra=True)


def _degraded(study: Plan) -> list[MethodEntry]:
    models = {names.DEGRADED_MODEL: names.SEEDS}
    return [_with_strategy(study.entry("sgpo"), quality, models) for quality in names.DEGRADED]


def _with_strategy(entry: MethodEntry, quality: str, models: Mapping[str, int]) -> MethodEntry:
    key = names.degraded_method(quality)

    def config(model: str, seed: int) -> RunConfig:
        plain = entry.config(model, seed)
        return replace(plain, method=key, data=replace(plain.data, strategy=quality))

    label = f"{entry.label}, {DEGRADED_LABELS[quality]}"
    return MethodEntry(key, label, config, (), models, extra=True)
