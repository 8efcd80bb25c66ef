"""Exact values of rational answers: ``2/3``, ``\\frac{10}{4}``, ``1\\frac{4}{5}``, ``2^{99}``.

Most answers in training and evaluation are of this kind. They are decided here in microseconds and
exactly, without a computer-algebra system, and so without its mistakes on large powers and
factorials. Nothing is ever passed to ``eval``.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from functools import lru_cache

MAX_BITS = 65_536  # larger exact integers are left to the symbolic judge
MAX_FACTORIAL = 5_000
MIN_DECIMALS = 6  # a decimal stands for a fraction only if it gives at least this many places
MIN_SIGNIFICANT = 4

_TOKEN = re.compile(r"\s*(\d*\.\d*\\overline\{\d+\}|\d+(?:\.\d*)?|\.\d+|\\frac|\\cdot|[-+/^!(){}])")
_DECIMAL = re.compile(r"-?\d*\.(\d+)")


class MalformedNumber(ValueError):
    """Looks like a number and is none, e.g. ``4 10/3`` (no mixed number) or ``1/0``."""


class _NotRational(Exception):
    """The text holds something other than plain rational arithmetic."""


class _Parser:
    """Recursive descent over canonical answer text; every method returns a Fraction."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:
                raise _NotRational
            self.tokens.append(found.group(1))
            position = found.end()
        self.at = 0
        self.after_power = False

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, wanted: str) -> None:
        if self.peek() != wanted:
            raise _NotRational
        self.at += 1

    def whole(self) -> Fraction:
        value = self.sum()
        if self.at != len(self.tokens):
            raise _NotRational
        return value

    def sum(self) -> Fraction:
        value = self.product()
        while (sign := self.peek()) in ("+", "-") and sign:
            self.at += 1
            term = self.product()
            value = _bounded(value + term if sign == "+" else value - term)
        return value

    def product(self) -> Fraction:
        value = self.power()
        while True:
            head = self.peek()
            if head in ("\\cdot", "/"):
                self.at += 1
                factor = self.power()
                if head == "/" and factor == 0:
                    raise MalformedNumber("division by zero")
                value = _bounded(value / factor if head == "/" else value * factor)
            elif head in ("(", "\\frac", "{"):
                value = _bounded(value * self.power())
            elif head and head[0] in "0123456789." and self.may_follow():
                value = _bounded(value * self.power())  # 3!4!, 2^{6}3^{5}
            elif head and head[0] in "0123456789.":
                raise MalformedNumber("two numbers side by side")
            else:
                return value

    def may_follow(self) -> bool:
        """Whether a number here is one more factor: behind a factorial, or a power behind one."""
        if self.tokens[self.at - 1] == "!":
            return True
        return self.after_power and self.tokens[self.at + 1 : self.at + 2] == ["^"]

    def power(self) -> Fraction:
        sign = 1
        while self.peek() in ("-", "+") and self.peek():  # no recursion: signs may be thousands
            sign = -sign if self.peek() == "-" else sign
            self.at += 1
        return sign * self.unsigned_power()

    def unsigned_power(self) -> Fraction:
        base = self.atom()
        self.after_power = False
        if self.peek() == "!":
            self.at += 1
            base = _factorial(base)
            if self.peek() == "!":
                raise MalformedNumber("n!! is the double factorial to some, (n!)! to others")
        if self.peek() != "^":
            return base
        self.at += 1
        if self.peek() == "{":
            self.take("{")
            exponent = self.sum()
            self.take("}")
        else:
            exponent = self.atom()
        self.after_power = True
        return _power(base, exponent)

    def atom(self) -> Fraction:
        head = self.peek()
        if head and head[0] in "0123456789.":
            self.at += 1
            return self.mixed(head)
        if head in ("(", "{"):
            self.at += 1
            value = self.sum()
            self.take(")" if head == "(" else "}")
            return value
        if head == "\\frac":
            self.at += 1
            self.take("{")
            top = self.sum()
            self.take("}")
            self.take("{")
            bottom = self.sum()
            self.take("}")
            if bottom == 0:
                raise MalformedNumber("division by zero")
            return top / bottom
        raise _NotRational

    def mixed(self, head: str) -> Fraction:
        """A number, or a mixed number: ``1\\frac{4}{5}``, ``2 2/3``."""
        if len(head) > 4_000:  # int() refuses longer literals
            raise _NotRational
        if "\\" in head:
            return _repeating(head)
        value = Fraction(head if not head.endswith(".") else head[:-1])
        rest = self.tokens[self.at : self.at + 7]
        part = None
        if rest[:2] == ["\\frac", "{"] and len(rest) == 7 and rest[3:5] == ["}", "{"]:
            part, used = (rest[2], rest[5]), 7
        elif len(rest) >= 3 and rest[1] == "/" and rest[0].isdigit() and rest[2].isdigit():
            part, used = (rest[0], rest[2]), 3
        if part is None or not (head.isdigit() and part[0].isdigit() and part[1].isdigit()):
            return value
        top, bottom = int(part[0]), int(part[1])
        if not 0 < top < bottom:
            raise MalformedNumber("a mixed number needs a proper fraction")
        self.at += used
        return value + Fraction(top, bottom)


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

    Raises:
        MalformedNumber: digits in an arrangement that has no agreed value (``4 10/3``, ``3 4``)
            or with a factorial of no whole number.
    """
    if not text or len(text) > 30_000:
        return None
    try:
        return _Parser(text).whole()
    except _NotRational:
        return None


def decimal_places(text: str) -> int | None:
    """Places after the point if the text is one decimal literal, else None."""
    found = _DECIMAL.fullmatch(text)
    return len(found.group(1)) if found else None


def rationals_equal(a: Fraction, b: Fraction, a_places: int | None, b_places: int | None) -> bool:
    """Whether two rationals are the same answer.

    Exactly, or one is a decimal with at least six places and four significant digits that is the
    other one rounded to those places (0.0833333333 for 1/12, but neither 0.33 for 1/3 nor
    0.000000 for 1/2004!).
    """
    if a == b:
        return True
    for decimal, other, places in ((a, b, a_places), (b, a, b_places)):
        if places is None or places < MIN_DECIMALS:
            continue
        unit = Fraction(1, 10**places)
        if abs(decimal) >= unit * 10 ** (MIN_SIGNIFICANT - 1) and abs(decimal - other) * 2 <= unit:
            return True
    return False
