"""What a stored run must be before its numbers may stand in a table beside another run's.

Every violation is a StudyError of one line that names the run, or both runs. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.config import Benchmark, addressed
from benchmarks.store.records import PlannedRun, Run, StudyError, read_object
from sgpo.core.config import config_hash
from sgpo.core.files import sha256_of

# Keys of config.json that are not the config itself.
ADDED = ("run_id", "config_hash", "settings_class", "parent")


def stored_hash(run_dir: Path, result: Mapping[str, Any]) -> str:
    """The content address that the run's stored config, parent, packages and method source give:
    what ``benchmarks.config.Cell.hash`` computed when the run was planned."""
    config = read_object(run_dir / "config.json")
    parent, source = config.get("parent"), run_dir / "method.py"
    return config_hash(
        {
            "method_source": sha256_of(source) if source.exists() else None,
            "config": addressed({k: value for k, value in config.items() if k not in ADDED}),
            "parent": parent.rpartition("-")[2] if parent else None,
            "packages": read_object(run_dir / "environment.json").get("packages"),
            "suite_version": result.get("suite_version"),
        }
    )


def check_result(run_dir: Path, cell: PlannedRun, result: Mapping[str, Any], version: int) -> None:
    """Raises StudyError unless result.json is of the planned run, of this suite version, ended,
    and beside the config that the run is named after."""
    where = f"runs/{run_dir.name}"
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
    found, named = stored_hash(run_dir, result), run_dir.name.rpartition("-")[2]
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
