"""Exact values of plain numbers: ``2/3``, ``\\frac{10}{4}``, ``1\\frac{4}{5}``, ``0.125``.

Most answers in training and evaluation are of this kind. They are decided here in microseconds and
exactly; sums, powers and factorials are left to the symbolic worker.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from sgpo.core.verifier.patterns import patterns

_P = patterns("numbers")
MAX_DIGITS = 4_000  # int() refuses longer literals
MIN_DECIMALS = 6  # a decimal stands for a fraction only if it gives at least this many places
MIN_SIGNIFICANT = 4


class MalformedNumber(ValueError):
    """Looks like a number and is none, e.g. ``4 10/3`` (no mixed number) or ``1/0``."""


@lru_cache(maxsize=16_384)
def exact_value(text: str) -> Fraction | None:
    """The exact value of canonical answer text, or None if it is no plain number. MalformedNumber:
    digits in an arrangement that has no agreed value."""
    found = _P.number.fullmatch(text) if len(text) <= MAX_DIGITS else None
    if found is None:
        if _P.digits_only.fullmatch(text) and _P.malformed.search(text):
            raise MalformedNumber(text[:200])
        return None
    signs, whole, *parts = found.groups()
    top, bottom = next(pair for pair in zip(parts[::2], parts[1::2], strict=True) if pair[0])
    value, divisor = _literal(top), _literal(bottom or "1")
    is_proper = whole is None or 0 < value < divisor  # a mixed number needs a proper fraction
    if divisor == 0 or not is_proper:
        raise MalformedNumber(text[:200])
    return (-1) ** signs.count("-") * (int(whole or 0) + value / divisor)


def _literal(text: str) -> Fraction:
    """The value of a decimal, which may recur: ``0.1\\overline{6}``."""
    digits, _, period = text.removesuffix("}").partition("\\overline{")
    if not period:
        return Fraction(digits)
    places = len(digits.partition(".")[2])
    start = Fraction(digits + "0" if digits.startswith(".") else digits)
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10**places)


def decimal_places(text: str) -> int | None:
    """Places after the point if the text is one decimal literal, else None."""
    found = _P.decimal.fullmatch(text)
    return len(found.group(1)) if found else None


def rationals_equal(a: Fraction, b: Fraction, a_places: int | None, b_places: int | None) -> bool:
    """Whether two rationals are the same answer: exactly, or one is a decimal with at least six
    places and four significant digits that is the other one rounded to them (0.0833333333 for
    1/12, but neither 0.33 for 1/3 nor 0.000000 for 1/2004!)."""
    if a == b:
        return True
    for decimal, other, places in ((a, b, a_places), (b, a, b_places)):
        if places is None or places < MIN_DECIMALS:
            continue
        unit = Fraction(1, 10**places)
        if abs(decimal) >= unit * 10 ** (MIN_SIGNIFICANT - 1) and abs(decimal - other) * 2 <= unit:
            return True
    return False
