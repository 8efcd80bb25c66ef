"""What the command line does with a study: plan it, say its cost, run it, run one cell of it."""

from __future__ import annotations

import argparse
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks.analyses import ANALYSES, MARKER, AnalysisTask, analysis_tasks
from benchmarks.config import Cell, Plan, unknown
from benchmarks.data.sources import record_disjointness
from benchmarks.plan import preflight
from benchmarks.plan.cost import print_plan
from benchmarks.plan.slurm import write_scripts
from benchmarks.profiles.overrides import check_budgets, check_reaches, small_sets
from benchmarks.profiles.planned import planned_keys, planned_run, planned_study, remembered
from benchmarks.report import build as report
from benchmarks.run.checkpoint import print_table, score_table
from benchmarks.run.given import check_own_problems
from benchmarks.run.progress import StudyProgress, clock, expected_cost, pretraining
from benchmarks.run.status import print_scoreboard
from benchmarks.run.study import Outcome, Task, needs, run_study, unfinished, write_plan
from benchmarks.run.torchrun import run_together
from benchmarks.run.tracking import check_tracker
from benchmarks.store import parcel, records
from benchmarks.store.locks import locked
from benchmarks.store.records import SGPO_VARIANTS
from benchmarks.store.runs import is_finished
from sgpo.core.distributed import launched_by_torchrun, select_device
from sgpo.core.files import read_json

MEGABYTES_PER_CELL = 2.5  # weights, resume states and samples of a mini run, measured
SECONDS_OF_REPORT = 40.0  # of results/mini on one core, measured


def study_command(options: argparse.Namespace) -> int:
    """``sgpo study``: run the grid that ``options`` ask for, or print it."""
    check_tracker(options.log)
    if options.import_from:
        _check_import(options)
        print("\n".join(parcel.take_in(options.import_from, options.out, options.profile)))
        return 0
    study = asked_for(options, options.out)
    options.jobs = options.jobs or default_jobs(study.cells())
    if options.dry_run:
        return dry_run(study, options.out, options)
    packed = _packed(selected(study, options), options)

    def export() -> None:
        planned = (options.out / "study.json").exists()
        if options.export and planned and _first_rank():
            print(parcel.export(options.out, options.export, options.words, *packed))

    try:
        code = launch_study(study, options.out, options)
    except BaseException:  # whatever went wrong: the machine may be gone in a minute
        try:
            export()
        except (ValueError, OSError) as error:  # not in place of what went wrong first
            print(f"sgpo: --export {options.export}: {error}", file=sys.stderr)
        raise
    export()
    return code


def _first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _check_import(options: argparse.Namespace) -> None:
    """ValueError for an option that an import would not heed."""
    for name in (word.partition("=")[0] for word in options.words if word.startswith("--")):
        if not any(option.startswith(name) for option in ("--import", "--out", "--profile")):
            raise ValueError(
                f"--import {options.import_from}: runs nothing and takes no {name}; beside it go "
                "--out and --profile"
            )


def _packed(
    cells: Sequence[Cell], options: argparse.Namespace
) -> tuple[dict[str, str | None], str | None]:
    """What ``--export`` packs: the asked-for runs, each with the one that it starts from, and the
    run that ``--export-weights`` means."""
    asked = {c.run_id: c.parent.run_id if c.parent else None for c in cells}
    name = options.export_weights
    if name is None:
        return asked, None
    if options.export is None:
        raise ValueError(f"--export-weights {name}: says what --export DIR takes along; give both")
    meant = [c.run_id for c in cells if name in (c.run_id, c.config.method)]
    if len(meant) != 1:
        found = f"means {len(meant)} runs, must mean one of: {' '.join(meant or asked)}"
        raise ValueError(f"--export-weights {name}: {found}")
    return asked, meant[0]


