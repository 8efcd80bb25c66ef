"""The claims with their verdicts: CLAIMS.md, tables/claims.csv, the tables of the first page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import claims
from benchmarks.report.artefact import Artefact, Made
from benchmarks.report.claims import MARGIN, TIMES, Verdict
from benchmarks.report.document import (
    Block,
    Bullets,
    Heading,
    Lines,
    Paragraph,
    Table,
    TextCell,
    csv_text,
    frame,
    row,
    standing_note,
    to_markdown,
)
from benchmarks.store import stats
from benchmarks.store.records import NOT_RUN, Study
from sgpo.core.files import write_text

GROUPS = ((False, "Claims of the paper"), (True, "Past the paper"))


def by_statement(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Statement -> its tests on several models, in order."""
    found: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        found.setdefault(verdict.statement, []).append(verdict)
    return found


def summary_tables(study: Study, verdicts: Sequence[Verdict]) -> list[Table]:
    """One row a claim, its tests below each other: the claims of the paper, then the others."""
    tables = []
    for past, title in GROUPS:
        rows = []
        for statement, found in by_statement([v for v in verdicts if v.past is past]).items():
            printed = [v.paper for v in found]
            shown = printed if len(set(printed)) > 1 else printed[:1]
            rows.append(
                (
                    TextCell(sentence(statement), link=_anchor(found[0])),
                    Lines(tuple((TextCell(text),) for text in shown)),
                    Lines(tuple(_result_line(study, v) for v in found)),
                )
            )
        if rows:
            header = ("Claim", "Paper's effect", "Here: verdict, effect [95%], on")
            tables.append(Table(header=header, rows=tuple(rows), caption=_caption(title, past)))
    return tables


def _result_line(study: Study, verdict: Verdict) -> tuple[TextCell, ...]:
    if verdict.effect is None:
        return (TextCell(NOT_RUN, bold=True), TextCell(f"on {verdict.subject}"))
    effect = TextCell(verdict.text(), link=_runs_link(study, verdict))
    return (TextCell(verdict.verdict, bold=True), effect, TextCell(verdict.subject))


def _caption(title: str, past: bool) -> str:
    if past:
        return (
            f"{title}: questions that it leaves open, asked the same way. Where a claim says "
            f'"not below", it allows {MARGIN:g} points: the effect must be above -{MARGIN:g}.'
        )
    return (
        f"{title}. Every effect is taken so that the claim says it is above 0 (a factor: above "
        f"1). holds: the whole 95% interval is; does not hold: the whole interval is on the other "
        f"side; undecided: it is not, or there are fewer than {stats.MIN_SEEDS_FOR_VERDICT} seeds."
    )


def _anchor(verdict: Verdict) -> str:
    """Claims of one statement share a section, whose first test gives it its name."""
    return f"claim-{verdict.key}"


def _runs_link(study: Study, verdict: Verdict) -> str:
    if verdict.effect is None:
        return ""
    cell = study.runs[verdict.effect.run_ids[0]].cell
    return f"runs-{cell.model}-{cell.method}"


def detail_blocks(study: Study, verdicts: Sequence[Verdict]) -> list[Block]:
    """A section a claim: where the paper makes it, how it is measured, every test with all that
    is known of it."""
    blocks: list[Block] = []
    for statement, found in by_statement(verdicts).items():
        claim = found[0].claim
        blocks += [
            Heading(3, f"{sentence(statement)} ({claim.where})", _anchor(found[0])),
            _detail_table(study, found, claim.how),
        ]
        taken_apart = [v for v in verdicts if v.key in claim.apart]
        if taken_apart:
            blocks.append(Paragraph("Taken apart past the paper:"))
            blocks.append(Bullets(tuple(_in_words(taken_apart))))
    return blocks


