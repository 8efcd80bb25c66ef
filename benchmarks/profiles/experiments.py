"""The runs of the experiments past the paper, as methods and models added to the mini study.

Everything keeps the settings that were tuned on the study's own model; what an experiment varies is
the only thing that differs from the study's run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from benchmarks.config import MethodEntry, Model, Plan, RunConfig
from benchmarks.profiles.variants import derived, to_budget
from benchmarks.store import experiments as names
from sgpo.mini.specs import MODELS


def with_experiments(study: Plan) -> Plan:
    """``study`` (with SGPO's variants in it) and the runs of every experiment."""
    placed = _placed(study)
    methods = tuple(replace(e, also_on=placed.get(e.key, {})) for e in study.methods)
    large = MODELS[names.LARGE_MODEL]
    extra = Model(names.LARGE_MODEL, large.label, large.family, extra=True)
    study = replace(study, methods=methods, extra_models=(extra,))
    return replace(study, methods=(*study.methods, _masked(study), *_distilled(study)))


def _placed(study: Plan) -> dict[str, dict[str, int]]:
    """Method -> further models with their number of seeds, for methods that the study has."""
    placed: dict[str, dict[str, int]] = {entry.key: {} for entry in study.methods}
    for method in names.LARGE_METHODS:
        placed[method][names.LARGE_MODEL] = names.SEEDS
    for method in names.REPEATED:
        placed.setdefault(method, {})[names.SECOND_MODEL] = len(study.seeds)
    return placed


def _masked(study: Plan) -> MethodEntry:
    """SGPO's direct SFT with the token mask of Eq. 5, where the variants run."""
    key = "sgpo_nll_masked"

    def config(full: RunConfig) -> RunConfig:
        settings = replace(full.settings, distillation="nll_masked")
        return replace(to_budget(full), settings=settings, method=key)

    return derived(
        study.entry("sgpo"),
        config,
        key=key,
        label="SGPO, direct SFT with the mask",
        extra=True,
        models=study.entry("sgpo_nll").models,
        also_on={names.SECOND_MODEL: len(study.seeds)},
    )


def _distilled(study: Plan) -> list[MethodEntry]:
    """The way from SGPO's distillation to on-policy self-distillation, one change after another."""
    guided, own = study.entry("sgpo_no_grpo"), study.entry("opsd")

    def faster(full: RunConfig, **settings: object) -> RunConfig:
        rate = own.config(full.model, full.seed).train.learning_rate
        changed = replace(full.settings, **settings)
        return replace(full, settings=changed, train=replace(full.train, learning_rate=rate))

    def plain(full: RunConfig, **settings: object) -> RunConfig:
        settings = {"kl_threshold": math.inf, "select_target": False, **settings}
        return faster(full, alpha_mode="fixed", **settings)

    def taught_by(teacher: str) -> Callable[[RunConfig], RunConfig]:
        return lambda full: replace(
            full, settings=replace(full.settings, direction="forward", teacher=teacher)
        )

    def step(entry: MethodEntry, key: str, label: str, change: Callable) -> MethodEntry:
        def keyed(full: RunConfig) -> RunConfig:
            return replace(change(full), method=key)

        return derived(
            entry, keyed, key=key, label=label, extra=True, models=names.DISTIL_MODELS, also_on={}
        )

    return [
        step(guided, "distil_rate", "SGPO's distillation, faster", faster),
        step(guided, "distil_plain", "KL on all correct guided samples", plain),
        step(
            guided,
            "distil_guided",
            "KL on all correct guided samples, first weights teach",
            partial(plain, teacher="initial"),
        ),
        step(own, "distil_own", "KL on own samples", taught_by("itself")),
        step(own, "distil_frozen", "KL on own samples, first weights teach", taught_by("initial")),
    ]
