"""Whether two forms are the same answer. Typed and fail-closed: what is not shown equal is wrong.

The only open question, whether two *expressions* are equal, goes to a ``Judge``. The parent process
passes one that raises Undecided; the worker passes the symbolic one (symbolic.py). So both run the
same rules, and the parent only ships what it cannot decide itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

from sgpo.core.verifier.forms import (
    ELLIPSIS,
    Based,
    Form,
    Group,
    Interval,
    Relation,
    Scalar,
    Union,
    Words,
    as_interval,
    parse_form,
)
from sgpo.core.verifier.numbers import rationals_equal
from sgpo.core.verifier.sets import WORD_BETWEEN, relation_as_interval, same_real_set
from sgpo.core.verifier.spelling import words_key

MAX_ITEMS = 200


class Undecided(Exception):
    """The exact rules do not decide; the symbolic judge has to."""


class Judge(Protocol):
    def equal(self, gold: str, answer: str) -> bool:
        """Whether two expressions are equal wherever both are defined."""

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        """Whether two relations with one operator each hold for the same values."""


class ExactOnly:
    """The judge of the parent process: never guesses, never imports a computer-algebra system."""

    def equal(self, gold: str, answer: str) -> bool:
        raise Undecided

    def same_relation(self, gold: Relation, answer: Relation) -> bool:
        raise Undecided


def same_answer(gold: Form, answer: Form, judge: Judge) -> bool:
    """Whether ``answer`` states the same as ``gold``.

    Not symmetric in two places, both by the gold's form: an open pair ``(1,2)`` in the gold is a
    point unless its context says interval; an equation in the gold may be answered by its right
    side, but a bare equation in the answer is not its right side if that is 0.
    """
    if gold == answer:
        return True
    if (same := same_real_set(gold, answer)) is not None:
        return same
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _with_relation(gold, answer, judge)
    if isinstance(gold, Interval | Union) or isinstance(answer, Interval | Union):
        return _with_interval(gold, answer, judge)
    if isinstance(gold, Words | Group) and isinstance(answer, Words | Group):
        if Words in (type(gold), type(answer)):  # \\text{Alice and Bob} with and without markup
            return _text_of(gold) == _text_of(answer)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _with_group(gold, answer, judge)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _with_based(gold, answer)
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _text_of(gold) == _text_of(answer)
    assert isinstance(gold, Scalar) and isinstance(answer, Scalar)
    return _scalars(gold, answer, judge)


def _text_of(form: Form) -> str | None:
    key = form.key if isinstance(form, Words) else None
    key = words_key(form.text) if isinstance(form, Scalar) else key
    key = words_key(form.raw) if isinstance(form, Group) and form.raw else key
    return None if key is None else key.replace(" ", "")


def _scalars(gold: Scalar, answer: Scalar, judge: Judge) -> bool:
    units = {gold.unit, answer.unit} - {None, "?"}
    if len(units) == 2:
        return same_money(
            gold, answer
        )  # not 5 cm and 5 m; a missing or unknown unit does not count against an answer
    if gold.text == answer.text and gold.percent == answer.percent:
        return True
    if gold.malformed or answer.malformed or ELLIPSIS in gold.text + answer.text:
        return False
    if gold.value is not None and answer.value is not None:
        return same_number(gold, answer) or same_comma_list(gold, answer)
    if gold.percent != answer.percent and None is gold.value is answer.value:
        return False
    return judge.equal(gold.text, answer.text)


def _with_based(gold: Form, answer: Form) -> bool:
    """Digits must agree, and bases where both are given; the base may be left out of the answer."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return False  # equal ones were caught before: digits or base differ
    if isinstance(gold, Based):
        return isinstance(answer, Scalar) and answer.text == gold.digits
    assert isinstance(answer, Based)
    return answer.base == 10 and isinstance(gold, Scalar) and gold.text == answer.digits