def slurm_command(options: argparse.Namespace) -> int:
    """``sgpo slurm``: write the scripts of the cells that ``options`` ask for."""
    results = options.results or Path("results") / options.profile
    study = asked_for(options, results)
    return write_scripts(options, selected(study, options), results)


def train_command(options: argparse.Namespace) -> int:
    """``sgpo train``: one method on one model, with its warm-up if that is missing."""
    check_tracker(options.log)
    results, name = options.out, (options.profile, options.method, options.model, options.seed)
    cell = planned_run(*name, options.overrides, options.problems)
    chain = [c for c in (cell.parent, cell) if c]
    _check(chain, results)
    if launched_by_torchrun():
        outcome, first = run_together(chain, results, options.rank_timeout, log=options.log)
        if not first:
            return 0 if outcome.ok else 1
    else:
        select_device(cell.config.device)
        with locked(results), StudyProgress(chain, runs=results / "runs") as progress:
            outcome = run_study(chain, results, 1, progress, log=options.log)
    if cell.run_id in outcome.finished:
        directory = results / "runs" / cell.run_id
        print_table(score_table(read_json(directory / "scores.json")))
        print(f"run directory: {directory}")
    return conclude(outcome)


# Which cells --------------------------------------------------------------------------------------


def asked_for(options: argparse.Namespace, results: Path) -> Plan:
    """The planned study, with the own methods and problems that ``options`` name and those that
    the study.json of ``results`` remembers.

    Variants of SGPO, experiments past the paper and extra models are in it with ``--all``, where
    an option names them or an artefact that needs them, and once study.json lists them: what was
    planned stays in the tables ("not run" where its runs are missing) until that file is removed.
    """
    study = planned_study(
        options.profile,
        options.seeds,
        remembered(results, "methods", options.method_file),
        options.overrides,
        variants=True,
        models=options.models,
        problems=remembered(results, "benchmarks", options.problems),
    )
    if not options.all:
        needed = _needed(study, options.only) if options.only else ()
        named = {key for need in needed for key in need} | planned_keys(results)
        named |= {*(options.methods or ()), *(options.models or ())}
        named |= {MARKER} if report.analyses(options.only or ()) else set()
        named |= {e.parent for e in study.methods if e.key in named}
        extra = _extras(study)
        study = replace(
            study,
            methods=tuple(e for e in study.methods if e.key in named or e.key not in extra),
            extra_models=tuple(m for m in study.extra_models if m.key in named),
        )
    check_reaches(options.overrides, [cell.config for cell in study.cells()])
    check_budgets(study, options.overrides)
    return study


def _extras(study: Plan) -> set[str]:
    """The methods of ``study`` that stay out of the main comparison."""
    return {e.key for e in study.methods if e.extra} | {*SGPO_VARIANTS}


def _needed(study: Plan, only: Sequence[str]) -> set[tuple[str, str]]:
    """(model, method) of every run behind the artefacts ``only``."""
    return report.needs(records.Study.planned(study, analyses=analysis_tasks(study)), only)


def selected(study: Plan, options: argparse.Namespace) -> list[Cell]:
    """The cells that the user asked for, with the runs they start from, in order.

    What is only planned because an earlier call asked for it is left out unless ``--all``,
    ``--methods``, ``--models`` or ``--only`` asks for it again.
    """
    names = _checked_names(study, options)
    needed = _needed(study, options.only) if options.only else None
    unasked = set() if options.all or options.only else _extras(study) - {*names["method"]}
    if not (options.all or options.only or names["model"]):
        unasked |= {m.key for m in study.extra_models}
    wanted: dict[str, Cell] = {}
    for cell in study.cells():
        config = cell.config
        fits = all(not asked or getattr(config, key) in asked for key, asked in names.items())
        if needed is not None:
            fits = fits and (config.model, config.method) in needed
        if fits and not {config.method, config.model} & unasked:
            for part in filter(None, (cell.parent, cell)):
                wanted.setdefault(part.run_id, part)
    if not wanted and not selected_analyses(study, options):
        raise ValueError(_nothing_planned(study, options))
    return list(wanted.values())


