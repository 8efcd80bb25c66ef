"""``sgpo audit``: everything stored is recomputed from what it came from; any mismatch fails.

Tables, claims and the report come from verdict letters (scores.json), letters from the samples
where they are on this machine, a run's address from its config, files from their checksums. What
cannot be checked because it is not here is counted and named, never passed over in silence.
"""

from __future__ import annotations

import filecmp
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report.build import build
from benchmarks.store.load import load_frame, load_study, stored_hash
from benchmarks.store.records import Study, read_rows
from benchmarks.store.runs import (
    LABELS,
    SCORES,
    StoredRun,
    StudyError,
    read_object,
    stored_runs,
)
from benchmarks.store.stats import StatsError
from sgpo.core.files import inside, sha256_of

# Runs of one model and seed that start from the same weights must have had the same ones.
SHARED = ("start_weights", "prompt", "evaluation_data")

PAGES = ("CLAIMS.md", "REPORT.md")


@dataclass
class Check:
    """One thing that was looked at: how often it was right, what was wrong, what was not here."""

    name: str
    passed: int = 0
    wrong: list[str] = field(default_factory=list)
    absent: int = 0

    def add(self, ok: bool, complaint: str) -> None:
        if ok:
            self.passed += 1
        else:
            self.wrong.append(complaint)

    def line(self) -> str:
        state = "FAIL" if self.wrong else "ok  "
        absent = f", {self.absent} not stored here" if self.absent else ""
        return f"{state} {self.name}: {self.passed} right, {len(self.wrong)} wrong{absent}"


def audit(results: Path, recomputed: Callable[[Path, int], dict[str, Any]]) -> int:
    """Print every check of ``results`` (``results/<profile>``); 1 when one fails, else 0.

    Args:
        recomputed: (samples file, samples a problem) -> what scores.json must say of them; asked
            only for samples that are on this machine.

    Raises:
        store.StudyError: the directory holds no study.
    """
    planned, version = _plan(results)
    trials = stored_runs(results / "tuning")
    grid = stored_runs(results)
    runs = [*grid.values(), *trials.values()]
    checks = [_present(planned, runs), _addresses(runs), _checksums(runs), _versions(runs, version)]
    checks += [_letters(runs, recomputed), _origins(grid, planned), _labels(results)]
    together = _together(results)
    checks += [
        together,
        *([] if together.wrong else [_artefacts(results)]),
        _tuning(results, trials),
    ]
    for check in checks:
        print(check.line())
        for complaint in check.wrong:
            print(f"     {complaint}")
    sampled = sum((run.path / "samples").is_dir() for run in runs)
    print(
        f"{results}: {len(runs)} runs; tables recomputed from full samples in {sampled} of them, "
        f"from the stored verdict letters in {len(runs) - sampled}"
    )
    return 1 if any(check.wrong for check in checks) else 0


def _plan(results: Path) -> tuple[set[str], int]:
    """Run ids of the planned grid, and its suite version."""
    grid = read_object(results / "study.json")
    try:
        return {cell["run_id"] for cell in grid["cells"]}, grid["suite_version"]
    except (KeyError, TypeError) as error:
        raise StudyError(f"{results}/study.json does not describe a grid ({error})") from error


def _together(results: Path) -> Check:
    """Runs may share a table; where they may not, nothing can be rebuilt from them either."""
    check = Check("runs may share a table")
    try:
        check.passed = len(load_study(results).runs)
    except (StudyError, StatsError) as error:
        check.wrong.append(str(error))
    return check


def _present(planned: set[str], runs: list[StoredRun]) -> Check:
    check = Check("planned runs have a result")
    found = {run.run_id for run in runs}
    check.passed = len(planned & found)
    check.absent = len(planned - found)
    return check


def _addresses(runs: list[StoredRun]) -> Check:
    """The content address in a run's name is that of its stored config, parent and packages."""
    check = Check("config hash is that of the stored config")
    for run in runs:
        config, result = run.object("config.json"), run.object("result.json")
        found, name = stored_hash(run, result), run.run_id.rpartition("-")[2]
        named = {found, config["config_hash"], result["config_hash"], name}
        check.add(
            named == {found}, f"{run.path}: the stored config gives {found}, not what names say"
        )
    return check


