"""The report as one self-contained HTML page: no scripts, nothing loaded from outside.

The page is the Markdown of the blocks, rendered by markdown-it. Every punctuation mark of a text is
escaped first, so that nothing but the markup of the blocks themselves can act as such.
"""

from __future__ import annotations

import base64
import re
import string
from collections.abc import Sequence
from html import escape

from markdown_it import MarkdownIt

from benchmarks.report.document import Block, Heading, Image, Table, block_markdown, slug

LONG = 40  # rows, above which a table is shown on request
_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #5a5a5a; --line: #d9d9d9; --page: #fff;
  --shade: #f4f4f4; --mark: #fff3d6; --link: #00508a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e2e2e2; --soft: #a8a8a8; --line: #444;
  --page: #181a1b; --shade: #232627; --mark: #4a3c12; --link: #7fbfff; } }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  color: var(--ink); background: var(--page); margin: 0 auto; max-width: 60rem;
  padding: 1rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.55rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin-top: 2.4rem;
  border-top: 1px solid var(--line); padding-top: 1.2rem; } h3 { font-size: 1.05rem; }
a { color: var(--link); } p > strong:only-child { background: var(--mark); }
nav { position: sticky; top: 0; background: var(--page); border-bottom: 1px solid var(--line);
  max-height: 80vh; overflow-y: auto; padding: .4rem 0; font-size: .9rem; }
nav ol { columns: 18rem; margin: .4rem 0; } h2, h3, tr { scroll-margin-top: 3rem; }
summary { cursor: pointer; color: var(--link); }
figure { margin: 1.2rem 0; overflow-x: auto; }
figure img { width: 100%; min-width: 34rem; height: auto; background: #fff; }
figcaption { font-size: .88rem; color: var(--soft); margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; min-width: 4.5rem; }
th { border-bottom: 2px solid var(--ink); } tbody tr:hover { background: var(--shade); }
tr:has(:target) { background: var(--mark); } td a { color: inherit; }
pre { background: var(--shade); padding: .7rem; overflow-x: auto; font-size: .85rem; }
@media print { body { max-width: none; } nav { display: none; } .scroll { overflow: visible; } }
"""


def to_html(blocks: Sequence[Block], *, title: str) -> str:
    """A complete HTML page of ``blocks``: all text escaped, images inlined as base64."""
    sections = [b for b in blocks if isinstance(b, Heading) and b.level == 2 and b.anchor]
    items = "".join(f'<li><a href="#{slug(s.anchor)}">{escape(s.text)}</a></li>' for s in sections)
    contents = f"<nav><details><summary>Contents</summary><ol>{items}</ol></details></nav>"
    parts = [_source(block) for block in blocks]
    # The first blocks say what the page is and is not; the way around it comes after them.
    first = next((i for i, b in enumerate(blocks) if b in sections), len(parts))
    parts.insert(first, contents)
    markdown = MarkdownIt("commonmark").enable("table")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + markdown.render("\n\n".join(parts))
        + "</body>\n</html>\n"
    )


def _source(block: Block) -> str:
    """The block in Markdown, or in HTML where that says more."""
    match block:
        case Heading(level, text, anchor):
            target = f' id="{slug(anchor)}"' if anchor else ""
            return f"<h{level}{target}>{_escape_html(text)}</h{level}>"
        case Image(path, _, alt, caption):
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            return (
                f'<figure><img alt="{_escape_html(alt)}" src="data:image/png;base64,{data}">'
                f"<figcaption>{_escape_html(caption)}</figcaption></figure>"
            )
        case Table(rows=rows):
            caption, _, table = block_markdown(block, _escape_markdown).partition("\n\n")
            # Links into a closed table open it, in browsers that are not older than 2022.
            fold, end = "", ""
            if len(rows) > LONG:
                fold, end = f"<details><summary>{len(rows)} rows</summary>\n", "\n</details>"
            return f'{caption}\n\n{fold}<div class="scroll">\n\n{table}\n\n</div>{end}'
    return block_markdown(block, _escape_markdown)


def _escape_html(text: str) -> str:
    """``text`` on one line: an empty one would end a block of HTML."""
    return escape(" ".join(text.split()))


def _escape_markdown(text: str) -> str:
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", " ".join(text.split()))
