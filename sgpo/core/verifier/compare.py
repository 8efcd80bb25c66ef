"""Whether two forms are the same answer. Typed and fail-closed: what is not shown equal is wrong.

The only open question, whether two *expressions* are equal, goes to ``Asker.ask``. It answers None
where the computer-algebra system would have to be asked, and then the verdict is None: undecided.
In the second round it is a worker process that answers. So both rounds run the same rules, and only
single expressions leave this process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from sgpo.core.verifier.forms import (
    ELLIPSIS,
    NAME,
    Based,
    Form,
    Group,
    Interval,
    Relation,
    Scalar,
    Union,
    Words,
    as_interval,
    is_assignment,
    parse_form,
    value_items,
)
from sgpo.core.verifier.numbers import rationals_equal
from sgpo.core.verifier.sets import WORD_BETWEEN, relation_as_interval, same_real_set
from sgpo.core.verifier.spelling import SIZES, are_counted, words_key

MAX_ITEMS = 200
# (gold expression, "=" or a relation's operators, answer expression), each side canonical text.
Ask = Callable[[str, str, str], bool | None]


@dataclass(frozen=True)
class Asker:
    """Who is asked about expressions, and the problem, whose nouns may be counted."""

    ask: Ask = lambda *_: None
    problem: str | None = None


EXACT = Asker()


def all_of(answers: Iterable[bool | None]) -> bool | None:
    """False if one is False, else None if one is undecided, else True."""
    undecided = False
    for answer in answers:
        if answer is False:
            return False
        undecided = undecided or answer is None
    return None if undecided else True


def any_of(answers: Iterable[bool | None]) -> bool | None:
    """True if one is True, else None if one is undecided, else False."""
    undecided = False
    for answer in answers:
        if answer:
            return True
        undecided = undecided or answer is None
    return None if undecided else False


def same_answer(gold: Form, answer: Form, asker: Asker = EXACT) -> bool | None:
    """Whether ``answer`` states the same as ``gold``; None if an expression decides that nobody
    here can compare.

    Not symmetric in two places, both by the gold's form: an open pair ``(1,2)`` in the gold is a
    point unless its context says interval; an equation in the gold may be answered by its right
    side, but a bare equation in the answer is not its right side if that is 0.
    """
    if gold == answer and not (isinstance(gold, Scalar) and gold.counted):
        return True
    if _whole_numbers(answer) and isinstance(gold, Interval | Union):
        return False
    if (same := same_real_set(gold, answer)) is not None:
        return same
    if isinstance(gold, Words) or isinstance(answer, Words):
        return _with_words(gold, answer, asker)
    if isinstance(gold, Relation) or isinstance(answer, Relation):
        return _with_relation(gold, answer, asker)
    if isinstance(gold, Interval | Union) or isinstance(answer, Interval | Union):
        return _with_interval(gold, answer, asker)
    if isinstance(gold, Group) or isinstance(answer, Group):
        return _with_group(gold, answer, asker)
    if isinstance(gold, Based) or isinstance(answer, Based):
        return _with_based(gold, answer)
    assert isinstance(gold, Scalar) and isinstance(answer, Scalar)
    return _scalars(gold, answer, asker)


def _whole_numbers(form: Form) -> bool:
    items = value_items(form)
    return any(isinstance(item, Relation) and item.domain == "Z" for item in items)


# --- words ------------------------------------------------------------------------------------

_NOT_THE_ONE = re.compile(
    r"\b(?:not|no|never|nor|neither|none|and|or|both|than|but|except|unless|without|almost|nearly|"
    r"maybe|perhaps|possibly|if|when|of|from|opposite|minus|less|anti|non|"
    r"north|south|east|west)\b|n't\b|[-/,]"
)
_LEADS_TO = re.compile(
    r"(?:.*\b)?(?:is|are|was|be|an?|the|facing|heading|towards?|due|called|named|answer|option|choice|"
    r"earns|wins|won|it's|that's|to|on|in|only|always)"
)


def _with_words(gold: Form, answer: Form, asker: Asker) -> bool | None:
    key, said = _words_of(gold), _words_of(answer)
    if key is not None and said is not None:
        if key.replace(" ", "") == said.replace(" ", ""):
            return True
    if isinstance(gold, Words) and gold.key in _PLAIN_TRUTHS and said is not None:
        said = said.replace(" ,", ",")
        rest = said.removeprefix(f"{gold.key}, ")
        return rest != said and not _NOT_THE_ONE.search(rest.replace(",", ""))
    if isinstance(answer, Relation) and isinstance(gold, Words) and is_assignment(answer):
        name, value = answer.forms[0], answer.forms[-1]
        if isinstance(name, Words) and isinstance(value, Words):
            said = f"{name.key} is {value.key}"  # Mary is the oldest; the oldest is Mary
            return value == gold or _is_said_in(gold.key, said)
        return same_answer(gold, value, asker)
    if isinstance(gold, Relation) and isinstance(answer, Words) and is_assignment(gold):
        return same_answer(gold.forms[-1], answer, asker)
    if not (isinstance(gold, Words) and isinstance(answer, Words)):
        return False
    return _is_said_in(gold.key, answer.key)


_PLAIN_TRUTHS = frozenset(["yes", "no", "true", "false"])


def _words_of(form: Form) -> str | None:
    key = form.key if isinstance(form, Words) else None
    key = words_key(form.text) if isinstance(form, Scalar) and not form.counted else key
    return words_key(form.raw) if isinstance(form, Group) and form.raw else key


def _is_said_in(gold: str, sentence: str) -> bool:
    """Whether a short sentence names the gold word: ``navin earns the most``, ``facing east``."""
    found = re.search(rf"(?<![\w-]){re.escape(gold)}(?![\w-])", sentence)
    if found is None or len(gold) < 2 or len(sentence) > 120:
        return False
    before, after = sentence[: found.start()].strip(), sentence[found.end() :].strip(" .!")
    if _NOT_THE_ONE.search(before) or _NOT_THE_ONE.search(after):
        return False
    if len(after.split()) > 6 or re.match(
        r"(?:is|are|was)\s+(?:wrong|false|incorrect|the (?:wrong|least|slowest))", after
    ):
        return False
    return not before or _LEADS_TO.fullmatch(before) is not None


# --- single expressions -----------------------------------------------------------------------


def _scalars(gold: Scalar, answer: Scalar, asker: Asker) -> bool | None:
    for side in (gold, answer):
        if side.counted and not are_counted(side.counted, asker.problem):
            return side is gold and gold == answer
    units = {gold.unit, answer.unit} - {None, "?"}
    if len(units) == 2:
        # A missing unit does not count against an answer; 5 cm and 5 m are not the same.
        return same_money(gold, answer)
    if gold.text == answer.text and gold.percent == answer.percent:
        return not answer.malformed or gold.malformed
    if gold.malformed or answer.malformed or ELLIPSIS in gold.text + answer.text:
        return False
    if gold.value is not None and answer.value is not None:
        return same_number(gold, answer) or same_comma_list(gold, answer)
    if gold.percent != answer.percent and None is gold.value is answer.value:
        return False
    if "\\text" in gold.text + answer.text:
        return False
    return asker.ask(gold.text, "=", answer.text)


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
    return sorted(gold.text.split(",")) == sorted(answer.text.split(","))


def same_money(gold: Scalar, answer: Scalar) -> bool:
    """Whether two amounts in different units are one sum: in dollars and in cents, or with a sign
    only where the other says what it is paid for (``\\$18``, ``18\\text{ dollars per hour}``)."""
    currencies = {str(s.unit).partition("/")[0] for s in (gold, answer)}
    if len(currencies) == 1 and currencies <= {"dollar", "cent", "euro"}:
        return gold.value is not None and gold.value == answer.value
    return {gold.unit, answer.unit} == {"dollar", "cent"} and _size(gold) == _size(answer)


def _size(scalar: Scalar) -> tuple[str, Fraction] | None:
    """``(family, size)`` of a value with its percent sign and unit: 12 cm and 0.12 m are one."""
    if scalar.value is None or scalar.malformed:
        return None
    family, factor = SIZES.get(scalar.unit or "", (scalar.unit or "", "1"))
    return family, scalar.value * Fraction(factor) * (Fraction(1, 100) if scalar.percent else 1)


def _with_based(gold: Form, answer: Form) -> bool:
    """Digits must agree, and bases where both are given; the base may be left out of the answer."""
    if isinstance(gold, Based) and isinstance(answer, Based):
        return False  # equal ones were caught before: digits or base differ
    if isinstance(gold, Based):
        return isinstance(answer, Scalar) and answer.text == gold.digits and not answer.counted
    assert isinstance(answer, Based)
    return answer.base == 10 and isinstance(gold, Scalar) and gold.text == answer.digits


# --- groups -----------------------------------------------------------------------------------

_ROOT_NAME = re.compile(r"[xyztkrnm]_\{?\d\}?")


def _with_group(gold: Form, answer: Form, asker: Asker) -> bool | None:
    for one, other in ((gold, answer), (answer, gold)):
        if isinstance(one, Scalar) and isinstance(other, Group) and other.kind == "set":
            if len(other.items) == 1 and not isinstance(other.items[0], Group):
                is_name = other.items[0] != Scalar("\\emptyset")
                return is_name and same_answer(one, other.items[0], asker)  # {7} names 7
    if isinstance(gold, Scalar) and isinstance(answer, Group):
        if answer.disjunction:  # "5/2 or 2.5": one answer in two spellings
            return all_of(same_answer(gold, item, asker) for item in answer.items)
        return gold.value is not None and _thousands_as_list(gold, answer, asker)
    if isinstance(answer, Scalar) and isinstance(gold, Group):
        if (vector := _components(gold, answer)) is not None:
            return _in_order(gold.items, vector, asker)
        return answer.value is not None and _thousands_as_list(answer, gold, asker)
    if not (isinstance(gold, Group) and isinstance(answer, Group)):
        return False
    if not same_joining(gold, answer):
        return False
    kinds = {gold.kind, answer.kind}
    if kinds == {"set", "tuple"}:  # {(1,2)} names (1,2)
        outer, inner = (gold, answer) if gold.kind == "set" else (answer, gold)
        return len(outer.items) == 1 and same_answer(outer.items[0], inner, asker)
    if len(gold.items) != len(answer.items) or len(gold.items) > MAX_ITEMS:
        return False
    return _two_groups(gold, answer, kinds, asker)


def _two_groups(gold: Group, answer: Group, kinds: set[str], asker: Asker) -> bool | None:
    """Whether groups of equally many items say the same, in order where their kinds say so."""
    if kinds == {"matrix"}:
        same_shape = gold.columns == answer.columns
        return same_shape and _in_order(gold.items, answer.items, asker)
    if kinds == {"matrix", "tuple"}:
        matrix = gold if gold.kind == "matrix" else answer
        is_vector = matrix.columns in (1, len(matrix.items))
        return is_vector and _in_order(gold.items, answer.items, asker)
    if kinds <= {"list", "set"}:
        if any(isinstance(i, Scalar) and ELLIPSIS in i.text for i in gold.items + answer.items):
            return _in_order(gold.items, answer.items, asker)
        gold_names, names = names_in_turn(gold.items), names_in_turn(answer.items)
        if gold_names and not names:
            return _in_order(gold.items, answer.items, asker)  # A=2, B=3 is not 3, 2
        roots = gold_names and names and all(map(_ROOT_NAME.fullmatch, (*gold_names, *names)))
        if (names and not gold_names) or roots:
            values = [i.forms[-1] if isinstance(i, Relation) else i for i in answer.items]
            golds = [i.forms[-1] if isinstance(i, Relation) else i for i in gold.items]
            return _any_order(golds, values, asker)
        return _any_order(gold.items, answer.items, asker)
    if kinds <= {"tuple", "list"} or kinds in ({"ratio"}, {"residue"}):
        by_name = [_by_name(group) for group in (gold, answer)]
        return any_of(_in_order(g, a, asker) for g, a in ((gold.items, answer.items), by_name))
    return False


def _by_name(group: Group) -> Sequence[Form]:
    """The items in the order of their names: y=6, x=5 is the point (5,6)."""
    if names_in_turn(group.items):
        return sorted(group.items, key=lambda i: i.sides[0] if isinstance(i, Relation) else "")
    return group.items


def names_in_turn(items: Sequence[Form]) -> list[str]:
    """The names, if every item names another thing, as in ``A = 2, B = 3``; else none."""
    names = [i.sides[0] for i in items if isinstance(i, Relation) and is_assignment(i)]
    return names if len(items) > 1 and len(names) == len(set(names)) == len(items) else []


_COMPONENT = re.compile(
    r"([-+]?)((?:[^-+{}()]|\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}|\([^()]*\))*?)\\?(?:cdot)?\s*([ijk])(?![a-zA-Z])"
)


def _components(gold: Group, answer: Scalar) -> list[Form] | None:
    """``2i+3j-k`` as the coordinates of a vector of the gold's length."""
    if gold.kind not in ("matrix", "tuple") or not 2 <= len(gold.items) <= 3:
        return None
    parts = {}
    position = 0
    while position < len(answer.text):
        found = _COMPONENT.match(answer.text, position)
        if found is None or found.group(3) in parts:
            return None
        factor = found.group(2).strip().removesuffix("\\cdot").strip() or "1"
        parts[found.group(3)] = f"{found.group(1).strip('+')}{factor}"
        position = found.end()
    if not parts or "ijk".index(max(parts)) >= len(gold.items):
        return None
    return [parse_form(parts.get(axis, "0")) for axis in "ijk"[: len(gold.items)]]


