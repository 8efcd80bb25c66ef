"""The shape of an answer: number, expression, words, list, tuple, set, interval, relation, matrix.

``parse_form`` takes off what is said around canonical text and splits it by its structure. A Scalar
holds an expression, or structure that is not understood and can only fail closed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache

from sgpo.core.verifier import spelling
from sgpo.core.verifier.patterns import patterns

_P = patterns("forms")
NAME, SETMINUS, WORD_BETWEEN = _P.name, _P.setminus, _P.word_between


@dataclass(frozen=True)
class Scalar:
    """One expression. ``value``: its exact value, if it is plain rational arithmetic."""

    text: str
    value: Fraction | None = None
    places: int = 0  # decimals, if it is one decimal literal
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
    """Several answers. ``kind``: list (bare), tuple, set, ratio, matrix (by rows), record
    (``x=1, y=2``: assignments to different names), same (all have to be the answer)."""

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
    domain: str = ""  # "Z" where the answer says that whole numbers are meant, "P" primes, "Q"


Form = Scalar | Words | Group | Interval | Union | Relation

MAX_FORM_CHARS = 10_000
MAX_NESTING = 40
MAX_DIGITS = 4_000  # int() refuses longer literals
MAX_SIGNED = 4  # coordinates with a plus-minus sign in one tuple
ELLIPSIS = "\\ldots"
_CHAINS = ("\\in", "\\approx", "≈", " is ", ":")


def is_tractable(text: str) -> bool:
    """Whether the text is short and flat enough to be parsed at all."""
    if len(text) > MAX_FORM_CHARS or text.count("^") > 400 or _P.sign_run.search(text):
        return False
    depths = bracket_depths(text) if any(map(text.__contains__, "{[(")) else [0]
    return max([*depths, *map(text.count, _CHAINS)]) <= MAX_NESTING


def _without_remarks(text: str) -> tuple[str, str]:
    """``text`` without reasons, and what it is said to be as well (a value: in a chain with it)."""
    other = ""
    if remark := _P.remark.search(text):
        head, also = text[: remark.start()], (remark["said"] or "").strip(" .:")
        if also.count(")") > also.count("("):  # it stood in brackets
            also = _P.closing.sub("", also)
        is_said, words = _P.two_letters.search(_P.macro.sub("", also)), spelling.plain_words(also)
        is_named = _P.named_of.search(words) or not _P.veto.search(words)
        if not also or (is_said and is_named and _P.restated.match(words)):
            text = head
        elif not is_said and _P.structure.search(head + also):
            text, other = head, also
        elif not is_said:
            text = f"{head}\\approx {also}" if "." in head + also else f"{head}={also}"
    text = _P.or_about.sub(r"\\approx ", _P.aside.sub("", text))
    return text.replace("\\approx \\approx", "\\approx "), other


def _without_domain(text: str) -> tuple[str, str]:
    """``text`` without quantifiers and domains around the answer, and the domain of an inequality:
    one of ``patterns.toml``, or "?" where a condition is left in the text."""
    said, left = "", False
    for pattern in (_P.membership_head, _P.all_of):
        if _P.order.search(text) and (begin := pattern.match(text)):
            said, text = said + begin.group(), text[begin.end() :]
    for pattern in (_P.quantified, _P.membership_tail):
        if (tail := pattern.search(text)) is None:
            continue
        head, of = text[: tail.start()].rstrip(" ,;("), tail.group(1)
        is_order = bool(_P.order.search(head))
        letters = set(_P.letters.findall(_P.command.sub(" ", head)))
        own = set(_P.one_letter.findall(_P.command.sub(" ", of)))
        # A formula holds for all that it is applied to and for all values of its constants.
        applied = own & set("".join(_P.argument.findall(head)))
        free = set("pq") if "rime" in of else applied | set("nmkijpq")
        is_domain = is_order or not (own & letters) - free
        rest = _P.domain_rest if is_domain else _P.constant_rest
        is_idle = rest.fullmatch(_P.pole.sub("", of) if "\\frac" in head else of)
        is_idle = is_idle and not ("some" in tail.group() and (is_order or applied))
        if pattern is _P.membership_tail:
            is_idle = letters & own and (is_domain or not _P.narrow.search(tail.group()))
        if letters and is_idle:
            said, text = said + tail.group() * is_order, head
        elif is_order and (also := _P.condition.fullmatch(tail.group())):
            text = f"{head},{also.group(1)}"
        else:
            is_about = letters & own or (letters and _P.sign.search(of))
            left = left or (bool(is_about) and not WORD_BETWEEN.search(of))
    left = left or (_P.signed.search(said) and not _P.positive_bound.search(text))
    domain = _P.domain.match(said)
    return text, "?" if left else domain.lastgroup.upper() if domain else ""


def _labelled(text: str) -> Form | None:
    """``The minimum is 1``, ``\\text{Paolo: } 18``, ``minimum 1`` as a named value."""
    plain = spelling.plain_words(text)
    if _P.veto.search(plain) or _P.changed.search(plain):
        return None
    found = _P.label.fullmatch(plain)
    if found and _P.two_letters.search(found["name"]):
        name, rest = found["name"], found["rest"]
        marked = re.sub(r"(?<=\d) ([a-zA-Z]{2,}(?: [a-zA-Z]{2,})*)\.?$", r"\\text{ \1}", rest)
        value = parse_form(marked.rstrip("."))
    elif (head := _P.extreme.match(text)) and not _P.derived.search(plain):
        name, rest = head.group(1), text[head.end() :]
        value = parse_form(rest)
    else:
        return None
    return Relation((f"\\text{{{name}}}", rest), ("=",), (Words(spelling.words_key(name)), value))


@lru_cache(maxsize=16_384)
def parse_form(text: str) -> Form:
    """The form of canonical answer text."""
    text = _P.both.sub("", text.strip())
    if "\\begin" in text and (matrix := _P.matrix.fullmatch(text)):
        return _matrix(matrix)
    if len(text) > spelling.MAX_SAID_CHARS or not _P.said.search(text):
        return _parse(text)
    text, also = _without_remarks(text)
    if also:
        return Group("same", (parse_form(text), parse_form(also)))
    text, domain = _without_domain(text)
    pieces, _ = split_outside(text, _P.membership)
    if len(pieces) == 2:
        begin = _P.all_of.match(pieces[0])  # all real x in ..
        narrow = begin and (_P.signed.search(begin.group()) or _P.domain.match(begin.group()))
        name = pieces[0][begin.end() if begin and not narrow else 0 :].strip()
        names = name.strip("( )").split(",")
        if _P.member.fullmatch(name) and names == sorted(names):
            return as_interval(parse_form(pieces[1]))
    return _over(domain, _parse(text))


def _over(domain: str, form: Form) -> Form:
    if domain == "?" and not isinstance(form, Scalar | Words):
        return Scalar("?", malformed=True)
    if domain and isinstance(form, Relation):
        return replace(form, domain=domain)
    if isinstance(form, Group) and any(isinstance(item, Relation) for item in form.items):
        return replace(form, items=tuple(_over(domain, item) for item in form.items))
    return form


def _parse(text: str) -> Form:
    pieces, marks = split_outside(text, _P.separator)
    if len(pieces) > 1:
        if counted := _P.thousands.fullmatch(text):
            number = _scalar(text.replace(",", ""))
            return number if counted.group(1) else replace(number, text=text)
        return list_of(text, pieces, marks)
    if _P.plus_minus.search(text) and "\\{" not in text:
        return Group("list", tuple(map(parse_form, _signs(text))))
    if _P.stray_letter.match(text) and enclosed(text[1:])[0]:
        inside = parse_form(text[1:])
        if isinstance(inside, Interval) or (text[0].isupper() and isinstance(inside, Group)):
            return inside  # "t(0,4]": a membership; "P(8,2)": a name
    pieces, _ = split_outside(text, _P.cup)
    sides, ops = split_outside(text, _P.relation)
    if len(pieces) > 1 and not (ops == ["="] and NAME.fullmatch(sides[0])):
        return Union(tuple(as_interval(parse_form(p)) for p in pieces))
    if len(sides) > 1:
        return _relation(tuple(s.strip() for s in sides), tuple(ops))
    if (outer := enclosed(text))[0]:
        return _bracketed(text, *outer)
    if text.startswith("-(") and (outer := enclosed(text[1:]))[0] and "," in outer[1]:
        parts = split_outside(outer[1], _P.comma)[0]
        return Group("tuple", tuple(parse_form(f"-({part})") for part in parts))
    if text.endswith("^{T}") and (outer := enclosed(text[:-4]))[0] and "," in outer[1]:
        return Group("matrix", items_of(_bracketed(text, "(", outer[1], ")"), "tuple"), 1)
    is_said = len(text) <= spelling.MAX_SAID_CHARS and _P.said.search(text)
    return (is_said and _labelled(text)) or _atom(text)


def _matrix(found: re.Match[str]) -> Form:
    factor, _, body, transposed = found.groups()
    rows: Sequence[Sequence[str]] = [r.split("&") for r in _P.row.split(body) if r.strip()]
    rows = list(zip(*rows, strict=False)) if transposed else rows
    cells = [cell.strip() for row in rows for cell in row]
    cells = [f"({factor})\\cdot ({cell})" for cell in cells] if factor else cells
    return Group("matrix", tuple(map(parse_form, cells)), len(rows[0]) if rows else 0)


def _relation(sides: tuple[str, ...], ops: tuple[str, ...]) -> Form:
    """A relation; what names several values (``a=b=-2``, ``(a,b)=(1,2)``) as a record."""
    is_named = _P.letter.fullmatch(sides[1]) and not NAME.fullmatch(sides[0])
    if is_named and ops in (("=",), ("\\approx",)):
        sides = sides[::-1]  # 5 = x
    relation = Relation(sides, ops, tuple(map(parse_form, sides)))
    *names, last = sides
    if set(ops) != {"="} or not all(map(is_name, names)):
        return relation
    values = [last] * len(names)
    if len(names) == 1 and names[0].startswith("("):
        names = names[0][1:-1].split(",")
        opener, inside, _ = enclosed(last)
        values = split_outside(inside, _P.comma)[0] if opener == "(" else []
    if len(set(names)) < 2 or len(names) != len(values):
        return relation
    items = tuple(parse_form(f"{n}={v}") for n, v in zip(names, values, strict=True))
    # A chain through points, x=(a,b)=(3,4), names no two values.
    is_record = all(isinstance(item, Relation) for item in items)
    return (
        Group("record", items, raw=sides[0] * sides[0].startswith("(")) if is_record else relation
    )


def list_of(text: str, pieces: Sequence[str], marks: Sequence[str] = ()) -> Form:
    """A list; assignments as one record, or (``x=1,y=2 or x=3,y=4``) as a list of records."""
    pieces = list(filter(str.strip, pieces))  # "1, 2, and 3" has an empty one before the word
    items = [item for form in _items(pieces) for item in items_of(form, "list")]
    is_or = set(marks) == {"or"}
    named = [part for item in items for part in items_of(item, "record")]
    if named and all(map(is_assignment, named)):
        size = len({item.sides[0] for item in named})
        records = [tuple(named[i : i + size]) for i in range(0, len(named), size)]
        if len(records) == 1 < size:
            return Group("record", records[0], 0, is_or, text)
        if size > 1 and all(len({item.sides[0] for item in record}) == size for record in records):
            items = [Group("record", record) for record in records]
    return items[0] if len(items) == 1 else Group("list", tuple(items), 0, is_or, text)


def _items(pieces: Sequence[str]) -> Iterator[Form]:
    """The items of a list or tuple; three digits such as ``014`` behind a comma are no 14."""
    for i, piece in enumerate(map(str.strip, pieces)):
        is_no_number = i and _P.zero_group.fullmatch(piece)
        yield Scalar(piece, malformed=True) if is_no_number else parse_form(piece)


def as_interval(form: Form) -> Form:
    """An ordered pair where the context says interval (after ``\\in``, beside ``\\cup``)."""
    if is_group(form, "tuple") and len(form.items) == 2:
        return Interval(*form.items, True, True)
    return form


def _bracketed(text: str, opener: str, inside: str, closer: str) -> Form:
    ends = opener + closer
    if ends == "\\{\\}":
        return _curly(inside)
    pieces, _ = split_outside(inside, _P.comma)
    if len(pieces) == 1 and inside:
        form = parse_form(inside)
        is_outside = ends == "()" or (ends == "[]" and is_group(form, "matrix"))
        return form if is_outside else _atom(text)
    is_number = ends == "()" and _P.thousands.fullmatch(inside)
    if is_number and any(map(_P.zero_group.fullmatch, pieces)):
        return parse_form(inside)  # (2,014) is 2014, in no way (2,14)
    items = tuple(_items(pieces))
    if len(items) == 2 and (ends != "()" or "\\infty" in inside):
        return Interval(*items, opener == "(", closer == ")")
    return Group("tuple", items) if ends in ("()", "[]") else Scalar(text, malformed=True)


def _curly(inside: str) -> Form:
    """``{1,2}``; ``{x | x > 2}`` and ``{x=1, y=2}`` are what they are without their braces."""
    if not inside:
        return Scalar("\\emptyset")
    form = parse_form(inside)
    if is_assignment(form):
        return form
    if found := _P.set_builder.fullmatch(inside):
        letter, numbers, condition = found.group(1), found.group(2), parse_form(found.group(3))
        parts = items_of(condition, "list")  # an equation is for the letter: x = 1, 2, not x^2 = 4
        own = {p.sides[0] if "=" in p.ops else letter * (letter in "".join(p.sides))
               for p in parts if isinstance(p, Relation)}  # fmt: skip
        if own == {letter}:
            return _over({"N": "Z", "Z": "Z", "Q": "Q"}.get(numbers, ""), condition)
    if len(split_outside(inside, _P.such_that)[0]) > 1:
        return Scalar(inside, malformed=True)
    return form if is_group(form, "record") else Group("set", tuple(items_of(form, "list")))


def _atom(text: str) -> Form:
    for pattern, low in ((_P.real_line, "-\\infty"), (_P.positive_reals, "0")):
        if pattern.fullmatch(text):
            return Interval(_scalar(low), Scalar("\\infty"), True, True)
    if based := _P.based.fullmatch(text):
        digits, base = based.group(1), int(based.group(2))
        return Scalar(digits, base=base, malformed=any(int(digit, 36) >= base for digit in digits))
    if _P.word_spans.fullmatch(text) or _P.plain_words.fullmatch(text):
        return Words(spelling.words_key(text))
    if ":" in text and _P.ratio.fullmatch(text):
        return Group("ratio", tuple(map(parse_form, text.split(":"))))
    if text.startswith("\\text") or re.match(r"[A-Z][a-z]+ ", text):
        return _sentence(text)
    return _scalar(text)


def _sentence(text: str) -> Form:
    """A sentence with exactly one number in it, as that number; others as words."""
    plain = spelling.plain_words(text)
    found = _P.only_number.fullmatch(plain)
    is_other = any(p.search(plain) for p in (_P.veto, _P.changed, _P.derived))
    if found is None or len(re.findall(r"[A-Za-z]{2,}", plain)) < 3 or is_other:
        return Words(spelling.words_key(text))
    return replace(_scalar(found.group(1)), unit=spelling.unit_name(found.group(2)))


def _signs(text: str) -> list[str]:
    """What ``a \\pm b``, ``(\\pm 1, \\mp 2)`` (two each), ``(\\pm 1, \\pm 2)`` (four) stand for."""
    name, is_equal, value = text.rpartition("=")
    if is_equal and _P.plus_minus.search(value):
        return [f"{name}={one}" for one in _signs(value.strip())]
    pieces, _ = split_outside(enclosed(text)[1], _P.comma)
    if len(pieces) > 1 and "\\mp" not in text and text.count("\\pm") <= MAX_SIGNED:
        choices = [_signs(piece) if "\\pm" in piece else [piece] for piece in pieces]
        return [f"({','.join(choice)})" for choice in itertools.product(*choices)]
    signs = {"pm": "+-", "mp": "-+"}
    both = [_P.plus_minus.sub(lambda m, i=i: signs[m.group(1)][i], text) for i in (0, 1)]
    return [re.sub(r"(^|[,(=])\+", r"\1", one) for one in both]


def _scalar(text: str) -> Scalar:
    text, unit, words = spelling.split_unit(text)
    percent = text.endswith("%")
    text = text.removesuffix("%").strip()
    value, malformed = _exact_value(text)
    if value is None and not malformed and "\\frac" in text:
        text = _P.mixed_factor.sub(r"(\1+\\frac{\2}{\3})", text)  # 2 1/2 pi
    places = len(text.partition(".")[2]) if _P.decimal.fullmatch(text) else 0
    return Scalar(text, value, places, percent, unit, words, malformed=malformed)


def _exact_value(text: str) -> tuple[Fraction | None, bool]:
    """The value of a plain number, else None; and whether it has no agreed one: ``4 10/3``, 1/0."""
    found = _P.number.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if found is None:
        return None, bool(_P.digits_only.fullmatch(text) and _P.malformed.search(text))
    signs, whole, *parts = found.groups()
    top, bottom = next(pair for pair in zip(parts[::2], parts[1::2], strict=True) if pair[0])
    value, divisor = _literal(top), _literal(bottom or "1")
    if divisor == 0 or (whole and not 0 < value < divisor):  # a mixed number has a proper fraction
        return None, True
    return (-1) ** signs.count("-") * (int(whole or 0) + value / divisor), False


def _literal(text: str) -> Fraction:
    """The value of a decimal, which may recur: ``0.1\\overline{6}``."""
    digits, _, period = text.removesuffix("}").partition("\\overline{")
    if not period:
        return Fraction(digits)
    places = len(digits.partition(".")[2])
    return Fraction(f"{digits}0") + Fraction(int(period), (10 ** len(period) - 1) * 10**places)


def is_name(text: str) -> bool:
    """Whether a side of an equation only names the answer: x, f(x), AB, ``\\text{Area}``."""
    return NAME.fullmatch(text) is not None and text not in ("\\pi", "e", "i", "\\infty")


def is_assignment(form: Form) -> bool:
    """``x = ..``, ``f(x) = ..``, ``m_{max} = .. = ..``: the left side only names the answer."""
    is_chain = isinstance(form, Relation) and set(form.ops) <= {"=", "\\approx", "\\equiv"}
    return is_chain and NAME.fullmatch(form.sides[0]) is not None


@lru_cache(maxsize=1_024)
def bracket_depths(text: str) -> list[int]:
    """Bracket depth before each character; any bracket closes any other, for ``[0,1)``."""
    depth, depths = 0, []
    for char in text:
        if char in "}])":
            depth -= 1
        depths.append(depth)
        if char in "{[(":
            depth += 1
    return depths


def split_outside(text: str, pattern: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Pieces of ``text`` at top-level matches of ``pattern``, and the matched separators."""
    marks = [m for m in pattern.finditer(text) if bracket_depths(text)[m.start()] == 0]
    if not marks:
        return [text], []
    edges = [0, *itertools.chain.from_iterable(mark.span() for mark in marks), len(text)]
    pieces = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return pieces, [mark.group().strip() for mark in marks]


def enclosed(text: str) -> Sequence[str]:
    """``(opener, inside, closer)``, without brackets where no one pair encloses the whole text."""
    found = _P.enclosed.fullmatch(text)
    is_pair = found and min(bracket_depths(text)[slice(*found.span(2))], default=1) >= 1
    return [part.strip() for part in found.groups()] if is_pair else ("", text, "")


def is_group(form: Form, *kinds: str) -> bool:
    """Whether a form is a group of one of these kinds."""
    return isinstance(form, Group) and form.kind in kinds


def items_of(form: Form, *kinds: str) -> Sequence[Form]:
    """The items of a group of one of these kinds, and any other form as the only one."""
    return form.items if is_group(form, *kinds) else (form,)
