"""``--set`` on a whole study: values put into every run that has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.config import MethodEntry, RunConfig, Study
from sgpo.core.config import apply_overrides, dotted_names

_IDENTITY = {
    "profile": "--profile",
    "model": "--models",
    "method": "--methods",
    "seed": "--seeds",
    "init": "another method",
}


def check_overrides(overrides: Sequence[str]) -> None:
    """ValueError for keys that say which run it is: those have options of their own."""
    for item in overrides:
        key = item.partition("=")[0]
        if key in _IDENTITY:
            raise ValueError(f"override {item!r}: {key} is not an override, use {_IDENTITY[key]}")


def overridden(study: Study, overrides: Sequence[str]) -> Study:
    """Every override in every method that has its key; ValueError if none has."""
    check_overrides(overrides)
    model = study.models[0][0]
    allowed: dict[str, list[str]] = {}
    for entry in study.methods:
        plain = entry.config(model, study.seeds[0])
        names = dotted_names(plain)
        allowed[entry.key] = [o for o in overrides if o.partition("=")[0] in names]
        apply_overrides(plain, allowed[entry.key])  # a wrong value is found before the first run
    for item in overrides:
        if not any(item in found for found in allowed.values()):
            trained = next(e for e in reversed(study.methods))
            apply_overrides(trained.config(model, study.seeds[0]), [item])

    def changed_entry(entry: MethodEntry) -> MethodEntry:
        def config(model: str, seed: int) -> RunConfig:
            return apply_overrides(entry.config(model, seed), allowed[entry.key])

        return replace(entry, config=config)

    changed = replace(study, methods=tuple(map(changed_entry, study.methods)))
    return replace(changed, benchmarks=_limited(changed), models=_relabelled(study, changed))


def _relabelled(study: Study, changed: Study) -> tuple[tuple[str, str, str], ...]:
    """The models of ``changed``, named after the checkpoint that an override put in their place:
    a stand-in must not pass for the model of the profile."""
    entry, models = changed.methods[0], []
    for key, label, family in study.models:
        config = entry.config(key, study.seeds[0])
        if config.checkpoint != study.methods[0].config(key, study.seeds[0]).checkpoint:
            label = f"{Path(config.checkpoint).name} in place of {label}"
        models.append((key, label, family))
    return tuple(models)


def _limited(study: Study) -> tuple[tuple[str, str, int, int], ...]:
    """The benchmarks with the sizes that the first method's evaluation limits leave: the plan must
    promise what the runs will hold."""
    limits = study.methods[0].config(study.models[0][0], study.seeds[0]).evaluation
    return tuple(
        (key, label, min(count, limits.problem_limit or count), min(k, limits.sample_limit or k))
        for key, label, count, k in study.benchmarks
    )