def _with_group(gold: Form, answer: Form, judge: Judge) -> bool:
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Scalar) and isinstance(other, Group) and other.kind == "set":
            if len(other.items) == 1 and not isinstance(other.items[0], Group):
                is_name = other.items[0] != Scalar("\\emptyset")
                return is_name and same_answer(one, other.items[0], judge)  # {7} names 7
    if isinstance(gold, Scalar) and isinstance(answer, Group):
        if answer.disjunction:  # "5/2 or 2.5": one answer in two spellings
            return all(same_answer(gold, item, judge) for item in answer.items)
        return gold.value is not None and _thousands_as_list(gold, answer, judge)
    if isinstance(answer, Scalar) and isinstance(gold, Group):
        return answer.value is not None and _thousands_as_list(answer, gold, judge)
    if not (isinstance(gold, Group) and isinstance(answer, Group)):
        return False
    if not same_joining(gold, answer):
        return False
    kinds = {gold.kind, answer.kind}
    if kinds == {"set", "tuple"}:  # {(1,2)} names (1,2)
        outer, inner = (gold, answer) if gold.kind == "set" else (answer, gold)
        return len(outer.items) == 1 and same_answer(outer.items[0], inner, judge)
    if len(gold.items) != len(answer.items) or len(gold.items) > MAX_ITEMS:
        return False
    if kinds == {"matrix"}:
        same_shape = gold.columns == answer.columns
        return same_shape and _in_order(gold.items, answer.items, judge)
    if kinds == {"matrix", "tuple"}:
        matrix = gold if gold.kind == "matrix" else answer
        is_vector = matrix.columns in (1, len(matrix.items))
        return is_vector and _in_order(gold.items, answer.items, judge)
    if kinds <= {"list", "set"}:
        if any(isinstance(i, Scalar) and ELLIPSIS in i.text for i in gold.items + answer.items):
            return _in_order(gold.items, answer.items, judge)
        if names_in_turn(gold.items) != names_in_turn(answer.items):
            return _in_order(gold.items, answer.items, judge)  # A=2, B=3 is not 3, 2
        return _any_order(gold.items, answer.items, judge)
    if kinds <= {"tuple", "list"} or kinds in ({"ratio"}, {"residue"}):
        return _in_order(gold.items, answer.items, judge)
    return False


def _thousands_as_list(number: Scalar, group: Group, judge: Judge) -> bool:
    """``100,200`` reads as one number; beside a list it is one too."""
    if group.kind not in ("list", "set") or "," not in number.text:
        return False
    digits = number.text.split(",")
    if any(isinstance(i, Scalar) and i.text not in digits for i in group.items):
        return False  # 10,00 is not 10,000
    parts = [parse_form(part) for part in digits]
    return len(parts) == len(group.items) and _any_order(parts, group.items, judge)


def _in_order(gold: Sequence[Form], answer: Sequence[Form], judge: Judge) -> bool:
    pairs = list(zip(gold, answer, strict=True))
    pairs.sort(key=_symbolic_last)  # a cheap mismatch saves the symbolic work
    return all(_same_item(g, a, judge) for g, a in pairs)


def _same_item(gold: Form, answer: Form, judge: Judge) -> bool:
    """As same_answer, but inside a list or set {1} is not 1."""
    is_set = [isinstance(f, Group) and f.kind == "set" for f in (gold, answer)]
    return is_set[0] == is_set[1] and same_answer(gold, answer, judge)


def _symbolic_last(pair: tuple[Form, Form]) -> bool:
    return not all(isinstance(f, Scalar) and f.value is not None for f in pair)


def _any_order(gold: Sequence[Form], answer: Sequence[Form], judge: Judge) -> bool:
    """Greedy matching, which is exact because equality is an equivalence relation."""
    left = list(answer)
    open_golds: list[Form] = []
    for g in gold:  # identical items first: free of symbolic work
        if g in left:
            left.remove(g)
        else:
            open_golds.append(g)
    for g in sorted(open_golds, key=lambda f: not (isinstance(f, Scalar) and f.value is not None)):
        found = next((i for i, a in enumerate(left) if _same_item(g, a, judge)), None)
        if found is None:
            return False
        del left[found]
    return True


