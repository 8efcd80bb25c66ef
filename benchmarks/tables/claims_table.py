"""The claims with their verdicts: CLAIMS.md, tables/claims.csv, the table of the first page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks import ablation_claims, stats
from benchmarks.claims import Claim, evaluate
from benchmarks.document import (
    Block,
    Paragraph,
    Table,
    TextCell,
    row,
    standing_note,
    to_markdown,
)
from benchmarks.figures import scaling
from benchmarks.store import NOT_RUN, Study, write_atomic
from benchmarks.tables import table1
from benchmarks.tables.write import csv_text

NAME = "claims"
TITLE = "Claims"
USES = "scores"


def needs(study: Study) -> list[tuple[str, str]]:
    tested = (table1, scaling, ablation_claims)
    return list(dict.fromkeys(need for module in tested for need in module.needs(study)))


def table(study: Study, claims: list[Claim]) -> Table:
    """The claims table; the paper's effects have a column of their own."""
    rows = [
        row(
            c.statement,
            c.subject,
            TextCell(effect_text(c), link=_link(study, c)),
            "" if c.effect is None else str(c.effect.num_seeds),
            "" if c.probability is None else f"{c.probability:.2f}",
            TextCell(c.verdict, bold=True),
            c.paper,
            c.detail,
        )
        for c in claims
    ]
    return Table(
        header=(
            "Claim",
            "On",
            "Our effect [95%]",
            "Seeds",
            "P(effect > 0)",
            "Verdict",
            "Paper's effect",
            "Details",
        ),
        rows=tuple(rows),
        caption="Each claim says: effect above 0. holds: the whole 95% interval is above 0; does "
        "not hold: it is below 0; undecided: it contains 0, or there are fewer than "
        f"{stats.MIN_SEEDS_FOR_VERDICT} seeds. P: share of bootstrap draws in which the claim is "
        "true, for the first claim against the best other row of each draw.",
        numeric=frozenset({3, 4}),
    )


def effect_text(claim: Claim) -> str:
    """ "+3.1 points [1.0, 5.2]" or "not run"."""
    if claim.effect is None:
        return NOT_RUN
    digits = 1 if claim.unit == "points" else 3
    e = claim.effect.interval
    return f"{e.mean:+.{digits}f} {claim.unit} [{e.low:.{digits}f}, {e.high:.{digits}f}]"


def _link(study: Study, claim: Claim) -> str:
    if claim.effect is None:
        return ""
    cell = study.runs[claim.effect.run_ids[0]].cell
    return f"runs-{cell.model}-{cell.method}"


def caveats(study: Study, claims: list[Claim]) -> str:
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
    claims = evaluate(study)
    records = [
        {
            "claim": c.key,
            "on": c.subject,
            "unit": c.unit,
            "effect": NOT_RUN if c.effect is None else round(c.effect.mean, 6),
            "ci_low": NOT_RUN if c.effect is None else round(c.effect.interval.low, 6),
            "ci_high": NOT_RUN if c.effect is None else round(c.effect.interval.high, 6),
            "num_seeds": 0 if c.effect is None else c.effect.num_seeds,
            "probability": NOT_RUN if c.probability is None else c.probability,
            "verdict": c.verdict,
            "run_ids": NOT_RUN if c.effect is None else " ".join(c.effect.run_ids),
        }
        for c in claims
    ]
    page = (
        f"# Claims of arXiv 2606.24064 on the {study.profile} profile\n\n"
        f"{standing_note(study.profile)}\n\n" + to_markdown(blocks(study, out_dir))
    )
    return [
        write_atomic(out_dir / "CLAIMS.md", page.replace("](#", "](REPORT.md#")),
        write_atomic(out_dir / "tables" / "claims.csv", csv_text(records)),
    ]


def blocks(study: Study, out_dir: Path) -> list[Block]:
    claims = evaluate(study)
    return [table(study, claims), Paragraph(caveats(study, claims))]
