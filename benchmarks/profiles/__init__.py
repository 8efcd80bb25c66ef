"""Profiles: Python modules that plan studies. Importing this package imports no torch."""

from __future__ import annotations

import importlib
from types import ModuleType

PROFILES = ("mini", "quick", "pocket", "single_gpu", "paper")


def check_profile(name: str) -> None:
    """ValueError unless ``name`` is a profile."""
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: must be one of {', '.join(PROFILES)}")


def profile_module(name: str) -> ModuleType:
    """The module of a profile: ``study(num_seeds)`` plans it, ``KIN`` are the baselines of the same
    idea, ``VARIANT_MODELS`` those that SGPO's variants run on. One on published checkpoints has
    its ``RECIPE``.

    Raises:
        ValueError: unknown profile.
    """
    check_profile(name)
    return importlib.import_module(f"benchmarks.profiles.{name}")
