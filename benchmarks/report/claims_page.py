"""The claims with their verdicts: CLAIMS.md, tables/claims.csv, the tables of the first page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.report import claims, document, estimates, headline
from benchmarks.report.artefact import WORDS, Made, described
from benchmarks.report.claims import TIMES, Verdict, units_for_a_verdict
from benchmarks.report.document import Cell, Table, paragraph, row
from benchmarks.store import stats
from benchmarks.store.records import NOT_RUN, Study
from sgpo.core.files import write_text

HEADER = ("Claim", "On", "Verdict", "Effect [95%]", "Paper's effect", "p", "Detectable", "Margin")
NOT_TESTED = "not tested"


def by_statement(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Statement -> its tests on several models, in order."""
    return {words: list(found) for words, found in groupby(verdicts, lambda v: v.statement)}


def sentence(statement: str) -> str:
    """``statement`` with a capital at its front."""
    return statement[:1].upper() + statement[1:]


def summary_tables(study: Study, verdicts: Sequence[Verdict]) -> list[Table]:
    """A row a test: those of the paper's claims, then the others."""
    tables = []
    for past in (False, True):
        tests = [v for v in verdicts if v.past is past]
        rows = [
            _row(study, v, name=sentence(statement) if v is found[0] else "")
            for statement, found in by_statement(tests).items()
            for v in found
        ]
        if rows:
            caption = _caption(tests, past)
            tables.append(Table(HEADER, tuple(rows), caption, numeric=frozenset({5, 6, 7})))
    return tables


def _row(study: Study, verdict: Verdict, name: str):
    """``name``: of the claim, in the first row of its tests."""
    effect, p = verdict.effect, verdict.p if verdict.corrected is None else verdict.corrected
    told = f"{verdict.verdict}{' (Holm)' if _corrected_away(verdict) else ''}"
    picked = f" (best of {verdict.picked_from} picked)" if verdict.picked_from > 1 else ""
    link, detectable = "", math.nan
    if effect is not None:
        detectable = effect.of.detectable()
        cell = study.runs[effect.run_ids[0]].cell
        link = f"runs-{cell.model}-{cell.method}"
    return row(
        Cell(name, link=_anchor(verdict) if name else ""),
        verdict.subject + picked,
        Cell(told, bold=True),
        Cell(verdict.text(), link=link),
        verdict.paper,
        "" if p is None else ("<0.001" if p < 0.001 else f"{p:.3f}"),
        "" if math.isnan(detectable) else verdict.number(detectable),
        verdict.number(verdict.margin),
    )


def _corrected_away(verdict: Verdict) -> bool:
    """Decided but for Holm's correction: its interval, which has none, may lie on one side of 0."""
    undecided = verdict.verdict == stats.TOO_LITTLE and verdict.corrected is not None
    return undecided and verdict.p < 0.05 <= verdict.corrected


def _anchor(verdict: Verdict) -> str:
    """Claims of one statement share a section, whose first test gives it its name."""
    return f"claim-{verdict.key}"


def _caption(tests: Sequence[Verdict], past: bool) -> str:
    family = [v for v in tests if v.corrected is not None]
    words = WORDS["claims"]["past" if past else "papers"]
    return words.format(number=len(family), lost=sum(map(_corrected_away, family)))


def legend(study: Study) -> str:
    """What a verdict means and what it is over."""
    words = WORDS["claims"]
    alone = study.miniature and not study.own_problems
    return words["legend"].format(
        needed=units_for_a_verdict(study),
        units="worlds" if study.own_problems else "seeds",
        over=estimates.over_text(study, "the"),
        one_world=words["one_world"] if alone else "",
    )


def lines(verdicts: Sequence[Verdict]) -> list[str]:
    """One line a statement with all of its tests."""
    return [
        f"{statement}: " + "; ".join(f"{v.verdict}, {v.text()}, {v.subject}" for v in found)
        for statement, found in by_statement(verdicts).items()
    ]


def page(study: Study, verdicts: Sequence[Verdict]) -> str:
    """CLAIMS.md."""
    told: list[dict[str, object]] = []
    for statement, found in by_statement(verdicts).items():
        claim, details = found[0].claim, dict.fromkeys(v.detail for v in found if v.detail)
        apart = dict.fromkeys(v.statement for v in verdicts if v.key in claim.apart)
        if told and told[-1]["how"] == claim.how:
            told[-1]["how"] = ""  # a family is explained once, below its last claim
        told.append(
            {
                "anchor": _anchor(found[0]),
                "title": f"{sentence(statement)} ({claim.where})",
                "how": claim.how,
                "details": [
                    detail if len(details) == 1 else
                    f"{document.in_words(v.subject for v in found if v.detail == detail)}: {detail}"
                    for detail in details
                ] + [f"Taken apart past the paper: {'; '.join(apart)}."] * bool(apart),
            }
        )  # fmt: skip
    text = document.page(
        "CLAIMS.md.jinja",
        profile=study.profile,
        note=document.standing_note(study.miniature),
        legend=legend(study),
        beside=headline.beside(study),
        tables=document.to_markdown(summary_tables(study, verdicts)),
        claims=told,
    )
    return text.replace("](#runs-", "](REPORT.md#runs-")


def records(verdicts: Sequence[Verdict]) -> list[dict[str, object]]:
    """One record a test, for machines; the effect of a factor is its logarithm. A mean alone leaves
    its interval empty."""
    found = []
    for v in verdicts:
        numbers = dict.fromkeys(("effect", "ci_low", "ci_high", "detectable"), NOT_RUN)
        if v.effect is not None:
            e = v.effect.interval
            values = (e.mean, e.low, e.high, v.effect.of.detectable())
            numbers = {n: round(x, 6) for n, x in zip(numbers, values, strict=True)}
        found.append(
            {
                "claim": v.key,
                "of_the_paper": not v.past,
                "on": v.subject,
                "unit": "log factor" if v.unit == TIMES else v.unit,
                **numbers,
                "margin": round(v.margin, 6),
                "num_seeds": 0 if v.effect is None else v.effect.num_seeds,
                "p": NOT_TESTED if v.p is None else round(v.p, 6),
                "p_holm": NOT_TESTED if v.corrected is None else round(v.corrected, 6),
                "verdict": v.verdict,
                "run_ids": " ".join(dict.fromkeys(v.effect.run_ids)) if v.effect else NOT_RUN,
            }
        )
    return found


def make(study: Study, out_dir: Path) -> Made:
    """CLAIMS.md and tables/claims.csv; on the page the summary, whose details have a section of
    their own."""
    found = claims.evaluate(study)
    paths = [
        write_text(out_dir / "CLAIMS.md", page(study, found)),
        write_text(
            out_dir / "tables" / "claims.csv", document.csv_text(document.frame(records(found)))
        ),
    ]
    return Made(paths, [paragraph(legend(study)), *summary_tables(study, found)])


CLAIMS = described("claims", claims.needs, own=make, analyses=claims.analyses())
