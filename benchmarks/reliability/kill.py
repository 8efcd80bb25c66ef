"""kill -9 at random moments of a whole study: does it always finish, with the same tables?

A reference study runs undisturbed. Then, a trial a moment: the same study is started afresh,
killed at that moment, and continued by the same command to its end. Moments are stratified from
the first run's opening to the end of the study (training, evaluation, grading and report alike;
the seconds of imports before hold no state) and drawn from one seed. Only a kill of a study that
was alive counts; where it had ended already (the machine has become faster), the trial is repeated
at the same share of the time that the study took then, at most ``MAX_REPEATS`` times in all.
Every second trial kills the launching process only, so that its workers have to notice; the
others kill the whole process group, as a power cut would.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import (
    STUDY_SECONDS,
    Say,
    copy_of,
    differences,
    finished_runs,
    must_finish,
    outcome_of,
    prepare_start,
    started_study,
)

WHAT = "kill -9 at random moments of a study, then the same command again"
SEED = 5
NUM_TRIALS = 40
MAX_REPEATS = 10  # attempts at one trial
SETTLE_SECONDS = 1.5  # for workers to notice that the launching process is gone


def run(count: int, say: Say, jobs: int = 1) -> tuple[dict[str, Any], bool]:
    """Figures of ``count`` trials and whether all of them passed."""
    with tempfile.TemporaryDirectory(prefix="sgpo-kill-") as scratch:
        root = Path(scratch)
        say("preparing the base model and the reference study")
        start = prepare_start(root / "start")
        reference = copy_of(start, root / "reference")
        with started_study(reference, jobs) as process:
            _wait_for_first_run(reference, process)
            opened = time.monotonic()
            code = process.wait()
            duration = time.monotonic() - opened
        must_finish(reference, jobs)  # nothing is left to do, or this says what is wrong
        if code != 0:
            raise RuntimeError(f"the reference study ended with {code} and finished when repeated")
        expected = outcome_of(reference)
        began = time.monotonic()
        rng = random.Random(SEED)
        trials = []
        for i in range(count):
            share = (i + rng.random()) / count
            trial, moment, duration = _alive_trial(
                lambda m, i=i: _trial(
                    copy_of(start, root / "trial"), m, i % 2 == 0, expected, jobs
                ),
                share,
                duration,
            )
            trials.append(trial)
            left = (time.monotonic() - began) / (i + 1) * (count - i - 1) / 60
            result = "same tables" if trial["same"] else trial["problem"]
            say(
                f"{i + 1}/{count}: killed after {moment:.1f} s ({trial['stage']}): {result}; "
                f"about {left:.0f} min left"
            )
    survived = sum(t["same"] for t in trials)
    stages = sorted({t["stage"] for t in trials})
    figures = {
        "kills": count,
        "finished_with_identical_tables": survived,
        "finished_runs_lost": sum(t["lost"] for t in trials),
        "reference_seconds": round(duration, 1),
        "files_compared": len(expected),
        "kills_by_stage": {s: sum(t["stage"] == s for t in trials) for s in stages},
        "seed": SEED,
        "failures": [t["problem"] for t in trials if t["problem"]],
    }
    return figures, survived == count and figures["finished_runs_lost"] == 0


def _alive_trial(
    attempt: Callable[[float], dict[str, Any] | float], share: float, duration: float
) -> tuple[dict[str, Any], float, float]:
    """The trial at ``share`` of a study's ``duration``, its moment, and the duration found last.

    Raises:
        RuntimeError: the study ended before the kill ``MAX_REPEATS`` times.
    """
    for _ in range(MAX_REPEATS):
        moment = share * duration
        trial = attempt(moment)
        if not isinstance(trial, float):
            return trial, moment, duration
        duration = trial
    raise RuntimeError(
        f"the study ended {MAX_REPEATS} times before its kill (last after {duration:.1f} s); keep "
        "the machine free of other work and run the script again"
    )


def _trial(
    out: Path, moment: float, only_launcher: bool, expected: dict[str, str], jobs: int
) -> dict[str, Any] | float:
    """Start the study in ``out``, kill it ``moment`` seconds after its first run was opened,
    continue it, compare; if it had ended well by then, the seconds that it took."""
    with started_study(out, jobs) as process:
        _wait_for_first_run(out, process)
        opened = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(moment)
            if code == 0:
                return time.monotonic() - opened
            problem = f"ended with {code} before the kill"
            return {"stage": stage_of(out), "same": False, "lost": 0, "problem": problem}
        if only_launcher:
            os.kill(process.pid, signal.SIGKILL)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stage = stage_of(out)
        time.sleep(SETTLE_SECONDS if only_launcher else 0)
    before = finished_runs(out)
    trial = {"stage": stage, "same": False, "lost": 0, "problem": ""}
    try:
        must_finish(out, jobs)
    except RuntimeError as error:
        return trial | {"problem": str(error)}
    after = finished_runs(out)
    trial["lost"] = sum(after.get(name) != when for name, when in before.items())
    changed = differences(expected, outcome_of(out))
    problem = f"differs in {', '.join(changed[:5])}" if changed else ""
    return trial | {"same": not changed, "problem": problem}


def _wait_for_first_run(out: Path, process: subprocess.Popen) -> None:
    """Wait until a run that is not finished has a directory, or the study has ended."""
    limit = time.monotonic() + STUDY_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        opened = {p.parent for p in out.glob("runs/*/config.json")}
        if opened - {p.parent for p in out.glob("runs/*/result.json")}:
            return
        time.sleep(0.01)


def stage_of(study: Path) -> str:
    """What a study was doing when it stopped, read off the files that it left."""
    if not (study / "study.json").exists():
        return "start-up"
    # A run directory without result.json is the one that was worked on (one job at a time).
    opened = [p for p in (study / "runs").iterdir() if not (p / "result.json").exists()]
    opened = [p for p in opened if (p / "config.json").exists()]
    if opened:
        run = max(opened, key=lambda p: p.stat().st_mtime_ns)
        if (run / "scores.json").exists():
            return "closing a run"
        if (run / "model").is_dir():
            return "evaluation and grading"
        return "training"
    planned = len(_planned(study))
    done = len(finished_runs(study))
    if done < planned:
        return "between runs"
    return "closing the study" if (study / "launches.jsonl").exists() else "report"


def _planned(study: Path) -> list[dict[str, Any]]:
    from sgpo.core.files import read_json

    return read_json(study / "study.json")["cells"]
