"""One directory per run: what was asked (config), where it ran (environment), what happened."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sgpo.core.files import write_text

ROOT = Path(__file__).resolve().parents[2]
# Files that decide numbers. Results, tests, documents and a user's scripts do not; a user's method
# is kept with its run.
SOURCES = (
    *(f"{room}/*.py" for room in ("sgpo", "baselines", "benchmarks")),
    "sgpo/*.toml", "sgpo/*.txt", "pyproject.toml", "reproduce.sh",
)  # fmt: skip
MAX_PATCH_BYTES = 200_000
# Versions of these decide numbers; they enter the run id.
PACKAGES_THAT_MATTER = ("torch", "transformers", "tokenizers", "math-verify", "numpy")


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour reaches the results."""
    return {name: metadata.version(name) for name in PACKAGES_THAT_MATTER}


@cache
def source_digest() -> str:
    """First 12 hex digits of the sha256 over the source of the packages that make results, the
    verifier's tables among it: kept with a run, so that an edited loss or rule does not pass for
    the one that made the numbers."""
    digest = hashlib.sha256()
    for folder in ("sgpo", "baselines"):
        files = (ROOT / folder).rglob("*")
        for path in sorted(p for p in files if p.suffix in (".py", ".toml", ".txt")):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Revision:
    """``commit``: 40 hex digits, None outside a git checkout. ``patch``: None when the source
    files are those of the commit, else what ``git apply`` turns the commit into them with, or one
    line that says why it is not there."""

    commit: str | None
    patch: str | None

    @property
    def dirty(self) -> bool:
        return self.patch is not None


def revision(root: Path = ROOT) -> Revision:
    """The Revision of the checkout at ``root``; no commit if git or the repository is absent."""
    found = _git(root, "rev-parse", "--show-toplevel", "HEAD")
    lines = (found or "").splitlines()
    # A copy without .git inside another repository must not pass for that one's commit.
    if len(lines) != 2 or Path(lines[0]) != root.resolve():
        return Revision(None, None)
    state = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *SOURCES)
    if state == "":
        return Revision(lines[1], None)
    return Revision(lines[1], _patch(root))


def _patch(root: Path) -> str:
    """Changes of tracked sources since the last commit, and untracked ones as new files."""
    changed = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD", "--", *SOURCES)
    added = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES)
    if changed is None or added is None:
        return "# git could not make the patch\n"
    patch = changed
    for name in filter(None, added.split("\0")):
        against = ("--no-color", "--no-ext-diff", "--no-index", "--", "/dev/null", name)
        new = _git(root, "diff", *against, ends=(0, 1))  # 1: they differ
        if new is None:
            return "# git could not make the patch\n"
        patch += new
        if len(patch.encode()) > MAX_PATCH_BYTES:
            break
    if len(patch.encode()) > MAX_PATCH_BYTES:
        return f"# not stored: the patch is over the limit of {MAX_PATCH_BYTES} bytes\n"
    return patch


def _git(root: Path, *arguments: str, ends: tuple[int, ...] = (0,)) -> str | None:
    """Standard output of git, None if it failed. Without optional locks: "status" would else write
    the index anew, and a study killed in that moment left the user's repository locked."""
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode in ends else None


def environment(accelerator: str | None = None) -> dict[str, Any]:
    """Machine (``accelerator``: what computed beside the CPU), interpreter, packages and source
    revision, as JSON types."""
    source = revision()
    machine = f"{os.cpu_count()} CPU cores, {_memory_gib()} GiB memory"
    return {
        "machine": f"{machine}, {accelerator or 'no accelerator used'}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "vector_instructions": _vector_instructions(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "git_commit": source.commit,
        "git_dirty": source.dirty,
    }


def _vector_instructions() -> str:
    """What torch computes with on this CPU: avx2, avx512 or the like."""
    import torch

    return torch.backends.cpu.get_cpu_capability().lower()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), "unknown")


def _memory_gib() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)


class MetricsLog:
    """``metrics.jsonl``: one object per step, flushed as it is written."""

    def __init__(self, path: Path, *, resume_after: int) -> None:
        """Keeps the first ``resume_after`` steps of an existing log and drops what a killed run
        wrote after its last resume state, a last line that was cut off included."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1].splitlines()
        kept = [line for line in whole if json.loads(line)["step"] <= resume_after]
        if len(kept) != resume_after:
            raise ValueError(
                f"{path}: holds {len(kept)} of the {resume_after} steps before the resume state; "
                f"delete {path.parent} to run this cell again"
            )
        write_text(path, "".join(line + "\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a resume state may rely on this line
