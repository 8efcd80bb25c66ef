"""Hurting a study: kills, full disks, two at once, damaged resume states; does it hold?

Every case is one loop: take a study that has its base model, disturb it, let the same command go on
to the end, compare with an undisturbed one. Nothing finished may be lost, and tables, claims,
verdicts and metrics must be those of the undisturbed study. The study is the quick one made as
small as it gets, with resume states after every step: dense in moments at which a kill matters.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.config import Cell
from benchmarks.profiles.planned import planned_study
from benchmarks.run.cell import run_cell
from sgpo.core.files import read_json, read_jsonl, sha256_of
from sgpo.core.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "pretrain_steps": 2,
    "train.num_steps": 3,
    "train.problems_per_step": 4,
    "train.checkpoint_every": 1,
    "rollout.max_tokens": 24,
    "evaluation.problem_limit": 4,
    "evaluation.sample_limit": 2,
    "evaluation.max_tokens": 24,
}
OVERRIDES = [f"{key}={value}" for key, value in SETTINGS.items()]
STUDY_SECONDS = 900.0  # a small study takes seconds; anything near this limit hangs
SETTLE_SECONDS = 1.5  # for workers to notice that the launching process is gone
ROOM_KIB = 200_000
LONGEST_DELAY = 6.0  # between two studies
ENDED = "after the end"  # where a kill came too late
REFUSAL = "another study is running in this directory"
RESUME_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
Say = Callable[[str], None]
Figures = dict[str, Any]
Trials = list[Figures]


def cell_of(method: str) -> Cell:
    """The planned run of ``method``."""
    cells = planned_study("quick", 1, overrides=OVERRIDES).cells()
    return next(cell for cell in cells if cell.config.method == method)


@contextlib.contextmanager
def started_study(out: Path) -> Iterator[subprocess.Popen]:
    """The small study of ``out``, started or continued with one thread a worker, in a process group
    of its own; the group is killed at the end."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    chosen = [word for override in OVERRIDES for word in ("--set", override)]
    words = ["study", "--profile", "quick", "--seeds", "1", "--jobs", "1", *chosen]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.cli", *words, "--out", str(out)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "200"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=STUDY_SECONDS)


