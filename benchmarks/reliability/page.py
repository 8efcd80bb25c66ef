"""results/reliability.md from the outcomes that the cases left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report.document import Bullets, Heading, Paragraph, Table, row, to_markdown
from sgpo.core.files import read_json, write_text

# Case -> (what held, of how many): the figure that the first table shows.
_HELD = {
    "kill": ("finished_with_identical_tables", "kills"),
    "disk": ("continued_to_identical_tables", "full_disks"),
    "checkpoint": ("ended_with_identical_weights", "damaged_states"),
    "cases": ("right", "cases"),
    "together": ("one_ran_and_one_was_refused", "pairs"),
}


def write_page(directory: Path) -> Path:
    """Write ``directory``.md from its JSON files; its path."""
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
        blocks += [
            Heading(2, outcome["case"], anchor=outcome["case"]),
            Paragraph(outcome["what"] + "."),
            Bullets(tuple(_lines(outcome["figures"]))),
            Paragraph(_machine(outcome["environment"])),
        ]
    write_text(path, to_markdown(blocks))
    return path


def _row(outcome: dict[str, Any]) -> tuple:
    environment = outcome["environment"]
    commit = (environment["git_commit"] or "unknown")[:10]
    if environment["git_dirty"]:
        commit += " with changes"
    return row(
        outcome["case"],
        outcome["what"],
        _outcome(outcome),
        f"{outcome['figures']['seconds']:.0f}",
        commit,
    )


def _outcome(outcome: dict[str, Any]) -> str:
    """ "passed" or "FAILED", with how many of how many held where the case counts trials."""
    word = "passed" if outcome["passed"] else "FAILED"
    held, total = (outcome["figures"].get(name) for name in _HELD.get(outcome["case"], ("", "")))
    if held is not None and total is not None:
        return f"{word}: {held} of {total}"
    inputs = outcome["figures"].get("inputs")
    return word if inputs is None else f"{word}: {inputs} inputs"


def _lines(figures: dict[str, Any]) -> list[str]:
    """One line a figure; a breakdown in one line, an empty list as none."""
    lines = []
    for name, value in figures.items():
        if isinstance(value, dict):
            text = ", ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            text = "; ".join(map(str, value)) or "none"
        else:
            text = str(value)
        lines.append(f"{name.replace('_', ' ')}: {text}")
    return lines


def _machine(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {found}" for name, found in environment["packages"].items())
    return (
        f"Machine: {environment['cpu']}, {environment['machine']}; {environment['platform']}; "
        f"Python {environment['python']}, {versions}."
    )
