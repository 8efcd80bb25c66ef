"""What the command line does with a study: plan, run, train one, evaluate one, tell the state."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.analyses.planned import ANALYSES, AnalysisTask, analysis_tasks
from benchmarks.config import Cell, MethodEntry, Plan, RunConfig, load_method_file
from benchmarks.data.sources import record_disjointness
from benchmarks.plan import preflight
from benchmarks.plan.gpu_plan import print_plan
from benchmarks.profiles import profile_module
from benchmarks.profiles.overrides import overridden
from benchmarks.report import build as report
from benchmarks.run.progress import StudyProgress, clock, expected_cost
from benchmarks.run.regime import calibration_cells, record_regimes
from benchmarks.run.study import Outcome, run_study, write_plan
from benchmarks.run.tasks import Task, is_done
from benchmarks.run.torchrun import run_together
from benchmarks.store import experiments, records
from benchmarks.store.locks import locked
from benchmarks.store.records import SGPO_VARIANTS, read_object
from sgpo.core.distributed import launched_by_torchrun, select_device
from sgpo.core.files import write_text
from sgpo.core.runlog import environment

MEGABYTES_PER_CELL = 2.5  # weights, resume states and samples of a mini run, measured


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


def wants_variants(options: argparse.Namespace, results: Path) -> bool:
    """Whether the plan holds SGPO's variants.

    It does with ``--all``, when ``--methods`` or ``--only`` names something that needs them, and
    when the study.json of ``results`` lists one: once planned, a variant stays in the tables (as
    "not run" where its runs are missing) until study.json is removed.
    """
    named = set(options.methods or []) | set(options.only or [])
    named |= set(options.models or [])
    extended = {*SGPO_VARIANTS, *report.EXTENDED}
    extended |= {*experiments.methods(), *experiments.extra_models()}
    if options.all or named & extended:
        return True
    path = results / "study.json"
    if not path.exists():
        return False
    listed = read_object(path)["methods"]
    return any(entry["key"] in SGPO_VARIANTS or entry.get("extra") for entry in listed)


def user_method(study: Plan, path: Path) -> MethodEntry:
    """The grid entry of a user's method file: SFT+GRPO's recipe with the file's method in it."""
    planned = {entry.key for entry in study.methods} | set(SGPO_VARIANTS)
    if path.stem in planned | set(experiments.methods()):
        raise ValueError(
            f"method file {str(path)!r}: {path.stem!r} is a method of this profile already; "
            "rename the file"
        )
    module = load_method_file(path)
    template = study.entry("grpo").config

    def config(model: str, seed: int) -> RunConfig:
        return replace(template(model, seed), method=path.stem, settings=module.CONFIG())

    return MethodEntry(path.stem, getattr(module, "LABEL", path.stem), config)


def selected(study: Plan, results: Path, options: argparse.Namespace) -> list[Cell]:
    """The cells that the user asked for, with the runs they start from, in order.

    Variants of SGPO that are only planned because an earlier call asked for them are left out
    unless ``--all``, ``--methods`` or ``--only`` asks for them again.
    """
    for name in options.methods or []:
        study.entry(name)
    extra_model = {m.key for m in study.extra_models}
    models = [m.key for m in study.models + study.extra_models]
    for name in options.models or []:
        if name not in models:
            raise ValueError(f"unknown model {name!r}: must be one of {', '.join(models)}")
    only_seeds = getattr(options, "only_seeds", None)
    for name in only_seeds or []:
        if name not in map(str, study.seeds):
            raise ValueError(f"unknown seed {name!r}: the study has {list(study.seeds)}")
    needed = None
    if options.only:
        planned = records.Study.planned(study, analyses=analysis_tasks(study))
        needed = report.needs(planned, options.only)
    extra = {entry.key: entry.extra for entry in study.methods}
    wanted: dict[str, Cell] = {}
    for cell in study.cells():
        config = cell.config
        if options.methods and config.method not in options.methods:
            continue
        if options.models and config.model not in options.models:
            continue
        if only_seeds and str(config.seed) not in only_seeds:
            continue
        if needed is not None and (config.model, config.method) not in needed:
            continue
        if not (options.all or options.only) and (
            (not options.methods and (config.method in SGPO_VARIANTS or extra[config.method]))
            or (config.model in extra_model and config.model not in (options.models or []))
        ):
            continue
        if cell.parent:
            wanted.setdefault(cell.parent.run_id, cell.parent)
        wanted.setdefault(cell.run_id, cell)
    if not wanted and not selected_analyses(study, options):
        raise ValueError("no cell of the grid matches --methods, --models and --only")
    cells = list(wanted.values())
    if study.name == "mini" and not (options.only or options.methods or options.models):
        for model in study.models:  # condition 6 of the report's regime table
            cells += calibration_cells(model.key).values()
    return cells


