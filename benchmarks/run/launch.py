"""What the command line does with a study: plan, run, train one, evaluate one, tell the state."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.analyses import ANALYSES, AnalysisTask, analysis_tasks
from benchmarks.config import Cell, Plan, unknown
from benchmarks.data.sources import record_disjointness
from benchmarks.plan import preflight
from benchmarks.plan.cost import print_plan
from benchmarks.plan.slurm import write_scripts
from benchmarks.profiles.overrides import check_budgets, check_overrides, check_reaches
from benchmarks.profiles.planned import planned_study
from benchmarks.report import build as report
from benchmarks.run.checkpoint import print_scores
from benchmarks.run.progress import StudyProgress, clock, expected_cost
from benchmarks.run.regime import calibration_cells, record_regimes
from benchmarks.run.study import Outcome, Task, is_done, needs, run_study, write_plan
from benchmarks.run.torchrun import run_together
from benchmarks.store import experiments, records
from benchmarks.store.locks import locked
from benchmarks.store.records import SGPO_VARIANTS, read_object
from sgpo.core.distributed import launched_by_torchrun, select_device
from sgpo.core.files import read_json, write_text
from sgpo.core.runlog import environment

MEGABYTES_PER_CELL = 2.5  # weights, resume states and samples of a mini run, measured


def study_command(options: argparse.Namespace) -> int:
    """``sgpo study``: run the grid that ``options`` ask for, or print it."""
    study = asked_for(options, options.out)
    options.jobs = options.jobs or default_jobs(study)
    run = dry_run if options.dry_run else launch_study
    return run(study, options.out, options)


def slurm_command(options: argparse.Namespace) -> int:
    """``sgpo slurm``: write the scripts of the cells that ``options`` ask for."""
    results = options.results or Path("results") / options.profile
    study = asked_for(options, results)
    return write_scripts(options, selected(study, results, options), results)


def asked_for(options: argparse.Namespace, results: Path) -> Plan:
    """The planned study, with the own methods and problems that ``options`` name and those that
    the study.json of ``results`` remembers."""
    listed = _listed(results)
    study = planned_study(
        options.profile,
        options.seeds,
        _with_remembered(options.method_file, listed.get("methods", ())),
        options.overrides,
        variants=wants_variants(options, results),
        newer=bool(set(options.methods or ()) & set(experiments.NEWER)),
        models=options.models,
        problems=_with_remembered(options.problems, listed.get("benchmarks", ())),
    )
    check_budgets(study, options.overrides)
    return study


def _listed(results: Path) -> dict[str, Any]:
    """What study.json says; nothing where there is none yet."""
    path = results / "study.json"
    return read_object(path) if path.exists() else {}


def _with_remembered(files: Sequence[Path], listed: Sequence[dict[str, Any]]) -> list[Path]:
    """``files`` and those of ``listed`` entries of study.json, each name once; one that is gone is
    left out and said."""
    found = {path.stem: path for path in files}
    if len(found) < len(files):
        raise ValueError(f"two files share a name: {', '.join(map(str, files))}; rename one")
    for entry in listed:
        if entry.get("file") and entry["key"] not in found:
            if Path(entry["file"]).is_file():
                found[entry["key"]] = Path(entry["file"])
            else:
                print(f"{entry['key']} leaves the study: {entry['file']} is gone")
    return list(found.values())


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
    methods = _listed(results).get("methods", ())
    return any(entry["key"] in SGPO_VARIANTS or entry.get("extra") for entry in methods)


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
            shown = f"`sgpo list models --profile {study.name}`"
            raise ValueError(unknown("model", name, models, shown))
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
    preflight.check(unfinished(chosen, results), results)
    if launched_by_torchrun():
        outcome, first = run_together(chosen, results, options.rank_timeout, study)
        return conclude(outcome, console) if first else int(not outcome.ok)
    for device in {cell.config.device for cell in chosen}:
        select_device(device)  # a GPU that is not there is said once, not cell by cell
    with locked(results):
        cells: list[Task] = [*chosen, *selected_analyses(study, options)]
        write_plan(study, results)
        with StudyProgress(cells, console, results / "runs") as progress:
            limit = getattr(options, "time_limit", None) or math.inf
            outcome = run_study(cells, results, options.jobs, progress, time.time() + limit)
        console.print("writing the report", highlight=False)
        write_plan(study, results)
        record_regimes(study, results)
        record_disjointness(study, results)
        summary = report.build(results, options.only)
        done = [c for c in cells if c.run_id in outcome.started]
        _log_launch(results, done, options.jobs, time.monotonic() - began)
    console.print(summary.text(), markup=False, highlight=False, soft_wrap=True)
    print_table1(results, console)
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
    if outcome.left:
        console.print(
            f"out of time with {len(outcome.left)} cells and analyses left: "
            + " ".join(outcome.left),
            markup=False,
            soft_wrap=True,
        )
        console.print(f"to go on: {' '.join(map(shlex.quote, sys.argv))}", soft_wrap=True)
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
        print_plan(cells, unfinished(cells, results))
        return 0
    cells += selected_analyses(study, options)
    left = unfinished(cells, results)
    for cell in cells:
        state = "to run" if cell in left else "finished"
        print(f"{cell.run_id:40} {state:9} about {clock(expected_cost(cell))} on one core")
    cost = {c.run_id: expected_cost(c) for c in left}
    # No cell is split over jobs: what waits for each other takes its time however many there are.
    chains = [cost[c.run_id] + sum(cost.get(n.run_id, 0.0) for n in needs(c)) for c in left]
    seconds = max(sum(cost.values()) / options.jobs, max(chains, default=0.0))
    print(
        f"{len(left)} of {len(cells)} cells and analyses to run: about {clock(seconds)} with "
        f"{options.jobs} jobs, {MEGABYTES_PER_CELL * len(left):.0f} MB of disk"
    )
    return 0


def print_table1(results: Path, console: Console) -> None:
    """Table 1 of a study as far as it was run: accuracy in percent by method and benchmark."""
    path = results / "tables" / "table1.csv"
    if not path.exists():
        return
    rows = [row for row in records.read_rows(path) if row["mean"] != records.NOT_RUN]
    names = list(dict.fromkeys(row["benchmark"] for row in rows))
    table = Table("model", "method", *names, title="Accuracy in percent")
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        mean = f"{float(row['mean']):.1f}"
        cells.setdefault((row["model"], row["method"]), {})[row["benchmark"]] = mean
    for (model, method), means in cells.items():
        table.add_row(model, method, *(means.get(name, "") for name in names))
    if cells:
        console.print(table)


def unfinished(tasks: Sequence[Task], results: Path) -> list[Task]:
    """Those of ``tasks`` that are left to run here."""
    return [task for task in tasks if not is_done(task, results)]


def train_command(options: argparse.Namespace) -> int:
    """``sgpo train``: one method on one model, with its warm-up if that is missing."""
    results = options.out
    path = Path(options.method) if options.method.endswith(".py") else None
    check_overrides(options.overrides, one_run=True)
    study = planned_study(
        options.profile,
        options.seed + 1,
        [path] if path else [],
        options.overrides,
        variants=True,
        newer=True,
        models=[options.model],
        problems=options.problems,
    )
    entry = study.entry(path.stem if path else options.method)
    models = [m.key for m in study.models + study.extra_models]
    if options.model not in models:
        shown = f"`sgpo list models --profile {options.profile}`"
        raise ValueError(unknown("model", options.model, models, shown))
    config, parent = entry.config(options.model, options.seed), None
    if config.init == "warmup":
        parent = Cell(study.entry(entry.parent).config(options.model, options.seed))
    cell = Cell(config, parent)
    check_reaches(options.overrides, [c.config for c in (cell, parent) if c])
    chain = [c for c in (parent, cell) if c]
    preflight.check(unfinished(chain, results), results)
    first = True
    if launched_by_torchrun():
        outcome, first = run_together(chain, results, options.rank_timeout)
    else:
        select_device(config.device)
        with locked(results), StudyProgress(chain, runs=results / "runs") as progress:
            outcome = run_study(chain, results, 1, progress)
    if not first:
        return 0 if outcome.ok else 1
    if cell.run_id in outcome.finished:
        directory = results / "runs" / cell.run_id
        print_scores(read_json(directory / "scores.json"))
        print(f"run directory: {directory}")
    return conclude(outcome, Console())
