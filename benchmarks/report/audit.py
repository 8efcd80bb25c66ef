"""``sgpo audit``: everything stored is recomputed from what it came from; any mismatch fails.

Tables, claims and the report come from verdict letters (scores.json), letters from the samples
where they are on this machine, a run's address from its config, files from their checksums. What
cannot be checked because it is not here is counted and named, never passed over in silence.
"""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.report.build import build
from benchmarks.store.load import load_study, stored_hash
from benchmarks.store.records import GRADERS_FILE, Study
from benchmarks.store.runs import (
    LABELS,
    PROBLEMS_FILE,
    SCORES,
    TABLES,
    StoredRun,
    StudyError,
    published_runs,
    read_object,
    read_table,
    stored_runs,
)
from benchmarks.store.stats import StatsError

# Runs of one model and seed that start from the same weights must have had the same ones.
SHARED = ("start_weights", "prompt", "evaluation_data")
PAGES = ("CLAIMS.md", "REPORT.md", "bands.json")
# Whether one thing was right, None where it is not here to be looked at; and what was wrong.
Rows = Sequence[dict[str, Any]]
Findings = Iterator[tuple[bool | None, str]]


def audit(
    results: Path,
    recomputed: Callable[[Rows, int], dict[str, Any]],
    problem_table: Callable[[Sequence[int]], pd.DataFrame],
    graded: Callable[[Rows], dict[str, Any]] | None = None,
) -> int:
    """Print every check of ``results`` (``results/<profile>``); 1 when one fails, else 0.

    Args:
        recomputed: (samples of a suite, samples a problem) -> what scores.json must say of them;
            asked only for samples that are here.
        problem_table: worlds -> what problems.parquet must say of them; asked only for a miniature.
        graded: samples of a suite -> what graders.json must say of them; None: it is not checked.

    Raises:
        store.StudyError: the directory holds no study.
    """
    study = Study.read(results)
    planned, version = {cell.run_id for cell in study.cells}, study.suite_version
    grid, trials = stored_runs(results), stored_runs(results / "tuning")
    runs = [*grid.values(), *trials.values()]
    checks = {
        "planned runs have a result": _present(planned, runs),
        "runs are what their names, configs and results say": _identities(runs, version),
        "files have their checksums": _checksums(runs),
        "verdict letters follow from the samples": _letters(runs, recomputed),
        "runs that are compared share weights, prompts and data": _origins(grid, planned),
        "published tables are what their runs' files give": _published(results),
        "runs may share a table": _together(results),
        "problems are those of their worlds": _problems(study, problem_table),
        "tables, claims and report follow from the runs": _artefacts(results),
        "tuning.csv follows from the trials": _tuning(results, trials),
    }
    if graded:
        checks["other graders' verdicts follow from the samples"] = _grades(results, grid, graded)
    failed = [name for name, findings in checks.items() if not _print(name, findings)]
    sampled = sum(bool(run.sampled()) for run in runs)
    print(
        f"{results}: {len(runs)} runs; tables recomputed from full samples in {sampled} of them, "
        f"from the stored verdict letters in {len(runs) - sampled}"
    )
    if not graded and (results / GRADERS_FILE).exists():
        print(f"{results / GRADERS_FILE}: not recomputed; --regrade does, where texts are")
    return 1 if failed else 0


def _print(name: str, findings: Findings) -> bool:
    """One line a check and one a complaint; whether all was right."""
    found = list(findings)
    wrong = [complaint for ok, complaint in found if ok is False]
    right, absent = sum(ok is True for ok, _ in found), sum(ok is None for ok, _ in found)
    not_here = f", {absent} not stored here" if absent else ""
    print(f"{'FAIL' if wrong else 'ok  '} {name}: {right} right, {len(wrong)} wrong{not_here}")
    for complaint in wrong:
        print(f"     {complaint}")
    return not wrong


def _present(planned: set[str], runs: Sequence[StoredRun]) -> Findings:
    found = {run.run_id for run in runs}
    for run_id in planned:
        yield True if run_id in found else None, run_id


def _identities(runs: Sequence[StoredRun], version: int) -> Findings:
    """The content address in a run's name is that of its stored config, parent and packages; its
    result is of this model, method and seed, and of this suite version, as its scores are."""
    for run in runs:
        config, result = run.object("config.json"), run.object("result.json")
        found, name = stored_hash(run, result), run.run_id.rpartition("-")[2]
        same = {found, config["config_hash"], result["config_hash"], name} == {found}
        yield same, f"{run.path}: the stored config gives {found}, not what names say"
        filed = [result.get(label) for label in LABELS]
        same = filed == [run.run_id, *(config[label] for label in LABELS[1:])]
        yield same, f"{run.run_id}: filed under {filed}"
        for file in (f for f in ("result.json", SCORES) if run.has(f)):
            made = run.object(file).get("suite_version")
            yield made == version, f"{run.path / file}: suite version {made}"


