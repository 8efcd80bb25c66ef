"""What the reliability cases share: running the small study, comparing two, keeping outcomes."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sgpo.core.files import write_json
from sgpo.core.runlog import environment

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results/reliability")
STUDY_SECONDS = 900.0  # a small study takes seconds; anything near this limit hangs
Say = Callable[[str], None]


def study_command(out: Path, jobs: int = 1) -> list[str]:
    """The command that runs or continues the small study in ``out``."""
    module = "benchmarks.reliability.small_study"
    return [sys.executable, "-m", module, "--out", str(out), "--jobs", str(jobs)]


def child_environment() -> dict[str, str]:
    """This process's environment with one thread a worker and the suite importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "200"}


def run_study(out: Path, jobs: int = 1, **options: Any) -> subprocess.CompletedProcess[str]:
    """The small study in ``out``, run to its end; its exit code and output are the caller's."""
    return subprocess.run(
        study_command(out, jobs),
        capture_output=True,
        text=True,
        env=child_environment(),
        timeout=STUDY_SECONDS,
        **options,
    )


def must_finish(out: Path, jobs: int = 1) -> None:
    """Run the small study to its end; RuntimeError with its last lines if it does not."""
    done = run_study(out, jobs)
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise RuntimeError(f"the small study ended with {done.returncode}: {' | '.join(tail)}")


@contextlib.contextmanager
def started_study(out: Path, jobs: int = 1) -> Iterator[subprocess.Popen]:
    """The small study running in a process group of its own; the group is killed at the end."""
    process = subprocess.Popen(
        study_command(out, jobs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def prepare_start(directory: Path) -> Path:
    """``directory`` with the base model made and its run finished: what trials are copied from."""
    from benchmarks.reliability.small_study import small_study
    from benchmarks.run.cell import run_cell

    base = small_study().cells()[0]
    assert base.config.method == "base"
    run_cell(base, directory, lambda *_: None)
    return directory


def copy_of(source: Path, target: Path) -> Path:
    """``target`` as a copy of the study directory ``source``; what was there is removed."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target


def outcome_of(study: Path) -> dict[str, str]:
    """Everything of a study that must not depend on interruptions, as name -> text.

    Every table but those with wall times, the claims, every run's verdicts, and the metrics of
    every step without their seconds.
    """
    found = {
        f"tables/{path.name}": path.read_text()
        for path in sorted((study / "tables").iterdir())
        if not path.name.startswith("budget")
    }
    found["CLAIMS.md"] = (study / "CLAIMS.md").read_text()
    for run in sorted((study / "runs").iterdir()):
        found[f"{run.name}/scores.json"] = (run / "scores.json").read_text()
        if (run / "metrics.jsonl").exists():
            found[f"{run.name}/metrics.jsonl"] = _without_seconds(run / "metrics.jsonl")
    return found


def _without_seconds(path: Path) -> str:
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps([{k: v for k, v in s.items() if k != "seconds"} for s in steps])


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names whose text differs or that only one of the two has."""
    return sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))


def finished_runs(study: Path) -> dict[str, int]:
    """Run id -> time of its result.json in nanoseconds, of every run that has ended."""
    return {p.parent.name: p.stat().st_mtime_ns for p in study.glob("runs/*/result.json")}


def keep(case: str, what: str, figures: dict[str, Any], passed: bool, directory: Path) -> Path:
    """Write the outcome of a case with machine and commit to ``directory/case.json``; the path."""
    path = directory / f"{case}.json"
    content = {
        "case": case,
        "what": what,
        "passed": passed,
        "figures": figures,
        "environment": environment(),
    }
    write_json(path, content)
    return path


def rows_as_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """Write ``rows`` of equal keys to ``path``."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
