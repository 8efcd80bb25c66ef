"""Builds every table, figure and page of a results directory from its stored runs.

``build(results_dir)`` needs no torch and no model: it reads study.json and the runs, writes
tables/, figures/, CLAIMS.md, REPORT.md and report.html, and says what is missing. Equal runs give
equal bytes.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from benchmarks.report import pages
from benchmarks.report.document import is_miniature, to_markdown
from benchmarks.report.figures import (
    curves,
    degraded,
    delta,
    delta_classes,
    eq4,
    equal_cost,
    fig2,
    fig3,
    fig4,
    fig5,
    fig6,
    maps,
    passk,
    scaling,
)
from benchmarks.report.html import to_html
from benchmarks.report.tables import (
    ablations,
    budget,
    claims_table,
    disjointness,
    kin,
    regime,
    table1,
    table8,
    tuning,
)
from benchmarks.store import experiments
from benchmarks.store.load import load_study
from benchmarks.store.records import NOT_RUN, Study
from sgpo.core.files import write_text

# Every artefact in the order of the report. A module has NAME, TITLE, USES ("scores": evaluated
# runs, "metrics": trained runs), needs(study), build(study, out_dir) and blocks(study, out_dir);
# one that draws from analyses also has ANALYSES, their keys.
ARTEFACTS = (claims_table, table1, fig4, scaling, curves, *ablations.TABLES, fig2, fig3, fig5,
             fig6, table8, passk, delta, kin.KIN, kin.MASK, delta_classes, maps.DIFFICULTY,
             maps.SIZE, equal_cost, degraded, eq4, regime, disjointness, tuning,
             budget)  # fmt: skip
REPORT = "report"
NAMED = 8  # runs that the summary names; a fresh profile lacks hundreds


class ReportError(ValueError):
    """A request the report cannot serve, in one line."""


@dataclass(frozen=True)
class MissingCell:
    """A run that artefacts need and that cannot be used. ``run_id`` is None where the grid does
    not plan one; ``artefacts`` are the names of those that print "not run" for it."""

    model: str
    method: str
    seed: int | None
    run_id: str | None
    reason: str
    artefacts: tuple[str, ...]


@dataclass(frozen=True)
class ReportSummary:
    """``written``: paths of all files made; ``missing``: runs that are absent, one entry each;
    ``commands``: what makes them, one command an artefact."""

    written: tuple[Path, ...]
    missing: tuple[MissingCell, ...]
    commands: tuple[str, ...]

    def text(self) -> str:
        """What a person wants to know after a build, in a few lines."""
        lines = [f"{len(self.written)} files written"]
        lines += [str(path) for path in self.written if path.name in ("REPORT.md", "report.html")]
        if self.missing:
            names = [m.run_id or m.method for m in self.missing]
            rest = f" and {len(names) - NAMED} more (sgpo status lists all)"
            lines.append(f"not run: {', '.join(names[:NAMED])}{rest if len(names) > NAMED else ''}")
            lines += [f"to run them: {command}" for command in self.commands]
        return "\n".join(lines)


def build(results_dir: Path, only: Sequence[str] | None = None) -> ReportSummary:
    """Writes the artefacts of ``results_dir`` (``results/<profile>``) and says what is missing.

    Args:
        only: names of artefacts; None or a list with "report" writes all of them and the pages.

    Raises:
        ReportError: an unknown name in ``only``.
        store.StudyError, stats.StatsError: stored runs that must not share a table.
    """
    results_dir = Path(results_dir)
    study = load_study(results_dir)
    chosen = _chosen(only, study)
    written = [path for module in chosen for path in module.build(study, results_dir)]
    missing = missing_cells(study, chosen)
    commands = tuple(
        study.command(module.NAME)
        for module in chosen
        if any(module.NAME in cell.artefacts for cell in missing)
    )
    if only is None or REPORT in only:
        content = [(module, module.blocks(study, results_dir)) for module in chosen]
        blocks = pages.report_blocks(study, content, missing, commands)
        title = pages.title(study)
        written.append(write_text(results_dir / "REPORT.md", to_markdown(blocks)))
        written.append(write_text(results_dir / "report.html", to_html(blocks, title=title)))
    return ReportSummary(written=tuple(written), missing=missing, commands=commands)


def names() -> tuple[str, ...]:
    """What ``only`` may name."""
    return (*(module.NAME for module in ARTEFACTS), REPORT)


def needs(study: Study, only: Sequence[str]) -> set[tuple[str, str]]:
    """(model, method) of every run that the named artefacts read, of a planned or a loaded study.

    Raises:
        ReportError: an unknown name in ``only``.
    """
    return {cell for module in _chosen(only, study) for cell in module.needs(study)}


def analyses(only: Sequence[str]) -> set[str]:
    """Keys of the analyses that the named artefacts draw from."""
    named = [module for module in ARTEFACTS if module.NAME in only or REPORT in only]
    return {key for module in named for key in getattr(module, "ANALYSES", ())}


def missing_cells(study: Study, modules: Sequence) -> tuple[MissingCell, ...]:
    """Runs that ``modules`` need and that cannot be used, each once, in the order of the grid."""
    found: dict[tuple, tuple[str, list[str]]] = {}
    for module in modules:
        for model, method in module.needs(study):
            cells = study.cells_of(model, method)
            if not cells:
                key = (model, method, None, None)
                found.setdefault(key, ("not in the grid", []))[1].append(module.NAME)
            for cell in cells:
                reason = study.why_missing(cell, scored=module.USES == "scores")
                if reason:
                    key = (model, method, cell.seed, cell.run_id)
                    found.setdefault(key, (reason, []))[1].append(module.NAME)
        for task in study.analyses:
            reason = study.why_analysis_missing(task)
            if reason and task.key in getattr(module, "ANALYSES", ()):
                key = (task.model, f"analysis {task.key}", task.seed, task.run_id)
                found.setdefault(key, (reason, []))[1].append(module.NAME)
    return tuple(
        MissingCell(*key, reason=reason, artefacts=tuple(artefacts))
        for key, (reason, artefacts) in found.items()
    )


def _chosen(only: Sequence[str] | None, study: Study) -> tuple:
    """The artefacts to build. All of them leaves out those on SGPO's variants and on experiments
    where the study plans none, and those on the mini world in another; asked for by name, they say
    "not run"."""
    planned = ablations.model_of(study) is not None
    standing = tuple(
        m
        for m in ARTEFACTS
        if (planned or m.NAME not in ablations.VARIANT_ARTEFACTS)
        and (m.NAME not in experiments.ARTEFACTS or m.needs(study))
        and (is_miniature(study.profile) or not _of_the_mini_world(m))
    )
    if only is None:
        return standing
    for name in only:
        if name not in names():
            near = difflib.get_close_matches(name, names(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ReportError(f"unknown artefact {name!r}; allowed: {', '.join(names())}{hint}")
    if REPORT in only:
        return standing
    return tuple(module for module in ARTEFACTS if module.NAME in only)


def _of_the_mini_world(module: ModuleType) -> bool:
    """Whether an artefact can only be made of studies on the mini world."""
    return module in (regime, disjointness) or bool(getattr(module, "ANALYSES", ()))


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m benchmarks.report.build results/<profile> [--only a,b]``; the exit code."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.report.build", description=__doc__.splitlines()[0]
    )
    parser.add_argument("results_dir", type=Path, help="results/<profile>")
    parser.add_argument("--only", help=f"comma-separated: {', '.join(names())}")
    options = parser.parse_args(arguments)
    try:
        summary = build(options.results_dir, options.only.split(",") if options.only else None)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in summary.written:
        print(path)
    for cell in summary.missing:
        seed = "" if cell.seed is None else f" seed {cell.seed}"
        print(f"{NOT_RUN}: {cell.model} {cell.method}{seed} ({cell.reason})")
    for command in summary.commands:
        print(f"made by: {command}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
