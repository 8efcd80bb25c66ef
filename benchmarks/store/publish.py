"""Make a study small enough to keep in version control: ``sgpo publish``.

Every ended run below ``results/<profile>`` and its ``tuning`` becomes rows of four tables
(``benchmarks.store.runs``), and its directory goes. The numbers of metrics.jsonl lose all but their
first ``DIGITS`` significant digits; everything else is kept to the byte. result.json then holds the
checksums of the files as published, and under ``before_publishing`` those of the files as the run
wrote them. A directory that still holds weights or samples stays, for this machine to go on with
(``.gitignore`` leaves it out), with the same files as in the tables. ``--texts`` keeps what one
model's runs wrote in a fourth table.
"""

from __future__ import annotations

import hashlib
import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.config import unknown
from benchmarks.store.locks import locked
from benchmarks.store.records import Study
from benchmarks.store.runs import (
    LEDGER,
    METRICS,
    SAMPLES,
    SCORES,
    TABLES,
    TEXTS,
    StoredRun,
    StudyError,
    metrics_text,
    published_runs,
    read_object,
    sample_table,
    stored_runs,
)
from sgpo.core.config import canonical_json
from sgpo.core.files import read_jsonl, sha256_of, whole_directory, write_bytes, write_json

DIGITS = 6
BEFORE = "before_publishing"
MAX_BYTES = 4 * 2**20  # of a table's file; a larger table is a directory of parts
CHANGED = "was changed after the run; sgpo audit says more"
KEPT = ("model", "samples")  # what stays on the machine where the run was made
_LEVEL = 19  # of zstd: seconds a study, and a tenth smaller than at 9


def publish(results: Path) -> int:
    """Move every ended run below ``results`` into tables; how many. A second call changes nothing;
    one that was cut off is made up for by the next.

    Raises:
        StudyError: no study, or a file that is neither as its run left it nor as published.
        ValueError: another process writes to the study.
    """
    if not (results / "study.json").exists():
        raise StudyError(f"{results}: holds no study (study.json is absent)")
    with locked(results):
        return sum(_publish(root) for root in (results, results / "tuning"))


def keep_texts(results: Path, model: str) -> None:
    """Write samples.parquet: all that the runs of ``model`` wrote in the study's first world, or
    with its first seed, with every method of the main comparison.

    Raises:
        ValueError: no such model, or a run whose texts are not on this machine or were changed.
    """
    study = Study.read(results)
    if model not in (known := [m.key for m in study.models]):
        raise ValueError(unknown("model", model, known, f"{results / 'study.json'}"))
    stored = stored_runs(results)
    first = (study.seeds[0], None)
    cells = [c for m in study.methods for c in study.cells_of(model, m.key) if c.seed in first]
    runs = [stored[cell.run_id] for cell in cells if cell.run_id in stored]
    without = [run.run_id for run in runs if not run.sampled()]
    if without or not runs:
        raise ValueError(
            f"--texts {model}: the texts of {', '.join(without) or 'its runs'} are not here; "
            "publish where the study was run"
        )
    for run in runs:
        sums = {} if run.published else run.object("result.json").get("sha256", {})
        for name, digest in sums.items():
            if name.startswith("samples/") and run.digest(name) not in (digest, None):
                raise StudyError(f"{run.path / name}: {CHANGED}")
    with locked(results):
        _write_table(results, SAMPLES, sample_table(runs))


def _publish(root: Path) -> int:
    """``publish`` for the runs of one directory."""
    runs, known = stored_runs(root), published_runs(root)

    def held(run: StoredRun) -> bool:
        """Whether it stands in the tables already, and a directory stayed for its weights alone."""
        name, row = "result.json", known.get(run.run_id)
        return run.published or (row is not None and row.content(name) == run.content(name))

    fresh = [run for run in runs.values() if not held(run)]
    if not fresh:
        return 0
    for run in fresh:
        _shrink(run.path)
    for name, make in TABLES.items():
        _write_table(root, name, make(list(runs.values())))
    tables = published_runs(root)
    for run in runs.values():
        for name in (*TEXTS, SCORES, METRICS, LEDGER):
            if run.content(name) != tables[run.run_id].content(name):
                raise StudyError(
                    f"{run.path / name}: the tables do not give it back; the directory was kept"
                )
    for run in fresh:
        if not any((run.path / name).exists() for name in KEPT):
            shutil.rmtree(run.path)
    if not any((root / "runs").iterdir()):
        (root / "runs").rmdir()
    return len(fresh)


def _write_table(root: Path, name: str, table: pa.Table) -> None:
    content = _bytes(table)
    path = root / f"{name}.parquet"
    if path.is_dir():
        shutil.rmtree(path)
    if len(content) <= MAX_BYTES:
        write_bytes(path, content)
        return
    rows = max(1, table.num_rows * MAX_BYTES // len(content))
    path.unlink(missing_ok=True)
    with whole_directory(path) as folder:
        for number, start in enumerate(range(0, table.num_rows, rows)):
            write_bytes(folder / f"{number:03d}.parquet", _bytes(table.slice(start, rows)))


def _bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=_LEVEL)
    return buffer.getvalue()


def _shrink(run: Path) -> None:
    """The files of a run in the form that the tables give back, with their checksums."""
    result = read_object(run / "result.json")
    sums, before = dict(result.get("sha256", {})), dict(result.get(BEFORE, {}))
    new: dict[str, bytes] = {}
    for name in (METRICS, SCORES):
        path = run / name
        found = sha256_of(path) if path.exists() else None
        # To shorten a published file again would lose what result.json vouches for.
        if found is None or (name in before and found == sums[name]):
            continue
        if name in sums and found not in (sums[name], before.get(name)):
            raise StudyError(f"{path}: {CHANGED}")
        new[name] = _short(path)
        digest = hashlib.sha256(new[name]).hexdigest()
        if name in sums and digest != sums[name]:
            before.setdefault(name, sums[name])  # of the first call: the run's own
            sums[name] = digest
    if sums != result.get("sha256", {}):
        # First, so that after a crash each file has either of the two checksums.
        write_json(run / "result.json", result | {"sha256": sums, BEFORE: before})
    for name, content in new.items():
        write_bytes(run / name, content)


def _short(path: Path) -> bytes:
    """A file of a run as it is published."""
    if path.name == SCORES:
        return f"{canonical_json(read_object(path))}\n".encode()
    rows = read_jsonl(path)
    for row in rows:
        row |= {n: float(f"{v:.{DIGITS}g}") for n, v in row.items() if isinstance(v, float)}
    return metrics_text(rows)
