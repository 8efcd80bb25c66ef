"""Text with LaTeX in it as safe HTML: mathematics as MathML, which browsers draw on their own.

Nothing that a model or a data file wrote can act as markup: text is escaped, and of the MathML only
known tags and attributes pass.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from functools import lru_cache

from latex2mathml import exceptions
from latex2mathml.converter import convert_to_element

LONGEST = 2_000  # characters of one formula
_TAGS = set(
    "math mrow mi mn mo mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover "
    "mtable mtr mtd mpadded mphantom mstyle".split()
)
_ATTRIBUTES = set(
    "display stretchy mathvariant displaystyle scriptlevel linethickness columnalign rowspacing "
    "fence form accent width height depth lspace rspace minsize maxsize".split()
)
_UNREADABLE = (
    *(e for e in vars(exceptions).values() if isinstance(e, type) and issubclass(e, Exception)),
    *(ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError),
)
# Displayed, inline, or a lone box; a dollar before a blank or after one is money.
_MATH = re.compile(
    r"\$\$(?P<a>.+?)\$\$|\\\[(?P<b>.+?)\\\]|\\\((?P<c>.+?)\\\)"
    r"|\$(?P<d>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)|(?P<box>\\f?boxed\s*\{)",
    re.DOTALL,
)


def rich(text: str) -> str:
    """``text`` as HTML, its formulas as MathML; a formula that cannot be read stays as it is
    written, marked as code."""
    parts, done = [], 0
    while match := _MATH.search(text, done):
        end = match.end()
        if match["box"]:
            end = _closing(text, end)
        source = text[match.start() : end]
        latex = source if match["box"] else next(v for v in match.group(*"abcd") if v is not None)
        display = match["a"] is not None or match["b"] is not None
        parts += [html.escape(text[done : match.start()]), _formula(latex, source, display)]
        done = end
    return "".join(parts) + html.escape(text[done:])


def _closing(text: str, start: int) -> int:
    """The place behind the brace that closes the one before ``start``; ``start`` if none does."""
    depth = 1
    for place in range(start, min(len(text), start + LONGEST)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return start


@lru_cache(maxsize=20_000)
def _formula(latex: str, source: str, display: bool) -> str:
    as_code = f"<code>{html.escape(source)}</code>"
    if len(latex) > LONGEST:
        return as_code
    try:
        element = convert_to_element(latex, display="block" if display else "inline")
        _clean(element)
    except _UNREADABLE:
        return as_code
    return ElementTree.tostring(element, encoding="unicode", short_empty_elements=False)


def _clean(element: ElementTree.Element) -> None:
    """Boxes as a class that the page draws, names as characters, and nothing unknown; ValueError
    for what is."""
    boxed = element.tag == "menclose"
    if boxed:
        element.tag = "mrow"
    if element.tag not in _TAGS or (element.text or "").startswith("\\"):
        raise ValueError(f"{element.tag}: not drawn")
    kept = {k: v for k, v in element.attrib.items() if k in _ATTRIBUTES}
    element.attrib.clear()
    element.attrib.update(kept | ({"class": "boxed"} if boxed else {}))
    element.text = html.unescape(element.text) if element.text else element.text
    for child in element:
        child.tail = None
        _clean(child)
