"""Reads ``results/<profile>`` into the records of ``benchmarks.store.records`` and checks them, or
into tidy frames.

Every inconsistency that would make a table compare unlike things is an error of one line, raised
here, before any number is computed. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.config import address_of
from benchmarks.store import stats
from benchmarks.store.records import Analysis, PlannedRun, Run, Study
from benchmarks.store.runs import (
    SCORES,
    TABLES,
    StoredRun,
    StudyError,
    benchmark_and_budget,
    read_object,
    read_table,
    stored_runs,
)

# Keys of config.json that are not the config itself.
ADDED = ("run_id", "config_hash", "settings_class", "parent", "weights")
# What a Run has of result.json.
RESULT = ("status", "diverged_reason", "train_seconds", "eval_seconds", "num_steps", "num_samples",
          "sampled_tokens")  # fmt: skip


def load_study(results_dir: Path) -> Study:
    """The study under ``results_dir`` (``results/<profile>``), checked for consistency.

    Raises:
        StudyError: no or malformed study.json; unequal suite versions, problem sets or protocols
            within one benchmark.
        stats.StatsError: sample or problem counts that differ from the benchmark's.
    """
    study = Study.read(results_dir)
    # Calibration runs and runs of other configurations lie beside the grid; the content address
    # in the name keeps them out of every table.
    stored = stored_runs(results_dir)
    runs = {c.run_id: _run(stored[c.run_id], c, study) for c in study.cells if c.run_id in stored}
    check_columns(runs.values())
    failed = {c.run_id: results_dir / "runs" / c.run_id / "failed.json" for c in study.cells}
    failed |= {
        a.run_id: results_dir / "analyses" / f"{a.run_id}.failed.json" for a in study.analyses
    }
    failures = {
        run_id: str(read_object(path).get("error") or "no reason stored").splitlines()[0]
        for run_id, path in failed.items()
        if run_id not in runs and path.exists()
    }
    analyses = tuple(_analysis(results_dir, a, study.suite_version) for a in study.analyses)
    return replace(study, runs=runs, failures=failures, analyses=analyses)


def load_frame(results_dir: Path | str) -> pd.DataFrame:
    """All judged samples of the runs below ``results_dir``, one row each, to group and plot.

    Columns: ``run_id``, ``model``, ``method``, ``benchmark`` (categories), ``seed``, ``budget``,
    ``problem`` and ``sample`` (int, from 0), ``correct`` (bool), ``reason`` (category: correct,
    wrong, no_answer, truncated, timeout or error), ``answer`` (category: equal symbols are equal
    answers among the samples of one run and problem, ``.`` is none; missing where answers were not
    kept). In the miniature a seed is a world, with problems of its own. ``budget``: training steps
    over the study's own number when the weights were judged; tables show budget 1. A base model
    outside of the miniature has one run, of seed 0, that counts for all seeds.
    """
    return _frame(results_dir, "verdicts")


def load_metrics(results_dir: Path | str) -> pd.DataFrame:
    """All training steps of the runs below ``results_dir``, one row each: ``run_id``, ``model``,
    ``method``, ``seed``, ``step``, and a column a metric, missing where a run does not log it."""
    return _frame(results_dir, "metrics")


def load_ledger(results_dir: Path | str) -> pd.DataFrame:
    """What SGPO's runs below ``results_dir`` distilled, a row a run, ``type`` and ``place`` of
    tokens: number of ``tokens``, the ``kl`` that they offered and the part of it above delta,
    ``kl_masked``, summed over the run; ``prior`` of the type, ``token_class`` of the place."""
    return _frame(results_dir, "ledger")


def _frame(results_dir: Path | str, name: str) -> pd.DataFrame:
    results_dir = Path(results_dir)
    runs = stored_runs(results_dir)
    if not runs:
        raise StudyError(f"{results_dir}: no ended run there; name a directory like results/mini")
    parts = []
    if kept := [run_id for run_id, run in runs.items() if run.published]:
        whole = read_table(results_dir, name)
        parts.append(whole.filter(pc.is_in(whole["run_id"].cast(pa.string()), pa.array(kept))))
    if fresh := [run for run in runs.values() if not run.published]:
        parts.append(TABLES[name](fresh))
    return pa.concat_tables(parts, promote_options="permissive").unify_dictionaries().to_pandas()


def _run(stored: StoredRun, cell: PlannedRun, study: Study) -> Run:
    result = stored.object("result.json")
    check_result(stored, result, study.suite_version)
    tables = check_scores(stored, study) if stored.has(SCORES) else {}
    where = f"runs/{stored.run_id}/scores.json"
    known = {b.key: b for b in study.benchmarks}
    budgets, answers = {}, {}
    for key, table in tables.items():
        name, budget = benchmark_and_budget(key)
        matrix = stats.correct_matrix(
            table["verdicts"],
            num_problems=known[name].num_problems,
            k=table["k"],
            where=f"{where}, {key}",
        )
        budgets.setdefault(budget, {})[name] = matrix
        if budget == 1 and "answers" in table:
            answers[name] = stats.answer_codes(
                table["answers"], matrix.shape, where=f"{where}, {key}"
            )
    return Run(
        cell=cell,
        stored=stored,
        **{name: result.get(name) for name in RESULT} | _within_budget(stored),
        budgets=budgets,
        answers=answers,
        protocols={key: tables[key]["protocol"] for key in budgets.get(1.0, ())},
        problem_sets={key: tables[key]["problem_set_sha256"] for key in budgets.get(1.0, ())},
        environment=stored.object("environment.json"),
    )


def _within_budget(stored: StoredRun) -> dict[str, Any]:
    """What the training of the run's weights took, where it went on past their budget; else {}."""
    limit = (stored.object("config.json").get("train") or {}).get("budget_steps")
    rows = stored.metrics()[:limit] if limit else []
    if not rows:
        return {}
    return {
        "train_seconds": sum(row["seconds"] for row in rows),
        "num_steps": len(rows),
        "num_samples": rows[-1].get("num_samples"),
        "sampled_tokens": int(rows[-1].get("sampled_tokens", 0)),
    }


