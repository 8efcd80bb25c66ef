"""``python -m benchmarks.reliability CASE [...]``: hurt the suite, say whether it held, keep that.

Each case leaves results/reliability/CASE.json; results/reliability.md is written from those files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reliability import fuzz, kill
from benchmarks.report.document import Table, bullets, heading, paragraph, row, to_markdown
from sgpo.core.files import read_json, write_json, write_text
from sgpo.core.runlog import environment

# Name -> (run, what it does, its trials, the figures of what held and of how many). ``run(trials,
# say)`` gives figures and whether all of it held.
CASES: dict[str, tuple[Callable, str, int, tuple[str, ...]]] = {
    "kill": (kill.kill, "kill -9 at random moments of a study, then the same command again",
             40, ("finished_with_identical_tables", "kills")),
    "fuzz": (fuzz.fuzz, "random and hostile answers through extraction and grading", 200_000, ()),
    "cases": (fuzz.cases, "verdicts on answers decided by hand", 10**6, ("right", "cases")),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named cases, then write the page; 0 when all passed, 1 when one did not, 2 after
    one line on what was asked wrongly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--count", type=int, help="trials or inputs (default: the case's own)")
    parser.add_argument("--out", type=Path, default=Path("results/reliability"))
    parser.add_argument("--page", action="store_true", help="only write the page again")
    options = parser.parse_args(arguments)
    names = [] if options.page else options.cases
    try:
        if not names and not options.page:
            raise ValueError(f"no case named: give one or more of {', '.join(CASES)}, or --page")
        for name in names:
            if name not in CASES:
                raise ValueError(f"unknown case {name!r}: must be one of {', '.join(CASES)}")
        if options.count is not None and options.count < 1:
            raise ValueError(f"--count {options.count}: must be at least 1")
        passed = [run_case(name, options.count, options.out) for name in names]
        print(f"kept in {write_page(options.out)}")
    except (ValueError, OSError) as error:
        print(f"benchmarks.reliability: error: {error}", file=sys.stderr)
        return 2
    return 0 if all(passed) else 1


def run_case(name: str, count: int | None, directory: Path) -> bool:
    """Run a case and keep its outcome with machine and commit; whether it passed."""
    run, what, trials, _ = CASES[name]
    print(f"{name}: {what}", flush=True)
    began = time.monotonic()
    figures, passed = run(count or trials, lambda text: print(text, flush=True))
    figures["seconds"] = round(time.monotonic() - began, 1)
    content = {"case": name, "what": what, "passed": passed, "figures": figures}
    write_json(directory / f"{name}.json", content | {"environment": environment()})
    print(f"{name}: {'passed' if passed else 'FAILED'}", flush=True)
    return passed


def write_page(directory: Path) -> Path:
    """Write ``directory``.md from its JSON files; its path.

    Raises:
        ValueError: there are none.
    """
    outcomes = [read_json(file) for file in sorted(directory.glob("*.json"))]
    if not outcomes:
        raise ValueError(f"{directory}: no outcomes here; run a case first")
    blocks = [
        heading(1, "What was done to the suite, and what it held"),
        paragraph(
            "Written by python -m benchmarks.reliability from the outcomes beside this page. Each "
            "case is a script with fixed seeds; its figures, machine and commit are those of its "
            "last run."
        ),
        Table(
            header=("Case", "What is done", "Outcome", "Seconds", "Commit"),
            rows=tuple(_row(outcome) for outcome in outcomes),
            caption="Cases and their last outcome",
            numeric=frozenset({3}),
        ),
    ]
    for outcome in outcomes:
        place = outcome["environment"]
        versions = ", ".join(f"{name} {found}" for name, found in place["packages"].items())
        blocks += [
            heading(2, outcome["case"], anchor=outcome["case"]),
            paragraph(outcome["what"] + "."),
            bullets([_line(*figure) for figure in outcome["figures"].items()]),
            paragraph(
                f"Machine: {place['cpu']}, {place['machine']}; {place['platform']}; "
                f"Python {place['python']}, {versions}."
            ),
        ]
    return write_text(directory.with_suffix(".md"), to_markdown(blocks))


def _row(outcome: dict[str, Any]) -> tuple:
    place, figures, name = outcome["environment"], outcome["figures"], outcome["case"]
    word, held = "passed" if outcome["passed"] else "FAILED", CASES[name][-1]
    if held:
        word += f": {figures[held[0]]} of {figures[held[1]]}"
    else:
        word += f": {figures['inputs']} inputs"
    commit = (place["git_commit"] or "unknown")[:10] + " with changes" * bool(place["git_dirty"])
    return row(name, outcome["what"], word, f"{figures['seconds']:.0f}", commit)


def _line(name: str, value: Any) -> str:
    """A figure in one line: a breakdown too, an empty list as none."""
    if isinstance(value, dict):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    elif isinstance(value, list):
        value = "; ".join(map(str, value)) or "none"
    return f"{name.replace('_', ' ')}: {value}"


if __name__ == "__main__":
    sys.exit(main())
