"""Table 8: the quality of 500 strategies, scored by a second scorer, in the paper's three bands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report.document import Block, Table, row, standing_note
from benchmarks.report.tables import table1
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, Study

NAME = "table8"
TITLE = "Table 8: quality of the strategies"
USES = "metrics"
ANALYSIS = "strategies"
ANALYSES = (ANALYSIS,)
BANDS = (("High", "[0.8, 1.0]"), ("Medium", "[0.5, 0.8)"), ("Low", "[0.0, 0.5)"))
CRITERIA = (
    ("type", "Type right"),
    ("strategy", "Strategy apt"),
    ("steps", "Steps named"),
    ("no_leak", "No leak"),
)
GROUPS = (("chosen", "Kept: best of 5"), ("candidates", "All candidates"))
FLAWS = {
    "sound": "of them: sound",
    "vague": "of them: one choice left open",
    "wrong_choice": "of them: one choice wrong",
    "wrong_type": "of them: another type's plan",
    "thin_steps": "of them: no steps",
    "leak": "of them: answer given away",
}


def needs(study: Study) -> list[tuple[str, str]]:
    """Nothing: the strategies are made by the expert, before any training."""
    return []


def result(study: Study) -> Mapping[str, Any] | None:
    """What the analysis stored, None while it is not there."""
    found = study.analyses_of(ANALYSIS)
    return found[0].result if found else None


def groups(study: Study) -> list[tuple[str, Mapping[str, Any] | None]]:
    """Label and summary of every row of the table."""
    stored = result(study)
    if stored is None:
        return [(label, None) for _, label in GROUPS]
    rows = [(label, stored[key]) for key, label in GROUPS]
    flaws = stored["by_flaw"]
    return rows + [(label, flaws[key]) for key, label in FLAWS.items() if key in flaws]


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes tables/table8.{md,csv,tex} and tables/table8_paper.{md,csv,tex}."""
    ours = write_table(
        out_dir / "tables" / NAME,
        table(study),
        note=standing_note(study.profile),
        records=records(study),
    )
    printed = write_table(
        out_dir / "tables" / f"{NAME}_paper",
        paper_table(),
        note="Numbers as printed in arXiv 2606.24064 (v1), Table 8; none of them is ours.",
        records=table1.paper_records(NAME),
    )
    return ours + printed


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [table(study), paper_table()]


def table(study: Study) -> Table:
    """Rows the kept strategies, all candidates, and these by what was wrong with them."""
    rows = []
    for label, summary in groups(study):
        if summary is None:
            rows.append(row(label, *[NOT_RUN] * (2 + len(BANDS) + len(CRITERIA))))
            continue
        shares = [100 * summary["bands"][name] / summary["count"] for name, _ in BANDS]
        means = [summary["mean"], *(summary["by_criterion"][key] for key, _ in CRITERIA)]
        rows.append(
            row(
                label,
                str(summary["count"]),
                *(f"{share:.1f}" for share in shares),
                *(f"{mean:.2f}" for mean in means),
            )
        )
    bands = (f"{name} {limits}, %" for name, limits in BANDS)
    criteria = (label for _, label in CRITERIA)
    return Table(
        header=("Strategies", "Number", *bands, "Mean score", *criteria),
        rows=tuple(rows),
        caption=caption(study),
        numeric=frozenset(range(1, 3 + len(BANDS) + len(CRITERIA))),
    )


def caption(study: Study) -> str:
    stored = result(study)
    best = "" if stored is None else (
        f" No other candidate scores higher than the kept one on {100 * stored['best_kept']:.1f}% "
        f"of the problems."
    )  # fmt: skip
    return (
        f"Table 8 ({study.profile} profile): strategies of the rule-based expert for the first "
        f"problems of the RL split, five candidates a problem, the best by the expert's own "
        f"scores kept. Scored from the text alone by carrying the named plan out on other lists: "
        f"this scorer shares no code with the expert's but the arithmetic. A total is the mean of "
        f"four criteria in 0 to 1; bands as in the paper.{best} A census of 500 problems, so "
        f'without intervals. "{NOT_RUN}": the analysis is missing; made by: {study.command(NAME)}'
    )


def records(study: Study) -> list[dict[str, object]]:
    """The table in long form, with the counts behind the shares."""
    entries = []
    for label, summary in groups(study):
        entry: dict[str, object] = {"strategies": label}
        entry["count"] = summary["count"] if summary else NOT_RUN
        for name, _ in BANDS:
            entry[name.lower()] = summary["bands"][name] if summary else NOT_RUN
        entry["mean"] = summary["mean"] if summary else NOT_RUN
        for key, _ in CRITERIA:
            entry[key] = summary["by_criterion"][key] if summary else NOT_RUN
        entries.append(entry | {"made_from": ANALYSIS if summary else NOT_RUN})
    return entries


def paper_table() -> Table:
    """Table 8 as printed."""
    values = {(r["setting"], r["benchmark"]): r["value"] for r in table1.paper_records(NAME)}
    settings = list(dict.fromkeys(setting for setting, _ in values))
    return Table(
        header=("Band", "Strategies", "Percent"),
        rows=tuple(row(s, values[s, "Count"], values[s, "Percent"]) for s in settings),
        caption="Table 8 of arXiv 2606.24064 (v1), as printed: 500 strategies extracted from "
        "DeepSeek-R1's responses, scored by Step-3.5-Flash on four criteria. Another expert on "
        "other problems: not comparable with the table above.",
        numeric=frozenset({1, 2}),
    )
