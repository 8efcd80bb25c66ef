"""Profiles: Python functions that build studies. Importing this package imports no torch."""

from __future__ import annotations

import importlib
from types import ModuleType

PROFILES = ("mini", "quick", "lab", "pocket", "single_gpu", "paper")


def profile_module(name: str) -> ModuleType:
    """The module of a profile; it has ``study(num_seeds)``, ``KIN``, the baselines of the same
    idea, and ``extended(study)``, which adds the runs that only ``--all`` makes.

    Raises:
        ValueError: unknown profile.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: must be one of {', '.join(PROFILES)}")
    return importlib.import_module(f"benchmarks.profiles.{name}")
