"""Reads ``results/<profile>`` into the records of ``benchmarks.store.records`` and checks them, or
into tidy frames.

Every inconsistency that would make a table compare unlike things is an error of one line, raised
here, before any number is computed. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.config import Benchmark, address_of
from benchmarks.store import stats
from benchmarks.store.records import Analysis, PlannedRun, Run, Study
from benchmarks.store.runs import (
    SCORES,
    StoredRun,
    StudyError,
    metric_table,
    read_object,
    read_table,
    stored_runs,
    verdict_table,
)


def load_study(results_dir: Path) -> Study:
    """The study under ``results_dir`` (``results/<profile>``), checked for consistency.

    Raises:
        StudyError: no or malformed study.json; unequal suite versions,
            problem sets or protocols within one benchmark.
        stats.StatsError: sample or problem counts that differ from the benchmark's.
    """
    planned = Study.read(results_dir)
    version = planned.suite_version
    runs, failures = _load_runs(results_dir, planned.cells, planned.benchmarks, version)
    return replace(
        planned,
        runs=runs,
        failures=failures | _analysis_failures(results_dir, planned.analyses),
        analyses=tuple(_load_analysis(results_dir, a, version) for a in planned.analyses),
    )


def load_frame(results_dir: Path | str) -> pd.DataFrame:
    """All judged samples of the runs below ``results_dir``, one row each, to group and plot.

    Columns: ``run_id``, ``model``, ``method``, ``benchmark`` (categories), ``seed``, ``problem``
    and ``sample`` (int, from 0), ``correct`` (bool), ``reason`` (category: correct, wrong,
    no_answer, truncated, timeout or error), ``answer`` (category: equal symbols are equal answers
    among the samples of one run and problem, ``.`` is none; missing where answers were not kept).
    A base model's run has seed 0 and counts for all seeds.
    """
    return _frame(results_dir, "verdicts", verdict_table)


def load_metrics(results_dir: Path | str) -> pd.DataFrame:
    """All training steps of the runs below ``results_dir``, one row each: ``run_id``, ``model``,
    ``method``, ``seed``, ``step``, and a column a metric, missing where a run does not log it."""
    return _frame(results_dir, "metrics", metric_table)


def _frame(
    results_dir: Path | str, name: str, make: Callable[[Sequence[StoredRun]], pa.Table]
) -> pd.DataFrame:
    results_dir = Path(results_dir)
    runs = stored_runs(results_dir)
    if not runs:
        raise StudyError(f"{results_dir}: no ended run there; name a directory like results/mini")
    tables = []
    if any(run.published for run in runs.values()):
        whole = read_table(results_dir, name)
        kept = pa.array([run_id for run_id, run in runs.items() if run.published], pa.string())
        tables.append(whole.filter(pc.is_in(whole["run_id"].cast(pa.string()), kept)))
    fresh = [run for run in runs.values() if not run.published]
    if fresh or not tables:
        tables.append(make(fresh))
    joined = pa.concat_tables(tables, promote_options="permissive")
    return joined.unify_dictionaries().to_pandas()


def _load_runs(
    root: Path, cells: tuple[PlannedRun, ...], benchmarks: tuple[Benchmark, ...], version: int
) -> tuple[dict[str, Run], dict[str, str]]:
    # Calibration runs and runs of other configurations lie beside the grid; the content address
    # in the name keeps them out of every table.
    stored = stored_runs(root)
    planned = {cell.run_id: cell for cell in cells}
    runs = {
        run_id: _load_run(run, planned[run_id], benchmarks, version)
        for run_id, run in stored.items()
        if run_id in planned
    }
    failures: dict[str, str] = {}
    for path in sorted((root / "runs").glob("*/failed.json")):
        run_id = path.parent.name
        if run_id in planned and run_id not in runs:
            error = str(read_object(path).get("error", "no reason stored"))
            failures[run_id] = error.splitlines()[0] if error else "no reason stored"
    check_columns(runs, benchmarks)
    return runs, failures


def _load_run(
    stored: StoredRun, cell: PlannedRun, benchmarks: tuple[Benchmark, ...], version: int
) -> Run:
    result = stored.object("result.json")
    check_result(stored, cell, result, version)
    tables = {}
    if stored.has(SCORES):
        tables = check_scores(stored.object(SCORES), stored.run_id, benchmarks, version)
    correct = {
        b.key: stats.correct_matrix(
            tables[b.key]["verdicts"],
            num_problems=b.num_problems,
            k=b.k,
            where=f"runs/{stored.run_id}/scores.json, {b.key}",
        )
        for b in benchmarks
        if b.key in tables
    }
    answers = {
        key: stats.answer_codes(
            table["answers"], correct[key], where=f"runs/{stored.run_id}/scores.json, {key}"
        )
        for key, table in tables.items()
        if "answers" in table
    }
    return Run(
        cell=cell,
        stored=stored,
        config_hash=str(result.get("config_hash", "")),
        status=result["status"],
        diverged_reason=result.get("diverged_reason"),
        train_seconds=float(result.get("train_seconds") or 0.0),
        eval_seconds=float(result.get("eval_seconds") or 0.0),
        num_steps=int(result.get("num_steps") or 0),
        num_samples=result.get("num_samples"),
        sampled_tokens=int(result.get("sampled_tokens") or 0),
        correct=correct,
        answers=answers,
        protocols={key: table["protocol"] for key, table in tables.items()},
        problem_sets={key: table["problem_set_sha256"] for key, table in tables.items()},
        environment=stored.object("environment.json"),
    )


def _load_analysis(root: Path, planned: Analysis, version: int) -> Analysis:
    """``planned`` with what its file holds; as it is where there is no file."""
    path = root / "analyses" / f"{planned.run_id}.json"
    if not path.exists():
        return planned
    stored = read_object(path)
    if stored.get("suite_version") != version:
        raise StudyError(
            f"analyses/{path.name} has suite version {stored.get('suite_version')}, study.json has "
            f"{version}; remove the file and run the study again"
        )
    lacking = {"run_id", "inputs", "result"} - set(stored)
    if lacking or stored["run_id"] != planned.run_id:
        raise StudyError(
            f"analyses/{path.name} is not the analysis {planned.run_id}; remove the file and run "
            "the study again"
        )
    return replace(planned, result=stored["result"], made_from=tuple(stored["inputs"]))


def _analysis_failures(root: Path, planned: tuple[Analysis, ...]) -> dict[str, str]:
    paths = {a.run_id: root / "analyses" / f"{a.run_id}.failed.json" for a in planned}
    return {
        run_id: str(read_object(path).get("error", "no reason stored"))
        for run_id, path in paths.items()
        if path.exists()
    }


# What may stand in a table beside another run ----------------------------------------------------

# Keys of config.json that are not the config itself.
ADDED = ("run_id", "config_hash", "settings_class", "parent", "weights")


def stored_hash(run: StoredRun, result: Mapping[str, Any]) -> str:
    """The content address that the run's stored config, parent, packages, method source and weights
    give: what ``benchmarks.config.Cell.hash`` computed when the run was planned."""
    config, source = run.object("config.json"), run.content("method.py")
    parent = config.get("parent")
    return address_of(
        {key: value for key, value in config.items() if key not in ADDED},
        method_source=hashlib.sha256(source).hexdigest() if source else None,
        parent=parent.rpartition("-")[2] if parent else None,
        packages=run.object("environment.json").get("packages"),
        suite_version=result.get("suite_version"),
        weights=config.get("weights", {}),
    )


def check_result(run: StoredRun, cell: PlannedRun, result: Mapping[str, Any], version: int) -> None:
    """Raises StudyError unless result.json is of the planned run, of this suite version, ended,
    and beside the config that the run is named after."""
    where = f"runs/{run.run_id}"
    planned = {"run_id": cell.run_id, "model": cell.model, "method": cell.method}
    if cell.seed is not None:  # a base model's result counts for all seeds, whatever it names
        planned["seed"] = cell.seed
    for name, value in planned.items():
        if result.get(name) != value:
            raise StudyError(
                f"{where}/result.json has {name} {result.get(name)!r}, study.json plans "
                f"{value!r}; remove the run and repeat it"
            )
    if result.get("suite_version") != version:
        raise StudyError(
            f"{where}/result.json has suite version {result.get('suite_version')}, study.json has "
            f"{version}; versions must not be mixed in one table: remove the run and repeat it"
        )
    if result.get("status") not in ("finished", "diverged"):
        raise StudyError(
            f"{where}/result.json has status {result.get('status')!r}; allowed are finished and "
            "diverged"
        )
    found, named = stored_hash(run, result), run.run_id.rpartition("-")[2]
    if {found, str(result.get("config_hash"))} != {named}:
        raise StudyError(
            f"{where}: its config.json and packages give the hash {found}, result.json has "
            f"{result.get('config_hash')}, its name {named}; the run is not the one its name "
            "says: remove it and repeat it"
        )


def check_scores(
    scores: Mapping[str, Any], run_id: str, benchmarks: tuple[Benchmark, ...], version: int
) -> dict[str, Any]:
    """Benchmark key -> what scores.json stores for it; StudyError if it is of another run or suite
    version, of an unknown benchmark, incomplete, or has another number of samples."""
    where = f"runs/{run_id}/scores.json"
    if scores.get("run_id") != run_id:
        raise StudyError(f"{where} is of run {scores.get('run_id')!r}; evaluate the run again")
    if scores.get("suite_version") != version:
        raise StudyError(
            f"{where} has suite version {scores.get('suite_version')}, study.json has {version}; "
            "versions must not be mixed in one table: evaluate the run again"
        )
    known = {b.key: b for b in benchmarks}
    tables = scores.get("benchmarks", {})
    unknown = sorted(set(tables) - set(known))
    if unknown:
        raise StudyError(
            f"{where} scores benchmark {unknown[0]!r}, which is not in study.json; "
            f"allowed are {', '.join(known)}"
        )
    for key, table in tables.items():
        lacking = {"k", "verdicts", "protocol", "problem_set_sha256"} - set(table)
        if lacking:
            raise StudyError(f"{where}, {key}: {min(lacking)} is missing; evaluate the run again")
        if table["k"] != known[key].k:
            raise StudyError(
                f"{where}, {key}: k is {table['k']}, study.json asks for {known[key].k}; "
                "evaluate the run again"
            )
    return tables


def check_columns(runs: Mapping[str, Run], benchmarks: tuple[Benchmark, ...]) -> None:
    """One benchmark column, one problem set and one protocol; one table, one set of package
    versions; else StudyError naming two runs that differ."""
    for benchmark in benchmarks:
        scored = [run for run in runs.values() if benchmark.key in run.accuracy]
        for run in scored[1:]:
            for what, first, other in (
                ("problem_set_sha256", scored[0].problem_sets, run.problem_sets),
                ("protocol", scored[0].protocols, run.protocols),
            ):
                if first[benchmark.key] != other[benchmark.key]:
                    raise StudyError(
                        f"{benchmark.key}: runs {scored[0].cell.run_id} and {run.cell.run_id} "
                        f"differ in {what} and cannot share a column; evaluate one of them again"
                    )
    everything = list(runs.values())
    for run in everything[1:]:
        first, other = (r.environment.get("packages", {}) for r in (everything[0], run))
        for name in sorted(first.keys() | other.keys()):
            if first.get(name) != other.get(name):
                raise StudyError(
                    f"runs {everything[0].cell.run_id} and {run.cell.run_id} were made with "
                    f"{name} {first.get(name)} and {other.get(name)} and cannot share a table; "
                    "remove one of them and repeat it"
                )