def run_study(out: Path) -> subprocess.CompletedProcess[str]:
    """The small study of ``out``, run to its end; its exit code and output are the caller's."""
    with started_study(out) as process:
        stdout, stderr = process.communicate(timeout=STUDY_SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def copy_of(source: Path, target: Path) -> Path:
    """``target`` as a copy of the study directory ``source``; what was there is removed."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


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


def differences(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Names whose text differs or that only one of the two has."""
    return sorted(n for n in {*expected, *found} if expected.get(n) != found.get(n))


def finished_runs(study: Path) -> dict[str, int]:
    """Run id -> time of its result.json in nanoseconds, of every run that has ended."""
    return {p.parent.name: p.stat().st_mtime_ns for p in study.glob("runs/*/result.json")}


@dataclass(frozen=True)
class Bench:
    """Where trials take place. ``start``: a study with its base model made and run; ``expected``
    and ``seconds``: outcome and time of the undisturbed ``reference`` from there."""

    start: Path
    reference: Path
    expected: dict[str, str]
    seconds: float

    def trial(self, folder: Path | None = None) -> Path:
        """A fresh copy of the start, in ``folder`` if it must lie on another disk."""
        return copy_of(self.start, (folder or self.start.parent) / "trial")

    def continued(self, out: Path, before: dict[str, int]) -> Figures:
        """Let the study in ``out`` go on to its end: finished runs that were ``lost``, and what
        the ``problem`` is, if any."""
        done = run_study(out)
        if done.returncode != 0:
            tail = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
            return {"lost": 0, "problem": f"ended with {done.returncode}: {tail}"}
        after, changed = finished_runs(out), differences(self.expected, outcome_of(out))
        return {
            "lost": sum(after.get(name) != when for name, when in before.items()),
            "problem": f"differs in {', '.join(changed[:5])}" if changed else "",
        }


@contextlib.contextmanager
def bench(say: Say) -> Iterator[Bench]:
    """A start and an undisturbed study in a directory that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="sgpo-faults-") as scratch:
        say("preparing the base model and the reference study")
        start = Path(scratch) / "start"
        run_cell(cell_of("base"), start, lambda *_: None)
        reference = copy_of(start, Path(scratch) / "reference")
        with started_study(reference) as process:
            wait_for_first_run(reference, process)
            opened = time.monotonic()
            _, errors = process.communicate(timeout=STUDY_SECONDS)
            seconds = time.monotonic() - opened
        if process.returncode != 0:
            raise RuntimeError(f"the reference study ended with {process.returncode}: {errors}")
        yield Bench(start, reference, outcome_of(reference), seconds)


def wait_for_first_run(out: Path, process: subprocess.Popen) -> None:
    """Wait until a run that is not finished has a directory, or the study has ended."""
    limit = time.monotonic() + STUDY_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        if {p.parent.name for p in out.glob("runs/*/config.json")} - {*finished_runs(out)}:
            return
        time.sleep(0.01)


def trials(count: int, say: Say, seed: int, disturb: Callable[[int, float], Figures]) -> Trials:
    """``disturb(i, share)`` for ``count`` shares in [0, 1), spread evenly up to a random part."""
    rng, found = random.Random(seed), []
    for i in range(count):
        found.append(disturb(i, (i + rng.random()) / count))
        say(f"{i + 1}/{count}: {', '.join(f'{k} {v}' for k, v in found[-1].items() if v != '')}")
    return found


def summed(found: Trials, seed: int) -> Figures:
    problems = [trial["problem"] for trial in found if trial["problem"]]
    lost = sum(trial["lost"] for trial in found)
    return {"finished_runs_lost": lost, "failures": problems, "seed": seed}


def kill(count: int, say: Say, seed: int = 5) -> tuple[Figures, bool]:
    """kill -9 at moments spread from the first run's opening to the end. Every second trial kills
    the launching process only, so that its workers have to notice; the others kill the whole
    process group, as a power cut would. Passed only if half of them or more met a living study."""
    with bench(say) as place:

        def disturb(i: int, share: float) -> Figures:
            return killed(place, share * place.seconds, only_launcher=i % 2 == 0)

        found = trials(count, say, seed, disturb)
    same = sum(not t["problem"] for t in found)
    figures = summed(found, seed) | {
        "kills": sum(t["stage"] != ENDED for t in found),
        "finished_with_identical_tables": same,
        "reference_seconds": round(place.seconds, 1),
        "files_compared": len(place.expected),
        "kills_by_stage": dict(sorted(Counter(t["stage"] for t in found).items())),
    }
    met = 2 * figures["kills"] >= count
    return figures, met and same == count and figures["finished_runs_lost"] == 0


def killed(place: Bench, moment: float, *, only_launcher: bool) -> Figures:
    """A study killed ``moment`` seconds after its first run was opened, unless it has ``ENDED``,
    then continued."""
    out = place.trial()
    with started_study(out) as process:
        wait_for_first_run(out, process)
        try:
            process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            (os.kill if only_launcher else os.killpg)(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(SETTLE_SECONDS if only_launcher else 0)
    stage = ENDED if process.returncode == 0 else stage_of(out)
    if process.returncode not in (0, -signal.SIGKILL):
        problem = f"ended with {process.returncode} before the kill"
        return {"stage": stage, "lost": 0, "problem": problem}
    return {"stage": stage} | place.continued(out, finished_runs(out))


def stage_of(study: Path) -> str:
    """What a study was doing when it stopped, read off the files that it left."""
    if not (study / "study.json").exists():
        return "start-up"
    # A run directory without result.json is the one that was worked on (one job at a time).
    opened = [p.parent for p in study.glob("runs/*/config.json")]
    opened = [run for run in opened if not (run / "result.json").exists()]
    if opened:
        run = max(opened, key=lambda p: p.stat().st_mtime_ns)
        if (run / "scores.json").exists():
            return "closing a run"
        return "evaluation and grading" if (run / "model").is_dir() else "training"
    if len(finished_runs(study)) < len(read_json(study / "study.json")["cells"]):
        return "between runs"
    return "closing the study" if (study / "launches.jsonl").exists() else "report"


def disk(count: int, say: Say, seed: int = 11) -> tuple[Figures, bool]:
    """Studies on a small tmpfs with less room than they need, then on with more; and one on a disk
    that is read-only. ValueError where a tmpfs cannot be mounted."""
    with bench(say) as place:
        low, high = (
            sum(-(-p.stat().st_size // 4096) * 4 for p in study.rglob("*") if p.is_file())
            for study in (place.start, place.reference)
        )  # KiB on a disk of 4-KiB pages

        def disturb(_: int, share: float) -> Figures:
            return out_of_room(place, round(low + 64 + share * (high - low)))

        found = trials(count, say, seed, disturb)
        refused = read_only(place)
    figures = summed(found, seed) | {
        "means": "a small tmpfs",
        "full_disks": count,
        "that_stopped_the_study": sum(t["stopped"] for t in found),
        "continued_to_identical_tables": sum(not t["problem"] for t in found),
        "messages": sorted({t["said"] for t in found if t["said"]})[:4],
        "read_only_directory": refused,
    }
    held = not figures["failures"] and figures["finished_runs_lost"] == 0
    return figures, held and figures["that_stopped_the_study"] > 0 and refused.startswith("refused")


@contextlib.contextmanager
def tmpfs(path: Path, kib: int) -> Iterator[Path]:
    """A disk of ``kib`` KiB at ``path``; it goes with the block. ValueError if it cannot be
    mounted."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        raise ValueError("a small disk (tmpfs) cannot be mounted here: this needs Linux and root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def remount(path: Path, option: str) -> None:
    """Change a mounted disk: ``ro``, ``rw`` or ``size=..k``."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(path)], check=True, capture_output=True)


def out_of_room(place: Bench, kib: int) -> Figures:
    """A study that finds only ``kib`` KiB, then goes on with more."""
    with tmpfs(place.start.parent / "small", kib) as small:
        out = place.trial(small)
        done, before = run_study(out), finished_runs(out)
        lines = (done.stdout + done.stderr).splitlines()
        errors = [line for line in lines if "rror" in line or "FAILED" in line]
        said = without_names(errors[-1]) if errors else ""
        remount(small, f"size={ROOM_KIB}k")
        trial = {"stopped": done.returncode != 0, "said": said} | place.continued(out, before)
    if "Traceback" in done.stderr:
        trial["problem"] = f"a traceback instead of one line: {done.stderr[-300:]}"
    return trial


def without_names(line: str) -> str:
    """The message without the paths of this trial, so that equal failures read equal."""
    return " ".join(word for word in line.split() if "/" not in word)[:160]


def read_only(place: Bench) -> str:
    """What the study says to a directory that it cannot write, and whether all is still there."""
    with tmpfs(place.start.parent / "fixed", ROOM_KIB) as fixed:
        out = copy_of(place.reference, fixed / "study")
        remount(fixed, "ro")
        done = run_study(out)
        remount(fixed, "rw")
        lines = done.stderr.strip().splitlines()
        if done.returncode != 2 or len(lines) != 1:
            return f"FAILED: exit code {done.returncode}, {len(lines)} lines: {' | '.join(lines)}"
        problem = place.continued(out, finished_runs(out))["problem"]
    kept = f"FAILED: {problem}" if problem else f"refused in one line ({without_names(lines[0])})"
    return kept if problem else f"{kept}, all results kept"


def together(count: int, say: Say, seed: int = 8) -> tuple[Figures, bool]:
    """A second study in the same directory after a random delay: one of the two runs, the other
    says why it does not."""
    with bench(say) as place:

        def disturb(_: int, share: float) -> Figures:
            out = place.trial()
            with started_study(out) as first:
                time.sleep(share * LONGEST_DELAY)
                second = run_study(out)
                first.communicate(timeout=STUDY_SECONDS)
            codes = sorted((first.returncode, second.returncode))
            # Which of the two was first at the lock is the machine's choice.
            said = REFUSAL in second.stderr or second.returncode == 0
            same = not differences(place.expected, outcome_of(out))
            return {"codes": codes, "held": codes == [0, 2] and said and same}

        found = trials(count, say, seed, disturb)
    held = sum(t["held"] for t in found)
    figures = {"pairs": count, "one_ran_and_one_was_refused": held, "message": REFUSAL}
    return figures | {"seed": seed}, held == count


def _with_a_bit_flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {  # None: the file goes
    "cut short": lambda data, rng: data[: rng.randrange(1, len(data))],
    "one bit flipped": _with_a_bit_flipped,
    "emptied": lambda data, rng: b"",
    "removed": lambda data, rng: None,
}


def checkpoint(count: int, say: Say, seed: int = 3) -> tuple[Figures, bool]:
    """Of a run with two resume states the newest (each sixth time both) is damaged in one file; the
    weights must come out the same."""
    rng, names = random.Random(seed), list(DAMAGES)
    with tempfile.TemporaryDirectory(prefix="sgpo-checkpoint-") as scratch:
        root, cell = Path(scratch), short_run()
        say("preparing an interrupted run and its undisturbed twin")
        weights = Path("runs", cell.run_id, "model", "model.safetensors")
        run_cell(cell, root / "whole", lambda *_: None)
        expected = sha256_of(root / "whole" / weights)
        torn = copy_of(root / "whole", root / "torn")
        shutil.rmtree(torn / "runs")
        interrupted(cell, torn)

        def disturb(i: int, _: float) -> Figures:
            name, both = names[i % len(names)], i % 6 == 5
            study = copy_of(torn, root / "trial")
            states = sorted((study / "runs" / cell.run_id / "checkpoints").glob("step-*"))
            for state in states if both else states[-1:]:
                file = state / RESUME_FILES[i // len(names) % len(RESUME_FILES)]
                damaged = DAMAGES[name](file.read_bytes(), rng)
                file.unlink() if damaged is None else file.write_bytes(damaged)
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                run_cell(cell, study, lambda *_: None)
            noticed = "using the previous resume state" in heard.getvalue()
            same = sha256_of(study / weights) == expected
            return {"damage": name, "noticed": noticed, "same": same}

        found = trials(count, say, seed, disturb)
    figures = {
        "damaged_states": count,
        "noticed": sum(t["noticed"] for t in found),
        "ended_with_identical_weights": sum(t["same"] for t in found),
        "by_damage": dict(Counter(t["damage"] for t in found)),
        "seed": seed,
    }
    return figures, figures["noticed"] == figures["ended_with_identical_weights"] == count


def short_run() -> Cell:
    """An RL run of four steps from the base model."""
    config = cell_of("grpo").config
    return Cell(replace(config, init="base", train=replace(config.train, num_steps=4)))


def interrupted(cell: Cell, study: Path) -> None:
    """Leave the run of ``cell`` below ``study`` as a kill after three steps would."""
    step = Trainer.step

    def killed_at_the_fourth(self: Trainer, number: int) -> dict[str, Any]:
        if number == 4:
            raise InterruptedError
        return step(self, number)

    with mock.patch.object(Trainer, "step", killed_at_the_fourth):
        with contextlib.suppress(InterruptedError):
            run_cell(cell, study, lambda *_: None)
    states = list((study / "runs" / cell.run_id / "checkpoints").glob("step-*"))
    assert len(states) == 2, states
