"""Hurting a study: kills, full disks, two at once, damaged resume states; does it hold?

Every case is one loop: take a study that has its base model, disturb it, let the same command go on
to the end, compare with an undisturbed one. Nothing finished may be lost, and tables, claims,
verdicts and metrics must be those of the undisturbed study.

``kill``: kill -9 at moments spread from the first run's opening to the end (training, evaluation,
grading and report alike). Every second trial kills the launching process only, so that its workers
have to notice; the others kill the whole process group, as a power cut would. Only a kill of a
living study counts; one that had ended already is tried again at the same share of its time.

``disk``: the study runs on a small tmpfs of its own (Linux, as root) with less room than it needs,
then on with more; and on one that is read-only. Where a tmpfs cannot be mounted, the kernel's limit
on the size of a file makes the writes of weights fail, and permissions the rest (not as root).

``together``: a second study starts in the same directory after a random delay; one of the two runs,
the other says why it does not.

``checkpoint``: of a run with two resume states the newest (each sixth time both) is damaged: a file
cut short, emptied, removed, or with one bit flipped. The weights must come out the same.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
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

from benchmarks.config import Cell
from benchmarks.reliability.small_study import small_study
from benchmarks.run.cell import run_cell
from sgpo.core.files import read_json, sha256_of
from sgpo.core.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]
STUDY_SECONDS = 900.0  # a small study takes seconds; anything near this limit hangs
MAX_REPEATS = 10  # attempts at one kill
SETTLE_SECONDS = 1.5  # for workers to notice that the launching process is gone
ROOM_KIB = 200_000
LONGEST_DELAY = 6.0  # between two studies
REFUSAL = "another study is running in this directory"
RESUME_FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
Say = Callable[[str], None]
Figures = dict[str, Any]


def _small_study(out: Path) -> tuple[list[str], dict[str, Any]]:
    """The command that runs or continues the small study in ``out``, and how it is started: one
    thread a worker and the suite importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "COLUMNS": "200"}
    module = "benchmarks.reliability.small_study"
    return [sys.executable, "-m", module, "--out", str(out)], {"env": environment}


def run_study(out: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """The small study in ``out``, run to its end; its exit code and output are the caller's."""
    command, more = _small_study(out)
    more |= {"capture_output": True, "text": True, "timeout": STUDY_SECONDS}
    return subprocess.run(command, **more, **options)


@contextlib.contextmanager
def started_study(out: Path) -> Iterator[subprocess.Popen]:
    """The small study running in a process group of its own; the group is killed at the end."""
    command, more = _small_study(out)
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, start_new_session=True, **quiet, **more)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def must_finish(out: Path) -> None:
    """Run the small study to its end; RuntimeError with its last lines if it does not."""
    done = run_study(out)
    if done.returncode != 0:
        tail = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise RuntimeError(f"the small study ended with {done.returncode}: {' | '.join(tail)}")


def copy_of(source: Path, target: Path) -> Path:
    """``target`` as a copy of the study directory ``source``; what was there is removed."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def outcome_of(study: Path) -> dict[str, str]:
    """Everything of a study that must not depend on interruptions, as name -> text: every table
    but those with wall times, the claims, every run's verdicts, and the metrics of every step
    without their seconds."""
    tables = (p for p in (study / "tables").iterdir() if not p.name.startswith("budget"))
    scores = study.glob("runs/*/scores.json")
    found = {
        str(path.relative_to(study)): path.read_text()
        for path in (*tables, study / "CLAIMS.md", *scores)
    }
    for path in study.glob("runs/*/metrics.jsonl"):
        steps = [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]
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
    and ``seconds``: outcome and time of an undisturbed study from there."""

    root: Path
    start: Path
    reference: Path
    expected: dict[str, str]
    seconds: float

    def continued(self, out: Path, before: dict[str, int]) -> Figures:
        """Let the study in ``out`` go on to its end: finished runs that were ``lost``, and what
        the ``problem`` is, if any."""
        try:
            must_finish(out)
        except RuntimeError as error:
            return {"lost": 0, "problem": str(error)}
        after = finished_runs(out)
        changed = differences(self.expected, outcome_of(out))
        return {
            "lost": sum(after.get(name) != when for name, when in before.items()),
            "problem": f"differs in {', '.join(changed[:5])}" if changed else "",
        }


