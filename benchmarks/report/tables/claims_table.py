"""The claims with their verdicts: CLAIMS.md, tables/claims.csv, the tables of the first page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import claims as tests
from benchmarks.report import curve_claims
from benchmarks.report.claim import MARGIN, TIMES, Claim, effect_text
from benchmarks.report.claim_notes import NOTES
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

NAME = "claims"
TITLE = "Claims"
USES = "scores"
ANALYSES = curve_claims.ANALYSES
GROUPS = ((False, "Claims of the paper"), (True, "Past the paper"))


def needs(study: Study) -> list[tuple[str, str]]:
    return tests.needs(study)


def by_statement(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Statement -> its tests on several models, in order."""
    found: dict[str, list[Claim]] = {}
    for claim in claims:
        found.setdefault(claim.statement, []).append(claim)
    return found


def summary_tables(study: Study, claims: Sequence[Claim]) -> list[Table]:
    """One row a claim, its tests below each other: the claims of the paper, then the others."""
    tables = []
    for past, title in GROUPS:
        members = [c for c in claims if c.past is past]
        rows = []
        for statement, found in by_statement(members).items():
            printed = [c.paper for c in found]
            shown = printed if len(set(printed)) > 1 else printed[:1]
            paper = tuple((TextCell(text),) for text in shown)
            lines = tuple(_result_line(study, c) for c in found)
            rows.append(
                (TextCell(sentence(statement), link=_anchor(found[0])), Lines(paper), Lines(lines))
            )
        if rows:
            header = ("Claim", "Paper's effect", "Here: verdict, effect [95%], on")
            tables.append(Table(header=header, rows=tuple(rows), caption=_caption(title, past)))
    return tables


def _result_line(study: Study, claim: Claim) -> tuple[TextCell, ...]:
    if claim.effect is None:
        return (TextCell(NOT_RUN, bold=True), TextCell(f"on {claim.subject}"))
    effect = TextCell(effect_text(claim), link=_runs_link(study, claim))
    return (TextCell(claim.verdict, bold=True), effect, TextCell(claim.subject))


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


def _anchor(claim: Claim) -> str:
    """Claims of one statement share a section, whose first test gives it its name."""
    return f"claim-{claim.key}"


def _runs_link(study: Study, claim: Claim) -> str:
    if claim.effect is None:
        return ""
    cell = study.runs[claim.effect.run_ids[0]].cell
    return f"runs-{cell.model}-{cell.method}"


def detail_blocks(study: Study, claims: Sequence[Claim]) -> list[Block]:
    """A section a claim: where the paper makes it, how it is measured, every test with all that
    is known of it."""
    blocks: list[Block] = []
    for statement, found in by_statement(claims).items():
        note = NOTES[found[0].key]
        blocks += [
            Heading(3, f"{sentence(statement)} ({note.where})", _anchor(found[0])),
            _detail_table(study, found, note.measured),
        ]
        taken_apart = [c for c in claims if c.key in note.apart]
        if taken_apart:
            blocks.append(Paragraph("Taken apart past the paper:"))
            blocks.append(Bullets(tuple(_in_words(taken_apart))))
    return blocks


def _in_words(claims: Sequence[Claim]) -> list[str]:
    """One line a statement with all of its tests."""
    return [
        f"{sentence(statement)}: "
        + "; ".join(f"{c.verdict}, {effect_text(c)}, {c.subject}" for c in found)
        for statement, found in by_statement(claims).items()
    ]


def sentence(statement: str) -> str:
    """``statement`` with a capital at its front."""
    return statement[:1].upper() + statement[1:]


def _detail_table(study: Study, claims: Sequence[Claim], caption: str) -> Table:
    rows = [
        row(
            c.subject,
            TextCell(c.verdict, bold=True),
            TextCell(effect_text(c), link=_runs_link(study, c)),
            c.paper,
            "" if c.effect is None else str(c.effect.num_seeds),
            "" if c.probability is None else f"{c.probability:.2f}",
            c.detail,
        )
        for c in claims
    ]
    header = ("On", "Verdict", "Effect [95%]", "Paper's effect", "Seeds", "P(true)", "Details")
    return Table(header=header, rows=tuple(rows), caption=caption, numeric=frozenset({4, 5}))


def caveats(study: Study, claims: Sequence[Claim]) -> str:
    """How far the verdicts can be trusted: number of tests, and coverage with so few seeds."""
    tested = [c for c in claims if c.effect is not None]
    text = (
        f"{len(tested)} of {len(claims)} tests could be made; none is corrected for their number, "
        f"so among {len(tested)} true zeros about {0.05 * len(tested):.1f} verdicts other than "
        f"undecided are expected by chance alone."
    )
    for count in sorted({c.effect.num_seeds for c in tested if c.effect is not None}):
        coverage = stats.seed_level_coverage(count, rng=np.random.default_rng(0), num_trials=2000)
        text += (
            f" With {count} seeds a nominal 95% interval covers {100 * coverage:.0f}% where the "
            f"spread between seeds dominates (simulated), more where problems do."
        )
    return text


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes CLAIMS.md and tables/claims.csv."""
    found = tests.evaluate(study)
    return [
        write_text(out_dir / "CLAIMS.md", page(study, found)),
        write_text(out_dir / "tables" / "claims.csv", csv_text(frame(records(found)))),
    ]


def page(study: Study, claims: Sequence[Claim]) -> str:
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
        *summary_tables(study, claims),
        Paragraph(caveats(study, claims)),
        Heading(2, "Each claim in detail"),
        *detail_blocks(study, claims),
    ]
    text = to_markdown(blocks)
    return text.replace("](#runs-", "](REPORT.md#runs-")


def records(claims: Sequence[Claim]) -> list[dict[str, object]]:
    """One record a test, for machines; the effect of a factor is its logarithm."""
    return [
        {
            "claim": c.key,
            "of_the_paper": not c.past,
            "on": c.subject,
            "unit": "log factor" if c.unit == TIMES else c.unit,
            "effect": NOT_RUN if c.effect is None else round(c.effect.mean, 6),
            "ci_low": NOT_RUN if c.effect is None else round(c.effect.interval.low, 6),
            "ci_high": NOT_RUN if c.effect is None else round(c.effect.interval.high, 6),
            "margin": c.margin,
            "num_seeds": 0 if c.effect is None else c.effect.num_seeds,
            "probability": NOT_RUN if c.probability is None else c.probability,
            "verdict": c.verdict,
            "run_ids": NOT_RUN if c.effect is None else " ".join(dict.fromkeys(c.effect.run_ids)),
        }
        for c in claims
    ]


def blocks(study: Study, out_dir: Path) -> list[Block]:
    """The tables of the first page; the details have a section of their own."""
    found = tests.evaluate(study)
    return [*summary_tables(study, found), Paragraph(caveats(study, found))]