def _checksums(runs: list[StoredRun]) -> Check:
    """Files are those that were there when the run ended."""
    check = Check("files have their checksums")
    for run in runs:
        stored: dict[str, str] = run.object("result.json").get("sha256", {})
        check.absent += not stored
        for name, digest in stored.items():
            path = inside(run.path, name)
            if name.partition("/")[0] in ("model", "samples"):
                # Weights and samples stay where the run was made; everything else is published.
                here = path.exists() and not digest.endswith("not hashed")
                found = sha256_of(path) if here else None
                check.absent += not here
            else:
                content = run.content(name)
                here, found = True, content and hashlib.sha256(content).hexdigest()
            if here:
                what = "was changed after the run" if found else "is missing"
                check.add(found == digest, f"{path}: {what}")
    return check


def _versions(runs: list[StoredRun], version: int) -> Check:
    check = Check(f"suite version is {version}")
    for run in runs:
        for name in ("result.json", SCORES):
            if run.has(name):
                found = run.object(name).get("suite_version")
                check.add(found == version, f"{run.path / name}: suite version {found}")
    return check


def _letters(runs: list[StoredRun], recomputed: Callable[[Path, int], dict[str, Any]]) -> Check:
    """scores.json is what the samples say."""
    check = Check("verdict letters follow from the samples")
    for run in runs:
        for key, stored in run.object(SCORES)["benchmarks"].items():
            path = inside(run.path / "samples", f"{key}.jsonl.gz")
            if not path.exists():
                check.absent += 1
                continue
            found = recomputed(path, stored["k"])
            same = all(found[name] == stored.get(name) for name in found)
            check.add(same, f"{run.path / SCORES}: {key} is not what {path.name} gives")
    return check


def _origins(grid: dict[str, StoredRun], planned: set[str]) -> Check:
    """Runs of one model, seed and starting point began from the same weights, prompts and data."""
    check = Check("runs that are compared share weights, prompts and data")
    first: dict[tuple, tuple[str, dict[str, Any]]] = {}
    for run_id, run in grid.items():
        if run_id not in planned:
            continue
        if not run.has("provenance.json"):
            check.absent += 1
            continue
        config, record = run.object("config.json"), run.object("provenance.json")
        parent = config["parent"]
        left = grid[parent].object("result.json").get("sha256", {}) if parent in grid else {}
        for name, digest in record["start_weights"].items():
            if f"model/{name}" in left:
                same = left[f"model/{name}"] == digest
                check.add(same, f"{run_id} did not start from the weights {parent} left")
        group = (config["model"], config["seed"], str(config["parent"]))
        other, expected = first.setdefault(group, (run_id, record))
        for name in SHARED:
            same = record[name] == expected[name]
            check.add(same, f"{run_id} and {other} differ in {name}")
        data = (*group[:2], str(config["data"]), "training data")
        other, expected = first.setdefault(data, (run_id, record))
        same = record.get("training_data") == expected.get("training_data")
        check.add(same, f"{run_id} and {other} differ in their training data")
    return check


def _artefacts(results: Path) -> Check:
    check = Check("tables, claims and report follow from the runs")
    try:
        total, wrong = differing_artefacts(results)
    except ValueError as error:  # a damaged file of a run: the other checks still count
        check.wrong = [str(error)]
        return check
    check.passed = total - len(wrong)
    check.wrong = [f"{results / name}: is not what the stored runs give" for name in wrong]
    return check


def _labels(results: Path) -> Check:
    """Model, method and seed beside each verdict are those that its run was configured with."""
    check = Check("verdicts are filed under their run's model, method and seed")
    runs = stored_runs(results)
    rows = load_frame(results)[list(LABELS)].drop_duplicates()
    for run_id, *found in rows.itertuples(index=False):
        config = runs[run_id].object("config.json")
        check.add(found == [config[name] for name in LABELS[1:]], f"{run_id}: filed under {found}")
    return check


def _tuning(results: Path, trials: dict[str, StoredRun]) -> Check:
    """Every trial in tuning.csv has the development accuracy of its run."""
    check = Check("tuning.csv follows from the trials")
    path = results / "tuning.csv"
    if not path.exists():
        return check
    for row in read_rows(path):
        if row["run_id"] not in trials:
            check.absent += 1
            continue
        suites = trials[row["run_id"]].object(SCORES)["benchmarks"]
        check.add(set(suites) == {"minidev"}, f"{row['run_id']}: a trial saw {', '.join(suites)}")
        shares = [v.count("c") / len(v) for v in suites["minidev"]["verdicts"]]
        accuracy = round(sum(shares) / len(shares), 5)
        same = abs(accuracy - float(row["dev_accuracy"])) < 2e-5
        check.add(same, f"{path}: trial {row['trial']} has {accuracy}, the table says otherwise")
    return check


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
        if (results.parent / "paper").is_dir():
            shutil.copytree(results.parent / "paper", Path(scratch) / "paper")
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
