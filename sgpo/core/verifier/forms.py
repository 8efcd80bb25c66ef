"""The shape of an answer: number, expression, words, list, tuple, set, interval, relation, matrix.

``parse_form`` splits canonical text (spelling.canonical) by its top-level structure only, after
taking off what is said around the answer: remarks, quantifiers, labels. What is left inside a
Scalar is an expression that compare decides exactly or asks the symbolic worker. Structure that is
not understood stays one Scalar, which can only fail closed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache

from sgpo.core.verifier.numbers import MalformedNumber, decimal_places, exact_value
from sgpo.core.verifier.patterns import patterns
from sgpo.core.verifier.spelling import MAX_SAID_CHARS, split_unit, unit_name, words_key

_P = patterns("forms")
NAME, SETMINUS, TWO_POWERS, WORD_BETWEEN = _P.name, _P.setminus, _P.two_powers, _P.word_between


@dataclass(frozen=True)
class Scalar:
    """One expression. ``value``: its exact value, if it is plain rational arithmetic."""

    text: str
    value: Fraction | None = None
    places: int | None = None  # decimals, if it is one decimal literal
    percent: bool = False
    unit: str | None = None
    counted: str | None = None  # words behind the value that are no known unit
    base: int = 0  # of digits with a base subscript: ``52_8``
    malformed: bool = False  # looks like a number and has no agreed value: ``4 10/3``


@dataclass(frozen=True)
class Words:
    key: str


@dataclass(frozen=True)
class Group:
    """Several answers. ``kind``: list (bare), tuple, set, ratio, residue or matrix (by rows)."""

    kind: str
    items: tuple[Form, ...]
    columns: int = 0
    disjunction: bool = False  # the list was joined by "or"
    raw: str = ""  # the text of a list, which says how its items are joined


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
    forms: tuple[Form, ...] = field(default=(), compare=False)  # the parsed sides
    domain: str = ""  # "Z" where the answer says that whole numbers are meant, "P" primes


Form = Scalar | Words | Group | Interval | Union | Relation

MAX_FORM_CHARS = 10_000
MAX_NESTING = 40
MAX_SIGNED = 4  # coordinates with a plus-minus sign in one tuple
ELLIPSIS = "\\ldots"

_FUNCTION_NAMES = frozenset("sin cos tan cot sec csc log exp max min gcd lcm mod".split())
_CHAINS = ("\\in", "\\approx", "≈", " is ", ":")


def is_tractable(text: str) -> bool:
    """Whether the text is short and flat enough to be parsed at all."""
    if len(text) > MAX_FORM_CHARS or text.count("^") > 400 or _P.sign_run.search(text):
        return False
    # What is read from one end to the other, a step deeper each time, is bounded like brackets.
    depths = bracket_depths(text) if any(map(text.__contains__, "{[(")) else [0]
    return max([*depths, *map(text.count, _CHAINS)]) <= MAX_NESTING


# --- what is said around an answer ------------------------------------------------------------


def plain_words(text: str) -> str:
    """``text`` with the words of its ``\\text{..}`` spans bare."""
    return re.sub(r"\s+", " ", re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)).strip()


def _without_remarks(text: str) -> tuple[str, str]:
    """``text`` without reasons, quantifiers and domains around the answer, and the domain of an
    inequality if it named whole numbers or primes."""
    domain = ""
    remark = _P.remark.search(text)
    if remark and remark.start():
        if "which" not in remark.group() or not _P.veto.search(remark.group()):
            text = text[: remark.start()].rstrip(" ,(")
    aside = _P.aside.search(text)
    if aside and aside.start() and unit_name(aside[aside.lastindex or 0]) is None:
        text = text[: aside.start()]
    about = _P.or_about.search(text)
    if about and about.start():
        text = f"{text[: about.start()]}\\approx {text[about.end() :]}"
    text = text.replace("\\approx \\approx", "\\approx ")
    if "\\approx" in text and text.endswith(")") and text.count("(") < text.count(")"):
        text = text[:-1]
    for pattern in (_P.membership_head, _P.all_of):
        if _P.order.search(text) and (begin := pattern.match(text)):
            domain = _domain(begin.group())
            text = text[begin.end() :]
    for pattern in (_P.quantified, _P.membership_tail):
        tail = pattern.search(text)
        if tail is None or not tail.start():
            continue
        head = text[: tail.start()].rstrip(" ,;(")
        letters = set(_P.single_letter.findall(head))
        if pattern is _P.quantified:
            is_domain = _P.domain_rest.fullmatch(tail.group(1).strip(" })."))
            known = is_domain and ("=" in head or _P.order.search(head) or letters)
        else:
            known = letters & set(re.findall(r"[a-zA-Z]", tail.group(1)))
        if known:
            domain = _domain(tail.group()) if _P.order.search(head) else domain
            text = head
    return text, domain


def _domain(said: str) -> str:
    return "P" if _P.prime.search(said) else "Z" if _P.whole.search(said) else ""


def _labelled(text: str) -> Form | None:
    """``The minimum is 1``, ``\\text{Paolo: } 18``, ``minimum 1`` as a named value."""
    plain = plain_words(text)
    if _P.veto.search(plain):
        return None
    found = _P.label.fullmatch(plain)
    if found and re.search(r"[a-zA-Z]{2}", found["name"]):
        name, rest = found["name"].strip(), found["rest"].strip()
        # What follows the label, with its words marked up again behind a number.
        marked = re.sub(r"(?<=\d) ([a-zA-Z]{2,}(?: [a-zA-Z]{2,})*)\.?$", r"\\text{ \1}", rest)
        value = parse_form(marked.rstrip("."))
        if isinstance(value, Relation) and is_assignment(value):  # the solution is x = 3
            return value
        if isinstance(value, Words):
            value = Words(re.sub(r"^(?:an?|the) ", "", value.key))
    elif (head := _P.extreme_head.match(text)) and _P.extreme.fullmatch(
        name := (head.group(1) or head.group(2) or "").strip()
    ):
        rest = text[head.end() :].strip()
        value = parse_form(rest)
    else:
        return None
    return Relation((f"\\text{{{name}}}", rest), ("=",), (Words(words_key(name)), value))


# --- parsing ----------------------------------------------------------------------------------


@lru_cache(maxsize=16_384)
def parse_form(text: str) -> Form:
    """The form of canonical answer text."""
    text, domain = _P.both.sub("", text.strip()), ""
    if "\\begin" in text and (matrix := _P.matrix.fullmatch(text)):
        return _matrix(matrix.group(3), matrix.group(1), transposed=bool(matrix.group(4)))
    if len(text) <= MAX_SAID_CHARS and _P.said.search(text):
        text, domain = _without_remarks(text)
        pieces, _ = split_outside(text, _P.membership)
        if len(pieces) == 2 and pieces[0] and len(split_outside(pieces[0], _P.separator)[0]) == 1:
            return as_interval(parse_form(pieces[1]))
        if counted := _P.thousands_of.fullmatch(text):
            text = counted.group(1).replace(",", "") + counted.group(2)
    form = _parse(text)
    return _over(domain, form) if domain else form


def _over(domain: str, form: Form) -> Form:
    if isinstance(form, Relation):
        return replace(form, domain=domain)
    if isinstance(form, Group) and any(isinstance(item, Relation) for item in form.items):
        return replace(form, items=tuple(_over(domain, item) for item in form.items))
    return form


def _parse(text: str) -> Form:
    pieces, marks = split_outside(text, _P.separator)
    if len(pieces) > 1:
        if _P.thousands.fullmatch(text):
            return replace(_scalar(text.replace(",", "")), text=text)
        return _list(text, pieces, marks)
    if (stray := _P.stray_letter.match(text)) and enclosed(text[stray.end() :]):
        inside = parse_form(text[stray.end() :])
        is_point = text[0].isupper() and isinstance(inside, Group) and inside.kind == "tuple"
        if isinstance(inside, Interval) or is_point:  # "t(0,4]": a membership; "P(8,2)": a name
            return inside
    pieces, _ = split_outside(text, _P.cup)
    sides, ops = split_outside(text, _P.relation)
    if len(pieces) > 1 and not (ops == ["="] and NAME.fullmatch(sides[0])):
        return Union(tuple(as_interval(parse_form(p)) for p in pieces))
    if len(sides) > 1:
        texts = tuple(s.strip() for s in sides)
        if ops == ["="] and _P.letter.fullmatch(texts[1]) and not NAME.fullmatch(texts[0]):
            texts = texts[::-1]  # 5 = x
        return Relation(texts, tuple(ops), tuple(map(parse_form, texts)))
    if outer := enclosed(text):
        return _bracketed(text, *outer)
    if text.endswith("^{T}") and (outer := enclosed(text[:-4])) and "," in outer[1]:
        column = _bracketed(text[:-4], "(", outer[1], ")")
        return Group("matrix", column.items, 1) if isinstance(column, Group) else column
    is_said = len(text) <= MAX_SAID_CHARS and _P.said.search(text)
    return (is_said and _labelled(text)) or _atom(text)


def _matrix(body: str, factor: str, transposed: bool) -> Form:
    times = f"({'-1' if factor == '-' else factor})\\cdot " if factor else ""
    rows = [row.split("&") for row in _P.row.split(body) if row.strip()]
    if len({len(row) for row in rows}) > 1:
        return Scalar(body, malformed=True)
    rows = [list(column) for column in zip(*rows, strict=True)] if transposed else rows
    cells = [f"{times}({c.strip()})" if times else c.strip() for row in rows for c in row]
    return Group("matrix", tuple(map(parse_form, cells)), len(rows[0]) if rows else 0)


def _list(text: str, pieces: list[str], marks: list[str]) -> Form:
    if (records := _records(text)) is not None:
        return records
    items: list[Form] = []
    for piece in filter(str.strip, pieces):  # "1, 2, and 3" has an empty one before the word
        form = _item(piece, first=not items)
        if isinstance(form, Relation) and is_assignment(form):
            items.extend(_each_value(form))
        else:
            is_list = isinstance(form, Group) and form.kind == "list"
            items.extend(form.items if is_list else [form])  # type: ignore[union-attr]
    if not items:
        return Scalar(text, malformed=True)
    if len(items) > 1 and all(map(_is_labelled_count, items)):
        items = [replace(i, counted=None) for i in items if isinstance(i, Scalar)]
    disjunction = bool(marks) and all(m == "or" for m in marks)
    return items[0] if len(items) == 1 else Group("list", tuple(items), 0, disjunction, text)


def _is_labelled_count(item: Form) -> bool:
    """``7\\text{ goats}``, in a list of such: the word says which of the values this is."""
    is_counted = isinstance(item, Scalar) and item.value is not None and item.counted
    return bool(is_counted and _P.label_noun.fullmatch(item.counted))  # type: ignore[union-attr]


def _each_value(relation: Relation) -> list[Form]:
    """``k=\\pm 1`` as ``k=1`` and ``k=-1``; other assignments as they are."""
    value = relation.forms[-1]
    if len(relation.sides) != 2 or not (isinstance(value, Group) and value.kind == "list"):
        return [relation]
    texts = [v.text if isinstance(v, Scalar) else getattr(v, "raw", "") for v in value.items]
    return [
        Relation((relation.sides[0], text), relation.ops, (relation.forms[0], v))
        for text, v in zip(texts, value.items, strict=True)
    ]


def _records(text: str) -> Form | None:
    """``x=1,y=2 or x=3,y=4`` as two points, with their coordinates in the order of the names."""
    pieces, _ = split_outside(text, _P.outer)
    if len(pieces) == 1:
        pieces, _ = split_outside(text, _P.separator)
        names = [p.partition("=")[0].strip() for p in pieces]
        size = len(set(names))
        if not 1 < size < len(names) or "=" not in pieces[-1]:
            return None
        if names != names[:size] * (len(names) // size):
            return None
        pieces = [", ".join(pieces[i : i + size]) for i in range(0, len(pieces), size)]
    points = [_point(parse_form(piece)) for piece in pieces]
    if len(points) < 2 or None in points or len({names for names, _ in points}) > 1:  # type: ignore[misc]
        return None
    return Group("list", tuple(values for _, values in points), raw=text)  # type: ignore[misc]


def _point(form: Form) -> tuple[tuple[str, ...], Group] | None:
    """``x=1,y=2`` as its names and a tuple; None for what is no record of two values or more."""
    if not (isinstance(form, Group) and form.kind == "list"):
        return None
    named = {
        item.sides[0]: item.forms[1]
        for item in form.items
        if isinstance(item, Relation) and is_assignment(item) and len(item.sides) == 2
    }
    if not 1 < len(named) == len(form.items):
        return None
    names = tuple(sorted(named))
    return names, Group("tuple", tuple(named[name] for name in names))


def _item(text: str, first: bool) -> Form:
    """One item of a list or tuple; three digits such as ``014`` behind a comma are no 14."""
    if not first and _P.zero_group.fullmatch(text.strip()):
        return Scalar(text.strip(), malformed=True)
    return parse_form(text.strip())


def as_interval(form: Form) -> Form:
    """An ordered pair where the context says interval (after ``\\in``, beside ``\\cup``)."""
    if isinstance(form, Group) and form.kind == "tuple" and len(form.items) == 2:
        return Interval(*form.items, True, True)
    return form


def _bracketed(text: str, opener: str, inside: str, closer: str) -> Form:
    round_ones, curly = (opener, closer) == ("(", ")"), opener == "\\{"
    if curly and closer == "\\}":
        if not inside:
            return Scalar("\\emptyset")
        if _P.relation.search(inside) or "|" in inside or ":" in inside:
            point = _point(parse_form(inside)) if "=" in inside else None
            named = parse_form(inside)
            is_named = isinstance(named, Relation) and is_assignment(named)  # {x = 1}
            return (
                point[1] if point else _set_builder(inside) or (named if is_named else Scalar(text))
            )
        form = parse_form(inside)
        is_list = isinstance(form, Group) and form.kind == "list"
        return Group("set", form.items if is_list else (form,))  # type: ignore[union-attr]
    pieces, _ = split_outside(inside, _P.comma)
    if len(pieces) == 1 and inside:
        form = parse_form(inside)
        is_matrix = isinstance(form, Group) and form.kind == "matrix"
        return form if round_ones or (is_matrix and text[0] + text[-1] == "[]") else _atom(text)
    if not all(p.strip() for p in pieces):
        return _atom(text)
    if round_ones and _P.thousands.fullmatch(inside) and any(map(_P.zero_group.fullmatch, pieces)):
        return parse_form(inside)  # (2,014) is 2014, in no way (2,14)
    items = tuple(_item(p, first=i == 0) for i, p in enumerate(pieces))
    if len(items) == 2 and not curly and closer != "\\}" and not round_ones:
        return Interval(*items, opener == "(", closer == ")")
    if not round_ones and (opener, closer) != ("[", "]"):
        return Scalar(text, malformed=True)
    if len(items) == 2 and "\\infty" in inside:
        return Interval(*items, True, True)
    return _signed_tuple(inside, pieces) or Group("tuple", items)


def _signed_tuple(inside: str, pieces: list[str]) -> Form | None:
    """``(\\pm 1, 0)`` as two points, ``(\\pm 1, \\pm 2)`` as four, ``(\\pm 1, \\mp 2)`` as two."""
    signed = ["\\pm" in piece for piece in pieces]
    if not 0 < sum(signed) <= MAX_SIGNED:
        return None
    points = _both_signs(inside)
    if "\\mp" not in inside:
        choices = map(lambda piece, both: _both_signs(piece) if both else [piece], pieces, signed)
        points = list(map(",".join, itertools.product(*choices)))
    return Group("list", tuple(parse_form(f"({point})") for point in points))


def _set_builder(inside: str) -> Form | None:
    """``{x | x > 2}`` as its condition, if all of that bounds the same letter; else None."""
    found = _P.set_builder.fullmatch(inside)
    if found is None:
        return None
    condition = parse_form(found.group(3))
    is_list = isinstance(condition, Group) and condition.kind == "list"
    for part in condition.items if is_list else (condition,):  # type: ignore[union-attr]
        letter = found.group(1)
        if not isinstance(part, Relation) or not {letter, f"|{letter}|"} & set(part.sides):
            return None
        if not set(part.ops) <= {"<", ">", "\\le", "\\ge", "\\ne", "="}:
            return None
    is_whole = found.group(2) in ("Z", "N") and not is_list
    return _over("Z", condition) if is_whole else condition


def _atom(text: str) -> Form:
    if _P.real_line.fullmatch(text):
        return Interval(Scalar("-\\infty"), Scalar("\\infty"), True, True)
    if _P.positive_reals.fullmatch(text):
        return Interval(_scalar("0"), Scalar("\\infty"), True, True)
    if residue := _P.residue.fullmatch(text):
        return Group("residue", tuple(map(parse_form, residue.groups())))
    if based := _P.based.fullmatch(text):
        return Scalar(based.group(1), base=int(based.group(2)))
    plain = _P.word_span.sub("", text)
    is_words = _P.plain_words.fullmatch(text) and text.casefold() not in _FUNCTION_NAMES
    if is_words or ("\\text" in text and not re.search(r"[0-9a-zA-Z\\]", plain)):
        return Words(words_key(text))
    if ":" in text and _P.ratio.fullmatch(text):
        parts = [parse_form(part.strip()) for part in text.split(":")]
        if all(isinstance(p, Scalar) and not p.malformed for p in parts):
            return Group("ratio", tuple(parts))
    if text.startswith("\\text") or re.match(r"[A-Z][a-z]+ ", text):
        return _sentence(text)
    return _plus_minus(text) or _scalar(text)


def _sentence(text: str) -> Form:
    """A sentence with exactly one number in it, as that number; others as words."""
    plain = plain_words(text)
    found = _P.only_number.fullmatch(plain)
    if found is None or len(re.findall(r"[A-Za-z]{2,}", plain)) < 3 or _P.veto.search(plain):
        return Words(words_key(text))
    after = re.match(r"\s*([a-z]+)", found.group(2))
    unit = split_unit(f"1\\text{{{after.group(1)}}}")[1] if after else None
    return replace(_scalar(found.group(1)), unit=unit)


def _both_signs(text: str) -> list[str]:
    """``text`` with the upper signs and with the lower ones; ``\\mp`` takes the other sign."""
    both = []
    for signs in ({"pm": "+", "mp": "-"}, {"pm": "-", "mp": "+"}):
        one = _P.plus_minus.sub(lambda m, signs=signs: signs[m.group(1)], text)
        both.append(re.sub(r"(^|[,(])\+", r"\1", one))
    return both


def _plus_minus(text: str) -> Form | None:
    """``a \\pm b`` as the list of both, ``\\pm(3,2)`` as two points."""
    if not _P.plus_minus.search(text) or _P.setminus.search(text):
        return None
    both = _both_signs(text)
    point = enclosed(both[0])
    parts = split_outside(point[1], _P.comma)[0] if point else []
    if len(parts) > 1:
        negative = ",".join(f"-({part.strip()})" for part in parts)
        return Group("list", (parse_form(both[0]), parse_form(f"({negative})")))
    return Group("list", tuple(map(_scalar, both)))


def _scalar(text: str) -> Scalar:
    if _P.minutes.search(text) or _P.two_powers.search(text):
        return Scalar(text, malformed=True)
    value_text, unit, words = split_unit(text)
    percent = value_text.endswith("%")
    value_text = value_text.removesuffix("%").strip()
    try:
        value = exact_value(value_text)
    except MalformedNumber:
        return Scalar(value_text, None, None, percent, unit, words, malformed=True)
    if value is None and "\\frac" in value_text:
        value_text = _P.mixed_factor.sub(_as_sum, value_text)
    return Scalar(value_text, value, decimal_places(value_text), percent, unit, words)


def _as_sum(found: re.Match[str]) -> str:
    """``2\\frac{1}{2}`` in ``2\\frac{1}{2}\\pi`` as ``(2+\\frac{1}{2})``: no product."""
    whole, top, bottom = found.groups()
    is_mixed = 0 < int(top) < int(bottom)
    return f"({whole}+\\frac{{{top}}}{{{bottom}}})" if is_mixed else found.group()


def is_assignment(relation: Relation) -> bool:
    """``x = ..``, ``f(x) = ..``, ``m_{max} = .. = ..``: the left side only names the answer."""
    is_naming = set(relation.ops) <= {"=", "\\approx", "\\equiv"}
    return is_naming and _P.name.fullmatch(relation.sides[0]) is not None


# --- brackets ---------------------------------------------------------------------------------


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
    pieces: list[str] = []
    marks: list[str] = []
    start, depths = 0, None
    for found in pattern.finditer(text):
        depths = bracket_depths(text) if depths is None else depths
        if depths[found.start()] == 0 and found.start() >= start:
            pieces.append(text[start : found.start()])
            marks.append(found.group().strip())
            start = found.end()
    pieces.append(text[start:])
    return pieces, marks


def enclosed(text: str) -> tuple[str, str, str] | None:
    """``(opener, inside, closer)`` if one pair of brackets encloses the whole text."""
    opener = next((o for o in ("\\{", "(", "[") if text.startswith(o)), None)
    closer = next((c for c in ("\\}", ")", "]") if text.endswith(c)), None)
    if opener is None or closer is None or len(text) < len(opener) + len(closer):
        return None
    inside = slice(len(opener), len(text) - len(closer))
    if min(bracket_depths(text)[inside], default=1) < 1:
        return None
    return opener, text[inside].strip(), closer


def value_items(form: Form) -> Sequence[Form]:
    """The items of a list or set, and any other form as the only one."""
    is_several = isinstance(form, Group) and form.kind in ("list", "set")
    return form.items if is_several else (form,)  # type: ignore[union-attr]
