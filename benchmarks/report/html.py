"""The self-contained HTML form of a document: one file, no scripts, nothing loaded from outside."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from benchmarks.report.document import (
    Block,
    Bullets,
    Code,
    Heading,
    Image,
    Lines,
    Paragraph,
    Table,
    TextCell,
    slug,
)

_STYLE = """
:root { --ink: #222; --soft: #5a5a5a; --line: #d9d9d9; --mark: #fff3d6; --link: #00508a; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--ink); background: #fff; margin: 0 auto; max-width: 60rem;
  padding: 1rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.55rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.4rem;
  border-top: 1px solid var(--line); padding-top: 1.2rem; } h3 { font-size: 1.05rem; }
a { color: var(--link); }
p.strong { background: var(--mark); border-left: 4px solid #d9a400; padding: .6rem .8rem; }
nav { font-size: .9rem; } nav a { margin-right: .9rem; white-space: nowrap; }
figure { margin: 1.2rem 0; } figure img { width: 100%; height: auto; }
figcaption, .caption { font-size: .88rem; color: var(--soft); margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { border-bottom: 2px solid var(--ink); } td.number, th.number { text-align: right;
  white-space: nowrap; }
tbody tr:hover { background: #f6f6f6; } tr:target { background: var(--mark); }
td a { color: inherit; text-decoration-color: #b5b5b5; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: .85rem; }
@media print { body { max-width: none; } nav { display: none; } .scroll { overflow: visible; } }
"""


def to_html(blocks: Sequence[Block], *, title: str) -> str:
    """A complete HTML page of ``blocks``: all text escaped, images inlined as base64."""
    sections = [b for b in blocks if isinstance(b, Heading) and b.level == 2 and b.anchor]
    links = "".join(f'<a href="#{slug(s.anchor)}">{escape(s.text)}</a> ' for s in sections)
    body = [_html(block) for block in blocks]
    # The first blocks say what the page is and is not; the way around it comes after them.
    first = next((i for i, b in enumerate(blocks) if b in sections), len(body))
    body.insert(first, f"<nav>{links}</nav>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(level, text, anchor):
            return f"<h{level}{_id(anchor)}>{escape(text)}</h{level}>"
        case Paragraph(text, strong):
            css = ' class="strong"' if strong else ""
            return f"<p{css}>{escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{escape(text)}</pre>"
        case Image(path, _, alt, caption):
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            return (
                f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )
        case Table():
            return _table(block)
    raise AssertionError(block)


def _table(table: Table) -> str:
    classes = [' class="number"' if i in table.numeric else "" for i in range(len(table.header))]
    header = "".join(
        f'<th scope="col"{css}>{escape(name)}</th>'
        for name, css in zip(table.header, classes, strict=True)
    )
    anchors = table.row_anchors or ("",) * len(table.rows)
    rows = []
    for cells, anchor in zip(table.rows, anchors, strict=True):
        texts = "".join(
            f"<td{css}>{_cell(cell)}</td>" for cell, css in zip(cells, classes, strict=True)
        )
        rows.append(f"<tr{_id(anchor)}>{texts}</tr>")
    body = "\n".join(rows)
    return (
        f'<p class="caption">{escape(table.caption)}</p>\n<div class="scroll"><table>'
        f"<thead><tr>{header}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: TextCell | Lines) -> str:
    if isinstance(cell, Lines):
        return "<br>".join(" ".join(_cell(text) for text in line) for line in cell.items)
    text = escape(cell.text)
    if cell.bold and text:
        text = f"<strong>{text}</strong>"
    return f'<a href="#{slug(cell.link)}">{text}</a>' if cell.link else text


def _id(anchor: str) -> str:
    return f' id="{slug(anchor)}"' if anchor else ""
