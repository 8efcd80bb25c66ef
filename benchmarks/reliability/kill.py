"""kill -9 at moments spread over a study: does the same command then end with the same tables?

Damaged resume states, full disks and two studies in one directory are tests of their rooms; only
this takes a whole study and minutes. It is the quick study made as small as it gets, with resume
states after every step: dense in moments at which a kill matters.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.profiles.planned import planned_study
from benchmarks.run.cell import run_cell
from sgpo.core.files import read_jsonl

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "pretrain_steps=2",
    "train.num_steps=3",
    "train.problems_per_step=4",
    "train.checkpoint_every=1",
    "rollout.max_tokens=24",
    "evaluation.problem_limit=4",
    "evaluation.sample_limit=2",
    "evaluation.max_tokens=24",
)
STUDY_SECONDS = 900.0  # a small study takes seconds; anything near this limit hangs
SETTLE_SECONDS = 1.5  # for workers to notice that the launching process is gone
Say = Callable[[str], None]
Figures = dict[str, Any]


def kill(count: int, say: Say, seed: int = 5) -> tuple[Figures, bool]:
    """Passed if every study that was killed then ended with the tables of an undisturbed one, no
    finished run was lost, and at least half of the kills met a living study. Every second trial
    kills the launching process only, so that its workers have to notice; the others kill the whole
    process group, as a power cut would."""
    rng, late, problems = random.Random(seed), 0, []
    with tempfile.TemporaryDirectory(prefix="sgpo-kill-") as scratch:
        start, reference, out = (Path(scratch) / name for name in ("start", "reference", "trial"))
        cells = planned_study("quick", 1, overrides=OVERRIDES).cells()
        run_cell(next(c for c in cells if c.config.method == "base"), start, lambda *_: None)
        shutil.copytree(start, reference)
        seconds = _run(reference)
        expected = outcome_of(reference)
        for i in range(count):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(start, out)
            try:
                ended = _run(out, (i + rng.random()) / count * seconds, only_launcher=i % 2 == 0)
                late += ended is not None
                before = finished_runs(out)
                _run(out)
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                problems.append(f"trial {i}: {' '.join(str(error).split())}")
                say(f"{i + 1}/{count}: {error}")
                continue
            found, after = outcome_of(out), finished_runs(out)
            wrong = [n for n in {*expected, *found} if expected.get(n) != found.get(n)]
            wrong += [name for name, when in before.items() if after.get(name) != when]
            problems += [f"trial {i}: {', '.join(sorted(wrong))}"] if wrong else []
            say(f"{i + 1}/{count}: {'late' if ended else 'killed'}; {len(wrong)} files differ")
    figures = {
        "kills": count - late,
        "finished_with_identical_tables": count - late - len(problems),
        "came_too_late": late,
        "reference_seconds": round(seconds, 1),
        "files_compared": len(expected),
        "failures": problems,
        "seed": seed,
    }
    return figures, not problems and 2 * late <= count


def _run(out: Path, moment: float | None = None, *, only_launcher: bool = False) -> float | None:
    """The study of ``out``, started or continued: the seconds from its first run's opening to its
    end; None if it was killed, ``moment`` seconds after that opening. RuntimeError if it ends
    otherwise."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    chosen = [word for override in OVERRIDES for word in ("--set", override)]
    words = ["study", "--profile", "quick", "--seeds", "1", "--jobs", "1", *chosen]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cli", *words, "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for_a_run(out, process)
        opened = time.monotonic()
        _, said = process.communicate(timeout=STUDY_SECONDS if moment is None else moment)
    except subprocess.TimeoutExpired:
        if moment is None:
            raise
        process.kill()
        time.sleep(SETTLE_SECONDS if only_launcher else 0)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the study ended with {process.returncode}: {said[-500:]}")
    return time.monotonic() - opened


def _wait_for_a_run(out: Path, process: subprocess.Popen) -> None:
    """Wait until a run that is not finished has a directory, or the study has ended."""
    limit = time.monotonic() + STUDY_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        if {p.parent.name for p in out.glob("runs/*/config.json")} - {*finished_runs(out)}:
            return
        time.sleep(0.01)


def outcome_of(study: Path) -> dict[str, str]:
    """Everything of a study that must not depend on interruptions, as name -> text: every table
    but those with wall times, the claims, every run's verdicts, and the metrics of every step
    without their seconds."""
    tables = (p for p in (study / "tables").iterdir() if not p.name.startswith("budget"))
    found = {
        str(path.relative_to(study)): path.read_text()
        for path in (*tables, study / "CLAIMS.md", *study.glob("runs/*/scores.json"))
    }
    for path in study.glob("runs/*/metrics.jsonl"):
        steps = [row | {"seconds": 0} for row in read_jsonl(path)]
        found[str(path.relative_to(study))] = json.dumps(steps)
    return found


def finished_runs(study: Path) -> dict[str, int]:
    """Run id -> time of its result.json in nanoseconds, of every run that has ended."""
    return {p.parent.name: p.stat().st_mtime_ns for p in study.glob("runs/*/result.json")}