def _thousands_as_list(number: Scalar, group: Group, asker: Asker) -> bool | None:
    """``100,200`` reads as one number; beside a list it is one too."""
    if group.kind not in ("list", "set", "tuple") or "," not in number.text:
        return False
    digits = number.text.split(",")
    if any(isinstance(i, Scalar) and i.text not in digits for i in group.items):
        return False  # 10,00 is not 10,000
    parts = [parse_form(part) for part in digits]
    order = _in_order if group.kind == "tuple" else _any_order
    return len(parts) == len(group.items) and order(parts, group.items, asker)


def _in_order(gold: Sequence[Form], answer: Sequence[Form], asker: Asker) -> bool | None:
    return all_of(_same_item(g, a, asker) for g, a in zip(gold, answer, strict=True))


def _same_item(gold: Form, answer: Form, asker: Asker) -> bool | None:
    """As same_answer, but inside a list or set {1} is not 1."""
    is_set = [isinstance(f, Group) and f.kind == "set" for f in (gold, answer)]
    return is_set[0] == is_set[1] and same_answer(gold, answer, asker)


def _any_order(gold: Sequence[Form], answer: Sequence[Form], asker: Asker) -> bool | None:
    """Greedy matching, which is exact because equality is an equivalence relation."""
    left = list(answer)
    open_golds: list[Form] = []
    for g in gold:  # identical items first: free of symbolic work
        if g in left:
            left.remove(g)
        else:
            open_golds.append(g)
    undecided = False
    for g in sorted(open_golds, key=lambda f: not (isinstance(f, Scalar) and f.value is not None)):
        answers = []
        for i, a in enumerate(left):
            answers.append(_same_item(g, a, asker))
            if answers[-1]:
                del left[i]
                break
        else:
            if None not in answers:
                return False
            undecided = True
    return None if undecided else True


