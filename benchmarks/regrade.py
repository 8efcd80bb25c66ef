"""Checks on what is stored: samples judged anew, tables recomputed from runs."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import build


def regrade_paths(paths: Sequence[Path]) -> int:
    """Judge every sample of files or run directories anew; 1 when a verdict changed."""
    from benchmarks.evaluate import regrade

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
    """Rebuild the tables of ``results`` elsewhere from its stored runs and compare; 1 if any
    differs from what is stored."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / results.name
        shutil.copytree(results, copy, ignore=shutil.ignore_patterns("cache", "samples", "model"))
        shutil.rmtree(copy / "tables", ignore_errors=True)
        if (results.parent / "paper").is_dir():
            shutil.copytree(results.parent / "paper", Path(scratch) / "paper")
        build(copy)
        names = sorted(p.name for p in (copy / "tables").iterdir())
        stored = sorted(p.name for p in (results / "tables").iterdir())
        _, differing, missing = filecmp.cmpfiles(
            copy / "tables", results / "tables", names, shallow=False
        )
    wrong = sorted({*differing, *missing, *(set(stored) - set(names))})
    for name in wrong:
        print(f"{results / 'tables' / name}: is not what the stored runs give")
    print(f"{len(names) - len(wrong)} of {len(names)} tables are what the stored runs give")
    return 1 if wrong else 0
