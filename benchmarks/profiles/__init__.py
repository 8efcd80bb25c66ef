"""Profiles: Python functions that build studies. Importing this package imports no torch."""

from __future__ import annotations

import importlib
from types import ModuleType

PROFILES = ("mini", "quick")


def profile_module(name: str) -> ModuleType:
    """The module of a profile; it has ``study(num_seeds)`` and ``VARIANT_MODELS``, the models that
    SGPO's variants run on.

    Raises:
        ValueError: unknown profile.
    """
    if name not in PROFILES:
        raise ValueError(f"unknown profile {name!r}: must be one of {', '.join(PROFILES)}")
    return importlib.import_module(f"benchmarks.profiles.{name}")
