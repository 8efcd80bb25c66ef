"""What there is: ``sgpo list``, ``sgpo config`` and ``sgpo status``."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

from benchmarks.analyses.run import failure_path, result_path
from benchmarks.config import RunConfig, unknown
from benchmarks.data.sources import DEVELOPMENT, DEVELOPMENT_SAMPLES
from benchmarks.data.suites import SUITES
from benchmarks.profiles import PROFILES, profile_module
from benchmarks.profiles.overrides import check_reaches
from benchmarks.profiles.planned import planned_study
from benchmarks.report.build import ARTEFACTS
from benchmarks.run.rundir import is_finished
from benchmarks.store.runs import stored_runs
from sgpo.core.config import dotted_names
from sgpo.core.files import inside, read_json
from sgpo.mini.suites import BENCHMARKS

WIDTH = 28


def list_command(options: argparse.Namespace) -> int:
    """``sgpo list WHAT``: one line each."""
    if options.what == "settings":
        return _settings(options)
    plan = planned_study(options.profile, 1, variants=True, newer=True)
    rows = {
        "methods": lambda: [(e.key, e.label) for e in plan.methods],
        "models": lambda: [(m.key, m.label) for m in plan.models + plan.extra_models],
        "benchmarks": _benchmarks,
        "artefacts": lambda: [(a.name, a.title) for a in ARTEFACTS],
        "profiles": lambda: [(p, _first_line(profile_module(p))) for p in PROFILES],
    }
    for name, text in rows[options.what]():
        print(f"{name:{WIDTH}} {text}")
    return 0


def _benchmarks() -> list[tuple[str, str]]:
    sizes = [(b.key, b.label, b.num_problems, b.k) for b in (*BENCHMARKS, *SUITES.values())]
    rows = [(key, f"{label}, {count} problems, avg@{k}") for key, label, count, k in sizes]
    return [*rows, (DEVELOPMENT, f"development set of the mini world, avg@{DEVELOPMENT_SAMPLES}")]


def _first_line(module: Any) -> str:
    return module.__doc__.splitlines()[0]


def _settings(options: argparse.Namespace) -> int:
    """Every key that ``--set`` takes for a method, with its value and where that comes from."""
    if options.method is None:
        raise ValueError("say whose: sgpo list settings METHOD (sgpo list methods shows all)")
    config = _config(options)
    tags = _source_tags(config.settings) if config.settings is not None else {}
    for name in dotted_names(config):
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if name not in ("profile", "model", "method", "seed", "init"):
            tag = tags.get(name.removeprefix("settings."), "") if "settings." in name else ""
            print(f"{name:{WIDTH}} {value}" + (f"   ({tag})" if tag else ""))
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


def _config(options: argparse.Namespace) -> RunConfig:
    path = Path(options.method) if options.method.endswith(".py") else None
    plan = planned_study(
        options.profile,
        1,
        [path] if path else [],
        options.overrides,
        variants=True,
        newer=True,
    )
    entry = plan.entry(path.stem if path else options.method)
    models = entry.models or [m.key for m in plan.models]
    if options.model is not None and options.model not in models:
        shown = f"`sgpo list models --profile {options.profile}`"
        raise ValueError(unknown("model", options.model, models, shown))
    config = entry.config(options.model or models[0], plan.seeds[0])
    check_reaches(options.overrides, [config])
    return config


def status_command(options: argparse.Namespace) -> int:
    """``sgpo status``: one line a cell or analysis: finished, published (results without the local
    samples or weights that they were made from), started, failed, missing."""
    results = options.out
    path = results / "study.json"
    if not path.exists():
        profile_module(options.profile)  # an unknown one is the mistake to name
        start = f"bash reproduce.sh --profile {options.profile} --out {results}"
        raise ValueError(f"{path}: no study here yet; start one with `{start}`")
    plan, runs = read_json(path), results / "runs"
    if not isinstance(plan, dict) or "cells" not in plan:
        raise ValueError(f"{path}: does not describe a study; remove it and repeat")
    published = stored_runs(results)
    states = {
        c["run_id"]: _cell_state(inside(runs, c["run_id"]), c["run_id"] in published)
        for c in plan["cells"]
    }
    states |= {a["run_id"]: _analysis_state(results, a) for a in plan.get("analyses", [])}
    beside = [p for p in runs.glob("*") if p.is_dir() and p.name not in states]
    counts: dict[str, int] = {}
    for run_id, state in states.items():
        counts[state] = counts.get(state, 0) + 1
        print(f"{run_id:40} {state}")
    for path in sorted(beside):
        state = _cell_state(path, path.name in published)
        if state in ("failed", "started"):  # of `sgpo train`; finished ones are only counted
            print(f"{path.name:40} {state}, beside the plan")
    print(f"{results}: " + ", ".join(f"{n} {state}" for state, n in sorted(counts.items())))
    if beside:
        print(f"{len(beside)} runs beside the plan, of other settings or commands")
    return 0


def _cell_state(run_dir: Path, published: bool) -> str:
    if is_finished(run_dir):
        return "finished"
    if published:
        return "published"
    if (run_dir / "failed.json").exists():
        return "failed"
    return "started" if run_dir.exists() else "missing"


def _analysis_state(results: Path, entry: dict) -> str:
    path = result_path(results, entry["run_id"])
    if path.exists() and sorted(read_json(path)["inputs"]) == sorted(entry["inputs"]):
        local = all(is_finished(results / "runs" / run_id) for run_id in entry["inputs"])
        return "finished" if local else "published"
    return "failed" if failure_path(results, entry["run_id"]).exists() else "missing"