def _checksums(runs: Sequence[StoredRun]) -> Findings:
    """Files are those that were there when the run ended."""
    for run in runs:
        stored: dict[str, str] = run.object("result.json").get("sha256", {})
        if not stored:
            yield None, run.run_id
        for name, digest in stored.items():
            found, path = run.digest(name), run.path / name
            # Weights and samples stay where the run was made; everything else is published.
            stays = name.partition("/")[0] in ("model", "samples")
            ok = None if stays and (not found or digest.endswith("not hashed")) else found == digest
            yield ok, f"{path}: {'was changed after the run' if found else 'is missing'}"


def _letters(
    runs: Sequence[StoredRun], recomputed: Callable[[Rows, int], dict[str, Any]]
) -> Findings:
    """scores.json is what the samples say."""

    def same(rows: Rows, stored: dict[str, Any]) -> bool:
        found = recomputed(rows, stored["k"])
        return all(found[name] == stored.get(name) for name in found)

    for run in runs:
        yield from _of_samples(run, run.path / SCORES, run.object(SCORES)["benchmarks"], same)


def _grades(
    results: Path, grid: Mapping[str, StoredRun], graded: Callable[[Rows], dict[str, Any]]
) -> Findings:
    path = results / GRADERS_FILE
    for run_id, suites in (read_object(path)["runs"] if path.exists() else {}).items():
        run = grid.get(run_id, StoredRun(results / "runs" / run_id))
        where = f"{path}, {run_id}"
        yield from _of_samples(run, where, suites, lambda rows, stored: graded(rows) == stored)


def _of_samples(
    run: StoredRun, where: Any, suites: Mapping[str, Any], same: Callable[[Rows, Any], bool]
) -> Findings:
    """What is stored of each suite is what its samples give, where these are here."""
    here = set(run.sampled())
    for key, stored in suites.items():
        ok = same(run.samples(key), stored) if key in here else None
        yield ok, f"{where}: {key} is not what its samples give"


def _origins(grid: Mapping[str, StoredRun], planned: set[str]) -> Findings:
    """Runs of one model, seed and starting point began from the same weights, prompts and data."""
    first: dict[tuple, tuple[str, dict[str, Any]]] = {}
    for run_id, run in grid.items():
        if run_id not in planned:
            continue
        if not run.has("provenance.json"):
            yield None, run_id
            continue
        config, record = run.object("config.json"), run.object("provenance.json")
        parent = config["parent"]
        left = grid[parent].object("result.json").get("sha256", {}) if parent in grid else {}
        for name, digest in record["start_weights"].items():
            if f"model/{name}" in left:
                same = left[f"model/{name}"] == digest
                yield same, f"{run_id} did not start from the weights {parent} left"
        group = (config["model"], config["seed"])
        for beside, names in (
            ((*group, str(parent)), SHARED),
            ((*group, str(config["data"]), "training data"), ("training_data",)),
        ):
            other, expected = first.setdefault(beside, (run_id, record))
            for name in names:
                same = _asked(record.get(name)) == _asked(expected.get(name))
                yield same, f"{run_id} and {other} differ in {name}"


def _asked(record: Any) -> Any:
    """``record``, of a prompt without the hash of its spec's fields, which a release may rename:
    chat template and token ids of a probe say what was asked."""
    if not isinstance(record, dict):
        return record
    return {name: value for name, value in record.items() if name != "spec_sha256"}


