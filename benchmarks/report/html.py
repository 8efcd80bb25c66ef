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
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt

from benchmarks.report.document import Block, Heading, Image, Table, block_markdown, slug

APPENDIX = "appendix"  # anchor of the section whose parts are closed at first


def to_html(blocks: Sequence[Block], *, title: str) -> str:
    """A complete HTML page of ``blocks``: all text escaped, images inlined as base64.

    Every heading of level 2, and those of level 3 in the appendix, open a part that can be folded.
    """
    markdown = MarkdownIt("commonmark").enable("table")
    parts, first = _foldable(blocks)
    # The first blocks say what the page is and is not; the way around it comes after them.
    parts.insert(first, _contents(blocks))
    loader = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    body = markdown.render("\n\n".join(parts))
    page = loader.get_template("report.html.jinja").render(title=title, body=body)
    return _without_dead_links(f"{page}\n")


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
