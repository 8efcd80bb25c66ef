"""What a relation says about one letter: an interval of its values, or a name for the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sgpo.core.verifier.forms import Form, Group, Interval, Relation, Scalar, parse_form

_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
VARIABLE = re.compile(
    r"[a-zA-Z](?:_\{\w+\})?|[a-zA-Z]\([a-zA-Z]\)|\\(?:alpha|beta|theta|lambda|mu)"
)
_SIZE = re.compile(rf"\|({VARIABLE.pattern})\|")


_ROOT = re.compile(r"\d*\\sqrt\{\d+\}")


def _is_positive(bound: Scalar) -> bool:
    """Whether a bound is shown to be positive: a rational, or a root such as ``2\\sqrt{3}``."""
    return bound.value > 0 if bound.value is not None else bool(_ROOT.fullmatch(bound.text))


def relation_as_interval(relation: Relation) -> tuple[str, Interval] | None:
    """``(variable, interval)`` of ``x > 2``, ``2 \\le x < 5``, ``|x| < 2``; None for others."""
    sides, ops = list(relation.sides), list(relation.ops)
    if any(op not in _FLIP for op in ops) or len(sides) not in (2, 3):
        return None
    if len(sides) == 2 and (size := _SIZE.fullmatch(sides[0])) and ops[0] in ("<", "\\le"):
        bound = parse_form(sides[1])
        if isinstance(bound, Scalar) and _is_positive(bound):
            is_open = ops[0] == "<"
            low = parse_form(f"-({bound.text})")
            return size.group(1), Interval(low, bound, is_open, is_open)
    if len(sides) == 3:
        if ops[0][:2] in (">", "\\g"):
            sides, ops = sides[::-1], [_FLIP[op] for op in ops[::-1]]
        if ops[0] not in ("<", "\\le") or ops[1] not in ("<", "\\le"):
            return None
        low, variable, high = sides
        if not VARIABLE.fullmatch(variable):
            return None
        return variable, Interval(parse_form(low), parse_form(high), ops[0] == "<", ops[1] == "<")
    if not VARIABLE.fullmatch(sides[0]):
        sides, ops = sides[::-1], [_FLIP[ops[0]]]
    if not VARIABLE.fullmatch(sides[0]):
        return None
    bound, op = parse_form(sides[1]), ops[0]
    if op in (">", "\\ge"):
        return sides[0], Interval(bound, Scalar("\\infty"), op == ">", True)
    return sides[0], Interval(Scalar("-\\infty"), bound, True, op == "<")


_NAME = re.compile(
    r"[a-zA-Z](?:_\{[^{}]*\})?'*|[a-zA-Z](?:_\{[^{}]*\})?'*\([a-zA-Z0-9, ]+\)"
    r"|[A-Z]{2,3}|\|[A-Z]{2}\||\\[a-z]+(?:\s?[A-Z])+|\\text\{[^{}]*\}"
    r"|\\[a-z]+(?:_\{[^{}]*\})?|\\angle[ A-Z_{}0-9]+"
    r"|\((?:[a-zA-Z](?:_\{\w+\})?,)+[a-zA-Z](?:_\{\w+\})?\)"
)


_STATEMENT = re.compile(r"(?:\\(?:neg|lnot)\s*)?[a-zA-Z]")
WORD_BETWEEN = re.compile(r"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")


def is_assignment(relation: Relation) -> bool:
    """``x = ..``, ``f(x) = ..``, ``m_{max} = .. = ..``: the left side only names the answer."""
    return set(relation.ops) <= {"=", "\\approx", "\\equiv"} and bool(
        _NAME.fullmatch(relation.sides[0])
    )


def names_in_turn(items: Sequence[Form]) -> bool:
    """Whether every item names another thing, as in ``A = 2, B = 3``: then their order counts."""
    names = {item.sides[0] for item in items if isinstance(item, Relation) and is_assignment(item)}
    return len(items) > 1 and len(names) == len(items)


def is_false_statement(relation: Relation) -> bool:
    """``2 = 3``: an equation between numbers that does not hold."""
    forms = [parse_form(side) for side in relation.sides]
    values = [f.value for f in forms if isinstance(f, Scalar) and f.value is not None]
    exact = "\\approx" not in relation.ops and "\\equiv" not in relation.ops
    return exact and len(values) == len(forms) and len(set(values)) > 1


def contradicts_itself(relation: Relation) -> bool:
    """``x = 2 = 3``: a name for two values that differ."""
    sides = relation.sides[1:]
    if len(sides) < 2 or set(relation.ops) != {"="} or not is_assignment(relation):
        return False
    forms = [parse_form(side) for side in sides]
    numbers = [f for f in forms if isinstance(f, Scalar) and f.value is not None]
    if len({(f.unit, f.percent) for f in numbers}) > 1:
        return False  # x = 2 m = 200 cm
    last = numbers[-1] if numbers else None
    return any(last is not None and not _agree(number, last) for number in numbers[:-1])


def _agree(a: Scalar, b: Scalar) -> bool:
    """Equal, or one is the other rounded to the places it is written with (1/3 = 0.33)."""
    assert a.value is not None and b.value is not None
    places = [s.places for s in (a, b) if s.places is not None]
    return a.value == b.value or any(abs(a.value - b.value) * 2 * 10**p <= 1 for p in places)


def same_joining(gold: Group, answer: Group) -> bool:
    """Whether "and" and "or" between the items of two lists make no two answers of them.

    Between values they do not (``x = 1`` and ``x = 2``, or the one or the other); between
    conditions, values of different letters and statements (``p \\land q``) they do.
    """
    if gold.disjunction == answer.disjunction:
        return True
    if any(_says_several_things(group) for group in (gold, answer)):
        return False
    items = (*gold.items, *answer.items)
    letters = all(isinstance(i, Scalar) and _STATEMENT.fullmatch(i.text) for i in items)
    return not (letters and all(WORD_BETWEEN.search(group.raw) for group in (gold, answer)))


def _says_several_things(group: Group) -> bool:
    relations = [item for item in group.items if isinstance(item, Relation)]
    named = {relation.sides[0] for relation in relations}
    return not all(is_assignment(relation) for relation in relations) or len(named) > 1


def rename_letter(text: str, old: str, new: str) -> str:
    """``text`` with the variable ``old`` called ``new``; letters of commands are left alone."""
    return re.sub(
        rf"\\[a-zA-Z]+|{re.escape(old)}", lambda m: new if m.group() == old else m.group(), text
    )
