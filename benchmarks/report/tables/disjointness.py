"""Problem sets: sizes, hashes, and how many questions any two of them share."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report.document import Block, Table, TextCell, row, standing_note
from benchmarks.report.tables.write import write_table
from benchmarks.store.records import NOT_RUN, Study, StudyError, read_object

NAME = "disjointness"
TITLE = "Problem sets and what they share"
USES = "scores"


def needs(study: Study) -> list[tuple[str, str]]:
    """No run of the grid: the sets are compared with each other."""
    return []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes tables/disjointness.{md,csv,tex}."""
    records = shared(study) or [{"first": NOT_RUN, "second": NOT_RUN, "questions": NOT_RUN}]
    note = standing_note(study.profile)
    return write_table(out_dir / "tables" / NAME, table(study), note=note, records=records)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [table(study)]


def shared(study: Study) -> list[dict[str, object]]:
    """One record a pair of sets from disjointness.json; empty when it was not measured."""
    path = study.root / "disjointness.json"
    if not path.exists():
        return []
    try:
        return [
            {name: pair[name] for name in ("first", "second", "questions")}
            for pair in read_object(path)["shared"]
        ]
    except (KeyError, TypeError) as error:
        raise StudyError(f"{path.name} lacks {error}; remove it and run the study again") from error


def table(study: Study) -> Table:
    """Rows of sets: size, hash, questions shared with any other set (must be 0)."""
    pairs = shared(study)
    rows = []
    if pairs:
        for name, entry in read_object(study.root / "disjointness.json")["sets"].items():
            common = [p for p in pairs if name in (p["first"], p["second"]) and p["questions"]]
            others = [p["second"] if p["first"] == name else p["first"] for p in common]
            text = ", ".join(
                f"{p['questions']} with {o}" for p, o in zip(common, others, strict=True)
            )
            cell = TextCell(text, bold=True) if text else TextCell("none")
            rows.append(row(name, str(entry["problems"]), entry["sha256"][:12], cell))
    return Table(
        header=("Set", "Problems", "sha256", "Questions shared with another set"),
        rows=tuple(rows) or (row(*[NOT_RUN] * 4),),
        caption="Every problem set of the study. Questions are compared in lower case without "
        "spacing and punctuation; pretraining text is drawn from the training partition, which a "
        "hash of the digits keeps apart from development and test.",
        numeric=frozenset({1}),
    )