@contextlib.contextmanager
def bench(say: Say) -> Iterator[Bench]:
    """A start and an undisturbed study in a directory that goes with the block."""
    with tempfile.TemporaryDirectory(prefix="sgpo-faults-") as scratch:
        root = Path(scratch)
        say("preparing the base model and the reference study")
        base = small_study().cells()[0]
        assert base.config.method == "base"
        run_cell(base, root / "start", lambda *_: None)
        reference = copy_of(root / "start", root / "reference")
        with started_study(reference) as process:
            wait_for_first_run(reference, process)
            opened = time.monotonic()
            code = process.wait()
            seconds = time.monotonic() - opened
        must_finish(reference)  # nothing is left to do, or this says what is wrong
        if code != 0:
            raise RuntimeError(f"the reference study ended with {code} and finished when repeated")
        yield Bench(root, root / "start", reference, outcome_of(reference), seconds)


def wait_for_first_run(out: Path, process: subprocess.Popen) -> None:
    """Wait until a run that is not finished has a directory, or the study has ended."""
    limit = time.monotonic() + STUDY_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        if {p.parent.name for p in out.glob("runs/*/config.json")} - {*finished_runs(out)}:
            return
        time.sleep(0.01)


def kill(count: int, say: Say, seed: int = 5) -> tuple[Figures, bool]:
    """Figures of ``count`` kills, and whether every study finished with the same tables."""
    rng, trials, began = random.Random(seed), [], time.monotonic()
    with bench(say) as place:
        seconds = place.seconds
        for i in range(count):
            share = (i + rng.random()) / count
            trial, seconds = alive_trial(
                lambda moment, i=i: _kill_at(place, moment, only_launcher=i % 2 == 0),
                share,
                seconds,
            )
            trials.append(trial)
            left = (time.monotonic() - began) / (i + 1) * (count - i - 1) / 60
            say(
                f"{i + 1}/{count}: killed after {share * seconds:.1f} s ({trial['stage']}): "
                f"{trial['problem'] or 'same tables'}; about {left:.0f} min left"
            )
    held = sum(not t["problem"] for t in trials)
    figures = {
        "kills": count,
        "finished_with_identical_tables": held,
        "finished_runs_lost": sum(t["lost"] for t in trials),
        "reference_seconds": round(place.seconds, 1),
        "files_compared": len(place.expected),
        "kills_by_stage": dict(sorted(Counter(t["stage"] for t in trials).items())),
        "seed": seed,
        "failures": [t["problem"] for t in trials if t["problem"]],
    }
    return figures, held == count and figures["finished_runs_lost"] == 0


def alive_trial(
    attempt: Callable[[float], Figures | float], share: float, seconds: float
) -> tuple[Figures, float]:
    """The trial at ``share`` of a study's ``seconds``, and the seconds found last.

    Raises:
        RuntimeError: the study ended before the kill ``MAX_REPEATS`` times.
    """
    for _ in range(MAX_REPEATS):
        trial = attempt(share * seconds)
        if not isinstance(trial, float):
            return trial, seconds
        seconds = trial
    raise RuntimeError(
        f"the study ended {MAX_REPEATS} times before its kill (last after {seconds:.1f} s); keep "
        "the machine free of other work and run the script again"
    )