def _analysis(root: Path, planned: Analysis, version: int) -> Analysis:
    """``planned`` with what its file holds; as it is where there is no file."""
    path = root / "analyses" / f"{planned.run_id}.json"
    if not path.exists():
        return planned
    stored = read_object(path)
    if (made := stored["suite_version"]) != version:
        raise StudyError(
            f"analyses/{path.name} has suite version {made}, study.json has {version}; "
            "remove the file and run the study again"
        )
    return replace(planned, result=stored["result"], made_from=tuple(stored["inputs"]))


# What may stand in a table beside another run ----------------------------------------------------


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


def check_result(run: StoredRun, result: Mapping[str, Any], version: int) -> None:
    """Raises StudyError unless result.json is of this suite version and beside the config that the
    run is named after."""
    where = f"runs/{run.run_id}"
    if (made := result.get("suite_version")) != version:
        raise StudyError(
            f"{where}/result.json has suite version {made}, study.json plans {version}; they must "
            "not be mixed in one table: remove the run and repeat it"
        )
    found, named = stored_hash(run, result), run.run_id.rpartition("-")[2]
    if {found, str(result.get("config_hash"))} != {named}:
        raise StudyError(
            f"{where}: its config.json and packages give the hash {found}, result.json has "
            f"{result.get('config_hash')}, its name {named}; the run is not the one its name "
            "says: remove it and repeat it"
        )


def check_scores(run: StoredRun, study: Study) -> dict[str, Any]:
    """Benchmark key -> what scores.json stores for it; StudyError if it is of another run or
    suite version, of an unknown benchmark, or has another number of samples."""
    where, again = f"runs/{run.run_id}/scores.json", "evaluate the run again"
    scores, known = run.object(SCORES), {b.key: b for b in study.benchmarks}
    for name, value in (("run_id", run.run_id), ("suite_version", study.suite_version)):
        if (made := scores.get(name)) != value:
            raise StudyError(f"{where} has {name.replace('_', ' ')} {made}, not {value}; {again}")
    for key, table in scores["benchmarks"].items():
        benchmark = benchmark_and_budget(key)[0]
        if benchmark not in known:
            raise StudyError(
                f"{where} scores benchmark {benchmark!r}, which is not in study.json; allowed are "
                f"{', '.join(known)}"
            )
        if key in known and table["k"] != known[key].k:
            raise StudyError(
                f"{where}, {key}: k is {table['k']}, study.json asks for {known[key].k}; {again}"
            )
    return scores["benchmarks"]


def check_columns(runs: Iterable[Run]) -> None:
    """One benchmark column, one protocol, and one problem set a seed (a world has its own); one
    table, one set of package versions; else StudyError naming two runs that differ."""
    runs = list(runs)
    of_all = any(run.cell.seed is None for run in runs if run.accuracy)
    first: dict[tuple, tuple[str, Any]] = {}
    for run in runs:
        seed, run_id = None if of_all else run.cell.seed, run.cell.run_id
        facts = {("packages",): run.environment.get("packages", {})}
        for key in run.accuracy:
            facts[key, "protocol"] = run.protocols[key]
            facts[key, "problem_set_sha256", seed] = run.problem_sets[key]
        for fact, value in facts.items():
            other, expected = first.setdefault(fact, (run_id, value))
            if value == expected:
                continue
            if fact != ("packages",):
                raise StudyError(
                    f"{fact[0]}: runs {other} and {run_id} differ in {fact[1]} and cannot share a "
                    "column; evaluate one of them again"
                )
            name = min(n for n in {*value, *expected} if value.get(n) != expected.get(n))
            raise StudyError(
                f"runs {other} and {run_id} were made with {name} {expected.get(name)} and "
                f"{value.get(name)} and cannot share a table; remove one of them and repeat it"
            )
