"""Whether two forms are the same answer. Typed and fail-closed: what is not shown equal is wrong.

What needs computer algebra goes to ``Asker.ask``, which raises ``Undecided`` but in a worker.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from sgpo.core.verifier import forms
from sgpo.core.verifier.forms import Form, Group, Interval, Relation, Scalar, Union, Words
from sgpo.core.verifier.patterns import patterns
from sgpo.core.verifier.spelling import SIZES, are_counted, words_key

_P = patterns("compare")

MAX_ITEMS = 200
MIN_DECIMALS = 6  # a decimal stands for a fraction only if it gives at least this many places
MIN_SIGNIFICANT = 4
MAX_VECTOR_CHARS = 100
TO_RADIANS = "\\cdot \\frac{\\pi}{180}"  # degrees beside radians in one chain
# What is said of left side - right side, turned round; of a \mid b each counts by itself.
TURNED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "=": "=", "\\ne": "\\ne"}


class Undecided(Exception):
    """The verdict needs somebody who knows computer algebra."""


@dataclass(frozen=True)
class Asker:
    """Who is asked (the module symbolic, in a worker), and the problem: its nouns are counted."""

    judge: Any = None
    problem: str | None = None

    def ask(self, kind: str, gold: Any, answer: Any) -> bool:
        """``judge``'s function ``kind`` of both; what is unreadable equals nothing."""
        if self.judge is None:
            raise Undecided
        with suppress(self.judge.Unreadable):
            return getattr(self.judge, kind)(gold, answer)
        return False


def same_answer(gold: Form, answer: Form, asker: Asker) -> bool:
    """Whether ``answer`` states the same as ``gold``. Not symmetric: ``(1,2)`` in the gold is a
    point unless its context says interval, and its equation may be answered by the right side."""
    if gold == answer and not (isinstance(gold, Scalar) and gold.counted):
        return True
    if "same" in (getattr(gold, "kind", ""), getattr(answer, "kind", "")):
        pairs = [
            (g, a) for g in forms.items_of(gold, "same") for a in forms.items_of(answer, "same")
        ]
        return all(same_answer(g, a, asker) for g, a in pairs)
    if not _may_share_domain(gold, answer):
        return False
    sets = real_sets(gold, answer)
    if sets and (same := asker.ask("same_set", *sets)) is not None:  # None: they only look like it
        return same
    if forms.is_assignment(gold) and not isinstance(answer, Relation):
        return same_answer(gold.forms[-1], answer, asker)
    return RULES[kind_for(gold, answer)](gold, answer, asker)


def _may_share_domain(gold: Form, answer: Form) -> bool:
    """Whether both may mean the same numbers: n is whole and p prime by itself, x is neither."""
    sides = [forms.items_of(form, "list", "set") for form in (gold, answer)]
    one, other = ({getattr(item, "domain", "") for item in items} - {""} for items in sides)
    if one == other or (one and other) or "Q" in one | other:
        return one == other
    letters = {letter for item in sides[0] for letter in getattr(item, "sides", ())}
    if "P" in one | other:
        return bool(letters & {"p", "q"})
    return bool(one) or not (isinstance(gold, Interval | Union) or letters & set("xyzt"))


def real_sets(gold: Form, answer: Form) -> tuple[Form, Form] | None:
    """Both sides where one looks like a set of real numbers and the other like one or points."""
    gold = forms.as_interval(gold) if isinstance(answer, Interval | Union) else gold
    answer = forms.as_interval(answer)
    sides = [_looks_like_a_set(form) for form in (gold, answer)]
    points = [forms.is_group(form, "set") for form in (gold, answer)]
    return (gold, answer) if any(sides) and all(map(max, sides, points)) else None


def _looks_like_a_set(form: Form) -> bool:
    return any(
        isinstance(item, Interval | Union)
        or (isinstance(item, Relation) and item.ops != ("=",))
        or (isinstance(item, Scalar) and forms.SETMINUS.search(item.text) is not None)
        for item in forms.items_of(form, "list")
    )


