"""The study that a command asks for: a profile with overrides, own methods and variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.config import MethodEntry, Plan, RunConfig, load_method_file
from benchmarks.profiles import profile_module
from benchmarks.profiles.overrides import overridden
from benchmarks.profiles.variants import derived
from benchmarks.store import experiments
from benchmarks.store.records import SGPO_VARIANTS


def planned_study(
    profile: str,
    num_seeds: int | None,
    method_file: Path | None = None,
    overrides: Sequence[str] = (),
    variants: bool = False,
    models: Sequence[str] | None = None,
) -> Plan:
    """The profile's study with the user's method, the overrides, and with ``variants`` SGPO's
    variants and the experiments past the paper in it. ``models``: those that the user asked for,
    None for all; the study still plans all."""
    module = profile_module(profile)
    study = module.study(num_seeds) if num_seeds else module.study()
    if variants:
        study = replace(study, methods=study.methods + module.KIN)
    if method_file:
        study = replace(study, methods=(*study.methods, user_method(study, method_file)))
    if overrides:
        study = overridden(study, overrides, models)
    if variants:
        study = module.extended(study)
    return study


def user_method(study: Plan, path: Path) -> MethodEntry:
    """The grid entry of a user's method file: SFT+GRPO's recipe with the file's method in it."""
    planned = {entry.key for entry in study.methods} | set(SGPO_VARIANTS)
    if path.stem in planned | set(experiments.methods()):
        raise ValueError(
            f"method file {str(path)!r}: {path.stem!r} is a method of this profile already; "
            "rename the file"
        )
    module = load_method_file(path)

    def change(plain: RunConfig) -> RunConfig:
        return replace(plain, method=path.stem, settings=module.CONFIG())

    label = getattr(module, "LABEL", path.stem)
    return derived(study.entry("grpo"), change, key=path.stem, label=label)