# --- intervals ---------------------------------------------------------------------------------


def _as_set(form: Form) -> Form:
    """Relations on one variable as intervals; unions of them; other forms unchanged."""
    if isinstance(form, Relation):
        found = relation_as_interval(form)
        return found[1] if found else form
    if isinstance(form, Group) and form.kind == "list" and form.disjunction:
        parts = tuple(_as_set(item) for item in form.items)
        if all(isinstance(part, Interval) for part in parts):
            return Union(parts)
    return form


def _with_interval(gold: Form, answer: Form, judge: Judge) -> bool:
    gold, answer = _as_set(as_interval(gold)), _as_set(as_interval(answer))
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        return (
            (gold.low_open, gold.high_open) == (answer.low_open, answer.high_open)
            and same_answer(gold.low, answer.low, judge)
            and same_answer(gold.high, answer.high, judge)
        )
    if isinstance(gold, Union) and isinstance(answer, Union):
        if len(gold.parts) != len(answer.parts):
            return False
        return _any_order(gold.parts, answer.parts, judge)
    return False


# --- relations ---------------------------------------------------------------------------------

_PROSE = re.compile(r"\\text\{[^{}]*[a-zA-Z]{2}|(?<![\\a-zA-Z{])[a-z]{4,}(?![a-zA-Z])")
_DIGIT = re.compile(r"(?<![_^{\d])\d")
# Says something about left side - right side; of a \mid b and p \to q each side counts by itself.
_OF_DIFFERENCES = frozenset(["=", "\\ne", "<", ">", "\\le", "\\ge"])
_COMMUTING = frozenset(["\\approx", "\\equiv", "\\sim"])
_FUNCTION_OF = re.compile(r"([a-zA-Z](?:_\{\w+\})?)\(([a-zA-Z])\)")


def _with_relation(gold: Form, answer: Form, judge: Judge) -> bool:
    if isinstance(answer, Relation) and contradicts_itself(answer):
        return False
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(gold, answer, judge)
    if isinstance(gold, Relation):
        if is_assignment(gold):
            return same_answer(parse_form(gold.sides[-1]), answer, judge)
        found = relation_as_interval(gold)
        return found is not None and same_answer(found[1], as_interval(answer), judge)
    assert isinstance(answer, Relation)
    if set(answer.ops) <= {"=", "\\approx", "\\equiv"}:
        if any(_PROSE.search(side) and _DIGIT.search(side) for side in answer.sides[:-1]):
            return False  # "5 because 7-1=6" does not answer 6
        value = parse_form(answer.sides[-1])
        is_zero = isinstance(value, Scalar) and value.value == 0
        if is_assignment(answer) or not (is_zero or is_false_statement(answer)):
            return same_answer(gold, value, judge)
        return False
    found = relation_as_interval(answer)
    return (
        found is not None
        and isinstance(gold, Interval | Union)
        and _with_interval(gold, found[1], judge)
    )


def _two_relations(gold: Relation, answer: Relation, judge: Judge) -> bool:
    if is_assignment(gold) and is_assignment(answer):
        return _two_assignments(gold, answer, judge)
    as_gold, as_answer = relation_as_interval(gold), relation_as_interval(answer)
    if as_gold and as_answer and as_gold[0] == as_answer[0]:
        return same_answer(as_gold[1], as_answer[1], judge)
    if len(gold.ops) == 1 and len(answer.ops) == 1 and gold.ops[0] in _OF_DIFFERENCES:
        return judge.same_relation(gold, answer)
    if gold.ops != answer.ops:
        return False
    if gold.ops[0] in _COMMUTING and len(gold.ops) == 1:
        turned = Relation(answer.sides[::-1], answer.ops)
        return _same_sides(gold, answer, judge) or _same_sides(gold, turned, judge)
    return _same_sides(gold, answer, judge)