def _with_words(gold: Form, answer: Form, asker: Asker) -> bool:
    key, said = _words_of(gold), _words_of(answer)
    if key is not None and said is not None:
        parts = [sorted(re.split(r"\s*(?:, and |,| and )\s*", names)) for names in (key, said)]
        are_same = " and " in key and parts[0] == parts[1]  # Alice and Bob, in any order
        are_same |= key.replace(" ", "") == said.replace(" ", "")
        if are_same or all(map(_P.nothing.fullmatch, (key, said))):
            return True
    if not isinstance(gold, Words):
        return False
    if said is not None and _P.truth.fullmatch(gold.key):
        rest = re.match(rf"{gold.key} ?, (.*)", said)
        why = rest and rest[1].replace(",", "").replace(
            " not ", " " if gold.key == "no" else " not "
        )
        return why is not None and not _P.not_the_one.search(why) and not re.search(r"[<>=\\]", why)
    if forms.is_assignment(answer):
        name, value = answer.forms[0], answer.forms[-1]
        if isinstance(name, Words) and isinstance(value, Words):  # Mary is the oldest, and back
            return value == gold or _is_said_in(gold.key, f"{name.key} is {value.key}")
        return same_answer(gold, value, asker)
    return isinstance(answer, Words) and _is_said_in(gold.key, answer.key)


def _words_of(form: Form) -> str | None:
    if isinstance(form, Words):
        return form.key
    if isinstance(form, Scalar) and not form.counted:
        return words_key(form.text)
    return words_key(form.raw) if isinstance(form, Group) and form.raw else None


def _is_said_in(gold: str, sentence: str) -> bool:
    """Whether a short sentence names the gold word: ``navin earns the most``, ``facing east``."""
    found = re.search(rf"(?<![\w-]){re.escape(gold)}(?![\w'-])", sentence)
    if found is None or len(gold) < 2 or len(sentence) > 120:
        return False
    before, after = sentence[: found.start()].strip(), sentence[found.end() :].strip(" .!")
    is_denied = any(map(_P.not_the_one.search, (before, after)))
    return not is_denied and len(after.split()) <= 6 and bool(_P.leads_to.fullmatch(before))


def _scalars(gold: Scalar, answer: Scalar, asker: Asker) -> bool:
    if gold.base or answer.base:  # digits must agree; the base may be left out of the answer
        bases = (gold.base, 0) if gold.base else (10,)
        return answer.base in bases and gold.text == answer.text and not answer.counted
    for side in (gold, answer):
        if side.counted and not are_counted(side.counted, asker.problem):
            return side is gold and gold == answer
    if len({s.unit or s.percent for s in (gold, answer)} - {None, False, "?"}) == 2:
        # A missing unit does not count against an answer; 5 cm and 5 m are not the same.
        return _same_measure(gold, answer)
    if gold.text == answer.text and gold.percent == answer.percent:
        return not answer.malformed or gold.malformed
    if gold.malformed or answer.malformed or forms.ELLIPSIS in gold.text + answer.text:
        return False
    if gold.value is not None and answer.value is not None:
        return _same_number(gold, answer) or _same_digits(gold, answer, asker)
    are_percents = gold.percent != answer.percent and None is gold.value is answer.value
    is_said = are_percents or "\\text" in gold.text + answer.text
    return not is_said and asker.ask("same_expression", gold.text, answer.text)


def _same_number(gold: Scalar, answer: Scalar) -> bool:
    """Whether two scalars that have values have the same one; percentages count as such."""
    if gold.value == answer.value or _is_rounded(gold, answer) or _is_rounded(answer, gold):
        # 28% and 28: the question asked for a percentage. But 0.5% is not a probability of 0.5.
        return gold.percent or not answer.percent or abs(gold.value) > 1 or gold.value == 0
    one, other = (s.value * (Fraction(1, 100) if s.percent else 1) for s in (gold, answer))  # type: ignore[operator]
    return one == other


def _is_rounded(decimal: Scalar, other: Scalar) -> bool:
    """Whether one is the other rounded to its many decimals: neither 0.33 nor 0.000000 are."""
    places, value = decimal.places, decimal.value
    is_precise = places >= MIN_DECIMALS and abs(value) * 10**places >= 10 ** (MIN_SIGNIFICANT - 1)
    return is_precise and abs(value - other.value) * 2 * 10**places <= 1


def _same_digits(gold: Form, answer: Form, asker: Asker) -> bool:
    """``100,200`` reads as one number; beside a list or another such number it is two."""
    lists = [
        forms.list_of(side.text, side.text.split(","))
        if isinstance(side, Scalar) and _P.list_of_digits.fullmatch(side.text)
        else side
        for side in (gold, answer)
    ]
    return lists != [gold, answer] and same_answer(*lists, asker)


