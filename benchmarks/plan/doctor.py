"""``sgpo doctor``: is this machine ready? Each line says what was found and, if not, the fix.

A version that nobody has tried is no fault: it is called untried, and two checks that use the
packages say whether it breaks.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

REINSTALL = "run `bash reproduce.sh setup` in a checkout without .venv"
# Releases that the tests passed with; the first is the one that results/mini was made on. With
# torch 2.11.0 and transformers 5.17.0 those that need a GPU did, and results/pocket was made.
TRIED = {
    "torch": ("2.13.0", "2.11.0", "2.12.1", "2.14.1"),
    "transformers": ("5.19.0", "5.17.0"),
    "math-verify": ("0.9.0",),
    "antlr4-python3-runtime": ("4.13.2",),
}
MIN_DISK_GIB = 2.0
MIN_MEMORY_GIB = 4.0

Line = tuple[str, str, str]  # "ok", "untried" or "FAIL"; what was found; the fix


def doctor_command(options: argparse.Namespace) -> int:
    """Print one line a check; 0 when nothing fails, else 1."""
    checks = [_python(), *map(_version, TRIED), _disk(), _memory(), _verifier(), _models()]
    for state, what, fix in checks:
        print(f"{state:7} {what}" + ("" if state == "ok" else f"  -> {fix}"))
    print(f"info    {os.cpu_count()} CPU cores; {_accelerator()}")
    return int(any(state == "FAIL" for state, _, _ in checks))


def _line(passed: bool, what: str, fix: str) -> Line:
    return "ok" if passed else "FAIL", what, fix


def _python() -> Line:
    version = sys.version_info
    passed = (3, 11) <= version[:2] < (3, 13)
    return _line(passed, f"Python {version[0]}.{version[1]}", "set PYTHON to a Python 3.11 or 3.12")


def _version(name: str) -> Line:
    tried = TRIED[name]
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return "FAIL", f"{name} is missing (tried: {', '.join(tried)})", REINSTALL
    if found.split("+")[0] in tried:  # a local build tag (+cpu) is the same release
        return "ok", f"{name} {found}", ""
    fix = f"tried: {', '.join(tried)}; if a check below fails, it breaks: take one of these"
    return "untried", f"{name} {found}", fix


def _disk() -> Line:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return _line(free >= MIN_DISK_GIB, f"{free:.1f} GiB of disk free", f"free {MIN_DISK_GIB:g} GiB")


def _memory() -> Line:
    size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    fix = "run with --jobs 1, or on a larger machine"
    return _line(size >= MIN_MEMORY_GIB, f"{size:.1f} GiB of memory", fix)


def _verifier() -> Line:
    """One answer that only the symbolic judge in its own process can decide."""
    from sgpo.core.verifier import VerifierUnavailable, grade

    try:
        passed = grade(r"\sec^2(y)", r"\boxed{\tan^2(y)+1}").correct
    except VerifierUnavailable as error:
        return "FAIL", f"verifier: {error}", REINSTALL
    return _line(passed, "the verifier judges a symbolic answer", REINSTALL)


def _models() -> Line:
    """A tiny model sampled by our decoder and by the library's: the same draws, the same tokens."""
    what = "our decoder and transformers' generate sample the same tokens"
    try:
        from sgpo.core.sampling import SamplingParams, make_sampler
        from sgpo.mini.models import build_model, build_tokenizer
        from sgpo.mini.specs import model_spec

        model, tokenizer = build_model(model_spec("qwen-s"), seed=0).eval(), build_tokenizer()
        drawn = [
            make_sampler(name, model, tokenizer, stop_ids=[0]).sample(
                [[5, 6, 7], [8, 9]], 2, SamplingParams(max_tokens=8, seed=0)
            )
            for name in ("compact", "transformers")
        ]
    # What an untried release has moved or renamed is the answer that is asked for.
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        return "FAIL", f"{what}: {type(error).__name__}: {error}", REINSTALL
    ours, theirs = ([[c.token_ids for c in group] for group in groups] for groups in drawn)
    return _line(ours == theirs, what, REINSTALL)


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
