"""Sets of real numbers between rational ends, so that one set written in two ways is one set.

``\\mathbb{R}\\setminus\\{1\\}``, ``x \\ne 1``, ``(-\\infty,1)\\cup(1,\\infty)`` and ``x<1 or x>1``
all become the same sorted, disjoint parts. What has other ends (roots, letters) is no RealSet here;
compare then compares it as it is written.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from sgpo.core.verifier.forms import (
    LETTER,
    NAME,
    ORDER_OPS,
    SETMINUS,
    Form,
    Group,
    Interval,
    Relation,
    Scalar,
    Union,
    as_interval,
    parse_form,
    split_outside,
    value_items,
)

MAX_PARTS = 50
_End = Fraction | float  # float for the infinities only
# (low end, 1 if the part begins just above it else 0, high end, -1 if it ends just below it else 0)
_Part = tuple[_End, int, _End, int]
_LINE: tuple[_Part, ...] = ((-math.inf, 1, math.inf, -1),)
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_OPPOSITE = {">": "\\le", "\\ge": "<"}
_SIZE = re.compile(rf"\|({LETTER})\|")
_ROOT = re.compile(r"\d*\\sqrt\{\d+\}")
WORD_BETWEEN = re.compile(r"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")


@dataclass(frozen=True)
class RealSet:
    """``parts`` ascend and do not touch; ``letter`` is the variable of relations, if any."""

    parts: tuple[_Part, ...]
    letter: str | None = None


@lru_cache(maxsize=16_384)
def real_set(form: Form) -> RealSet | None:
    """The set that an interval, a union, a difference, an inequality, ``x \\ne a`` or several
    inequalities stand for; None for everything else, finite sets and points among it."""
    if isinstance(form, Interval):
        return _of_parts([_part(form)])
    if isinstance(form, Union) and len(form.parts) <= MAX_PARTS:
        return _of_parts([p for part in form.parts for p in _parts_of(part)])
    if isinstance(form, Scalar) and "\\setminus" in form.text:
        return _difference(form.text)
    if isinstance(form, Relation):
        return _relation(form)
    if isinstance(form, Group) and form.kind == "list" and len(form.items) <= MAX_PARTS:
        return _several(form)
    return None


def same_real_set(gold: Form, answer: Form) -> bool | None:
    """Whether two sets of real numbers are one; None if they are not both sets that are decided
    here. ``(1,2)`` in the gold is a point; in the answer it is what the gold is."""
    one, other = real_set(gold), real_set(as_interval(answer))
    if one is None and isinstance(gold, Group) and gold.kind == "set":
        one = other and _of_parts(_parts_of(gold))  # {1,2} beside a union
    if other is None and isinstance(answer, Group) and answer.kind == "set":
        other = one and _of_parts(_parts_of(answer))
    if one is None or other is None:
        return None
    if one.letter and other.letter and one.letter != other.letter:
        return None
    return one.parts == other.parts


def _end(form: Form) -> _End | None:
    if not isinstance(form, Scalar) or form.percent or form.unit or form.counted:
        return None
    if form.text in ("\\infty", "-\\infty"):
        return -math.inf if form.text[0] == "-" else math.inf
    return form.value


def _part(interval: Interval) -> _Part | None:
    low, high = _end(interval.low), _end(interval.high)
    if low is None or high is None:
        return None
    if low > high or (low == high and (interval.low_open or interval.high_open)):
        return None
    if not (interval.low_open or low > -math.inf) or not (interval.high_open or high < math.inf):
        return None  # infinity is in no set of numbers
    return (low, int(interval.low_open), high, -int(interval.high_open))


def _points(form: Form) -> list[_Part | None]:
    ends = [_end(item) for item in value_items(form)]
    return [None if end is None else (end, 0, end, 0) for end in ends]


def _parts_of(form: Form) -> list[_Part | None]:
    """Parts of one member of a union; [None] if it is no set between rational ends."""
    if isinstance(form, Group) and form.kind == "set":
        return _points(form)
    found = real_set(as_interval(form))
    return [None] if found is None else list(found.parts)


def _of_parts(parts: list[_Part | None], letter: str | None = None) -> RealSet | None:
    """The union of ``parts``, merged where they touch."""
    merged: list[_Part] = []
    for low, low_open, high, high_open in sorted(p for p in parts if p is not None):
        if merged and (low, low_open) <= (merged[-1][2], merged[-1][3] + 1):
            begin = merged[-1][:2]
            merged[-1] = (*begin, *max(merged[-1][2:], (high, high_open)))
        else:
            merged.append((low, low_open, high, high_open))
    return RealSet(tuple(merged), letter) if merged and None not in parts else None


def _without(parts: tuple[_Part, ...], cut: _Part) -> list[_Part | None]:
    """``parts`` without the points of ``cut``."""
    left: list[_Part | None] = []
    for part in parts:
        below = (*part[:2], *min(part[2:], (cut[0], cut[1] - 1)))
        above = (*max(part[:2], (cut[2], cut[3] + 1)), *part[2:])
        left += [p for p in (below, above) if p[:2] <= p[2:]]
    return left


def _difference(text: str) -> RealSet | None:
    first, *cuts = split_outside(text, SETMINUS)[0]
    whole = _of_parts(_parts_of(parse_form(first)))
    for cut in cuts:
        for part in _parts_of(parse_form(cut)):
            if whole is None or part is None:
                return None
            whole = _of_parts(_without(whole.parts, part))
    return whole


def _relation(relation: Relation) -> RealSet | None:
    if relation.ops == ("\\ne",):
        named = NAME.fullmatch(relation.sides[0])
        letter, value = relation.sides[0], relation.forms[1]
        if not named:
            letter, value = relation.sides[1], relation.forms[0]
        points = _points(value)
        if not NAME.fullmatch(letter) or None in points:
            return None
        parts: tuple[_Part, ...] = _LINE
        for point in points:
            found = _of_parts(_without(parts, point)) if point else None
            parts = found.parts if found else ()
        return RealSet(parts, letter)
    found_interval = relation_as_interval(relation)
    if found_interval is not None:
        return _of_parts([_part(found_interval[1])], found_interval[0])
    turned = Relation(
        relation.sides, tuple(_OPPOSITE.get(op, op) for op in relation.ops), relation.forms
    )
    outside = relation_as_interval(turned) if len(relation.ops) == 1 else None
    if outside is None or not _SIZE.fullmatch(relation.sides[0]):
        return None
    part = _part(outside[1])  # |x| > 2 is what |x| <= 2 leaves
    return part and _of_parts(_without(_LINE, part), outside[0])


def _several(group: Group) -> RealSet | None:
    """Inequalities on one letter: joined by "or" their union, else what all of them leave.

    Where that is nothing and only a comma joins them (``x<1, x>2``), the comma means "or".
    Beside an inequality ``x=1`` is the one point.
    """
    relations = [item for item in group.items if isinstance(item, Relation)]
    if len(relations) < len(group.items) or all(set(r.ops) == {"="} for r in relations):
        return None
    sets = [_point_of(r) if r.ops == ("=",) else real_set(r) for r in relations]
    letters = {s.letter if s else None for s in sets}
    if len(letters) != 1 or None in letters:
        return None
    letter = letters.pop()
    any_of_them = _of_parts([p for s in sets if s for p in s.parts], letter)
    if group.disjunction:
        return any_of_them
    left: RealSet | None = RealSet(_LINE)
    for one in sets:
        for gap in _gaps(one.parts if one else ()):
            left = left and _of_parts(_without(left.parts, gap))
    if left is None and not WORD_BETWEEN.search(group.raw):
        return any_of_them
    return left and RealSet(left.parts, letter)


def _point_of(relation: Relation) -> RealSet | None:
    return _of_parts(_points(relation.forms[1]), relation.sides[0])


def _gaps(parts: tuple[_Part, ...]) -> list[_Part]:
    gaps: tuple[_Part | None, ...] = _LINE
    for part in parts:
        gaps = tuple(_without(tuple(g for g in gaps if g), part))
    return [g for g in gaps if g]


# --- what a relation says about one letter ------------------------------------------------------


def _is_positive(bound: Scalar) -> bool:
    """Whether a bound is shown to be positive: a rational, or a root such as ``2\\sqrt{3}``."""
    return bound.value > 0 if bound.value is not None else bool(_ROOT.fullmatch(bound.text))


def relation_as_interval(relation: Relation) -> tuple[str, Interval] | None:
    """``(variable, interval)`` of ``x > 2``, ``2 \\le x < 5``, ``|x| < 2``; None for others."""
    sides, ops, forms = list(relation.sides), list(relation.ops), list(relation.forms)
    if any(op not in ORDER_OPS for op in ops) or len(sides) not in (2, 3):
        return None
    if len(sides) == 2 and (size := _SIZE.fullmatch(sides[0])) and ops[0] in ("<", "\\le"):
        bound = forms[1]
        if isinstance(bound, Scalar) and _is_positive(bound):
            is_open = ops[0] == "<"
            low = parse_form(f"-({bound.text})")
            return size.group(1), Interval(low, bound, is_open, is_open)
    if len(sides) == 3:
        if ops[0] in (">", "\\ge"):
            sides, forms, ops = sides[::-1], forms[::-1], [_FLIP[op] for op in ops[::-1]]
        if ops[0] not in ("<", "\\le") or ops[1] not in ("<", "\\le"):
            return None
        if not NAME.fullmatch(sides[1]):
            return None
        return sides[1], Interval(forms[0], forms[2], ops[0] == "<", ops[1] == "<")
    if not NAME.fullmatch(sides[0]) or _SIZE.fullmatch(sides[0]):
        sides, forms, ops = sides[::-1], forms[::-1], [_FLIP[ops[0]]]
    if not NAME.fullmatch(sides[0]) or _SIZE.fullmatch(sides[0]):
        return None
    bound, op = forms[1], ops[0]
    if op in (">", "\\ge"):
        return sides[0], Interval(bound, Scalar("\\infty"), op == ">", True)
    return sides[0], Interval(Scalar("-\\infty"), bound, True, op == "<")
