"""Sets of real numbers, so that one set written in two ways is one set.

``\\mathbb{R}\\setminus\\{1\\}``, ``x \\ne 1``, ``(-\\infty,1)\\cup(1,\\infty)`` and ``x<1 or x>1``
are described here by intervals and points, which sympy compares in a worker.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

from sgpo.core.verifier.forms import (
    NAME,
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
from sgpo.core.verifier.patterns import patterns

_P = patterns("sets")
WORD_BETWEEN = _P.word_between
MAX_PARTS = 50
_LINE = ["interval", "-\\infty", "\\infty", True, True]
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}

Node = list[Any]  # a kind (interval, points, union, all, comma, without), then texts or nodes


class _NoSet(Exception):
    """The form is no set of real numbers that can be described."""


@lru_cache(maxsize=16_384)
def real_set(form: Form, beside_a_set: bool = False) -> tuple[str | None, str] | None:
    """The variable, if there is one, and the description (JSON) of the set that an interval, a
    union, a difference, an inequality, ``x \\ne a`` or several inequalities stand for; None for
    everything else, points among it and, unless it stands beside such a set, ``{1,2}``."""
    letter = None
    try:
        if isinstance(form, Relation) and form.ops != ("=",):
            letter, node = _relation(form)
        elif isinstance(form, Group) and form.kind == "list" and len(form.items) <= MAX_PARTS:
            letter, node = _several(form)
        elif isinstance(form, Interval | Union):
            node = _member(form)
        elif isinstance(form, Group) and form.kind == "set" and beside_a_set:
            node = _points(form)
        elif isinstance(form, Scalar) and "\\setminus" in form.text:
            pieces = split_outside(form.text, SETMINUS)[0]
            if len(pieces) == 1:
                return None
            node = ["without", *(_member(parse_form(p)) for p in pieces)]
        else:
            return None
    except _NoSet:
        return None
    return letter, json.dumps(node)


def units(form: Form) -> set[str]:
    """The units of the ends of a set."""
    match form:
        case Scalar(unit=unit):
            return {unit} - {None, "?"}  # type: ignore[return-value]
        case Interval(low, high):
            return units(low) | units(high)
        case Group(items=parts) | Union(parts) | Relation(forms=parts):
            return set().union(*map(units, parts))
    return set()


def _end(form: Form) -> str:
    plain = isinstance(form, Scalar) and replace(form, value=None, places=None, unit=None)
    if not isinstance(form, Scalar) or plain != Scalar(form.text):
        raise _NoSet
    return form.text


def _points(form: Form) -> Node:
    return ["points", *map(_end, value_items(form))]


def _member(form: Form) -> Node:
    """One member of a union or difference."""
    form = as_interval(form)
    if isinstance(form, Interval):
        return ["interval", _end(form.low), _end(form.high), form.low_open, form.high_open]
    if isinstance(form, Union):
        if len(form.parts) > MAX_PARTS:
            raise _NoSet
        return ["union", *map(_member, form.parts)]
    found = real_set(form, beside_a_set=True)
    if found is None:
        raise _NoSet
    return json.loads(found[1])


def _relation(relation: Relation) -> tuple[str, Node]:
    """``x > 2``, ``2 \\le x < 5``, ``|x| < 2``, ``x \\ne 1``: the letter and its set."""
    letters, nodes = set(), []
    for i, op in enumerate(relation.ops):
        name, bound = relation.sides[i], relation.forms[i + 1]
        if not NAME.fullmatch(name):
            name, bound, op = relation.sides[i + 1], relation.forms[i], _FLIP.get(op, op)
        size = _P.size.fullmatch(name)
        if not NAME.fullmatch(name) or (op == "=" and len(relation.ops) > 1):
            raise _NoSet
        letters.add(size.group(1) if size else name)
        nodes.append(_bounded(op, bound, size is not None))
    if len(letters) != 1:
        raise _NoSet
    return letters.pop(), ["all", *nodes]


def _bounded(op: str, bound: Form, of_size: bool) -> Node:
    if of_size and op in _FLIP:
        inside = op in ("<", "\\le")
        is_open = op in ("<", "\\ge")
        node = ["interval", f"-({_end(bound)})", _end(bound), is_open, is_open]
        return node if inside else ["without", _LINE, node]
    if op in ("=", "\\ne"):
        return _points(bound) if op == "=" else ["without", _LINE, _points(bound)]
    if op in ("<", "\\le"):
        return ["interval", "-\\infty", _end(bound), True, op == "<"]
    if op in (">", "\\ge"):
        return ["interval", _end(bound), "\\infty", op == ">", True]
    raise _NoSet


def _several(group: Group) -> tuple[str | None, Node]:
    """Inequalities on one letter: joined by "or" their union, else what all of them leave. Where
    that is nothing and only a comma joins them (``x<1, x>2``), the comma means "or". Beside an
    inequality ``x=1`` is the one point."""
    if group.disjunction and all(isinstance(item, Interval) for item in group.items):
        return None, ["union", *map(_member, group.items)]
    relations = [item for item in group.items if isinstance(item, Relation)]
    if len(relations) < len(group.items) or all(set(r.ops) == {"="} for r in relations):
        raise _NoSet
    found = [_relation(relation) for relation in relations]
    if len({letter for letter, _ in found}) != 1:
        raise _NoSet
    joined = "all" if _P.word_between.search(group.raw) else "comma"
    kind = "union" if group.disjunction else joined
    return found[0][0], [kind, *(node for _, node in found)]
