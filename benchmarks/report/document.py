"""A document as blocks, its Markdown, and a table's LaTeX and CSV; ``html`` renders the page.

A block is :class:`Markdown`, made by the functions here, or a :class:`Table`. They escape what they
are given, so no text that came from a run, a config or an environment file can act as markup,
neither in Markdown nor in the page that is rendered from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.store.records import NOT_RUN
from sgpo.core.files import write_text

_MINIATURE = (
    "This is a miniature: tiny models trained from scratch on a synthetic world, to test the "
    "mechanism of SGPO (arXiv 2606.24064) end to end. It is not a reproduction of the paper's "
    "numbers and no evidence about 7B models or real mathematics benchmarks."
)
_FULL = (
    "This is a run of the SGPO benchmark suite (arXiv 2606.24064) with pretrained models and the "
    "paper's benchmarks. It is not the paper's own code or data, which were not released; every "
    "known deviation is listed in sgpo/README.md."
)


def standing_note(miniature: bool) -> str:
    """What a page made from a study is and what it is not, in two sentences."""
    return _MINIATURE if miniature else _FULL


# Markdown -----------------------------------------------------------------------------------------


class Markdown(str):
    """Text that is markup already."""


def escape(text: str) -> str:
    """``text`` on one line, in which nothing starts markup: no tag, link, entity or column."""
    return re.sub(r"([\\|<*`]|(?<=\])\(|&(?=#?\w+;))", r"\\\1", " ".join(text.split()))


def slug(name: str) -> str:
    """``name`` as an anchor: letters, digits, ``_ . -``; anything else becomes ``-``."""
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)


def heading(level: int, text: str, anchor: str = "") -> Markdown:
    """``level`` 1..4; ``anchor`` names the place for links within the document."""
    target = f'<a id="{slug(anchor)}"></a>\n\n' if anchor else ""
    return Markdown(f"{target}{'#' * level} {escape(text)}")


def paragraph(text: str) -> Markdown:
    return Markdown(escape(text))


def bullets(items: Sequence[str]) -> Markdown:
    return Markdown("\n".join(f"- {escape(item)}" for item in items))


def code(text: str) -> Markdown:
    """Lines of a shell session, or text whose lines matter."""
    return Markdown(f"```\n{text}\n```")


def link(text: str, file: str) -> Markdown:
    """A line that leads to a file beside the document; nothing without a file."""
    return Markdown(f"[{escape(text)}]({file})" if file else "")


def image(source: str, alt: str, caption: str) -> Markdown:
    """A picture beside the document and what is said below it."""
    return Markdown(f"![{escape(alt)}]({source})\n\n{escape(caption)}")


@dataclass(frozen=True)
class Cell:
    """One table cell; ``link`` is an anchor of the same document."""

    text: str
    bold: bool = False
    link: str = ""

    def markdown(self, links: bool) -> str:
        text = escape(self.text)
        text = f"**{text}**" if self.bold and text else text
        return f"[{text}](#{slug(self.link)})" if self.link and links else text


@dataclass(frozen=True)
class Table:
    """``rows`` of equal length as ``header``; ``row_anchors`` (one a row, or empty) are link
    targets; ``numeric`` columns are right-aligned."""

    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    numeric: frozenset[int] = frozenset()
    row_anchors: tuple[str, ...] = ()


Block = Markdown | Table


def row(*values: str | Cell) -> tuple[Cell, ...]:
    """A table row; plain strings become cells without markup."""
    return tuple(Cell(v) if isinstance(v, str) else v for v in values)


def listing(
    rows: pd.DataFrame,
    columns: Mapping[str, Callable[[dict[str, Any]], str | Cell]],
    numeric: Sequence[int] = (),
) -> Table:
    """A line a row: header -> what it shows of a row. A row without a number but "not run" says it
    in every column, and so does a table without rows."""
    lines = [
        row(*(show(r) for show in columns.values()))
        for r in rows.to_dict("records")
        if any(value != NOT_RUN for value in r.values())
    ]
    lines = lines or [row(*[NOT_RUN] * len(columns))]
    return Table(tuple(columns), tuple(lines), numeric=frozenset(numeric))


def to_markdown(blocks: Sequence[Block]) -> Markdown:
    """GitHub-flavoured Markdown of ``blocks``, ending in one newline."""
    return Markdown("\n\n".join(map(_shown, blocks)) + "\n")


def page(template: str, **values: Any) -> str:
    """A template beside this file, filled in: text is escaped, blocks are shown, and what is empty
    leaves no gap."""
    loader, strict = FileSystemLoader(Path(__file__).parent), StrictUndefined
    blocks = Environment(loader=loader, undefined=strict, finalize=_shown,
                         trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    blocks.filters["all"] = in_words
    text = blocks.get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, Table):
        return table_markdown(value)
    return value if isinstance(value, Markdown) else escape(str(value))


def in_words(names: Iterable[object]) -> str:
    """ "a, b and c"."""
    names = [*map(str, names)]
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def table_markdown(table: Table, *, links: bool = True) -> str:
    """A pipe table with its caption above; without ``links`` it can stand in its own file."""
    columns = range(len(table.header))
    lines = [[escape(name) for name in table.header],
             ["--:" if i in table.numeric else "---" for i in columns]]  # fmt: skip
    anchors = table.row_anchors or ("",) * len(table.rows)
    for cells, anchor in zip(table.rows, anchors, strict=True):
        assert len(cells) == len(table.header), (table.header, cells)
        texts = [cell.markdown(links) for cell in cells]
        if anchor and links:
            texts[0] = f'<a id="{slug(anchor)}"></a>{texts[0]}'
        lines.append(texts)
    body = "\n".join(f"| {' | '.join(texts)} |" for texts in lines)
    return f"{escape(table.caption)}\n\n{body}" if table.caption else body


# Files of a table ---------------------------------------------------------------------------------


def write_table(stem: Path, table: Table, *, note: str, rows: pd.DataFrame) -> list[Path]:
    """``stem``.md, .csv and .tex, written atomically.

    Args:
        note: first line of the Markdown and comment of the LaTeX file: what this is and is not.
        rows: the long form for machines, written as CSV.
    """
    return [
        write_text(stem.with_suffix(".md"), f"{note}\n\n{table_markdown(table, links=False)}\n"),
        write_text(stem.with_suffix(".csv"), csv_text(rows)),
        write_text(stem.with_suffix(".tex"), f"% {note}\n{table_tex(table, label=stem.name)}"),
    ]


def frame(records: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Records as rows. Columns keep the values that they hold: a number beside "not run" stays
    the number that it is."""
    assert records, "a table without rows is written as rows that say so"
    return pd.DataFrame(records, dtype=object)


def csv_text(rows: pd.DataFrame) -> str:
    """CSV with a header; floats in their shortest exact form."""
    return rows.to_csv(index=False, lineterminator="\n")


_TEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "†": r"$^\dagger$", "−": r"$-$"}
)


def escape_tex(text: str) -> str:
    """``text`` with LaTeX's special characters escaped, on one line."""
    return " ".join(text.split()).translate(_TEX)


def table_tex(table: Table, *, label: str) -> str:
    """A LaTeX table environment; needs the booktabs package."""
    cells = [[_cell_tex(cell) for cell in cells] for cells in table.rows]
    columns = ["r" if i in table.numeric else "l" for i in range(len(table.header))]
    return pd.DataFrame(cells, columns=[*map(escape_tex, table.header)]).to_latex(
        index=False,
        escape=False,
        column_format="".join(columns),
        caption=escape_tex(table.caption),
        label=f"tab:{label.replace('_', '-')}",
    )


def _cell_tex(cell: Cell) -> str:
    # A bracket that opens a row's first cell would be read as the optional argument of \\.
    text = escape_tex(cell.text)
    text = f"{{{text}}}" if text.startswith("[") else text
    return rf"\textbf{{{text}}}" if cell.bold else text