def _published(results: Path) -> Findings:
    """Each column that is no file of a run (labels, numbers of problems and samples, ``correct``,
    ``prior`` and the like) follows from those files."""
    for root in (results, results / "tuning"):
        runs = [*published_runs(root).values()]
        for name, make in TABLES.items() if runs else ():
            path = root / f"{name}.parquet"
            try:
                expected, stored = make(runs), read_table(root, name)
            except ValueError as error:
                yield False, f"{path}: {error}"
                continue
            same = expected.column_names == stored.column_names
            yield same, f"{path}: has columns {stored.column_names}"
            for column in expected.column_names if same else ():
                left, right = (_plain(table[column]) for table in (expected, stored))
                yield left.equals(right), f"{path}: {column} is not what the runs' files give"


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """``column`` without its encoding, and with nulls for numbers that equal nothing."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        return pc.if_else(pc.is_nan(column), None, column)
    return column


def _together(results: Path) -> Findings:
    """Runs may share a table; where they may not, nothing can be rebuilt from them either."""
    try:
        for run_id in load_study(results).runs:
            yield True, run_id
    except (StudyError, StatsError) as error:
        yield False, str(error)


def _problems(study: Study, problem_table: Callable[[Sequence[int]], pd.DataFrame]) -> Findings:
    """What is said of the problems of each benchmark is what their worlds say."""
    own = [b.key for b in study.benchmarks if not b.file]
    if not study.miniature or not own:
        return
    expected, stored = problem_table(study.seeds), study.problems.reset_index()
    for key in own:
        sides = [side[side["benchmark"] == key] for side in (expected, stored)]
        if any(map(len, sides)):
            left, right = (side.sort_values(["seed", "problem"]).to_dict("list") for side in sides)
            yield left == right, f"{study.root / PROBLEMS_FILE}: {key} is not what its worlds say"


def _artefacts(results: Path) -> Findings:
    try:
        total, wrong = differing_artefacts(results)
    except ValueError as error:  # a damaged file of a run: the other checks still count
        yield False, str(error)
        return
    yield from ((True, "") for _ in range(total - len(wrong)))
    for name in wrong:
        yield False, f"{results / name}: is not what the stored runs give"


def _tuning(results: Path, trials: Mapping[str, StoredRun]) -> Findings:
    """Every trial in tuning.csv (of another model tuning-MODEL.csv) has the settings and the
    development accuracy of its run, and of each method the rate with the highest mean is chosen."""
    for path in sorted(results.glob("tuning*.csv")):
        rows = pd.read_csv(path)
        for method, mine in rows.groupby("method"):
            means = mine.groupby("learning_rate")["dev_accuracy"].mean()
            chosen = mine.groupby("learning_rate")["chosen"].all()
            rates = sorted({*mine["learning_rate"][mine["chosen"]].tolist()})
            same = rates == [*means.index[chosen]] and len(rates) == 1
            same = same and means[rates[0]] > means.max() - 1e-9
            yield same, f"{path}: of {method}, {rates} is marked chosen, not the best"
        for row in rows.to_dict("records"):
            if row["run_id"] in trials:
                yield from _trial(row, trials[row["run_id"]], f"{path}: trial {row['trial']}")
            else:
                yield None, row["run_id"]


def _trial(row: Mapping[str, Any], run: StoredRun, where: str) -> Findings:
    suites, config = run.object(SCORES)["benchmarks"], run.object("config.json")
    yield set(suites) == {"minidev"}, f"{run.run_id}: a trial saw {', '.join(suites)}"
    shares = [word.count("c") / len(word) for word in suites["minidev"]["verdicts"]]
    accuracy = round(sum(shares) / len(shares), 5)
    same = abs(accuracy - row["dev_accuracy"]) < 2e-5
    yield same, f"{where} has {accuracy}, the table says otherwise"
    made = (config["method"], config["train"]["learning_rate"], config["seed"])
    same = made == (row["method"], row["learning_rate"], row["seed"])
    yield same, f"{where} was made with {made}, the table says otherwise"


# Tables and pages, rebuilt ------------------------------------------------------------------------


def check_report(results: Path) -> int:
    """Print which artefacts of ``results`` are not what its stored runs give; 1 if any, else 0."""
    total, wrong = differing_artefacts(results)
    for name in wrong:
        print(f"{results / name}: is not what the stored runs give")
    print(f"{total - len(wrong)} of {total} tables and pages are what the stored runs give")
    return 1 if wrong else 0


def differing_artefacts(results: Path) -> tuple[int, list[str]]:
    """Rebuild the tables and pages of ``results`` elsewhere from its stored runs and compare.

    Figures and report.html, which holds them, are not made: their bytes depend on the fonts of the
    machine.

    Returns:
        How many files were compared, and the names of those that differ, are missing or should
        not be there.
    """
    Study.read(results)  # says what is wrong where this is no study
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / results.name
        shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache", "samples", "model"))
        shutil.rmtree(copy / "tables", ignore_errors=True)
        for other in results.resolve().parent.iterdir():  # what a page says of studies beside it
            if other.is_dir() and other.name != results.name:
                (Path(scratch) / other.name).symlink_to(other)
        try:
            build(copy, figures=False)
        except ValueError as error:
            raise StudyError(str(error).replace(str(copy), str(results))) from error
        names, stored = _compared(copy), _compared(results)
        _, differing, missing = filecmp.cmpfiles(copy, results, names, shallow=False)
    return len(names), sorted({*differing, *missing, *(set(stored) - set(names))})


def _compared(results: Path) -> list[str]:
    tables = sorted(f"tables/{path.name}" for path in (results / "tables").glob("*"))
    return [*tables, *(name for name in PAGES if (results / name).exists())]
