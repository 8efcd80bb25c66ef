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

APPENDIX = "appendix"  # anchor of the section whose parts are closed at first
_STYLE = """
:root { color-scheme: light dark; --ink: light-dark(#222, #e2e2e2);
  --soft: light-dark(#5a5a5a, #a8a8a8); --line: light-dark(#d9d9d9, #444);
  --page: light-dark(#fff, #181a1b); --shade: light-dark(#f4f4f4, #232627);
  --mark: light-dark(#fff3d6, #4a3c12); --link: light-dark(#00508a, #7fbfff); }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  margin: 0 auto; max-width: 60rem; padding: 1rem 1rem 4rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; }
h2 { font-size: 1.25rem; } h3 { font-size: 1.05rem; }
summary { cursor: pointer; } summary > * { display: inline; }
details.part { border-top: 1px solid var(--line); padding: .9rem 0; }
details.part details.part { padding: .4rem 0; }
a { color: var(--link); } p > strong:only-child { background: var(--mark); }
nav { position: sticky; top: 0; background: var(--page); border-bottom: 1px solid var(--line);
  max-height: 80vh; overflow-y: auto; padding: .4rem 0; font-size: .9rem; z-index: 1; }
nav summary { color: var(--link); } nav ol { columns: 16rem; margin: .4rem 0; }
details, tr { scroll-margin-top: 3rem; }
figure { margin: 1rem 0; }
figure img { width: 100%; min-width: 34rem; height: auto; background: #fff; border-radius: 4px; }
figcaption { font-size: .88rem; color: var(--soft); margin: .4rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; min-width: 4.5rem; }
th { border-bottom: 2px solid var(--ink); } tbody tr:hover { background: var(--shade); }
tr:has(:target) { background: var(--mark); } td a { color: inherit; }
pre { background: var(--shade); padding: .7rem; overflow-x: auto; font-size: .85rem; }
@media (max-width: 700px) { figure img { min-width: 30rem; } }
@media print { body { max-width: none; } nav { display: none; } .scroll { overflow: visible; } }
"""


def to_html(blocks: Sequence[Block], *, title: str) -> str:
    """A complete HTML page of ``blocks``: all text escaped, images inlined as base64.

    Every heading of level 2, and those of level 3 in the appendix, open a part that can be folded.
    """
    markdown = MarkdownIt("commonmark").enable("table")
    parts, first = _foldable(blocks)
    # The first blocks say what the page is and is not; the way around it comes after them.
    parts.insert(first, _contents(blocks))
    return _without_dead_links(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + markdown.render("\n\n".join(parts))
        + "</body>\n</html>\n"
    )


def _foldable(blocks: Sequence[Block]) -> tuple[list[str], int]:
    """The blocks' sources with their parts around them, and where the first part begins."""
    parts: list[str] = []
    open_levels: list[int] = []
    first, in_appendix = None, False
    for block in blocks:
        if not (isinstance(block, Heading) and (block.level == 2 or _folds(block, in_appendix))):
            parts.append(_source(block))
            continue
        while open_levels and open_levels[-1] >= block.level:
            parts.append("</details>")
            open_levels.pop()
        in_appendix = block.anchor == APPENDIX if block.level == 2 else in_appendix
        first = len(parts) if first is None else first
        target = f' id="{slug(block.anchor)}"' if block.anchor else ""
        state = "" if block.level > 2 else " open"
        parts.append(
            f'<details class="part"{target}{state}><summary><h{block.level}>'
            f"{_escape_html(block.text)}</h{block.level}></summary>"
        )
        open_levels.append(block.level)
    return parts + ["</details>"] * len(open_levels), len(parts) if first is None else first


def _folds(heading: Heading, in_appendix: bool) -> bool:
    return in_appendix and heading.level == 3 and bool(heading.anchor)


def _contents(blocks: Sequence[Block]) -> str:
    items = "".join(
        f'<li><a href="#{slug(b.anchor)}">{_escape_html(b.text)}</a></li>'
        for b in blocks
        if isinstance(b, Heading) and b.level in (2, 3) and b.anchor
    )
    return f"<nav><details><summary>Contents</summary><ol>{items}</ol></details></nav>"


def _source(block: Block) -> str:
    """The block in Markdown, or in HTML where that says more."""
    match block:
        case Heading(level, text, anchor):
            target = f' id="{slug(anchor)}"' if anchor else ""
            return f"<h{level}{target}>{_escape_html(text)}</h{level}>"
        case Image(path, _, alt, caption):
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            return (
                f'<figure><div class="scroll"><img alt="{_escape_html(alt)}" '
                f'src="data:image/png;base64,{data}"></div>'
                f"<figcaption>{_escape_html(caption)}</figcaption></figure>"
            )
        case Table():
            caption, _, table = block_markdown(block, _escape_markdown).partition("\n\n")
            return f'{caption}\n\n<div class="scroll">\n\n{table}\n\n</div>'
    return block_markdown(block, _escape_markdown)


def _without_dead_links(page: str) -> str:
    """Links to what stands in another file become plain text: the page may be sent alone."""
    targets = set(re.findall(r' id="([^"]+)"', page))

    def kept(link: re.Match) -> str:
        return link[0] if link[1] in targets else link[2]

    return re.sub(r'<a href="#([^"]*)">(.*?)</a>', kept, page)


def _escape_html(text: str) -> str:
    """``text`` on one line: an empty one would end a block of HTML."""
    return escape(" ".join(text.split()))


def _escape_markdown(text: str) -> str:
    return re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", " ".join(text.split()))
