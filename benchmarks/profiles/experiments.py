"""The runs of the experiments past the paper, as methods and models added to the mini study.

Everything keeps the settings that were tuned on the study's own model and gap; what an experiment
varies is the only thing that differs from the study's run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from benchmarks.config import MethodEntry, Model, Plan, RunConfig
from benchmarks.profiles.variants import derived, to_budget
from benchmarks.store import experiments as names
from sgpo.mini.specs import MODELS

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
    added = (*_masked(study), *_gaps(study), *_degraded(study))
    return replace(study, methods=study.methods + added)


def _placed(study: Plan) -> dict[str, dict[str, int]]:
    """Method -> further models with their number of seeds, for methods that the study has."""
    placed: dict[str, dict[str, int]] = {entry.key: {} for entry in study.methods}
    for model in names.extra_models():
        for method in ("base", *names.MAP_METHODS, WARMUP):
            placed[method][model] = names.SEEDS
    for method in names.REPEATED:
        placed.setdefault(method, {})[names.SECOND_MODEL] = names.SEEDS
    return placed


def _masked(study: Plan) -> list[MethodEntry]:
    """SGPO's direct SFT with the token mask of Eq. 5, where the variants run."""
    nll = study.entry("sgpo_nll")

    def change(plain: RunConfig) -> RunConfig:
        return replace(plain, settings=replace(plain.settings, distillation="nll_masked"))

    placed = {"models": nll.models, "also_on": {names.SECOND_MODEL: names.SEEDS}}
    sgpo, label = study.entry("sgpo"), "SGPO, direct SFT with the mask"
    return [_experiment(sgpo, change, "sgpo_nll_masked", label, **placed)]


def _gaps(study: Plan) -> list[MethodEntry]:
    """Warm-up and methods of the maps at the other teacher gaps."""
    models = dict.fromkeys(names.SIZE_MODELS, names.SEEDS)
    return [
        _at_gap(study.entry(method), gap, models)
        for gap in names.GAPS
        if gap != names.STUDY_GAP
        for method in (WARMUP, *names.MAP_METHODS)
    ]


def _at_gap(entry: MethodEntry, gap: float, models: Mapping[str, int]) -> MethodEntry:
    def change(plain: RunConfig) -> RunConfig:
        return replace(plain, data=replace(plain.data, expert_gap=gap))

    key, label = names.gap_method(entry.key, gap), f"{entry.label}, gap {gap:g}"
    parent = names.gap_method(WARMUP, gap)
    return _experiment(entry, change, key, label, also_on=models, parent=parent)


def _degraded(study: Plan) -> list[MethodEntry]:
    return [_with_strategy(study.entry("sgpo"), quality) for quality in names.DEGRADED]


def _with_strategy(entry: MethodEntry, quality: str) -> MethodEntry:
    def change(plain: RunConfig) -> RunConfig:
        return replace(plain, data=replace(plain.data, strategy=quality))

    label = f"{entry.label}, {DEGRADED_LABELS[quality]}"
    placed = {names.DEGRADED_MODEL: names.SEEDS}
    return _experiment(entry, change, names.degraded_method(quality), label, also_on=placed)


def _experiment(
    entry: MethodEntry,
    change: Callable[[RunConfig], RunConfig],
    key: str,
    label: str,
    *,
    also_on: Mapping[str, int],
    models: tuple[str, ...] | None = (),
    parent: str = WARMUP,
) -> MethodEntry:
    """``entry`` with one thing changed, planned on the models of the experiment alone."""

    def config(full: RunConfig) -> RunConfig:
        return replace(change(to_budget(full)), method=key)

    placed = {"models": models, "also_on": also_on, "parent": parent}
    return derived(entry, config, key=key, label=label, extra=True, **placed)
