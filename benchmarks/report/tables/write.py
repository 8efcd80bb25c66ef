"""Writes one table as Markdown, CSV and LaTeX (booktabs)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.document import Lines, Table, TextCell, table_markdown
from sgpo.core.files import write_text

_TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "†": r"$^\dagger$",
    "−": r"$-$",
}


def write_table(
    stem: Path, table: Table, *, note: str, records: Sequence[dict[str, object]]
) -> list[Path]:
    """``stem``.md, .csv and .tex, written atomically.

    Args:
        note: first line of the Markdown and comment of the LaTeX file: what this is and is not.
        records: the rows of the CSV (long, for machines), all with the same keys.
    """
    return [
        write_text(stem.with_suffix(".md"), f"{note}\n\n{table_markdown(table, links=False)}\n"),
        write_text(stem.with_suffix(".csv"), csv_text(records)),
        write_text(stem.with_suffix(".tex"), f"% {note}\n{table_tex(table, label=stem.name)}"),
    ]


def csv_text(records: Sequence[dict[str, object]]) -> str:
    """CSV with a header; floats in their shortest exact form."""
    assert records, "a table without rows is written as rows that say so"
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def table_tex(table: Table, *, label: str) -> str:
    """A LaTeX table environment; needs the booktabs package."""
    columns = "".join("r" if i in table.numeric else "l" for i in range(len(table.header)))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape_tex(table.caption)}}}",
        rf"\label{{tab:{label.replace('_', '-')}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(escape_tex(name) for name in table.header) + r" \\",
        r"\midrule",
        *(" & ".join(_cell_tex(cell) for cell in cells) + r" \\" for cells in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_tex(text: str) -> str:
    """``text`` with LaTeX's special characters escaped, on one line."""
    return "".join(_TEX.get(character, character) for character in " ".join(text.split()))


def _cell_tex(cell: TextCell | Lines) -> str:
    if isinstance(cell, Lines):
        return "; ".join(" ".join(_cell_tex(text) for text in line) for line in cell.items)
    # A bracket that opens a row's first cell would be read as the optional argument of \\.
    text = escape_tex(cell.text)
    text = f"{{{text}}}" if text.startswith("[") else text
    return rf"\textbf{{{text}}}" if cell.bold else text