def _kill_at(place: Bench, moment: float, *, only_launcher: bool) -> Figures | float:
    """Kill a study ``moment`` seconds after its first run was opened, continue it, compare; if it
    had ended well by then, the seconds that it took."""
    out = copy_of(place.start, place.root / "trial")
    with started_study(out) as process:
        wait_for_first_run(out, process)
        opened = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(moment)
            if code == 0:
                return time.monotonic() - opened
            problem = f"ended with {code} before the kill"
            return {"stage": stage_of(out), "lost": 0, "problem": problem}
        (os.kill if only_launcher else os.killpg)(process.pid, signal.SIGKILL)
        process.wait()
        stage = stage_of(out)
        time.sleep(SETTLE_SECONDS if only_launcher else 0)
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
    """Figures of ``count`` full disks and one read-only directory, and whether all was kept."""
    rng, trials = random.Random(seed), []
    with bench(say) as place:
        mounts = mount_works(place.root)
        low, high = _kib(place.start), _kib(place.reference)
        for i in range(count):
            share = (i + rng.random()) / count
            room = low + 64 + share * (high - low) if mounts else 20 + share * 200
            trials.append(_out_of_room(place, round(room), mounts))
            said, problem = trials[-1]["said"] or "nothing said", trials[-1]["problem"] or "kept"
            say(f"{i + 1}/{count}: {said}; {problem}")
        refused = _read_only(place, mounts)
        say(f"read-only directory: {refused}")
    figures = {
        "means": "a small tmpfs" if mounts else "RLIMIT_FSIZE and permissions",
        "full_disks": count,
        "that_stopped_the_study": sum(t["stopped"] for t in trials),
        "continued_to_identical_tables": sum(not t["problem"] for t in trials),
        "finished_runs_lost": sum(t["lost"] for t in trials),
        "messages": sorted({t["said"] for t in trials if t["said"]})[:4],
        "read_only_directory": refused,
        "seed": seed,
        "failures": [t["problem"] for t in trials if t["problem"]],
    }
    passed = (
        figures["continued_to_identical_tables"] == count
        and figures["finished_runs_lost"] == 0
        and figures["that_stopped_the_study"] > 0
        and refused.startswith(("refused", "not tried"))
    )
    return figures, passed


