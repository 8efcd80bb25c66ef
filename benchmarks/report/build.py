"""Builds every table, figure and page of a results directory from its stored runs.

``build(results_dir)`` needs no torch and no model: it reads study.json and the runs, writes
tables/, figures/, CLAIMS.md, REPORT.md and report.html, and says what is missing. Equal runs give
equal bytes.
"""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import bands, claims_page, pages
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures import gains, mechanism, training
from benchmarks.report.html import to_html
from benchmarks.report.tables import accuracy, graders, records
from benchmarks.store.load import load_study
from benchmarks.store.records import Study
from sgpo.core.files import write_text

# Every artefact in the order of the report.
ARTEFACTS = (
    claims_page.CLAIMS, accuracy.TABLE1, gains.EQUAL_COST, training.FIG4,
    *(table.artefact() for table in accuracy.VARIANT_TABLES),
    mechanism.FIG2, training.FIG3, mechanism.FIG5, training.FIG6, training.SFT_LOSS,
    records.TABLE8, accuracy.PASSK, mechanism.DELTA, accuracy.KIN.artefact(),
    accuracy.TEACHER.artefact(), accuracy.DISTIL.artefact(), accuracy.MASK.artefact(),
    accuracy.FACTORS.artefact(), gains.WHEN, graders.GRADERS,
    mechanism.REGIME, records.REGIME, records.DISJOINTNESS, records.TUNING, records.BUDGET,
    bands.BANDS,
)  # fmt: skip
REPORT = "report"
NAMES = (*(artefact.name for artefact in ARTEFACTS), REPORT)
NAMED = 8  # runs that the summary names; a fresh profile lacks hundreds
SECONDS_A_LINE = 10.0  # between two lines about the progress of a build


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
    ``commands``: what makes them, one command an artefact, and ``command`` all of them."""

    written: tuple[Path, ...]
    missing: tuple[MissingCell, ...]
    commands: tuple[str, ...]
    command: str

    def text(self) -> str:
        """What a person wants to know after a build, in a few lines."""
        lines = [f"{len(self.written)} files written"]
        lines += [str(path) for path in self.written if path.name in ("REPORT.md", "report.html")]
        if self.missing:
            names = [m.run_id or m.method for m in self.missing]
            rest = f" and {len(names) - NAMED} more (sgpo status lists all)"
            lines.append(f"not run: {', '.join(names[:NAMED])}{rest if len(names) > NAMED else ''}")
            lines.append(f"to run them: {self.command}")
        return "\n".join(lines)


def build(
    results_dir: Path, only: Sequence[str] | None = None, *, figures: bool = True
) -> ReportSummary:
    """Writes the artefacts of ``results_dir`` (``results/<profile>``) and says what is missing.

    Args:
        only: names of artefacts; None or a list with "report" writes all of them and the pages,
            and removes what an artefact that is left out had written.
        figures: False writes neither figures nor report.html, which holds them; the rest is the
            same.

    Raises:
        ReportError: a name in ``only`` that is unknown or that this study plans nothing for.
        store.StudyError, stats.StatsError: stored runs that must not share a table.
    """
    results_dir = Path(results_dir)
    study = load_study(results_dir)
    chosen = chosen_artefacts(study, only)
    content, said = {}, time.monotonic()
    for artefact in chosen:
        content[artefact] = artefact.make(study, results_dir, figures=figures)
        if time.monotonic() - said > SECONDS_A_LINE:
            said, done = time.monotonic(), f"{len(content)} of {len(chosen)}"
            print(f"report: {done} made, up to {artefact.name}", file=sys.stderr)
    written = [path for made in content.values() for path in made.paths]
    missing = missing_cells(study, chosen)
    lacking = [a for a in chosen if any(a.name in cell.artefacts for cell in missing)]
    commands = tuple(study.command(a.name, a.needs(study)) for a in lacking)
    if only is None or REPORT in only:
        text = pages.report(study, content, missing, commands)
        written += _pages(study, text, figures)
        _remove_left_over(results_dir, content)
    usual = results_dir.resolve().parts[-2:] == ("results", study.profile)
    names = ",".join(artefact.name for artefact in lacking)
    command = study.command(names, out="" if usual else str(results_dir))
    return ReportSummary(tuple(written), missing, commands, command)


def _pages(study: Study, text: str, figures: bool) -> list[Path]:
    """REPORT.md, report.html and, of the study that the README shows, its block of results."""
    root = study.root
    # What stands behind a claim is on the page of the claims.
    written = [write_text(root / "REPORT.md", text.replace("](#claim-", "](CLAIMS.md#claim-"))]
    if figures:
        page = to_html(text, root, title=pages.title(study))
        written.append(write_text(root / "report.html", page))
    readme = root.resolve().parents[1] / "README.md"
    if root.name == "mini" and readme.exists() and pages.BEGIN in readme.read_text():
        block = pages.with_block(readme.read_text(), pages.results_block(study))
        written.append(write_text(readme, block))
    return written


def _remove_left_over(results_dir: Path, made: Iterable[Artefact]) -> None:
    """Files of artefacts that an earlier plan had: nothing stands beside what the runs give."""
    for artefact in set(ARTEFACTS) - set(made):
        for name in (f"tables/{artefact.name}", f"tables/{artefact.name}_paper",
                     f"figures/{artefact.name}"):  # fmt: skip
            for path in results_dir.glob(f"{name}.*"):
                path.unlink()


def needs(study: Study, only: Sequence[str]) -> set[Need]:
    """(model, method) of every run that the named artefacts read.

    Raises:
        ReportError: as for :func:`build`.
    """
    return {need for artefact in chosen_artefacts(study, only) for need in artefact.needs(study)}


def analyses(only: Sequence[str]) -> set[str]:
    """Keys of the analyses that the named artefacts draw from."""
    named = [a for a in ARTEFACTS if a.name in only or REPORT in only]
    return {key for artefact in named for key in artefact.analyses}


def missing_cells(study: Study, artefacts: Sequence[Artefact]) -> tuple[MissingCell, ...]:
    """Runs that ``artefacts`` need and that cannot be used, each once, in the order of the grid."""
    found: dict[tuple, tuple[str, list[str]]] = {}
    for artefact in artefacts:
        reasons: dict[tuple, str | None] = {}
        for model, method in artefact.needs(study):
            cells = study.cells_of(model, method)
            if not cells:
                reasons[model, method, None, None] = "not in the grid"
            for cell in cells:
                reason = study.why_missing(cell, scored=artefact.uses == "scores")
                reasons[model, method, cell.seed, cell.run_id] = reason
        for task in study.analyses:
            if task.key in artefact.analyses:
                key = (task.model, f"analysis {task.key}", task.seed, task.run_id)
                reasons[key] = study.why_analysis_missing(task)
        for key, reason in reasons.items():
            if reason:
                found.setdefault(key, (reason, []))[1].append(artefact.name)
    return tuple(
        MissingCell(*key, reason=reason, artefacts=tuple(names))
        for key, (reason, names) in found.items()
    )


def chosen_artefacts(study: Study, only: Sequence[str] | None = None) -> tuple[Artefact, ...]:
    """The artefacts to build: those that the study plans runs for, or the named ones of them."""
    standing = tuple(a for a in ARTEFACTS if a.planned(study))
    for name in only or ():
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ReportError(f"unknown artefact {name!r}; allowed: {', '.join(NAMES)}{hint}")
        if name != REPORT and name not in [a.name for a in standing]:
            artefact = next(a for a in ARTEFACTS if a.name == name)
            if artefact.file and not any(study.root.glob(artefact.file)):
                made = "; its trials are run by `sgpo tune`" if name == "tuning" else ""
                raise ReportError(f"{name}: is read off {artefact.file}, which is not here{made}")
            add = f"; to plan and run them: {study.command(name)}" if artefact.extended else ""
            raise ReportError(f"{name}: this study plans none of the runs that it shows{add}")
    if only is None or REPORT in only:
        return standing
    return tuple(a for a in standing if a.name in only)
