"""Seconds until the command line answers, and until the report is rebuilt from stored runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.perf.common import in_rounds, spread, table, timed

TARGETS = {"sgpo --help": 0.4, "sgpo report": 60.0}  # seconds
RESULTS = Path(__file__).resolve().parents[2] / "results" / "mini"


def run(repeats: int) -> dict[str, Any]:
    """Measure and print; seconds as JSON values. Each call is a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "mini"
        copy.mkdir()
        for name in ("study.json", "regime.json", "tuning.csv", "runs", "tuning", "analyses"):
            if (RESULTS / name).exists():
                (copy / name).symlink_to(RESULTS / name)
        verbs = {"sgpo --help": ["--help"], "sgpo report": ["report", "--out", str(copy)]}
        variants = {k: partial(timed, partial(_call, arguments)) for k, arguments in verbs.items()}
        seconds = in_rounds(variants, min(repeats, 5), warmup=1)
    result = {
        "unit": "seconds",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "targets": TARGETS,
    }
    rows = [("command", "median s", "min s", "max s", "target")]
    for name, s in result["seconds"].items():
        cells = [f"{s[key]:.2f}" for key in ("median", "min", "max")]
        rows.append((name, *cells, f"<= {TARGETS[name]:g}"))
    print(table(rows), flush=True)
    return result


def _call(arguments: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "benchmarks.cli", *arguments], check=True, capture_output=True
    )