def _kib(directory: Path) -> int:
    """Size of a directory on a disk of 4-KiB pages."""
    sizes = (p.stat().st_size for p in directory.rglob("*") if p.is_file())
    return sum(-(-size // 4096) * 4 for size in sizes)


def mount_works(root: Path) -> bool:
    """Whether this process may mount a tmpfs below ``root``."""
    try:
        with tmpfs(root / "probe", 1024):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def tmpfs(path: Path, kib: int) -> Iterator[Path]:
    """A disk of ``kib`` KiB at ``path``; it goes with the block."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def remount(path: Path, option: str) -> None:
    """Change a mounted disk: ``ro``, ``rw`` or ``size=..k``."""
    subprocess.run(["mount", "-o", f"remount,{option}", str(path)], check=True, capture_output=True)


def _out_of_room(place: Bench, kib: int, mounts: bool) -> Figures:
    """A study that finds only ``kib`` KiB, on its disk or for a file, then goes on with more."""
    if mounts:
        with tmpfs(place.root / "small", kib) as small:
            out = copy_of(place.start, small / "study")
            done, before = run_study(out), finished_runs(out)
            remount(small, f"size={ROOM_KIB}k")
            return _stopped(place, out, done, before)
    out = copy_of(place.start, place.root / "limited")
    limit = (resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))
    done = run_study(out, preexec_fn=lambda: resource.setrlimit(*limit))
    return _stopped(place, out, done, finished_runs(out))


def _stopped(
    place: Bench, out: Path, done: subprocess.CompletedProcess, before: dict[str, int]
) -> Figures:
    errors = [s for s in (done.stdout + done.stderr).splitlines() if "rror" in s or "FAILED" in s]
    said = _without_names(errors[-1]) if errors else ""
    trial = {"stopped": done.returncode != 0, "said": said}
    if "Traceback" in done.stderr:
        problem = f"a traceback instead of one line: {done.stderr[-300:]}"
        return trial | {"lost": 0, "problem": problem}
    return trial | place.continued(out, before)


def _without_names(line: str) -> str:
    """The message without the paths of this trial, so that equal failures read equal."""
    return " ".join(word for word in line.split() if "/" not in word)[:160]


def _read_only(place: Bench, mounts: bool) -> str:
    """What the study says to a directory that it cannot write, and whether all is still there."""
    if mounts:
        with tmpfs(place.root / "fixed", ROOM_KIB) as fixed:
            out = copy_of(place.reference, fixed / "study")
            remount(fixed, "ro")
            done = run_study(out)
            remount(fixed, "rw")
            return _refusal(place, out, done)
    if os.geteuid() == 0:
        return "not tried: permissions do not bind root, and no tmpfs can be mounted"
    out = copy_of(place.reference, place.root / "fixed")
    out.chmod(0o555)
    done = run_study(out)
    out.chmod(0o755)
    return _refusal(place, out, done)


def _refusal(place: Bench, out: Path, done: subprocess.CompletedProcess) -> str:
    lines = done.stderr.strip().splitlines()
    if done.returncode != 2 or len(lines) != 1:
        return f"FAILED: exit code {done.returncode}, {len(lines)} lines: {' | '.join(lines[-2:])}"
    if differences(place.expected, outcome_of(out)):
        return "FAILED: stored results changed"
    must_finish(out)
    return f"refused in one line ({_without_names(lines[0])}), all results kept"


def together(count: int, say: Say, seed: int = 8) -> tuple[Figures, bool]:
    """Figures of ``count`` pairs of studies, and whether one of each pair ended undisturbed."""
    rng, held = random.Random(seed), 0
    with bench(say) as place:
        for i in range(count):
            out = copy_of(place.start, place.root / "trial")
            with started_study(out) as first:
                time.sleep(rng.random() * LONGEST_DELAY)
                second = run_study(out)
                codes = sorted((first.wait(), second.returncode))
            # Which of the two was first at the lock is the machine's choice.
            said = REFUSAL in second.stderr or second.returncode == 0
            same = not differences(place.expected, outcome_of(out))
            held += codes == [0, 2] and said and same
            say(f"{i + 1}/{count}: exit codes {codes}, {'same' if same else 'OTHER'} tables")
    figures = {
        "pairs": count,
        "one_ran_and_one_was_refused": held,
        "message": REFUSAL,
        "seed": seed,
    }
    return figures, held == count


def _cut_short(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(1, len(data))])


def _flip_a_bit(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path, random.Random], object]] = {
    "cut short": _cut_short,
    "one bit flipped": _flip_a_bit,
    "emptied": lambda file, rng: file.write_bytes(b""),
    "removed": lambda file, rng: file.unlink(),
}


def checkpoint(count: int, say: Say, seed: int = 3) -> tuple[Figures, bool]:
    """Figures of ``count`` damaged resume states, and whether all runs ended as they should."""
    rng, trials, names = random.Random(seed), [], list(DAMAGES)
    with tempfile.TemporaryDirectory(prefix="sgpo-checkpoint-") as scratch:
        root, cell = Path(scratch), _short_run()
        say("preparing an interrupted run and its undisturbed twin")
        weights = Path("runs", cell.run_id, "model", "model.safetensors")
        run_cell(cell, root / "whole", lambda *_: None)
        expected = sha256_of(root / "whole" / weights)
        torn = copy_of(root / "whole", root / "torn")
        shutil.rmtree(torn / "runs")
        _interrupted(cell, torn)
        for i in range(count):
            name, both = names[i % len(names)], i % 6 == 5
            study = copy_of(torn, root / "trial")
            states = sorted((study / "runs" / cell.run_id / "checkpoints").glob("step-*"))
            for state in states if both else states[-1:]:
                DAMAGES[name](state / RESUME_FILES[i // len(names) % len(RESUME_FILES)], rng)
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                run_cell(cell, study, lambda *_: None)
            noticed = "using the previous resume state" in heard.getvalue()
            trials.append((name, noticed, sha256_of(study / weights) == expected))
            say(f"{i + 1}/{count}: {name}{' (both states)' if both else ''}: {trials[-1]}")
    figures = {
        "damaged_states": count,
        "noticed": sum(noticed for _, noticed, _ in trials),
        "ended_with_identical_weights": sum(same for _, _, same in trials),
        "by_damage": {name: sum(t[0] == name for t in trials) for name in names},
        "seed": seed,
    }
    return figures, all(noticed and same for _, noticed, same in trials)


def _short_run() -> Cell:
    """An RL run of four steps from the base model."""
    cell = next(c for c in small_study().cells() if c.config.method == "grpo")
    train = replace(cell.config.train, num_steps=4, checkpoint_every=1)
    return Cell(replace(cell.config, init="base", train=train))


class _Stop(Exception):
    """Raised in place of a kill once two resume states are there."""


def _interrupted(cell: Cell, study: Path) -> None:
    """Leave the run of ``cell`` below ``study`` as a kill after three steps would."""
    original = Trainer.step

    def step(self: Trainer, number: int) -> dict:
        if number == 4:
            raise _Stop
        return original(self, number)

    Trainer.step = step  # type: ignore[method-assign]
    try:
        with contextlib.suppress(_Stop):
            run_cell(cell, study, lambda *_: None)
    finally:
        Trainer.step = original  # type: ignore[method-assign]
    states = list((study / "runs" / cell.run_id / "checkpoints").glob("step-*"))
    assert len(states) == 2, states