def _in_words(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a statement with all of its tests."""
    return [
        f"{sentence(statement)}: "
        + "; ".join(f"{v.verdict}, {v.text()}, {v.subject}" for v in found)
        for statement, found in by_statement(verdicts).items()
    ]


def sentence(statement: str) -> str:
    """``statement`` with a capital at its front."""
    return statement[:1].upper() + statement[1:]


def _detail_table(study: Study, verdicts: Sequence[Verdict], caption: str) -> Table:
    rows = [
        row(
            v.subject,
            TextCell(v.verdict, bold=True),
            TextCell(v.text(), link=_runs_link(study, v)),
            v.paper,
            "" if v.effect is None else str(v.effect.num_seeds),
            "" if v.probability is None else f"{v.probability:.2f}",
            v.detail,
        )
        for v in verdicts
    ]
    header = ("On", "Verdict", "Effect [95%]", "Paper's effect", "Seeds", "P(true)", "Details")
    return Table(header=header, rows=tuple(rows), caption=caption, numeric=frozenset({4, 5}))


def caveats(verdicts: Sequence[Verdict]) -> str:
    """How far the verdicts can be trusted: number of tests, and coverage with so few seeds."""
    tested = [v for v in verdicts if v.effect is not None]
    text = (
        f"{len(tested)} of {len(verdicts)} tests could be made; none is corrected for their "
        f"number, so among {len(tested)} true zeros about {0.05 * len(tested):.1f} verdicts other "
        f"than undecided are expected by chance alone."
    )
    for count in sorted({v.effect.num_seeds for v in tested if v.effect is not None}):
        coverage = stats.seed_level_coverage(count, rng=np.random.default_rng(0), num_trials=2000)
        text += (
            f" With {count} seeds a nominal 95% interval covers {100 * coverage:.0f}% where the "
            f"spread between seeds dominates (simulated), more where problems do."
        )
    return text


def page(study: Study, verdicts: Sequence[Verdict]) -> str:
    """CLAIMS.md: what was tested and how, the verdicts, then each claim in detail."""
    blocks: list[Block] = [
        Heading(1, f"Claims of arXiv 2606.24064 on the {study.profile} profile"),
        Paragraph(standing_note(study.profile)),
        Paragraph(
            "Each claim of the paper is one number, its effect, with a 95% interval over training "
            "seeds and test problems (two-level bootstrap), and a verdict. The paper's own effect "
            "stands beside ours and enters no computation. P(true): share of bootstrap draws in "
            "which the claim is true; where the rival is the best of several rows, it is the best "
            "of each draw."
        ),
        *summary_tables(study, verdicts),
        Paragraph(caveats(verdicts)),
        Heading(2, "Each claim in detail"),
        *detail_blocks(study, verdicts),
    ]
    return to_markdown(blocks).replace("](#runs-", "](REPORT.md#runs-")


def records(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """One record a test, for machines; the effect of a factor is its logarithm."""
    return [
        {
            "claim": v.key,
            "of_the_paper": not v.past,
            "on": v.subject,
            "unit": "log factor" if v.unit == TIMES else v.unit,
            "effect": NOT_RUN if v.effect is None else round(v.effect.mean, 6),
            "ci_low": NOT_RUN if v.effect is None else round(v.effect.interval.low, 6),
            "ci_high": NOT_RUN if v.effect is None else round(v.effect.interval.high, 6),
            "margin": v.claim.margin,
            "num_seeds": 0 if v.effect is None else v.effect.num_seeds,
            "probability": NOT_RUN if v.probability is None else v.probability,
            "verdict": v.verdict,
            "run_ids": NOT_RUN if v.effect is None else " ".join(dict.fromkeys(v.effect.run_ids)),
        }
        for v in verdicts
    ]


def make(study: Study, out_dir: Path) -> Made:
    """CLAIMS.md and tables/claims.csv; on the page the summary, whose details have a section of
    their own."""
    found = claims.evaluate(study)
    paths = [
        write_text(out_dir / "CLAIMS.md", page(study, found)),
        write_text(out_dir / "tables" / "claims.csv", csv_text(frame(records(found)))),
    ]
    return Made(paths, [*summary_tables(study, found), Paragraph(caveats(found))])


CLAIMS = Artefact("claims", "Claims", "scores", claims.needs, own=make, analyses=claims.analyses())