_STATEMENT = re.compile(r"(?:\\(?:neg|lnot)\s*)?[a-zA-Z]")


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
    roots = all(map(_ROOT_NAME.fullmatch, named))
    return not all(map(is_assignment, relations)) or (len(named) > 1 and not roots)


# --- intervals --------------------------------------------------------------------------------


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


def _with_interval(gold: Form, answer: Form, asker: Asker) -> bool | None:
    gold, answer = _as_set(as_interval(gold)), _as_set(as_interval(answer))
    if isinstance(gold, Interval) and isinstance(answer, Interval):
        if (gold.low_open, gold.high_open) != (answer.low_open, answer.high_open):
            return False
        ends = ((gold.low, answer.low), (gold.high, answer.high))
        return all_of(same_answer(g, a, asker) for g, a in ends)
    if isinstance(gold, Union) and isinstance(answer, Union):
        same_length = len(gold.parts) == len(answer.parts)
        return same_length and _any_order(gold.parts, answer.parts, asker)
    return False


# --- relations --------------------------------------------------------------------------------

_PROSE = re.compile(r"\\text\{[^{}]*[a-zA-Z]{2}|(?<![\\a-zA-Z{])[a-z]{4,}(?![a-zA-Z])")
_DIGIT = re.compile(r"(?<![_^{\d])\d")
_NAMING = frozenset(["=", "\\approx", "\\equiv"])
# Says something about left side - right side; of a \mid b and p \to q each side counts by itself.
_OF_DIFFERENCES = frozenset(["=", "\\ne", "<", ">", "\\le", "\\ge"])
_COMMUTING = frozenset(["\\approx", "\\equiv", "\\sim"])
_FUNCTION_OF = re.compile(r"([a-zA-Z](?:_\{\w+\})?)\(([a-zA-Z])\)")
_VARIABLE = re.compile(r"\\[a-zA-Z]+|[a-zA-Z](?:_\{\w+\})?")


