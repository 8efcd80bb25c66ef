"""``sgpo doctor``: is this machine ready? Each line says what was found and, if not, the fix."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

REINSTALL = "run `bash reproduce.sh setup` in a checkout without .venv"
EXACT = {"torch": "2.13.0", "math-verify": "0.9.0", "antlr4-python3-runtime": "4.13.2"}
MIN_DISK_GIB = 2.0
MIN_MEMORY_GIB = 4.0


def doctor_command(options: argparse.Namespace) -> int:
    """Print one line a check; 0 when all pass, else 1."""
    checks = [_python(), *map(_version, EXACT), _disk(), _memory(), _verifier()]
    for passed, what, fix in checks:
        print(f"{'ok   ' if passed else 'FAIL '} {what}" + ("" if passed else f"  -> {fix}"))
    print(f"info  {os.cpu_count()} CPU cores; {_accelerator()}")
    return 0 if all(passed for passed, _, _ in checks) else 1


def _python() -> tuple[bool, str, str]:
    version = sys.version_info
    passed = (3, 11) <= version[:2] < (3, 13)
    return passed, f"Python {version[0]}.{version[1]}", "set PYTHON to a Python 3.11 or 3.12"


def _version(name: str) -> tuple[bool, str, str]:
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return False, f"{name} is missing (needs {EXACT[name]})", REINSTALL
    # A local build tag (+cpu) is the same release.
    passed = found.split("+")[0] == EXACT[name]
    return passed, f"{name} {found} (needs {EXACT[name]})", REINSTALL


def _disk() -> tuple[bool, str, str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return free >= MIN_DISK_GIB, f"{free:.1f} GiB of disk free", f"free {MIN_DISK_GIB:g} GiB"


def _memory() -> tuple[bool, str, str]:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    passed = size >= MIN_MEMORY_GIB
    return passed, f"{size:.1f} GiB of memory", "run with --jobs 1, or on a larger machine"


def _accelerator() -> str:
    """The GPUs that torch sees, or why there is none."""
    try:
        import torch
    except ImportError:
        return "no GPU can be looked for without torch"
    if not torch.cuda.is_available():
        build = torch.version.cuda or "none: it is a CPU build"
        return f"no GPU (CUDA of the installed torch: {build}); the mini study needs none"
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return "GPUs: " + ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in found)


def _verifier() -> tuple[bool, str, str]:
    """One answer that only the symbolic judge in its own process can decide."""
    from sgpo.core.verifier import VerifierUnavailable, grade

    try:
        passed = grade(r"\sec^2(y)", r"\boxed{\tan^2(y)+1}").correct
    except VerifierUnavailable as error:
        return False, f"verifier: {error}", REINSTALL
    return passed, "verifier judges a symbolic answer", REINSTALL