def _same_measure(gold: Scalar, answer: Scalar) -> bool:
    """Whether dollars and cents are one amount, or ``\\$18`` and ``18\\text{ dollars an hour}``."""
    currencies = {str(s.unit).partition("/")[0] for s in (gold, answer)}
    is_same = {gold.unit, answer.unit} == {"dollar", "cent"} and _size(gold) == _size(answer)
    if len(currencies) == 1 and currencies <= {"dollar", "cent", "euro"}:
        is_same = gold.value == answer.value
    return is_same and gold.value is not None


def _size(scalar: Form) -> tuple[str, Fraction] | None:
    """``(family, size)`` of a value with its percent sign and unit: 12 cm and 0.12 m are one."""
    if isinstance(scalar, Scalar) and scalar.base and not scalar.malformed:
        return "", Fraction(int(scalar.text, scalar.base))
    if not isinstance(scalar, Scalar) or scalar.value is None:
        return None
    family, factor = SIZES.get(scalar.unit or "", (scalar.unit or "", "1"))
    return family, scalar.value * Fraction(factor) * (Fraction(1, 100) if scalar.percent else 1)


def _with_group(gold: Form, answer: Form, asker: Asker) -> bool:
    for one, other in ((gold, answer), (answer, gold)):  # {7} names 7, and {(1,2)} names (1,2)
        if forms.is_group(one, "set") and len(one.items) == 1:
            item = one.items[0]
            is_value = isinstance(other, Scalar) and not isinstance(item, Group)
            if is_value or forms.is_group(other, "tuple"):
                return item != Scalar("\\emptyset") and same_answer(item, other, asker)
    if isinstance(gold, Group) and isinstance(answer, Group):
        fits = len(gold.items) == len(answer.items) <= MAX_ITEMS and _same_joining(gold, answer)
        return fits and _two_groups(gold, answer, asker)
    if isinstance(answer, Group):
        if answer.disjunction or _is_one_value(answer):  # "5/2 or 2.5": in two spellings
            units = {item.unit for item in answer.items if isinstance(item, Scalar)} - {None, "?"}
            return len(units) < 2 and all(same_answer(gold, item, asker) for item in answer.items)
        if any(isinstance(item, Relation) for item in answer.items[1:]):
            return False  # 1,234 is x=1,234, not a=1, b=234
    else:
        if gold.kind == "matrix" and (column := _P.binomial.fullmatch(answer.text)):
            entries = tuple(map(forms.parse_form, column.groups()))  # a vector, in some textbooks
            return same_answer(gold, Group("matrix", entries, 1), asker)
        if gold.kind in ("matrix", "tuple") and _P.vector.fullmatch(answer.text[:MAX_VECTOR_CHARS]):
            return _same_vector(gold, answer, asker)
        if _is_one_value(gold):
            return same_answer(gold.items[0], answer, asker)
    return _same_digits(gold, answer, asker)


def _two_groups(gold: Group, answer: Group, asker: Asker) -> bool:
    kinds, size = {gold.kind, answer.kind}, len(gold.items)
    if "matrix" in kinds:
        columns = {gold.columns, answer.columns} - ({0} if "tuple" in kinds else set())
        fits = kinds == {"matrix"} or (kinds == {"matrix", "tuple"} and columns <= {1, size})
        return fits and len(columns) == 1 and _in_order(gold.items, answer.items, asker)
    are_roots = _are_roots(gold), _are_roots(answer)
    if kinds == {"record"} and not all(are_roots):
        return _any_order(gold.items, answer.items, asker)
    if "record" in kinds and ("tuple" in kinds or (gold.kind == "record" and not any(are_roots))):
        # A=2, B=3 is not 3, 2; y=6, x=5 is the point (5,6), and y=5, x=6 is not.
        names = {i.sides[0] for g in (gold, answer) if g.kind == "record" for i in g.items}
        known = "".join(sorted(names)) in ("ab", "abc", "xy", "xyz")
        by_name = ([True] if known else [False, True]) if "tuple" in kinds else [False]
        return any(_in_order(_values(gold, b), _values(answer, b), asker) for b in by_name)
    if kinds <= {"list", "set", "record"}:
        return _any_order(_values(gold), _values(answer), asker)
    in_order = kinds <= {"tuple", "list"} or kinds == {"ratio"}
    return in_order and _in_order(gold.items, answer.items, asker)


