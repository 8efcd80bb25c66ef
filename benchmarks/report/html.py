"""The report as one self-contained HTML page: its Markdown, rendered by markdown-it, in parts that
fold, with its pictures inside; no scripts, nothing loaded from outside."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt

APPENDIX = "appendix"  # anchor of the section whose parts are closed at first
# In rendered text every quote is an entity: these match markup of the document alone.
_HEADING = re.compile(r'(?:<p><a id="([^"]*)"></a></p>\n)?<h([1-4])>(.*?)</h\2>', re.DOTALL)
_FIGURE = re.compile(r'<p>(<img src=")([^"]*)("[^>]*>)</p>\n<p>(.*?)</p>', re.DOTALL)
_LINK = re.compile(r'<a href="([^"#]*)#([^"]*)">(.*?)</a>')


def to_html(markdown: str, folder: Path, *, title: str) -> str:
    """A complete HTML page of ``markdown``, whose pictures lie below ``folder``.

    Every heading of level 2, and those of level 3 in the appendix, open a part that can be folded.
    """

    def figure(found: re.Match) -> str:
        data = base64.b64encode((folder / found[2]).read_bytes()).decode("ascii")
        picture = f"{found[1]}data:image/png;base64,{data}{found[3]}"
        shown = f'<div class="scroll">{picture}</div>'
        return f"<figure>{shown}<figcaption>{found[4]}</figcaption></figure>"

    body = MarkdownIt("commonmark").enable("table").render(markdown)
    body = body.replace("<table>", '<div class="scroll">\n<table>')
    body = _in_parts(_FIGURE.sub(figure, body.replace("</table>", "</table>\n</div>")))
    targets = set(re.findall(r' id="([^"]+)"', body))
    # A link to what stands in another file becomes plain text: the page may be sent alone.
    body = _LINK.sub(lambda found: found[0] if found[2] in targets else found[3], body)
    loader = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return f"{loader.get_template('report.html.jinja').render(title=title, body=body)}\n"


def _in_parts(body: str) -> str:
    """``body`` with a part around each foldable heading and what it heads, and a list of them
    before the first: what the page is and is not comes before the way around it."""
    head, *rest = _HEADING.split(body)
    parts, contents, first, open_levels = [head], "", None, []
    in_appendix = False
    for anchor, number, text, below in zip(*[iter(rest)] * 4, strict=True):
        level, target = int(number), f' id="{anchor}"' if anchor else ""
        if level in (2, 3) and anchor:
            contents += f'<li><a href="#{anchor}">{text}</a></li>'
        if level == 2:
            in_appendix = anchor == APPENDIX
        elif not (level == 3 and in_appendix and anchor):
            parts.append(f"<h{level}{target}>{text}</h{level}>{below}")
            continue
        while open_levels and open_levels[-1] >= level:
            parts.append("</details>\n")
            open_levels.pop()
        first = first or len(parts)
        state = " open" if level == 2 else ""
        summary = f"<summary><h{level}>{text}</h{level}></summary>"
        parts.append(f'<details class="part"{target}{state}>{summary}{below}')
        open_levels.append(level)
    parts += ["</details>\n"] * len(open_levels)
    nav = f"<nav><details><summary>Contents</summary><ol>{contents}</ol></details></nav>\n"
    parts.insert(len(parts) if first is None else first, nav)
    return "".join(parts)