def selected_analyses(study: Plan, options: argparse.Namespace) -> list[AnalysisTask]:
    """The analyses behind the artefacts of ``--only``, or all of them with ``--all`` on the whole
    grid. Their runs are among what those artefacts need."""
    if options.only:
        keys = report.analyses(options.only)
    else:
        whole = options.all and not (options.methods or options.models)
        keys = set(ANALYSES) if whole else set()
    return [task for task in analysis_tasks(study) if task.key in keys]


def launch_study(study: Plan, results: Path, options: argparse.Namespace) -> int:
    """Run the asked-for cells, then the report; 0 when every cell finished, else 1. Under torchrun
    all ranks run the cells together, and `sgpo report` makes the report afterwards."""
    console, began = Console(), time.monotonic()
    chosen = selected(study, results, options)
    preflight.check(chosen, results)
    if launched_by_torchrun():
        outcome, first = run_together(chosen, results, options.rank_timeout, study)
        return conclude(outcome, console) if first else int(not outcome.ok)
    for device in {cell.config.device for cell in chosen}:
        select_device(device)  # a GPU that is not there is said once, not cell by cell
    with locked(results):
        cells: list[Task] = [*chosen, *selected_analyses(study, options)]
        write_plan(study, results)
        with StudyProgress(cells, console) as progress:
            outcome = run_study(cells, results, options.jobs, progress)
        write_plan(study, results)
        record_regimes(study, results)
        record_disjointness(study, results)
        summary = report.build(results, options.only)
        done = [c for c in cells if c.run_id in outcome.started]
        _log_launch(results, done, options.jobs, time.monotonic() - began)
    console.print(summary.text(), markup=False, highlight=False)
    return conclude(outcome, console)


def default_jobs(study: Plan) -> int:
    """Cells to run at a time: one a core, and one alone where a GPU is asked for."""
    on_cpu = all(cell.config.device == "cpu" for cell in study.cells())
    return (os.cpu_count() or 1) if on_cpu else 1


def _log_launch(results: Path, done: list[Cell], jobs: int, seconds: float) -> None:
    """Append what this call ran and how long it took, with the machine, to launches.jsonl."""
    path = results / "launches.jsonl"
    before = path.read_text() if path.exists() else ""
    entry = {"cells_run": len(done), "jobs": jobs, "wall_seconds": round(seconds, 1)}
    write_text(path, before + json.dumps(entry | environment(), sort_keys=True) + "\n")


def conclude(outcome: Outcome, console: Console) -> int:
    """Name what failed; the exit code."""
    for run_id, why in outcome.failed.items():
        console.print(f"FAILED {run_id}: {why}", markup=False, highlight=False, soft_wrap=True)
    for run_id in outcome.blocked:
        console.print(f"not run {run_id}: its starting checkpoint failed", markup=False)
    if outcome.outdated:
        console.print(
            f"{len(outcome.outdated)} finished runs were made by other source code and kept; "
            "delete their directories to run them again: " + " ".join(outcome.outdated),
            markup=False,
            soft_wrap=True,
        )
    return 0 if outcome.ok else 1


def dry_run(study: Plan, results: Path, options: argparse.Namespace) -> int:
    """Print the grid with expected time, disk and GPU memory; nothing is run or written."""
    cells: list[Task] = selected(study, results, options)
    if cells and cells[0].config.checkpoint is not None:
        print_plan(cells, results)
        return 0
    cells += selected_analyses(study, options)
    left = [c for c in cells if not is_done(c, results)]
    for cell in cells:
        state = "to run" if cell in left else "finished"
        print(f"{cell.run_id:40} {state:9} about {clock(expected_cost(cell))} on one core")
    seconds = sum(map(expected_cost, left)) / options.jobs
    print(
        f"{len(left)} of {len(cells)} cells and analyses to run: about {clock(seconds)} with "
        f"{options.jobs} jobs, {MEGABYTES_PER_CELL * len(left):.0f} MB of disk, no GPU memory"
    )
    return 0
