"""``python -m benchmarks.reliability CASE [...]``: hurt a study, say whether it held, keep that.

Each case leaves results/reliability/CASE.json; results/reliability.md is written from those files.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report.document import Bullets, Heading, Paragraph, Table, row, to_markdown
from sgpo.core.files import read_json, write_json, write_text
from sgpo.core.runlog import environment

RESULTS = Path("results/reliability")


@dataclass(frozen=True)
class Case:
    """``name`` of a function (trials, say) -> (figures, passed) in ``module``; ``held`` names the
    figures of what held and of how many, which the page's first table shows."""

    module: str
    name: str
    what: str
    trials: int
    takes: str
    held: tuple[str, str] | None = None


CASES = {
    case.name: case
    for case in (
        Case("faults", "kill", "kill -9 at random moments of a study, then the same command again",
             40, "about 20 minutes", ("finished_with_identical_tables", "kills")),
        Case("faults", "disk", "a disk that fills up, and a results directory that cannot be "
             "written", 8, "about 2 minutes", ("continued_to_identical_tables", "full_disks")),
        Case("faults", "checkpoint", "truncated, bit-flipped and missing resume states",
             24, "seconds", ("ended_with_identical_weights", "damaged_states")),
        Case("faults", "together", "two studies in one directory at the same time",
             3, "about 1 minute", ("one_ran_and_one_was_refused", "pairs")),
        Case("fuzz", "fuzz", "random and hostile answers through extraction and grading",
             200_000, "about 10 minutes"),
        Case("fuzz", "cases", "verdicts on answers decided by hand",
             10**6, "about 1 minute", ("right", "cases")),
    )
}  # fmt: skip


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
        if not options.cases and not options.page:
            raise ValueError(f"no case named: give one or more of {', '.join(CASES)}, or --page")
        passed = run_cases([] if options.page else options.cases, options.count, options.out)
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
        case = CASES[name]
        try:
            run = getattr(importlib.import_module(f"benchmarks.reliability.{case.module}"), name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"case {name!r} needs {error.name}: pip install -e '.[dev]' brings it"
            ) from error
        print(f"{name}: {case.what} ({case.takes})", flush=True)
        began = time.monotonic()
        figures, passed = run(count or case.trials, lambda text: print(text, flush=True))
        figures["seconds"] = round(time.monotonic() - began, 1)
        keep(name, figures, passed, directory)
        print(f"{name}: {'passed' if passed else 'FAILED'}", flush=True)
        everything = everything and passed
    return everything


def keep(name: str, figures: dict[str, Any], passed: bool, directory: Path) -> None:
    """Write the outcome of a case with machine and commit to ``directory/name.json``."""
    content = {"case": name, "what": CASES[name].what, "passed": passed, "figures": figures}
    write_json(directory / f"{name}.json", content | {"environment": environment()})


def write_page(directory: Path) -> Path:
    """Write ``directory``.md from its JSON files; its path.

    Raises:
        ValueError: there are none.
    """
    path = directory.with_suffix(".md")
    outcomes = [read_json(file) for file in sorted(directory.glob("*.json"))]
    if not outcomes:
        raise ValueError(f"{directory}: no outcomes here; run a case first")
    blocks = [
        Heading(1, "What was done to the suite, and what it held"),
        Paragraph(
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
            Heading(2, outcome["case"], anchor=outcome["case"]),
            Paragraph(outcome["what"] + "."),
            Bullets(tuple(_line(*figure) for figure in outcome["figures"].items())),
            Paragraph(
                f"Machine: {place['cpu']}, {place['machine']}; {place['platform']}; "
                f"Python {place['python']}, {versions}."
            ),
        ]
    write_text(path, to_markdown(blocks))
    return path


def _row(outcome: dict[str, Any]) -> tuple:
    place, figures = outcome["environment"], outcome["figures"]
    word, held = "passed" if outcome["passed"] else "FAILED", CASES[outcome["case"]].held
    if held is None:
        word += f": {figures['inputs']} inputs"
    elif held[0] in figures:
        word += f": {figures[held[0]]} of {figures[held[1]]}"
    commit = (place["git_commit"] or "unknown")[:10] + " with changes" * bool(place["git_dirty"])
    return row(outcome["case"], outcome["what"], word, f"{figures['seconds']:.0f}", commit)


def _line(name: str, value: Any) -> str:
    """A figure in one line: a breakdown too, an empty list as none."""
    if isinstance(value, dict):
        value = ", ".join(f"{key} {inner}" for key, inner in value.items())
    elif isinstance(value, list):
        value = "; ".join(map(str, value)) or "none"
    return f"{name.replace('_', ' ')}: {value}"


if __name__ == "__main__":
    sys.exit(main())
