"""Checks on what is stored: samples judged anew, tables recomputed from runs."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.build import build

PAGES = ("CLAIMS.md", "REPORT.md")


def regrade_paths(paths: Sequence[Path]) -> int:
    """Judge every sample of files or run directories anew; 1 when a verdict changed."""
    from benchmarks.run.evaluate import regrade

    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or directory")
        files += sorted(path.rglob("*.jsonl.gz")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no samples files (*.jsonl.gz) here")
    total = 0
    for file in files:
        rows, changed = regrade(file)
        correct = sum(row["correct"] for row in rows)
        print(f"{file}: {len(rows)} samples, {correct} correct, {changed} verdicts changed")
        total += changed
    return 1 if total else 0


def check_report(results: Path) -> int:
    """Print which artefacts of ``results`` are not what its stored runs give; 1 if any, else 0."""
    total, wrong = differing_artefacts(results)
    for name in wrong:
        print(f"{results / name}: is not what the stored runs give")
    print(f"{total - len(wrong)} of {total} tables and pages are what the stored runs give")
    return 1 if wrong else 0


def differing_artefacts(results: Path) -> tuple[int, list[str]]:
    """Rebuild the tables and pages of ``results`` elsewhere from its stored runs and compare.

    Figures and report.html, which holds them, are left out: their bytes depend on the fonts of the
    machine.

    Returns:
        How many files were compared, and the names of those that differ, are missing or should
        not be there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / results.name
        shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache", "samples", "model"))
        shutil.rmtree(copy / "tables", ignore_errors=True)
        if (results.parent / "paper").is_dir():
            shutil.copytree(results.parent / "paper", Path(scratch) / "paper")
        build(copy)
        names, stored = _compared(copy), _compared(results)
        _, differing, missing = filecmp.cmpfiles(copy, results, names, shallow=False)
    return len(names), sorted({*differing, *missing, *(set(stored) - set(names))})


def _compared(results: Path) -> list[str]:
    tables = sorted(f"tables/{path.name}" for path in (results / "tables").glob("*"))
    return [*tables, *(name for name in PAGES if (results / name).exists())]