def _with_relation(gold: Form, answer: Form, asker: Asker) -> bool | None:
    if isinstance(answer, Relation) and contradicts_itself(answer):
        return False
    if isinstance(gold, Relation) and isinstance(answer, Relation):
        return _two_relations(gold, answer, asker)
    if isinstance(gold, Relation):
        if is_assignment(gold):
            if isinstance(answer, Group) and (several := _one_a_name(gold)):
                return same_answer(several, answer, asker)
            return same_answer(gold.forms[-1], answer, asker)
        found = relation_as_interval(gold)
        if found is None:
            return False
        return same_answer(found[1], as_interval(answer), asker)
    assert isinstance(answer, Relation)
    if isinstance(gold, Group) and (several := _one_a_name(answer)):
        return any_of(same_answer(gold, form, asker) for form in (several, *answer.forms[-1:]))
    if set(answer.ops) <= _NAMING:
        return any_of(
            all_of((same_answer(gold, value, asker), _rest_agrees(value, answer, asker)))
            for value in _readings(answer)
        )
    found = relation_as_interval(answer)
    return (
        found is not None
        and isinstance(gold, Interval | Union)
        and _with_interval(gold, found[1], asker)
    )


def _readings(relation: Relation) -> list[Form]:
    """The values that a chain of equal sides may give as an answer, the last one first."""
    for text, form in zip(relation.sides[:-1], relation.forms[:-1], strict=True):
        # "5 because 7-1=6" does not answer 6; a label (\text{Total} = 6) and a unit are fine.
        is_value = isinstance(form, Scalar) and form.value is not None and not form.malformed
        if _PROSE.search(text) and _DIGIT.search(text) and not is_value:
            return []
    last = relation.forms[-1]
    if not all(relation.sides):
        return []
    if is_assignment(relation):
        start = next(
            (i for i, s in enumerate(relation.sides) if not _is_name(s)), len(relation.sides) - 1
        )
        return list(relation.forms[start:][::-1])
    if is_false_statement(relation):
        return []
    constants = [not _letters(text) for text in relation.sides]
    if all(constants):
        return list(relation.forms[::-1])
    is_zero = isinstance(last, Scalar) and last.value == 0
    return [] if is_zero else [last]


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None and text not in ("\\pi", "e", "i", "\\infty")


