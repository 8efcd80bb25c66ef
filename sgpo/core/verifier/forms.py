"""The shape of an answer: number, expression, words, list, tuple, set, interval, relation, matrix.

``parse_form`` splits canonical text (answer_text.canonical) by its top-level structure only. What
is left inside a Scalar is an expression that answer_compare decides exactly or hands to the
symbolic judge. Structure that is not understood stays one Scalar, which can only fail closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache

from sgpo.core.verifier.numbers import MalformedNumber, decimal_places, exact_value
from sgpo.core.verifier.spelling import CHANGES, canonical, split_unit, words_key


@dataclass(frozen=True)
class Scalar:
    """One expression. ``value``: its exact value, if it is plain rational arithmetic."""

    text: str
    value: Fraction | None = None
    places: int | None = None  # decimals, if it is one decimal literal
    percent: bool = False
    unit: str | None = None
    malformed: bool = False  # looks like a number and has no agreed value: ``4 10/3``


@dataclass(frozen=True)
class Words:
    key: str


@dataclass(frozen=True)
class Based:
    """Digits with a base subscript: ``52_8``."""

    digits: str
    base: int


@dataclass(frozen=True)
class Group:
    """Several answers. ``kind``: list (bare), tuple, set, ratio or matrix (its cells by rows)."""

    kind: str
    items: tuple[Form, ...]
    columns: int = 0
    disjunction: bool = False  # the list was joined by "or"
    raw: str = ""


@dataclass(frozen=True)
class Interval:
    low: Form
    high: Form
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class Union:
    parts: tuple[Form, ...]


@dataclass(frozen=True)
class Relation:
    """``sides[0] ops[0] sides[1] ops[1] ..``; ops are "=", "<", ">", "\\le", "\\ge", "\\ne", .."""

    sides: tuple[str, ...]
    ops: tuple[str, ...]


Form = Scalar | Words | Based | Group | Interval | Union | Relation


MAX_FORM_CHARS = 10_000
MAX_NESTING = 40

_RELATION = re.compile(r"\\(?:le|ge|ne|approx|equiv|sim|mid|to|Rightarrow)(?![a-zA-Z])\s*|[=<>]")
_SEPARATOR = re.compile(r"\s*(?:[,;]|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*")
SETMINUS = re.compile(r"\s*\\setminus(?![a-zA-Z])\s*")
_CUP = re.compile(r"\s*\\cup(?![a-zA-Z])\s*")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_THOUSANDS_OF = re.compile(rf"({_THOUSANDS.pattern})(\s*\\text\{{[^{{}},]*\}})")
_ZERO_GROUP = re.compile(r"0\d\d")
_MEMBER = re.compile(
    r"(?:[a-zA-Z](?:_\{\w+\})?|[a-zA-Z]\([a-zA-Z]\)|\\[a-z]+|\([a-zA-Z](?:,[a-zA-Z])+\))"
    r"\s*\\in(?![a-zA-Z])\s*"
)
_LETTER = re.compile(r"[a-zA-Z](?:_\{\w+\})?")
_STRAY_LETTER = re.compile(r"[a-zA-Z](?=[\[(])")
_BASED = re.compile(
    r"\(?([0-9A-Z]+)\)?\s*(?:_\{(\d+|\\text\{[a-z]+\})\}"
    r"|\\text\{\s*\(?(?:in )?base (\w+)\)?\s*\}|(?:in )?base (\d+))"
)
_BASE_NAMES = "two three four five six seven eight nine ten eleven twelve".split()
_BASE_WORDS = {name: i for i, name in enumerate(_BASE_NAMES, 2)} | {"sixteen": 16}
_RATIO = re.compile(r"[^:]{1,40}(?::[^:]{1,40})+")
_MATRIX = re.compile(
    r"(-?(?:\d+(?:\.\d+)?|\\frac\{-?\d+\}\{-?\d+\})?)\s*(?:\\cdot\s*)?"  # a factor of every cell
    r"\\begin\{((?:[pbB]|small)?matrix|array)\}(?:\{[lcr|]+\})?(.*)\\end\{\2\}",
    re.DOTALL,
)
_WORD_SPAN = re.compile(r"\\text\{[^{}]*\}")
_PLAIN_WORDS = re.compile(r"[A-Za-z][a-z]{2,}|[A-Za-z][a-z]*(?:[ '-]+[A-Za-z]{2,})+")
_FUNCTION_NAMES = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "max", "min", "gcd", "lcm", "mod"]
)
_PLUS_MINUS = re.compile(r"\s*\\(pm|mp)(?![a-zA-Z])\s*")
_MIXED_FACTOR = re.compile(r"(?<![\d.])(\d{1,9})\s*\\frac\{(\d{1,9})\}\{(\d{1,9})\}")
_SIGN_RUN = re.compile(r"(?:[-+−–—]\s*){40}")
TWO_POWERS = re.compile(r"\^(?:\{[^{}]*\}|\w)\s*\^")  # LaTeX refuses a double superscript
_REAL_LINE = re.compile(
    r"\\mathbb\{R\}|\\text\{(?:the set of )?(?:all )?real(?: number)?s\}|all real(?: number)?s"
)
_POSITIVE_REALS = re.compile(r"\\mathbb\{R\}(?:\^\{\+\}|_\{(?:\+|>0)\}|\^\+)")
_SET_BUILDER = re.compile(
    r"([a-zA-Z])(?:\s*\\in\s*\\mathbb\{R\})?\s*(?:\||:|\\mid(?![a-zA-Z]))\s*(.*)", re.DOTALL
)
_RESIDUE = re.compile(r"(.+?)\s*\\pmod\{([^{}]+)\}")
_MINUTES = re.compile(r"[\d°]\s*(?:'|\^\{\\prime\})")  # feet, minutes: a number of another kind
ELLIPSIS = "\\ldots"


def is_tractable(text: str) -> bool:
    """Whether the text is short and flat enough to be parsed at all."""
    if len(text) > MAX_FORM_CHARS:
        return False
    depth = deepest = 0
    for char in text:
        if char in "{[(":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "}])":
            depth -= 1
    # What is read from one end to the other, a step deeper each time, is bounded like brackets.
    chains = max(text.count("\\in"), text.count("\\approx"), text.count("≈"))
    signs = _SIGN_RUN.search(text) is not None
    return deepest <= MAX_NESTING and chains <= MAX_NESTING and not signs and text.count("^") <= 400


def parse_answer(text: str) -> Form:
    """The form of an answer as written (canonicalises first)."""
    return parse_form(canonical(text))


@lru_cache(maxsize=16_384)
def parse_form(text: str) -> Form:
    """The form of canonical answer text."""
    text = text.strip()
    if matrix := _MATRIX.fullmatch(text):
        return _matrix(matrix.group(3), matrix.group(1))
    if member := _MEMBER.match(text):
        return as_interval(parse_form(text[member.end() :]))
    if counted := _THOUSANDS_OF.fullmatch(text):
        text = counted.group(1).replace(",", "") + counted.group(2)
    pieces, marks = split_outside(text, _SEPARATOR)
    if len(pieces) > 1:
        if _THOUSANDS.fullmatch(text):
            return replace(_scalar(text.replace(",", "")), text=text)
        return _list(text, pieces, marks)
    if (stray := _STRAY_LETTER.match(text)) and enclosed(text[stray.end() :]):
        inside = parse_form(text[stray.end() :])
        if isinstance(inside, Interval):  # "t(0,4]": only a membership can stand before one
            return inside
    pieces, _ = split_outside(text, _CUP)
    if len(pieces) > 1:
        return Union(tuple(as_interval(parse_form(p)) for p in pieces))
    sides, ops = split_outside(text, _RELATION)
    if (
        len(sides) > 1
        and ops[-1].startswith("\\approx")
        and not _LETTER.fullmatch(sides[-2].strip())
    ):
        # "\\sqrt{2} \\approx 1.414": the exact form is the answer, the decimal a remark.
        return parse_form(text[: text.rindex("\\approx")])
    if len(sides) > 1:
        return Relation(tuple(s.strip() for s in sides), tuple(ops))
    if outer := enclosed(text):
        return _bracketed(text, *outer)
    return _atom(text)


def _matrix(body: str, factor: str) -> Form:
    rows = [row for row in re.split(r"\\\\(?:\[\w+\])?|\\cr", body) if row.strip()]
    cell_of = "{}" if not factor else f"({'-1' if factor == '-' else factor})\\cdot ({{}})"
    cells = [[parse_form(cell_of.replace("{}", c.strip())) for c in r.split("&")] for r in rows]
    columns = len(cells[0]) if cells else 0
    if any(len(row) != columns for row in cells):
        return Scalar(body, malformed=True)
    return Group("matrix", tuple(cell for row in cells for cell in row), columns)


def _list(text: str, pieces: list[str], marks: list[str]) -> Form:
    items: list[Form] = []
    for piece in pieces:
        if not piece.strip():
            continue  # "1, 2, and 3" has an empty piece between the comma and the word
        form = _item(piece, first=not items)
        items.extend(form.items if isinstance(form, Group) and form.kind == "list" else [form])
    if not items:
        return Scalar(text, malformed=True)
    disjunction = bool(marks) and all(m == "or" for m in marks)
    return items[0] if len(items) == 1 else Group("list", tuple(items), 0, disjunction, text)


def _item(text: str, first: bool) -> Form:
    """One item of a list or tuple; three digits such as ``014`` behind a comma are no 14."""
    if not first and _ZERO_GROUP.fullmatch(text.strip()):
        return Scalar(text.strip(), malformed=True)
    return parse_form(text.strip())


def as_interval(form: Form) -> Form:
    """An ordered pair where the context says interval (after ``\\in``, beside ``\\cup``)."""
    if isinstance(form, Group) and form.kind == "tuple" and len(form.items) == 2:
        return Interval(form.items[0], form.items[1], True, True)
    return form


def _bracketed(text: str, opener: str, inside: str, closer: str) -> Form:
    if opener == "\\{" and closer == "\\}":
        if not inside:
            return Scalar("\\emptyset")
        if _RELATION.search(inside) or "|" in inside or "\\mid" in inside or ":" in inside:
            return _set_builder(inside) or Scalar(text)
        form = parse_form(inside)
        items = form.items if isinstance(form, Group) and form.kind == "list" else (form,)
        return Group("set", items)
    pieces, _ = split_outside(inside, re.compile(r"[,;]"))
    if len(pieces) == 1 or not all(p.strip() for p in pieces):
        form = parse_form(inside) if inside and len(pieces) == 1 else None
        if form is not None and (opener, closer) == ("(", ")"):
            return form
        if isinstance(form, Group) and form.kind == "matrix" and (opener, closer) == ("[", "]"):
            return form  # the brackets of an array
        return _atom(text)
    if (opener, closer) == ("(", ")") and _THOUSANDS.fullmatch(inside):
        if any(_ZERO_GROUP.fullmatch(p) for p in pieces):  # (2,014) is 2014, in no way (2,14)
            return parse_form(inside)
    items = tuple(_item(p, first=i == 0) for i, p in enumerate(pieces))
    if len(items) == 2 and "\\{" not in (opener, closer) and (opener, closer) != ("(", ")"):
        return Interval(items[0], items[1], opener == "(", closer == ")")
    if (opener, closer) not in (("(", ")"), ("[", "]")):
        return Scalar(text, malformed=True)
    if len(items) == 2 and any("\\infty" in p for p in pieces):
        return Interval(items[0], items[1], True, True)
    signed = [i for i, piece in enumerate(pieces) if "\\pm" in piece]
    if len(signed) == 1 and "\\mp" not in inside and isinstance(items[signed[0]], Group):
        at = signed[0]  # (\\pm 1, 0) is two points
        both = items[at].items
        return Group(
            "list", tuple(Group("tuple", (*items[:at], v, *items[at + 1 :])) for v in both)
        )
    return Group("tuple", items)


def _set_builder(inside: str) -> Form | None:
    """``{x | x > 2}`` as its condition, if all of that bounds the same letter; else None."""
    found = _SET_BUILDER.fullmatch(inside)
    condition = parse_form(found.group(2)) if found else None
    is_list = isinstance(condition, Group) and condition.kind == "list"
    parts = condition.items if is_list else (condition,)
    bounds = all(
        isinstance(part, Relation)
        and set(part.ops) <= {"<", ">", "\\le", "\\ge", "\\ne"}
        and found.group(1) in part.sides
        for part in parts
    )
    return condition if bounds else None


def _atom(text: str) -> Form:
    if _REAL_LINE.fullmatch(text):
        return Interval(Scalar("-\\infty"), Scalar("\\infty"), True, True)
    if _POSITIVE_REALS.fullmatch(text):
        return Interval(_scalar("0"), Scalar("\\infty"), True, True)
    if residue := _RESIDUE.fullmatch(text):
        return Group("residue", (parse_form(residue.group(1)), parse_form(residue.group(2))))
    if based := _BASED.fullmatch(text):
        name = based.group(2) or based.group(3) or based.group(4)
        name = name.removeprefix("\\text{").rstrip("}")
        base = int(name) if name.isdigit() and len(name) < 4 else _BASE_WORDS.get(name, 0)
        if 2 <= base <= 36 and any(c.isdigit() for c in based.group(1)):
            return Based(based.group(1), base)
    plain = _WORD_SPAN.sub("", text)
    if ("\\text" in text and not re.search(r"[0-9a-zA-Z\\]", plain)) or _is_words(text):
        return Words(words_key(text))
    if ":" in text and _RATIO.fullmatch(text):
        parts = [parse_form(part.strip()) for part in text.split(":")]
        if all(isinstance(p, Scalar) and not p.malformed for p in parts):
            return Group("ratio", tuple(parts))
    return _plus_minus(text) or _scalar(text)


def _is_words(text: str) -> bool:
    return bool(_PLAIN_WORDS.fullmatch(text)) and text.casefold() not in _FUNCTION_NAMES


def _plus_minus(text: str) -> Form | None:
    """``a \\pm b`` as the list of both; ``\\mp`` takes the other sign."""
    if not _PLUS_MINUS.search(text) or SETMINUS.search(text):
        return None
    both = []
    for plus, minus in (("+", "-"), ("-", "+")):
        signs = {"pm": plus, "mp": minus}
        one = _PLUS_MINUS.sub(lambda m, signs=signs: signs[m.group(1)], text)
        both.append(_scalar(one.removeprefix("+")))
    return Group("list", tuple(both))


def _scalar(text: str) -> Scalar:
    if _MINUTES.search(text) or TWO_POWERS.search(text):
        return Scalar(text, malformed=True)
    value_text, unit = split_unit(text)
    if unit == CHANGES:
        return Scalar(text, malformed=True)
    percent = value_text.endswith("%")
    value_text = value_text.removesuffix("%").strip()
    try:
        value = exact_value(value_text)
    except MalformedNumber:
        return Scalar(value_text, None, None, percent, unit, malformed=True)
    if value is None and "\\frac" in value_text:
        value_text = _MIXED_FACTOR.sub(_as_sum, value_text)
    return Scalar(value_text, value, decimal_places(value_text), percent, unit)


def _as_sum(found: re.Match[str]) -> str:
    """``2\\frac{1}{2}`` in ``2\\frac{1}{2}\\pi`` as ``(2+\\frac{1}{2})``: no product."""
    whole, top, bottom = found.groups()
    is_mixed = 0 < int(top) < int(bottom)
    return f"({whole}+\\frac{{{top}}}{{{bottom}}})" if is_mixed else found.group()


# --- brackets ---


def bracket_depths(text: str) -> list[int]:
    """Bracket depth before each character; any bracket closes any other, for ``[0,1)``."""
    depth, out = 0, []
    for char in text:
        if char in "}])":
            depth -= 1
        out.append(depth)
        if char in "{[(":
            depth += 1
    return out


def split_outside(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Pieces of ``text`` at top-level matches of ``pattern``, and the matched separators."""
    depths = bracket_depths(text)
    pieces, marks, start = [], [], 0
    for found in pattern.finditer(text):
        if depths[found.start()] == 0 and found.start() >= start:
            pieces.append(text[start : found.start()])
            marks.append(found.group().strip())
            start = found.end()
    pieces.append(text[start:])
    return pieces, marks


def enclosed(text: str) -> tuple[str, str, str] | None:
    """``(opener, inside, closer)`` if one pair of brackets encloses the whole text."""
    for opener, size in (("\\{", 2), ("(", 1), ("[", 1)):
        if not text.startswith(opener):
            continue
        for closer in ("\\}", ")", "]"):
            if text.endswith(closer) and len(text) >= size + len(closer):
                depths = bracket_depths(text)
                inner = depths[size : len(text) - len(closer)]
                if all(d >= 1 for d in inner):
                    return opener, text[size : -len(closer)].strip(), closer
    return None
