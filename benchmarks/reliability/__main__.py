"""``python -m benchmarks.reliability CASE [...]``: hurt a study, say whether it held, keep that.

Each case leaves results/reliability/CASE.json; results/reliability.md is written from those files.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.reliability.common import RESULTS, keep
from benchmarks.reliability.page import write_page

# case -> (module with WHAT, NUM_TRIALS and run(count, say) -> (figures, passed), what to expect)
CASES: dict[str, tuple[str, str]] = {
    "kill": ("benchmarks.reliability.kill", "about 20 minutes"),
    "disk": ("benchmarks.reliability.disk", "about 2 minutes"),
    "checkpoint": ("benchmarks.reliability.checkpoint", "seconds"),
    "together": ("benchmarks.reliability.together", "about 1 minute"),
    "fuzz": ("benchmarks.reliability.fuzz", "about 10 minutes"),
    "cases": ("benchmarks.reliability.cases", "about 1 minute"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named cases, then write the page; 0 when all passed, 1 when one did not, 2 after
    one line on what was asked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--count", type=int, help="trials or inputs (default: the case's own)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the outcomes go")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args(arguments)
    try:
        passed = run_cases([] if options.page else options.cases, options.count, options.out)
        if not options.cases and not options.page:
            raise ValueError(f"no case named: give one or more of {', '.join(CASES)}, or --page")
        print(f"kept in {write_page(options.out)}")
    except (ValueError, OSError) as error:
        print(f"benchmarks.reliability: error: {error}", file=sys.stderr)
        return 2
    return 0 if passed else 1


def run_cases(names: Sequence[str], count: int | None, directory: Path) -> bool:
    """Run ``names`` one after the other and keep each outcome; whether all of them passed.

    Raises:
        ValueError: an unknown case, or a count below 1; nothing has run then.
    """
    unknown = next((name for name in names if name not in CASES), None)
    if unknown is not None:
        raise ValueError(f"unknown case {unknown!r}: must be one of {', '.join(CASES)}")
    if count is not None and count < 1:
        raise ValueError(f"--count {count}: must be at least 1")
    everything = True
    for name in names:
        try:
            module = importlib.import_module(CASES[name][0])
        except ModuleNotFoundError as error:
            raise ValueError(
                f"case {name!r} needs {error.name}: pip install -e '.[dev]' brings it"
            ) from error
        print(f"{name}: {module.WHAT} ({CASES[name][1]})", flush=True)
        began = time.monotonic()
        figures, passed = module.run(count or module.NUM_TRIALS, lambda s: print(s, flush=True))
        figures["seconds"] = round(time.monotonic() - began, 1)
        keep(name, module.WHAT, figures, passed, directory)
        print(f"{name}: {'passed' if passed else 'FAILED'}", flush=True)
        everything = everything and passed
    return everything


if __name__ == "__main__":
    sys.exit(main())