def _same_sides(gold: Relation, answer: Relation, judge: Judge) -> bool:
    pairs = zip(gold.sides, answer.sides, strict=True)
    return all(same_answer(parse_form(g), parse_form(a), judge) for g, a in pairs)


def _two_assignments(gold: Relation, answer: Relation, judge: Judge) -> bool:
    left, right, value = gold.sides[0], answer.sides[0], answer.sides[-1]
    if left != right:
        names = _FUNCTION_OF.fullmatch(left), _FUNCTION_OF.fullmatch(right)
        if names[0] and right == "y" and names[0].group(2) != "y":
            pass  # y = 2x is how a function f(x) = 2x is drawn
        elif names[0] and names[1] and names[0].group(1) == names[1].group(1):
            # f(n)=2n and f(x)=2x are one function: the argument is a bound variable.
            new, old = names[0].group(2), names[1].group(2)
            if rename_letter(value, new, "") != value:
                return False
            value = rename_letter(value, old, new)
        elif len(gold.ops) == 1 and len(answer.ops) == 1:
            return judge.same_relation(gold, answer)
        else:
            return False
    return same_answer(parse_form(gold.sides[-1]), parse_form(value), judge)


_NAME = re.compile(
    r"[a-zA-Z](?:_\{[^{}]*\})?'*|[a-zA-Z](?:_\{[^{}]*\})?'*\([a-zA-Z0-9, ]+\)"
    r"|[A-Z]{2,3}|\|[A-Z]{2}\||\\[a-z]+(?:\s?[A-Z])+|\\text\{[^{}]*\}"
    r"|\\[a-z]+(?:_\{[^{}]*\})?|\\angle[ A-Z_{}0-9]+"
    r"|\((?:[a-zA-Z](?:_\{\w+\})?,)+[a-zA-Z](?:_\{\w+\})?\)"
)


_STATEMENT = re.compile(r"(?:\\(?:neg|lnot)\s*)?[a-zA-Z]")


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


# --- numbers ---


def same_number(gold: Scalar, answer: Scalar) -> bool:
    """Whether two scalars that have values have the same one; percentages count as such."""
    assert gold.value is not None and answer.value is not None
    if rationals_equal(gold.value, answer.value, gold.places, answer.places):
        # 28% and 28: the question asked for a percentage. But 0.5% is not a probability of 0.5.
        return gold.percent or not answer.percent or abs(gold.value) > 1 or gold.value == 0
    if gold.percent == answer.percent:
        return False
    scaled = [s.value * (Fraction(1, 100) if s.percent else 1) for s in (gold, answer)]
    return scaled[0] == scaled[1]


def same_comma_list(gold: Scalar, answer: Scalar) -> bool:
    """``100,200`` and ``200,100``: read as numbers they differ, read as lists they do not."""
    if "," not in gold.text or "," not in answer.text:
        return False
    gold_items, items = gold.text.split(","), answer.text.split(",")
    return sorted(gold_items) == sorted(items)


def same_money(gold: Scalar, answer: Scalar) -> bool:
    """Whether two amounts in different units are one sum: in dollars and in cents, or with a sign
    only where the other says what it is paid for (``\\$18``, ``18\\text{ dollars per hour}``)."""
    currencies = {str(s.unit).partition("/")[0] for s in (gold, answer)}
    if len(currencies) == 1 and currencies <= {"dollar", "cent", "euro"}:
        return gold.value is not None and gold.value == answer.value
    if {gold.unit, answer.unit} != {"dollar", "cent"} or None in (gold.value, answer.value):
        return False
    in_cents = [Fraction(s.value) * (100 if s.unit == "dollar" else 1) for s in (gold, answer)]
    return in_cents[0] == in_cents[1]