def _values(group: Group, by_name: bool = False) -> Sequence[Form]:
    """The values of a record, in the order of their names if asked; the items of other groups."""
    if group.kind != "record":
        return group.items
    named = sorted(group.items, key=lambda i: i.sides[0]) if by_name else group.items
    return [item.forms[-1] for item in named]


def _are_roots(group: Group) -> bool:
    """Whether the names of a record only number values, as x_1 and x_2 do."""
    is_named = group.kind == "record" and not group.raw.startswith("(")
    return is_named and all(_P.root_name.fullmatch(i.sides[0]) for i in group.items)


def _is_one_value(group: Group) -> bool:
    """``a=b=-2``: a record that was written with one value."""
    return group.kind == "record" and not group.raw and len(set(_values(group))) == 1


def _same_vector(gold: Group, answer: Scalar, asker: Asker) -> bool:
    """``2i+3j-k`` beside the coordinates ``(2,3,-1)``."""
    if not 2 <= len(gold.items) <= 3 or not all(isinstance(i, Scalar) for i in gold.items):
        return False
    terms = [f"({i.text}){axis}" for i, axis in zip(gold.items, "ijk", strict=False)]  # type: ignore[union-attr]
    return asker.ask("same_expression", "+".join(terms), answer.text)


def _in_order(gold: Sequence[Form], answer: Sequence[Form], asker: Asker) -> bool:
    return all(_same_item(g, a, asker) for g, a in zip(gold, answer, strict=True))


def _same_item(gold: Form, answer: Form, asker: Asker) -> bool:
    """As same_answer, but inside a list or set {1} is not 1."""
    are_alike = forms.is_group(gold, "set") == forms.is_group(answer, "set")
    return are_alike and same_answer(gold, answer, asker)


