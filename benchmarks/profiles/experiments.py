"""The runs of the experiments past the paper, as methods and models added to the mini study.

Everything keeps the settings that were tuned on the study's own model; what an experiment varies is
the only thing that differs from the study's run.
"""

from __future__ import annotations

from dataclasses import replace

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
    return replace(study, methods=(*study.methods, _masked(study)))


def _placed(study: Plan) -> dict[str, dict[str, int]]:
    """Method -> further models with their number of seeds, for methods that the study has."""
    placed: dict[str, dict[str, int]] = {entry.key: {} for entry in study.methods}
    for method in names.LARGE_METHODS:
        placed[method][names.LARGE_MODEL] = names.SEEDS
    for method in names.REPEATED:
        placed.setdefault(method, {})[names.SECOND_MODEL] = names.SEEDS
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
        also_on={names.SECOND_MODEL: names.SEEDS},
    )