def _checked_names(study: Plan, options: argparse.Namespace) -> dict[str, list]:
    """Field of a config -> the values that the user asked for, [] for all. ValueError for a method,
    model or seed that the study does not have."""
    for name in options.methods or []:
        study.entry(name)
    models = [m.key for m in study.models + study.extra_models]
    for name in options.models or []:
        if name not in models:
            shown = f"`sgpo list models --profile {study.name}`"
            raise ValueError(unknown("model", name, models, shown))
    seeds = getattr(options, "only_seeds", None) or []
    for name in seeds:
        if name not in map(str, study.seeds):
            raise ValueError(f"unknown seed {name!r}: the study has {list(study.seeds)}")
    return {"method": options.methods or [], "model": options.models or [],
            "seed": [*map(int, seeds)]}  # fmt: skip


def _nothing_planned(study: Plan, options: argparse.Namespace) -> str:
    """Why no cell is meant, what is planned, and what to do."""
    if options.only and not _needed(study, options.only):
        only = ",".join(options.only)
        return (
            f"--only {only}: stands on no run of the grid; `sgpo report --only {only}` makes it "
            "from what is stored"
        )
    given = {"--methods": options.methods, "--models": options.models, "--only": options.only}
    asked = " ".join(f"{name} {','.join(names)}" for name, names in given.items() if names)
    placed: dict[str, list[str]] = {}
    for cell in study.cells():
        placed.setdefault(cell.config.method, [])
        if cell.config.model not in placed[cell.config.method]:
            placed[cell.config.method].append(cell.config.model)
    chosen = [m for m in options.methods or () if m in placed] or list(placed)
    planned = "; ".join(f"{method} on {', '.join(placed[method])}" for method in chosen)
    return f"{asked}: no run is both; planned: {planned}; leave one of the options out"


def selected_analyses(study: Plan, options: argparse.Namespace) -> list[AnalysisTask]:
    """The analyses behind the artefacts of ``--only``, or all of them with ``--all`` on the whole
    grid. Their runs are among what those artefacts need."""
    if options.only:
        keys = report.analyses(options.only)
    else:
        whole = options.all and not (options.methods or options.models)
        keys = set(ANALYSES) if whole else set()
    return [task for task in analysis_tasks(study) if task.key in keys]


# Running them -------------------------------------------------------------------------------------


def _check(cells: Sequence[Cell], results: Path) -> None:
    """ValueError with what stands in the way of what is left of ``cells``; says what was made
    smaller to fit."""
    left = unfinished(cells, results)
    preflight.check(left, results)
    if _first_rank():
        check_own_problems([cell.config for cell in left])
        for cell in left:
            if is_finished(results / "runs" / cell.run_id, weights=False):
                print(f"{cell.run_id} runs again: what is left needs its weights, not here")
        print("".join(f"{line}\n" for line in small_sets([cell.config for cell in left])), end="")


def default_jobs(cells: Sequence[Cell]) -> int:
    """Cells to run at a time: one a core, and one alone where a GPU is asked for."""
    on_cpu = all(cell.config.device == "cpu" for cell in cells)
    return (os.cpu_count() or 1) if on_cpu else 1


def launch_study(study: Plan, results: Path, options: argparse.Namespace) -> int:
    """Run the asked-for cells, then the report; 0 when every cell finished, else 1. Under torchrun
    all ranks run the cells together, and `sgpo report` makes the report afterwards."""
    console, chosen, log = Console(), selected(study, options), getattr(options, "log", None)
    _check(chosen, results)
    if launched_by_torchrun():
        outcome, first = run_together(chosen, results, options.rank_timeout, study, log)
        return conclude(outcome) if first else int(not outcome.ok)
    for device in {cell.config.device for cell in chosen}:
        select_device(device)  # a GPU that is not there is said once, not cell by cell
    with locked(results):
        tasks: list[Task] = [*chosen, *selected_analyses(study, options)]
        write_plan(study, results)
        with StudyProgress(tasks, console, results / "runs") as progress:
            deadline = deadline_of(options, SECONDS_OF_REPORT)
            outcome = run_study(tasks, results, options.jobs, progress, deadline, log)
        check_time(outcome, options)
        console.print("writing the report", highlight=False)
        write_plan(study, results)
        record_disjointness(study, results)
        summary = report.build(results, options.only)
    print(summary.text())
    print_scoreboard(results, console)
    return conclude(outcome)


