"""The study that a command asks for: a profile with overrides, own methods and variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.config import (
    Benchmark,
    Cell,
    MethodEntry,
    Plan,
    RunConfig,
    load_method_file,
    unknown,
)
from benchmarks.data.problems import read_problems
from benchmarks.data.sources import OWN_SAMPLES, file_source
from benchmarks.profiles import profile_module
from benchmarks.profiles.overrides import (
    check_overrides,
    check_reaches,
    limited,
    overridden,
)
from benchmarks.profiles.variants import derived, with_experiments, with_variants
from benchmarks.store import experiments
from benchmarks.store.records import SGPO_VARIANTS
from benchmarks.store.runs import read_object
from sgpo.mini.specs import MODELS


def remembered(results: Path, kind: str, files: Sequence[Path] = ()) -> list[Path]:
    """``files`` and those of the user's own ``methods`` or ``benchmarks`` (``kind``) that the
    study.json of ``results`` lists, each name once; one that is gone is left out and said."""
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        raise ValueError(f"two files share a name: {', '.join(map(str, files))}; rename one")
    for entry in _listed(results).get(kind, ()):
        if entry.get("file") and entry["key"] not in found:
            if Path(entry["file"]).is_file():
                found[entry["key"]] = Path(entry["file"])
            else:
                print(f"{entry['key']} leaves the study: {entry['file']} is gone")
    return list(found.values())


def planned_keys(results: Path) -> set[str]:
    """The methods and models that the study.json of ``results`` lists."""
    listed = _listed(results)
    return {entry["key"] for kind in ("methods", "models") for entry in listed.get(kind, ())}


def _listed(results: Path) -> dict[str, Any]:
    """What study.json says; nothing where there is none yet."""
    path = results / "study.json"
    return read_object(path) if path.exists() else {}


def planned_study(
    profile: str,
    num_seeds: int | None,
    method_files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    variants: bool = False,
    models: Sequence[str] | None = None,
    problems: Sequence[Path] = (),
) -> Plan:
    """The profile's study with the user's methods and problems, the overrides, and with
    ``variants`` SGPO's variants and the experiments past the paper in it. ``models``: those that
    the user asked for, None for all; the study still plans all."""
    module = profile_module(profile)
    study = module.study(num_seeds) if num_seeds else module.study()
    if variants:
        study = replace(study, methods=study.methods + module.KIN)
    for path in method_files:
        study = replace(study, methods=(*study.methods, user_method(study, path)))
    if problems:
        study = with_problems(study, problems)
    if overrides:
        study = overridden(study, overrides, models)
    study = replace(study, benchmarks=limited(study), overrides=tuple(overrides))
    if variants:
        tuned = getattr(module, "VARIANT_RATE", None)
        study = with_variants(study, module.VARIANT_MODELS, tuned)
        if profile == "mini":  # whose tuned rates the experiments keep
            study = with_experiments(study, tuned)
    return study


def user_method(study: Plan, path: Path) -> MethodEntry:
    """The grid entry of a user's method file: SFT+GRPO's recipe with the file's method in it, and
    the file's ``LEARNING_RATE`` if it has one: a number, or one for each model."""
    planned = {entry.key for entry in study.methods} | {*SGPO_VARIANTS, *experiments.METHODS}
    if path.stem in planned:
        raise ValueError(
            f"method file {str(path)!r}: {path.stem!r} is a method of this profile already; "
            "rename the file"
        )
    module = load_method_file(path)

    rates = getattr(module, "LEARNING_RATE", {})
    known = [*dict.fromkeys((*(m.key for m in study.models), *MODELS))]
    for name in rates if isinstance(rates, dict) else ():
        if name not in known:
            what = f"{path}: LEARNING_RATE: model"
            raise ValueError(unknown(what, name, known, "`sgpo list models`"))

    def change(plain: RunConfig) -> RunConfig:
        rate = rates.get(plain.model) if isinstance(rates, dict) else rates
        recipe = replace(plain.train, learning_rate=rate) if rate is not None else plain.train
        return replace(plain, settings=module.CONFIG(), train=recipe)

    label = getattr(module, "LABEL", path.stem)
    file = str(path.resolve())
    return derived(study.entry("grpo"), change, key=path.stem, label=label, file=file)


def with_problems(study: Plan, files: Sequence[Path]) -> Plan:
    """``study`` judged on the problems of ``files`` too: each a benchmark of the file's name."""
    added, known = [], {b.key for b in study.benchmarks}
    for path in dict.fromkeys(path.resolve() for path in files):
        if not path.is_file():
            raise ValueError(f"--problems {path}: no such file")
        if path.stem in known:
            raise ValueError(f"--problems {path}: {path.stem!r} is a benchmark already; rename it")
        known.add(path.stem)
        count = len(read_problems(path))
        added.append(Benchmark(path.stem, path.stem, count, OWN_SAMPLES, str(path)))
    keys = tuple(b.key for b in added)
    sources = tuple(file_source(Path(b.file)) for b in added)

    def change(plain: RunConfig) -> RunConfig:
        old = plain.evaluation
        both = {"suites": (*old.suites, *keys), "files": (*old.files, *sources)}
        return replace(plain, evaluation=replace(old, **both))

    methods = tuple(derived(entry, change) for entry in study.methods)
    return replace(study, methods=methods, benchmarks=(*study.benchmarks, *added))


def planned_run(
    profile: str,
    method: str,
    model: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    problems: Sequence[Path] = (),
) -> Cell:
    """The run of one method (a key, or a file of the user's own) with the warm-up it starts from.
    ``model`` None: the first that the method is planned on."""
    check_overrides(overrides, one_run=True)
    own = [Path(method)] if method.endswith(".py") else []
    asked = None if model is None else [model]
    study = planned_study(profile, seed + 1, own, overrides, True, asked, problems)
    entry = study.entry(own[0].stem if own else method)
    models = [m.key for m in study.models + study.extra_models]
    model = model or (entry.models or models)[0]
    if model not in models:
        raise ValueError(unknown("model", model, models, f"`sgpo list models --profile {profile}`"))
    cell = Cell(entry.config(model, seed))
    if cell.config.init == "warmup":
        cell = replace(cell, parent=Cell(study.entry(entry.parent).config(model, seed)))
    check_reaches(overrides, [c.config for c in (cell, cell.parent) if c])
    return cell
