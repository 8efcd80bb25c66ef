"""One directory per run: what was asked (config), where it ran (environment), what happened."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from sgpo.core.files import write_text
from sgpo.core.revision import revision

# Versions of these decide numbers; they enter the run id.
PACKAGES_THAT_MATTER = ("torch", "transformers", "tokenizers", "math-verify", "numpy")


@cache
def package_versions() -> dict[str, str]:
    """Installed versions of the packages whose behaviour reaches the results."""
    return {name: metadata.version(name) for name in PACKAGES_THAT_MATTER}


@cache
def source_digest() -> str:
    """First 12 hex digits of the sha256 over the source of the packages that make results.

    It is stored with a run and compared when a finished run is kept, so that an edited loss does
    not pass for the one that made the numbers.
    """
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in ("sgpo", "baselines"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def environment(accelerator: str | None = None) -> dict[str, Any]:
    """Machine, interpreter, packages and source revision, as JSON types.

    ``accelerator``: name of what computed beside the CPU, if anything did.
    """
    source = revision()
    machine = f"{os.cpu_count()} CPU cores, {_memory_gib()} GiB memory"
    return {
        "machine": f"{machine}, {accelerator or 'no accelerator used'}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "git_commit": source.commit,
        "git_dirty": source.dirty,
    }


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
        wrote after its last resume state."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= resume_after]
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


def _whole_lines(path: Path) -> list[str]:
    """Lines of a JSONL file; a last line that was cut off by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text()
    return text[: text.rfind("\n") + 1].splitlines()
