"""A full disk and a read-only results directory: nothing finished is lost, and it is said.

The study runs on a small tmpfs of its own (Linux, as root). A trial gives it less room than it
needs, so that some write fails; then the room is made larger and the same command goes on. Where
a tmpfs cannot be mounted, the kernel's limit on the size of a file (RLIMIT_FSIZE) makes the
writes of weights fail instead, and the read-only part is done by permissions (not as root).
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import (
    Say,
    copy_of,
    differences,
    finished_runs,
    must_finish,
    outcome_of,
    prepare_start,
    run_study,
)

WHAT = "a disk that fills up, and a results directory that cannot be written"
SEED = 11
NUM_TRIALS = 8
ROOM_KIB = 200_000


def run(count: int, say: Say) -> tuple[dict[str, Any], bool]:
    """Figures of ``count`` full disks and one read-only directory, and whether all was kept."""
    with tempfile.TemporaryDirectory(prefix="sgpo-disk-") as scratch:
        root = Path(scratch)
        say("preparing the base model and the reference study")
        start = prepare_start(root / "start")
        reference = copy_of(start, root / "reference")
        must_finish(reference)
        expected = outcome_of(reference)
        low, high = _kib(start), _kib(reference)
        rng = random.Random(SEED)
        can_mount = mount_works(root)
        trials = []
        for i in range(count):
            share = (i + rng.random()) / count
            if can_mount:
                trial = _full_tmpfs(root, start, round(low + 64 + share * (high - low)), expected)
            else:
                trial = _file_limit(root, start, round(20 + share * 200), expected)
            trials.append(trial)
            say(f"{i + 1}/{count}: {trial['said'] or 'nothing said'}; {trial['problem'] or 'kept'}")
        refused = _read_only(root, reference, expected, can_mount)
        say(f"read-only directory: {refused}")
    figures = {
        "means": "a small tmpfs" if can_mount else "RLIMIT_FSIZE and permissions",
        "full_disks": count,
        "that_stopped_the_study": sum(t["stopped"] for t in trials),
        "continued_to_identical_tables": sum(not t["problem"] for t in trials),
        "finished_runs_lost": sum(t["lost"] for t in trials),
        "messages": sorted({t["said"] for t in trials if t["said"]})[:4],
        "read_only_directory": refused,
        "seed": SEED,
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
        with _tmpfs(root / "probe", 1024):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def _tmpfs(path: Path, kib: int) -> Iterator[Path]:
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True)


def _remount(path: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(path)], check=True, capture_output=True)


def _full_tmpfs(root: Path, start: Path, kib: int, expected: dict[str, str]) -> dict[str, Any]:
    with _tmpfs(root / "small", kib) as disk:
        out = copy_of(start, disk / "study")
        done = run_study(out)
        before = finished_runs(out)
        _remount(disk, f"size={ROOM_KIB}k")
        return _continued(out, done, before, expected)


def _file_limit(root: Path, start: Path, kib: int, expected: dict[str, str]) -> dict[str, Any]:
    out = copy_of(start, root / "limited")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))

    done = run_study(out, preexec_fn=limit)
    return _continued(out, done, finished_runs(out), expected)


def _continued(
    out: Path, done: subprocess.CompletedProcess, before: dict[str, int], expected: dict[str, str]
) -> dict[str, Any]:
    """Continue a study that ran out of room, and compare it with the undisturbed one."""
    errors = [s for s in (done.stdout + done.stderr).splitlines() if "rror" in s or "FAILED" in s]
    trial = {
        "stopped": done.returncode != 0,
        "said": _without_names(errors[-1]) if errors else "",
        "lost": 0,
        "problem": "",
    }
    if "Traceback" in done.stderr:
        return trial | {"problem": f"a traceback instead of one line: {done.stderr[-300:]}"}
    try:
        must_finish(out)
    except RuntimeError as error:
        return trial | {"problem": str(error)}
    after = finished_runs(out)
    trial["lost"] = sum(after.get(name) != when for name, when in before.items())
    changed = differences(expected, outcome_of(out))
    return trial | {"problem": f"differs in {', '.join(changed[:5])}" if changed else ""}


def _without_names(line: str) -> str:
    """The message without the paths of this trial, so that equal failures read equal."""
    return " ".join(word for word in line.split() if "/" not in word)[:160]


def _read_only(root: Path, reference: Path, expected: dict[str, str], can_mount: bool) -> str:
    """What the study says to a directory that it cannot write, and whether all is still there."""
    if can_mount:
        with _tmpfs(root / "fixed", ROOM_KIB) as disk:
            out = copy_of(reference, disk / "study")
            _remount(disk, "ro")
            done = run_study(out)
            _remount(disk, "rw")
            return _refusal(out, done, expected)
    if os.geteuid() == 0:
        return "not tried: permissions do not bind root, and no tmpfs can be mounted"
    out = copy_of(reference, root / "fixed")
    out.chmod(0o555)
    done = run_study(out)
    out.chmod(0o755)
    return _refusal(out, done, expected)


def _refusal(out: Path, done: subprocess.CompletedProcess, expected: dict[str, str]) -> str:
    lines = done.stderr.strip().splitlines()
    if done.returncode != 2 or len(lines) != 1:
        return f"FAILED: exit code {done.returncode}, {len(lines)} lines: {' | '.join(lines[-2:])}"
    if differences(expected, outcome_of(out)):
        return "FAILED: stored results changed"
    must_finish(out)
    return f"refused in one line ({_without_names(lines[0])}), all results kept"
