"""What there is: ``sgpo list``, ``sgpo config`` and ``sgpo mini show``."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from typing import Any

from benchmarks.data.sources import DEVELOPMENT, DEVELOPMENT_SAMPLES
from benchmarks.data.suites import SUITES
from benchmarks.profiles import PROFILES, profile_module
from benchmarks.profiles.planned import planned_run, planned_study
from sgpo.core.config import dotted_names
from sgpo.mini.sets import TEST_SETS, training_problems
from sgpo.mini.world import SLOTS, draw_world

WIDTH = 28
IDENTITY = ("profile", "model", "method", "seed", "init")  # no settings: options choose them


def list_command(options: argparse.Namespace) -> int:
    """``sgpo list WHAT``: one line each."""
    if options.what == "settings":
        return settings_command(options)
    rows = {"artefacts": _artefacts, "benchmarks": _benchmarks, "profiles": _profiles}
    if options.what in rows:
        found = rows[options.what]()
    else:
        plan = planned_study(options.profile, 1, variants=True)
        every = {"methods": plan.methods, "models": plan.models + plan.extra_models}
        found = [(entry.key, entry.label) for entry in every[options.what]]
    for name, text in found:
        print(f"{name:{WIDTH}} {text}")
    return 0


def _artefacts() -> list[tuple[str, str]]:
    from benchmarks.report.build import ARTEFACTS  # draws figures: too slow for other lists

    return [(artefact.name, artefact.title) for artefact in ARTEFACTS]


def _benchmarks() -> list[tuple[str, str]]:
    rows = [
        (b.key, f"{b.label}, {b.num_problems} problems, avg@{b.k}")
        for b in (*TEST_SETS, *SUITES.values())
    ]
    return [*rows, (DEVELOPMENT, f"development set of the mini world, avg@{DEVELOPMENT_SAMPLES}")]


def _profiles() -> list[tuple[str, str]]:
    return [(name, profile_module(name).__doc__.splitlines()[0]) for name in PROFILES]


def settings_command(options: argparse.Namespace) -> int:
    """``sgpo config``: every key that ``--set`` takes for a method, with its value and where that
    comes from."""
    if options.method is None:
        raise ValueError("say whose: sgpo list settings METHOD (sgpo list methods shows all)")
    config = planned_run(
        options.profile, options.method, options.model, overrides=options.overrides
    ).config
    tags = {} if config.settings is None else _source_tags(config.settings)
    for name in dotted_names(config):
        if name not in IDENTITY:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            tag = tags.get(name.removeprefix("settings.")) if "settings." in name else None
            print(f"{name:{WIDTH}} {value}" + (f"   ({tag})" if tag else ""))
    return 0


def world_command(options: argparse.Namespace) -> int:
    """``sgpo mini show WORLD``: its types with their plans and priors, and three problems."""
    world = draw_world(options.world)
    print(
        f"world {world.seed}: a guided writer follows {world.fidelity:.0%} of a strategy's choices "
        f"and refers to it in {world.style:.0%} of texts, an unguided one in {world.leak:.1%}\n"
        f"choices: {'; '.join(', '.join(slot) for slot in SLOTS)}\n\n"
        f"{'type':8} {'its plan':33} found without a strategy: whole plan, each choice"
    )
    for kind in world.types:
        right = zip(kind.priors, SLOTS, kind.plan.choices, strict=True)
        each = ", ".join(f"{prior[slot.index(choice)]:.2f}" for prior, slot, choice in right)
        print(f"{kind.name:8} {', '.join(kind.plan.choices):33} {kind.found:.3f}: {each}")
    problems = training_problems(world, "rl", 0.0)
    for problem in (*problems[:2], problems[len(world.types)]):  # levels 1, 1 and 2
        print(
            f"\n{problem.id} (level {problem.level}): {problem.question}\n"
            f"--- strategy\n{problem.strategy}\n--- solution\n{problem.expert}"
        )
    return 0


def _source_tags(settings: Any) -> dict[str, str]:
    """Field -> the comment behind its default, which says where the number comes from. A value
    that the profile changes has the profile's own comment."""
    defaults = {f.name: f.default for f in dataclasses.fields(settings)}
    tags = {}
    for kind in reversed(type(settings).__mro__[:-1]):
        source = inspect.getsource(kind) if dataclasses.is_dataclass(kind) else ""
        for name, tag in re.findall(r"^    (\w+): [^\n#]*#\s*(.+)$", source, re.MULTILINE):
            kept = getattr(settings, name) == defaults.get(name)
            tags[name] = tag if kept else "the profile's"
    return tags