def _letters(text: str) -> set[str]:
    """The variables of an expression; constants, functions and words are none."""
    bare = re.sub(
        r"\\text\{[^{}]*\}|\\(?:frac|sqrt|pi|cdot|left|right|sin|cos|tan|log|ln|infty|binom|pm)(?![a-z])",
        " ",
        text,
    )
    return set(_VARIABLE.findall(bare)) - {"e", "i"}


def _rest_agrees(value: Form, relation: Relation, asker: Asker) -> bool | None:
    """Whether the other sides of a chain say the same as the one that was taken, where that can be
    seen: x = x+1 = x+2 is no answer."""
    if not isinstance(value, Scalar):
        return True
    checks = []
    for text, form in zip(relation.sides, relation.forms, strict=True):
        comparable = isinstance(form, Scalar) and form is not value and not _is_name(text)
        if comparable and None in (value.value, form.value) and not (value.places or form.places):
            if _letters(text) == _letters(value.text) and "\\approx" not in relation.ops:
                checks.append(asker.ask(value.text, "=", form.text))
    return all_of(checks)


def _one_a_name(relation: Relation) -> Form | None:
    """``a=b=-2`` as ``a=-2, b=-2``; None for a chain with fewer than two names."""
    names = [side for side in relation.sides[:-1] if _is_name(side)]
    if len(names) < 2 or len(names) < len(relation.sides) - 1 or set(relation.ops) != {"="}:
        return None
    last, form = relation.sides[-1], relation.forms[-1]
    items = tuple(Relation((n, last), ("=",), (parse_form(n), form)) for n in names)
    return Group("list", items)


