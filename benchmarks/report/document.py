"""A document as a list of blocks, and its Markdown form; ``html`` beside it writes the HTML form.

Content is written once as blocks of plain text. Escaping belongs to the writers, so no text that
came from a run, a config or an environment file can act as markup.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    """``level`` 1..4; ``anchor`` names the place for links within the document."""

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Paragraph:
    text: str
    strong: bool = False


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines of a shell session."""

    text: str


@dataclass(frozen=True)
class TextCell:
    """One table cell; ``link`` is an anchor of the same document."""

    text: str
    bold: bool = False
    link: str = ""


@dataclass(frozen=True)
class Lines:
    """A table cell of several lines, each of a few texts."""

    items: tuple[tuple[TextCell, ...], ...]


@dataclass(frozen=True)
class Table:
    """``rows`` of equal length as ``header``; ``row_anchors`` (one a row, or empty) are link
    targets; ``numeric`` columns are right-aligned."""

    header: tuple[str, ...]
    rows: tuple[tuple[TextCell | Lines, ...], ...]
    caption: str
    numeric: frozenset[int] = frozenset()
    row_anchors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Image:
    """A PNG beside the document: ``path`` absolute, ``source`` relative to the document."""

    path: Path
    source: str
    alt: str
    caption: str


_MINIATURE = (
    "This is a miniature: tiny models trained from scratch on a synthetic world, to test the "
    "mechanism of SGPO (arXiv 2606.24064) end to end. It is not a reproduction of the paper's "
    "numbers and no evidence about 7B models or real mathematics benchmarks."
)
_FULL = (
    "This is a run of the SGPO benchmark suite (arXiv 2606.24064) with pretrained models and the "
    "paper's benchmarks. It is not the paper's own code or data, which were not released; every "
    "known deviation is listed in the README."
)


def is_miniature(profile: str) -> bool:
    """Whether a profile's models live in the mini world and not on real problems."""
    return profile not in ("single_gpu", "paper")


def standing_note(profile: str) -> str:
    """What a page made from ``profile`` is and what it is not, in two sentences."""
    return _MINIATURE if is_miniature(profile) else _FULL


Block = Heading | Paragraph | Bullets | Code | Table | Image


def row(*values: str | TextCell | Lines) -> tuple[TextCell | Lines, ...]:
    """A table row; plain strings become cells without markup."""
    return tuple(TextCell(v) if isinstance(v, str) else v for v in values)


def escape_markdown(text: str) -> str:
    """``text`` on one line with the characters that start Markdown or HTML markup escaped."""
    return re.sub(r"([\\|<*`])", r"\\\1", " ".join(text.split()))


def slug(name: str) -> str:
    """``name`` as an anchor: letters, digits, ``_ . -``; anything else becomes ``-``."""
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)


def to_markdown(blocks: Sequence[Block]) -> str:
    """GitHub-flavoured Markdown of ``blocks``, ending in one newline."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text, anchor):
            target = f'<a id="{slug(anchor)}"></a>\n\n' if anchor else ""
            return f"{target}{'#' * level} {escape_markdown(text)}"
        case Paragraph(text, strong):
            escaped = escape_markdown(text)
            return f"**{escaped}**" if strong else escaped
        case Bullets(items):
            return "\n".join(f"- {escape_markdown(item)}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Image(_, source, alt, caption):
            return f"![{escape_markdown(alt)}]({source})\n\n{escape_markdown(caption)}"
        case Table():
            return table_markdown(block)
    raise AssertionError(block)


def table_markdown(table: Table, *, links: bool = True) -> str:
    """A pipe table with its caption above; without ``links`` it can stand in its own file."""
    rule = ["--:" if i in table.numeric else "---" for i in range(len(table.header))]
    lines = [
        "| " + " | ".join(escape_markdown(name) for name in table.header) + " |",
        "| " + " | ".join(rule) + " |",
    ]
    anchors = table.row_anchors or ("",) * len(table.rows)
    for cells, anchor in zip(table.rows, anchors, strict=True):
        assert len(cells) == len(table.header), (table.header, cells)
        texts = [_cell_markdown(cell, links) for cell in cells]
        if anchor and links:
            texts[0] = f'<a id="{slug(anchor)}"></a>{texts[0]}'
        lines.append("| " + " | ".join(texts) + " |")
    return f"{escape_markdown(table.caption)}\n\n" + "\n".join(lines)


def _cell_markdown(cell: TextCell | Lines, links: bool) -> str:
    if isinstance(cell, Lines):
        return "<br>".join(" ".join(_cell_markdown(t, links) for t in line) for line in cell.items)
    text = escape_markdown(cell.text)
    if cell.bold and text:
        text = f"**{text}**"
    return f"[{text}](#{slug(cell.link)})" if cell.link and links else text