def _any_order(gold: Sequence[Form], answer: Sequence[Form], asker: Asker) -> bool:
    """Greedy matching, exact as equality is an equivalence; what needs no symbolic work first."""
    left = list(answer)
    for g in sorted(gold, key=lambda g: (g not in answer, getattr(g, "value", None) is None)):
        candidates = sorted(left, key=lambda a: a != g)
        partner = next((a for a in candidates if _same_item(g, a, asker)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _same_joining(gold: Group, answer: Group) -> bool:
    """Whether "and" here and "or" there are one: between values, not between conditions."""
    groups, items = (gold, answer), (*gold.items, *answer.items)
    return gold.disjunction == answer.disjunction or not (
        any(isinstance(i, Relation) and not forms.is_assignment(i) for i in items)
        or any(group.kind == "record" and not _are_roots(group) for group in groups)
        or all(isinstance(i, Scalar) and _P.statement.fullmatch(i.text) for i in items)
        and all(forms.WORD_BETWEEN.search(group.raw) for group in groups)
    )


def _with_relation(gold: Form, answer: Form, asker: Asker) -> bool:
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        if forms.is_assignment(gold) and forms.is_assignment(answer):
            return _two_assignments(gold, answer, asker)
        if len(gold.ops) == len(answer.ops) == 1 and gold.ops[0] in TURNED:
            return asker.ask("same_relation", gold, answer)
        is_turnable = len(gold.ops) == 1 and gold.ops[0] in ("\\approx", "\\equiv", "\\sim")
        orders = [answer.forms, answer.forms[::-1]][: 1 + is_turnable]
        return gold.ops == answer.ops and any(_in_order(gold.forms, o, asker) for o in orders)
    is_denied = isinstance(gold, Relation) or _P.denied_name.match(answer.sides[0])
    is_denied = is_denied or (forms.is_group(gold, "record") and forms.is_assignment(answer))
    return not is_denied and _one_of(gold, _readings(answer), answer, asker)


def _readings(relation: Relation) -> list[Form]:
    """The values that a chain of equal sides may give as an answer, the last one first."""
    if not set(relation.ops) <= {"=", "\\approx", "\\equiv"} or not all(relation.sides):
        return []
    if forms.is_assignment(relation):
        names = [forms.is_name(side) for side in relation.sides[:-1]] + [False]
        return list(relation.forms[names.index(False) :][::-1])
    if not any(_letters(text) for text in relation.sides):
        return list(relation.forms[::-1])
    last = relation.forms[-1]
    return [] if isinstance(last, Scalar) and last.value == 0 else [last]


def _letters(text: str) -> set[str]:
    """The variables of an expression; constants, functions and words are none."""
    return set(_P.variable.findall(_P.no_variable.sub(" ", text))) - {"e", "i"}


def _one_of(gold: Form, values: Sequence[Form], relation: Relation, asker: Asker) -> bool:
    """Whether a value of a chain is the gold and no other side contradicts it: 2 = 3 has none."""
    is_exact = "\\approx" not in relation.ops
    may_be_rounded = not is_exact or forms.is_assignment(relation)

    def agrees(value: Form, text: str, side: Form) -> bool:
        if not (isinstance(value, Scalar) and isinstance(side, Scalar)) or value is side:
            return True
        if (one := _size(value)) and (other := _size(side)):
            if one[0] != other[0] and one[0] and other[0]:
                return False
            places = [s.places + 2 * s.percent for s in (value, side) if s.places]
            error = abs(one[1] - other[1])
            return error == 0 or (may_be_rounded and any(error * 2 * 10**p <= 1 for p in places))
        is_known = is_exact and not (value.places or side.places)
        is_known = is_known and _letters(value.text) == _letters(text)
        turned = (f"({t.text}){TO_RADIANS * (t.unit == 'deg')}" for t in (value, side))
        same = asker.ask("same_expression", value.text, side.text) if is_known else True
        is_angle = "deg" in (value.unit, side.unit)
        return same or (is_angle and asker.ask("same_expression", *turned))

    sides = list(zip(relation.sides, relation.forms, strict=True))
    found = (value for value in values if same_answer(gold, value, asker))
    return any(all(agrees(value, *side) for side in sides) for value in found)


def _two_assignments(gold: Relation, answer: Relation, asker: Asker) -> bool:
    left, right = gold.sides[0], answer.sides[0]
    values = _readings(answer)
    if left not in (right, _P.extreme_index.sub("", right)):  # k_{min} = n+1 for k = n+1
        one, other = _P.function_of.fullmatch(left), _P.function_of.fullmatch(right)
        value = answer.sides[-1]
        if {left, right} & {"y"} and (one or other) and "(y)" not in left + right:
            values = [answer.forms[-1]]  # y = 2x is how a function f(x) = 2x is drawn
        elif one and other and one.group(1) == other.group(1):
            # f(n)=2n and f(x)=2x are one function: the argument is a bound variable.
            new, old = one.group(2), other.group(2)
            if _rename(value, new, "") != value:
                return False
            values = [forms.parse_form(_rename(value, old, new))]
        elif isinstance(answer.forms[-1], Words) or "\\text{" in (left[:6], right[:6]):
            same_name = _is_named_so(right, left)
            return same_name and same_answer(gold.forms[-1], answer.forms[-1], asker)
        else:
            return len(gold.ops) == len(answer.ops) == 1 and asker.ask(
                "same_relation", gold, answer
            )
    return _one_of(gold.forms[-1], values, answer, asker)


def _is_named_so(name: str, gold: str) -> bool:
    """Whether two names are one: ``\\text{The minimum}`` and ``\\min``, the value of x and x."""
    keys = [words_key(n.removeprefix("\\") if n[1:5] != "text" else n) for n in (name, gold)]
    extremes = [_P.extreme_name.fullmatch(key) for key in keys]
    one, other = (e.group(1) if e else key for e, key in zip(extremes, keys, strict=True))
    before, _, last = one.rpartition(" ")
    is_letter = _P.letter.fullmatch(gold) and last == gold.casefold()
    return one == other or bool(is_letter and _P.naming.fullmatch(f"{before} ".lstrip()))


def _rename(text: str, old: str, new: str) -> str:
    """``text`` with the variable ``old`` called ``new``; letters of commands are left alone."""
    names = rf"\\[a-zA-Z]+|{re.escape(old)}"
    return re.sub(names, lambda m: new if m.group() == old else m.group(), text)


# The kinds of forms in the order in which their rules are tried.
RULES: dict[Any, Callable[[Any, Any, Asker], bool]] = {
    Words: _with_words,
    Relation: _with_relation,
    Interval | Union: lambda *_: False,  # it is no set of real numbers
    Group: _with_group,
    Scalar: _scalars,
}


def kind_for(gold: Form, answer: Form) -> Any:
    """The kind of forms whose rule compares these two."""
    return next(kind for kind in RULES if isinstance(gold, kind) or isinstance(answer, kind))
