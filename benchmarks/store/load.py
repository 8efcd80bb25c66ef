"""Reads ``results/<profile>`` into the records of ``benchmarks.store.records`` and checks them.

Every inconsistency that would make a table compare unlike things is an error of one line, raised
here, before any number is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.config import Benchmark
from benchmarks.store import stats, votes
from benchmarks.store.records import (
    Analysis,
    PlannedRun,
    Run,
    Study,
    StudyError,
    read_object,
)
from benchmarks.store.run_checks import check_columns, check_result, check_scores


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


def _load_runs(
    root: Path, cells: tuple[PlannedRun, ...], benchmarks: tuple[Benchmark, ...], version: int
) -> tuple[dict[str, Run], dict[str, str]]:
    planned = {cell.run_id: cell for cell in cells}
    runs: dict[str, Run] = {}
    failures: dict[str, str] = {}
    for path in sorted((root / "runs").glob("*")):
        if path.name.startswith(".") or not path.is_dir():
            continue
        # Calibration runs and runs of other configurations live beside the grid; the content
        # address in the name keeps them out of every table.
        if path.name not in planned:
            continue
        if (path / "result.json").exists():
            runs[path.name] = _load_run(path, planned[path.name], benchmarks, version)
        elif (path / "failed.json").exists():
            error = str(read_object(path / "failed.json").get("error", "no reason stored"))
            failures[path.name] = error.splitlines()[0] if error else "no reason stored"
    check_columns(runs, benchmarks)
    return runs, failures


def _load_run(path: Path, cell: PlannedRun, benchmarks: tuple[Benchmark, ...], version: int) -> Run:
    result = read_object(path / "result.json")
    check_result(path, cell, result, version)
    scores = read_object(path / "scores.json") if (path / "scores.json").exists() else None
    tables = check_scores(scores, path.name, benchmarks, version) if scores else {}
    correct = {
        b.key: stats.correct_matrix(
            tables[b.key]["verdicts"],
            num_problems=b.num_problems,
            k=b.k,
            where=f"runs/{path.name}/scores.json, {b.key}",
        )
        for b in benchmarks
        if b.key in tables
    }
    return Run(
        cell=cell,
        path=path,
        config_hash=str(result.get("config_hash", "")),
        status=result["status"],
        diverged_reason=result.get("diverged_reason"),
        train_seconds=float(result.get("train_seconds") or 0.0),
        eval_seconds=float(result.get("eval_seconds") or 0.0),
        num_steps=int(result.get("num_steps") or 0),
        num_samples=result.get("num_samples"),
        sampled_tokens=int(result.get("sampled_tokens") or 0),
        correct=correct,
        answers=_answers(tables, correct, path.name),
        protocols={key: table["protocol"] for key, table in tables.items()},
        problem_sets={key: table["problem_set_sha256"] for key, table in tables.items()},
        environment=read_object(path / "environment.json"),
    )


def _answers(
    tables: Mapping[str, Any], correct: Mapping[str, np.ndarray], run_id: str
) -> dict[str, np.ndarray]:
    return {
        key: votes.answer_codes(
            table["answers"], correct[key], where=f"runs/{run_id}/scores.json, {key}"
        )
        for key, table in tables.items()
        if "answers" in table
    }


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