def conclude(outcome: Outcome) -> int:
    """Name what failed, what is left and what is old; the exit code."""
    outcome.print_failures()
    if outcome.left:
        left = f"{len(outcome.left)} cells and analyses left: {' '.join(outcome.left)}"
        print(f"out of time with {left}\nto go on: {shlex.join(sys.argv)}")
    if outcome.outdated:
        print(
            f"{len(outcome.outdated)} finished runs were made by other source code and kept; "
            f"delete their directories to run them again: {' '.join(outcome.outdated)}"
        )
    return 0 if outcome.ok else 1


def deadline_of(options: argparse.Namespace, report: float) -> float:
    """When (of ``time.time``) runs must stop so that the whole command, from its start to the end
    of what takes ``report`` seconds behind them, takes no longer than ``--time-limit``. An export
    comes after the limit."""
    limit = getattr(options, "time_limit", None)
    if limit is None:
        return math.inf
    return options.began + limit - min(report, limit / 5)


def check_time(outcome: Outcome, options: argparse.Namespace) -> None:
    """ValueError when ``--time-limit`` was over before anything was begun: the same command would
    never get anywhere. What is begun does at least a step."""
    if outcome.left and not outcome.started:
        raise ValueError(
            f"--time-limit {options.time_limit:g}s: over before the first step; give more "
            f"({len(outcome.left)} cells and analyses left, nothing is lost)"
        )


def dry_run(study: Plan, results: Path, options: argparse.Namespace) -> int:
    """Print the grid with expected time, disk and GPU memory; nothing is run or written."""
    print_cells(selected(study, options), results, options.jobs, selected_analyses(study, options))
    return 0


def print_cells(
    cells: Sequence[Cell], results: Path, jobs: int, further: Sequence[AnalysisTask] = ()
) -> None:
    """``cells`` and what is ``further`` to do with their cost, and what training data they lack."""
    if cells and cells[0].config.checkpoint is not None:
        print_plan(cells, unfinished(cells, results))
    else:
        print_tasks([*cells, *further], results, jobs)
    for line in dict.fromkeys(preflight.training_sets([cell.config for cell in cells])):
        print(f"in the way: {line}")


def print_tasks(tasks: Sequence[Task], results: Path, jobs: int) -> None:
    """Every task with its state and expected time, and how long what is left takes."""
    left = unfinished(tasks, results)
    for task in tasks:
        state = "to run" if task in left else "finished"
        print(f"{task.run_id:40} {state:9} about {clock(expected_cost(task))} on one core")
    cost = {task.run_id: expected_cost(task) for task in left}
    # No cell is split over jobs: what waits for each other takes its time however many there are.
    chains = [cost[t.run_id] + sum(cost.get(n.run_id, 0.0) for n in needs(t)) for t in left]
    models = pretraining([t for t in left if isinstance(t, Cell)], results / "cache")
    whole = sum(cost.values()) + sum(models.values())
    seconds = max([whole / jobs, *chains, *models.values()])
    if models:
        shown = ", ".join(f"{model} {clock(cost)}" for model, cost in models.items())
        print(f"base models to be made first: about {shown} on one core")
    print(
        f"{len(left)} of {len(tasks)} cells and analyses to run: about {clock(seconds)} with "
        f"{jobs} jobs, {MEGABYTES_PER_CELL * len(left):.0f} MB of disk"
    )
