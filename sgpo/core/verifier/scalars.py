"""Whether two numbers with their percent signs, currencies and commas are the same answer."""

from __future__ import annotations

from fractions import Fraction

from sgpo.core.verifier.numbers import rationals_equal
from sgpo.core.verifier.shapes import Scalar


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