def _two_relations(gold: Relation, answer: Relation, asker: Asker) -> bool | None:
    if is_assignment(gold) and is_assignment(answer):
        return _two_assignments(gold, answer, asker)
    as_gold, as_answer = relation_as_interval(gold), relation_as_interval(answer)
    if as_gold and as_answer and as_gold[0] == as_answer[0]:
        return same_answer(as_gold[1], as_answer[1], asker)
    if len(gold.ops) == 1 and len(answer.ops) == 1 and gold.ops[0] in _OF_DIFFERENCES:
        return _ask_relation(gold, answer, asker)
    if gold.ops != answer.ops:
        return False
    if gold.ops[0] in _COMMUTING and len(gold.ops) == 1:
        return any_of(
            _in_order(gold.forms, forms, asker) for forms in (answer.forms, answer.forms[::-1])
        )
    return _in_order(gold.forms, answer.forms, asker)


def _ask_relation(gold: Relation, answer: Relation, asker: Asker) -> bool | None:
    sides = "\x00".join
    return asker.ask(sides(gold.sides), f"{gold.ops[0]}\x00{answer.ops[0]}", sides(answer.sides))


def _two_assignments(gold: Relation, answer: Relation, asker: Asker) -> bool | None:
    left, right = gold.sides[0], answer.sides[0]
    value, form = answer.sides[-1], answer.forms[-1]
    if left != right:
        names = _FUNCTION_OF.fullmatch(left), _FUNCTION_OF.fullmatch(right)
        if names[0] and right == "y" and names[0].group(2) != "y":
            pass  # y = 2x is how a function f(x) = 2x is drawn
        elif names[0] and names[1] and names[0].group(1) == names[1].group(1):
            # f(n)=2n and f(x)=2x are one function: the argument is a bound variable.
            new, old = names[0].group(2), names[1].group(2)
            if rename_letter(value, new, "") != value:
                return False
            form = parse_form(rename_letter(value, old, new))
        elif isinstance(form, Words) or left.startswith("\\text{") or right.startswith("\\text{"):
            return words_key(left) == words_key(right) and same_answer(gold.forms[-1], form, asker)
        elif len(gold.ops) == 1 and len(answer.ops) == 1:
            return _ask_relation(gold, answer, asker)
        else:
            return False
    return any_of(
        all_of((same_answer(gold.forms[-1], f, asker), _rest_agrees(f, answer, asker)))
        for f in ([form] if form is not answer.forms[-1] else _readings(answer))
    )


def is_false_statement(relation: Relation) -> bool:
    """``2 = 3``, ``\\frac{1}{4} = 20\\%``: an equation between numbers that does not hold."""
    sizes = [_size(f) if isinstance(f, Scalar) else None for f in relation.forms]
    if None in sizes or "\\approx" in relation.ops or "\\equiv" in relation.ops:
        return False
    families = {family for family, _ in sizes if family}  # type: ignore[misc]
    return len(families) > 1 or len({size for _, size in sizes}) > 1  # type: ignore[misc]


def contradicts_itself(relation: Relation) -> bool:
    """``x = 2 = 3``, ``x = 12 cm = 3 m``: a name for two values that differ."""
    forms = relation.forms[1:]
    if len(forms) < 2 or not set(relation.ops) <= _NAMING or not is_assignment(relation):
        return False
    numbers = [(f, _size(f)) for f in forms if isinstance(f, Scalar) and f.value is not None]
    for one, (family, size) in ((f, s) for f, s in numbers if s):
        last, (last_family, last_size) = numbers[-1][0], numbers[-1][1] or ("", 0)
        if family != last_family and family and last_family:
            return one.unit in SIZES and last.unit in SIZES
        places = [s.places for s in (one, last) if s.places is not None and not s.percent]
        if size != last_size and not any(abs(size - last_size) * 2 * 10**p <= 1 for p in places):
            return family == last_family
    return False


def rename_letter(text: str, old: str, new: str) -> str:
    """``text`` with the variable ``old`` called ``new``; letters of commands are left alone."""
    return re.sub(
        rf"\\[a-zA-Z]+|{re.escape(old)}", lambda m: new if m.group() == old else m.group(), text
    )
