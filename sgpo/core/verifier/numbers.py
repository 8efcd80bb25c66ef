"""Exact values of rational answers: ``2/3``, ``\\frac{10}{4}``, ``1\\frac{4}{5}``, ``2^{99}``.

Most answers in training and evaluation are of this kind. They are decided here in microseconds and
exactly, without a computer-algebra system, and so without its mistakes on large powers and
factorials. Nothing is ever passed to ``eval``.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from sgpo.core.verifier.patterns import patterns

_P = patterns("numbers")

MAX_BITS = 65_536  # larger exact integers are left to the symbolic judge
MAX_DIGITS = 4_000  # int() refuses longer literals
MAX_FACTORIAL = 5_000
MIN_DECIMALS = 6  # a decimal stands for a fraction only if it gives at least this many places
MIN_SIGNIFICANT = 4

_CLOSERS = {"(": ")", "{": "}"}


class MalformedNumber(ValueError):
    """Looks like a number and is none, e.g. ``4 10/3`` (no mixed number) or ``1/0``."""


class _NotRational(Exception):
    """The text holds something other than plain rational arithmetic."""


class _Parser:
    """Recursive descent over the tokens of canonical answer text; methods return Fractions."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = 0
        self.after_power = False

    def take(self, wanted: str) -> bool:
        found = self.tokens[self.at] == wanted
        self.at += found
        return found

    def need(self, wanted: str) -> None:
        if not self.take(wanted):
            raise _NotRational

    def whole(self) -> Fraction:
        value = self.sum()
        self.need("")
        return value

    def sum(self) -> Fraction:
        value = self.product()
        while (sign := self.tokens[self.at]) in ("+", "-"):
            self.at += 1
            term = self.product()
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def product(self) -> Fraction:
        value = self.signed()
        while True:
            head = self.tokens[self.at]
            if self.take("/"):
                value = _bounded(_ratio(value, self.signed()))
            elif self.take("\\cdot") or head in ("(", "\\frac", "{"):
                value = _bounded(value * self.signed())
            elif not _is_number(head):
                return value
            elif self.tokens[self.at - 1] == "!" or (
                self.after_power and self.tokens[self.at + 1] == "^"
            ):
                value = _bounded(value * self.signed())  # 3!4!, 2^{6}3^{5}
            else:
                raise MalformedNumber("two numbers side by side")

    def signed(self) -> Fraction:
        sign = 1
        while (head := self.tokens[self.at]) in ("-", "+"):  # no recursion: may be thousands
            sign = -sign if head == "-" else sign
            self.at += 1
        return sign * self.power()

    def power(self) -> Fraction:
        base = self.atom()
        self.after_power = False
        if self.take("!"):
            base = _factorial(base)
            if self.tokens[self.at] == "!":
                raise MalformedNumber("n!! is the double factorial to some, (n!)! to others")
        if self.take("^"):
            base = _power(base, self.atom())
            self.after_power = True
        return base

    def group(self, opener: str) -> Fraction:
        self.need(opener)
        value = self.sum()
        self.need(_CLOSERS[opener])
        return value

    def atom(self) -> Fraction:
        head = self.tokens[self.at]
        if head in _CLOSERS:
            return self.group(head)
        if self.take("\\frac"):
            return _ratio(self.group("{"), self.group("{"))
        if not _is_number(head) or len(head) > MAX_DIGITS:
            raise _NotRational
        self.at += 1
        return _repeating(head) if "\\" in head else Fraction(head) + self.proper_fraction(head)

    def proper_fraction(self, head: str) -> Fraction:
        """What makes a mixed number of a whole one: ``1\\frac{4}{5}``, ``2 2/3``; else 0."""
        rest = self.tokens[self.at : self.at + 7]
        if rest[:2] == ["\\frac", "{"] and len(rest) == 7 and rest[3:5] == ["}", "{"]:
            top, bottom, used = rest[2], rest[5], 7
        elif len(rest) >= 3 and rest[1] == "/":
            top, bottom, used = rest[0], rest[2], 3
        else:
            return Fraction(0)
        if not (head.isdigit() and top.isdigit() and bottom.isdigit()):
            return Fraction(0)
        if not 0 < int(top) < int(bottom):
            raise MalformedNumber("a mixed number needs a proper fraction")
        self.at += used
        return Fraction(int(top), int(bottom))


def _is_number(token: str) -> bool:
    return token != "" and token[0] in "0123456789."


def _ratio(top: Fraction, bottom: Fraction) -> Fraction:
    if bottom == 0:
        raise MalformedNumber("division by zero")
    return top / bottom


def _repeating(literal: str) -> Fraction:
    """The value of ``0.1\\overline{6}``."""
    digits, _, period = literal.removesuffix("}").partition("\\overline{")
    whole, _, fixed = digits.partition(".")
    start = Fraction(int(whole + fixed or "0"), 10 ** len(fixed))
    return start + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise _NotRational
    return value


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or value < 0:
        raise MalformedNumber("a factorial of no whole number")
    if value > MAX_FACTORIAL:
        raise _NotRational
    return Fraction(math.factorial(int(value)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) * max(_bits(base), 1) > MAX_BITS:
        raise _NotRational
    if base == 0 and exponent <= 0:
        raise MalformedNumber("zero to a power that is not positive")
    return base ** int(exponent)


@lru_cache(maxsize=16_384)
def exact_value(text: str) -> Fraction | None:
    """The exact value of canonical answer text, or None if it is not plain rational arithmetic.

    Raises MalformedNumber for digits in an arrangement that has no agreed value (``4 10/3``).
    """
    tokens = _P.token.findall(text)
    if not tokens or "" in tokens or len(text) > 30_000:
        return None
    try:
        return _Parser(tokens).whole()
    except _NotRational:
        return None


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
