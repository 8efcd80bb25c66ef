"""Symbolic equality of expressions with math-verify's parser. Runs in worker processes only.

math-verify 0.9.0 parses the LaTeX (latex2sympy2_extended) and compares what has no numbers to
compare (sums, integrals, unusual types). Ordinary expressions are compared here instead, because
``math_verify.verify`` takes two expressions for equal when their difference is below 1e-15 (so
1/2004! = 1/2006!) and accepts six-digit approximations of irrationals:

* constants are equal when their values agree to 40 digits *relative* to their size, and to 40
  places after the point where they are large;
* expressions with variables are equal when they agree at fixed sample points of both signs at
  which both are real (integers where binomials or factorials are involved, and where letters such
  as n are rounded).

Values too large to write down are never evaluated: such expressions are equal only if identical.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify import parse as stock_parse
from math_verify import verify
from sympy import Basic, Expr, Float, I, Integer, Rational, Symbol
from sympy.core.function import AppliedUndef

from sgpo.core.verifier.forms import TWO_POWERS

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once about having no timeout

DIGITS = 60
AGREE_DIGITS = 40
MAX_BARS = 12  # every | may open or close, so the parser's work doubles with each
MAX_WHOLE_DIGITS = 2_000  # larger values are compared to 40 digits of their size only
MAX_LOG10 = 1e5  # no value with more digits than this is ever evaluated
_CASE_SENSITIVE = ConversionConfig(lowercase_symbols=False)
_NO_SAMPLING = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)
_ROUNDING = (sympy.floor, sympy.ceiling, sympy.Mod)
_COUNTING = (sympy.binomial, sympy.factorial)
_COUNTERS = frozenset("jklmnpqrN")
_REAL_NAMES = frozenset("xyzt")  # by convention no integers, where rounding makes a difference
_NON_INTEGERS = tuple(Rational(n, 97) for n in (131, 173, 211, -149, 257, -223, 61, -71))
_INTEGERS = tuple(Integer(n) for n in (5, 8, 11, 6, 13, 9, 7, 12, 10, 17))

_PRIMED = re.compile(r"([a-zA-Z])('+)")
_PROSE = re.compile(
    r"(?<![\\a-zA-Z{])(?:not|[a-z]{4,}) |\\text\{(?:[^{}]* [^{}]*\}|[^{}]*\}\s*-?\d)"
)
_POWER_T = re.compile(r"\^\s*(?:\{\s*T\s*\}|T(?![a-zA-Z_]))")
_GEOMETRIC = re.compile(r"\\(angle|triangle)\s*((?:[A-Z]\s*(?:_\{\d+\})?\s*)+)")


class Unreadable(ValueError):
    """The expression could not be parsed, or must not be evaluated."""


@lru_cache(maxsize=4_096)
def parse(text: str) -> Basic:
    """The sympy expression of canonical answer text.

    Raises:
        Unreadable: the parser refuses it, or its value is too large to be evaluated.
    """
    if text.count("|") > MAX_BARS or TWO_POWERS.search(text):
        raise Unreadable(f"the parser would take forever: {text[:200]}")
    text = text.replace("°", "")
    text = re.sub(r"\\operatorname\{(\w+)\}", r"\\\1 ", text)
    text = _GEOMETRIC.sub(_as_one_name, _PRIMED.sub(_as_one_name, text))
    text = _POWER_T.sub("^{(T)}", text)  # the parser takes ^{T} for a transpose, and drops it
    if "'" in text or _PROSE.search(text):  # the parser drops primes and multiplies letters
        raise Unreadable(f"no expression: {text[:200]}")
    try:
        expression = latex2sympy(
            text, is_real=True, normalization_config=None, conversion_config=_CASE_SENSITIVE
        )
    except MemoryError:
        raise
    except Exception as error:  # the generated parser raises bare Exception for syntax errors
        raise Unreadable(f"{type(error).__name__}: {text[:200]}") from error
    if not isinstance(expression, Basic | sympy.MatrixBase):
        raise Unreadable(text[:200])
    if isinstance(expression, Expr):
        expression = _with_exact_decimals(_functions_as_symbols(expression))
        if _log10_bound(expression) > MAX_LOG10:
            raise Unreadable(f"too large to evaluate: {text[:200]}")
        if expression.has(sympy.zoo, sympy.nan):
            raise Unreadable(f"has no value: {text[:200]}")
    return expression


def _as_one_name(found: re.Match[str]) -> str:
    """``f'`` and ``\\angle A B C`` as one letter with a subscript: the parser drops primes and
    takes the points of an angle for factors, in any order."""
    head, rest = found.groups()
    letters = "".join(c if c.isalnum() else "p" if c == "'" else "" for c in rest)
    return f"{head[-1] if len(head) == 1 else 'W'}_{{{head[1:]}{letters}}} "


def _functions_as_symbols(expression: Expr) -> Expr:
    """``f(x)`` as the symbol ``f(x)``, ``dy/dx`` as a symbol: neither has a value to sample."""
    opaque = expression.atoms(AppliedUndef) | {
        d for d in expression.atoms(sympy.Derivative) if not d.expr.has(*d.variables)
    }
    return expression.xreplace({call: Symbol(str(call), real=True) for call in opaque})


def _with_exact_decimals(expression: Expr) -> Expr:
    return expression.xreplace({f: Rational(str(f)) for f in expression.atoms(Float)})


def _log10_bound(expression: Basic) -> float:
    """A rough upper bound of log10 of any number met while evaluating; inf where none is known.

    Variables count as 20, the largest size a sample point has.
    """
    if expression.is_Integer or expression.is_Rational:
        bits = abs(expression.p).bit_length() - expression.q.bit_length() + 1
        return max(bits, 0) * math.log10(2)
    if expression.is_NumberSymbol or expression is I:
        return 0.5
    if not expression.args:
        return 1.31
    bounds = [_log10_bound(arg) for arg in expression.args]
    if any(b > MAX_LOG10 for b in bounds):
        return math.inf
    if expression.is_Pow or isinstance(expression, sympy.exp):
        base, exponent = (1.31, bounds[0]) if isinstance(expression, sympy.exp) else bounds
        return math.inf if exponent > 6 else max(base, 0.5) * 10**exponent
    if isinstance(expression, sympy.factorial | sympy.gamma):
        return math.inf if bounds[0] > 4.5 else 10 ** bounds[0] * max(bounds[0], 1.0)
    if isinstance(expression, sympy.binomial):
        return math.inf if bounds[0] > 5.5 else 10 ** bounds[0]
    return sum(bounds) if expression.is_Mul else max(bounds) + len(bounds)


def _number(expression: Expr, point: dict[Symbol, Rational]) -> Expr | None:
    """The 60-digit value at ``point``, exactly 0 where all digits cancel; None if there is none."""
    # Large values need as many digits before the point again: e^100 + 1 is not e^100.
    size = min(_log10_bound(expression), MAX_WHOLE_DIGITS)
    value = expression.evalf(DIGITS + max(0, int(size)), subs=point or None)
    real, imaginary = value.as_real_imag()
    parts = []
    for part in (real, imaginary):
        if not part.is_Number or not part.is_finite:
            return None
        cancelled = isinstance(part, Float) and part._prec == 1
        parts.append(Integer(0) if cancelled else part)
    return parts[0] + I * parts[1]


def _close(a: Expr, b: Expr) -> bool:
    scale = max(abs(a), abs(b))
    if 1 < scale < 10**MAX_WHOLE_DIGITS:
        scale = Integer(1)
    return bool(scale == 0 or abs(a - b) <= scale * Rational(1, 10**AGREE_DIGITS))


def _points(symbols: list[Symbol], integers: bool) -> list[dict[Symbol, Rational]]:
    pool = _INTEGERS if integers else _NON_INTEGERS
    count = len(pool)
    points = [
        {s: pool[(t + 3 * j) % count] + (j if integers else Rational(j, 53))
         for j, s in enumerate(symbols)}
        for t in range(count)
    ]  # fmt: skip
    # All-positive points too: with mixed signs, roots and logarithms are seldom real.
    return points + [{s: abs(v) for s, v in p.items()} for p in points[:5] if not integers]


def _with_imaginary_unit(*expressions: Expr) -> tuple[Expr, ...]:
    """Reads ``i`` as the imaginary unit, as in ``6 - 5i``, unless letters that count beside it say
    that it counts too."""
    names = {s.name for e in expressions for s in e.free_symbols}
    if "i" not in names or names & _COUNTERS:
        return expressions
    return tuple(e.xreplace({s: I for s in e.free_symbols}) for e in expressions)


def _samples(a: Expr, b: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Value pairs of two expressions at the sample points at which both have a value."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=lambda s: s.name)
    integers = a.has(*_COUNTING) or b.has(*_COUNTING)
    if a.has(*_ROUNDING) or b.has(*_ROUNDING):
        integers = integers or not any(s.name in _REAL_NAMES for s in symbols)
    if any(p.base.is_negative and p.exp.free_symbols for e in (a, b) for p in e.atoms(sympy.Pow)):
        integers = integers or not any(s.name in _REAL_NAMES for s in symbols)  # (-1)^n
    for point in _points(symbols, integers) if symbols else [{}]:
        va, vb = _number(a, point), _number(b, point)
        if va is not None and vb is not None:
            yield va, vb


def _agree_everywhere(a: Expr, b: Expr) -> bool:
    """Whether the expressions agree at all points where both are real.

    Where they are never both real, at all points. One disagreement ends the work, so that wrong
    answers are cheap.
    """
    both_real = complex_agreeing = points = 0
    complex_differ = False
    for va, vb in _samples(a, b):
        points += 1
        if va.is_real and vb.is_real:
            both_real += 1
            if not _close(va, vb):
                return False
        elif _close(va, vb):
            complex_agreeing += 1
        else:
            complex_differ = True
    enough = 3 if a.free_symbols or b.free_symbols else 1
    if both_real:
        return both_real >= enough
    return complex_agreeing >= enough and not complex_differ


def expressions_equal(a: Basic, b: Basic) -> bool:
    """Whether two parsed expressions are equal by the rules of this module."""
    if a == b:
        return True
    if not (isinstance(a, Expr) and isinstance(b, Expr)):
        return type(a) is type(b) and verify(a, b, timeout_seconds=None)
    a, b = _with_imaginary_unit(a, b)
    if a in (sympy.oo, -sympy.oo) or b in (sympy.oo, -sympy.oo):
        return False
    if a.has(*_NO_SAMPLING) or b.has(*_NO_SAMPLING):
        return verify(a, b, timeout_seconds=None)
    return _agree_everywhere(a, b)


def answer(gold: str, op: str, other: str) -> bool:
    """Whether two expressions are equal ("="), or two relations with one operator each hold for the
    same values (``op`` is both operators and each side a pair, joined by a zero byte).

    Unreadable expressions equal nothing.
    """
    try:
        if op == "=":
            return expressions_equal(parse(gold), parse(other))
        ops = op.split("\x00")
        return _same_relation((*gold.split("\x00"), ops[0]), (*other.split("\x00"), ops[1]))
    except Unreadable:
        return False


def _same_relation(gold: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    """Whether both say the same: one is the other times a constant (positive for ``<``)."""
    (g, g_op), (a, a_op) = _standard(*gold), _standard(*other)
    if g_op != a_op:
        return False
    pairs = [(vg, va) for vg, va in _samples(g, a) if vg.is_real and va.is_real]
    if len(pairs) >= 3 and all(vg == 0 and va == 0 for vg, va in pairs):
        # Two identities, which hold for all values: the same one if each side is the same.
        sides = zip(gold[:2], other[:2], strict=True)
        return all(expressions_equal(parse(x), parse(y)) for x, y in sides)
    if len(pairs) < 3 or any(vg == 0 or va == 0 for vg, va in pairs):
        return False
    ratio = pairs[0][0] / pairs[0][1]
    if g_op in ("<", "\\le") and not (ratio.is_real and ratio > 0):
        return False
    return all(_close(vg, ratio * va) for vg, va in pairs)


def _standard(left_text: str, right_text: str, op: str) -> tuple[Expr, str]:
    """``(left - right, op)`` with ``>`` and ``\\ge`` turned round."""
    left, right = parse(left_text), parse(right_text)
    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        raise Unreadable("a side is no expression")
    if op in (">", "\\ge"):
        return right - left, {">": "<", "\\ge": "\\le"}[op]
    return left - right, op


def stock(gold: str, completion: str) -> bool:
    """Whether plain math-verify takes the completion for right. The deadline of this process stands
    in for math-verify's own, which works in a main thread only."""
    dollars = gold if "$" in gold or "\\boxed" in gold else f"${gold}$"
    answers = stock_parse(completion, parsing_timeout=None)
    right = stock_parse(dollars, parsing_timeout=None)
    return bool(verify(right, answers, timeout_seconds=None))
