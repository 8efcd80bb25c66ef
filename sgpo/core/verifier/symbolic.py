"""Equality of expressions, relations and sets of real numbers. Runs in worker processes only.

math-verify's parser reads the LaTeX, sympy knows the sets, ``math_verify.verify`` compares sums and
integrals. Other expressions are compared here: for ``verify`` 1/2004! is 1/2006!. Constants agree
to 40 digits of their size and 40 places, expressions with variables at fixed sample points at which
both are real (integers where things are counted, or letters such as n rounded).
"""

import logging
import math
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify import verify
from sympy import Basic, Expr, Float, I, Integer, Rational, Symbol, oo
from sympy.core.function import AppliedUndef

from sgpo.core.verifier import forms
from sgpo.core.verifier.compare import TURNED, Asker, same_answer
from sgpo.core.verifier.patterns import patterns

_P = patterns("symbolic")

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns once about having no timeout

DIGITS = 60
AGREE_DIGITS = 40
MAX_BARS = 12  # every | may open or close, so the parser's work doubles with each,
MAX_FLOORS = 6  # as it does with each floor
MAX_DEPTH = 12  # and bracket in a bracket
MAX_WHOLE_DIGITS = 2_000  # larger values are compared to 40 digits of their size only
MAX_LOG10 = 1e5  # no value with more digits than this is ever evaluated
MAX_PARTS = 50  # of a union
_CASE_SENSITIVE = ConversionConfig(lowercase_symbols=False)
_NO_SAMPLING = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit, sympy.Derivative)
_ROUNDING = (sympy.floor, sympy.ceiling, sympy.Mod)
_COUNTING = (sympy.binomial, sympy.factorial)
_COUNTERS = frozenset("jklmnpqrN")
_REAL_NAMES = frozenset("xyzt")  # by convention no integers, where rounding makes a difference
_NON_INTEGERS = tuple(Rational(n, 97) for n in (131, 173, 211, -149, 257, -223, 61, -71))
_INTEGERS = tuple(Integer(n) for n in (5, 8, 11, 6, 13, 9, 7, 12, 10, 17))


class Unreadable(ValueError):
    """The expression could not be parsed, or must not be evaluated."""


class _NoSet(ValueError):
    """The form is no set of real numbers that is known here."""


def same(gold: str, answer: str, problem: str | None) -> bool:
    """Whether two answers in one spelling, which the exact rules left open, are one."""
    asker = Asker(sys.modules[__name__], problem)
    return bool(same_answer(forms.parse_form(gold), forms.parse_form(answer), asker))


@lru_cache(maxsize=4_096)
def same_expression(gold: str, answer: str) -> bool:
    """Whether two expressions are equal."""
    return _equal(parse(gold), parse(answer))


@lru_cache(maxsize=4_096)
def parse(text: str) -> Basic:
    """The sympy expression of canonical text. Unreadable: refused, or too large to evaluate."""
    deepest = max(forms.bracket_depths(text), default=0)
    floors = text.count("\\lfloor") + text.count("\\lceil")
    takes_forever = text.count("|") > MAX_BARS or floors > MAX_FLOORS or deepest > MAX_DEPTH
    if takes_forever or _P.no_expression.search(text):
        raise Unreadable(f"no expression, or one without end: {text[:200]}")
    text = re.sub(r"\\operatorname\{(\w+)\}", r"\\\1 ", text.replace("°", ""))
    text = _P.geometric.sub(_as_one_name, _P.primed.sub(_as_one_name, text))
    text = _P.function_times.sub(r"\1(\2)", text)  # it multiplies first: cos(x e^x) for cos x e^x
    text = _P.product.sub(r"\1\\cdot ", text)  # it adds numbers side by side: 2(5) = 7
    text = _P.power_t.sub("^{(T)}", text)  # the parser takes ^{T} for a transpose, and drops it
    if "'" in text or _P.prose.search(text):  # the parser drops primes and multiplies letters
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
        expression = _with_values(expression)
        if _log10_bound(expression) > MAX_LOG10 or expression.has(sympy.zoo, sympy.nan):
            raise Unreadable(f"has no value, or too large a one: {text[:200]}")
    return expression


def _as_one_name(found: re.Match[str]) -> str:
    """``f'`` and ``\\angle A B C`` as one letter: the parser drops primes and multiplies points."""
    head, rest = found.groups()
    letters = "".join(c if c.isalnum() else "p" if c == "'" else "" for c in rest)
    return f"{head[-1] if len(head) == 1 else 'W'}_{{{head[1:]}{letters}}} "


def _with_values(expression: Expr) -> Expr:
    """With exact decimals; ``f(x)`` and ``dy/dx``, which have no value to sample, as symbols."""
    rates = {d for d in expression.atoms(sympy.Derivative) if not d.expr.has(*d.variables)}
    opaque = expression.atoms(AppliedUndef) | rates
    expression = expression.xreplace({call: Symbol(str(call), real=True) for call in opaque})
    exact: dict[Basic, Basic] = {f: Rational(str(f)) for f in expression.atoms(Float)}
    exact |= {e: e.args[0] for e in expression.atoms(sympy.UnevaluatedExpr)}  # a gcd
    return expression.xreplace(exact)


def _log10_bound(expression: Basic) -> float:
    """A rough upper bound of log10 of all numbers met while evaluating (a variable: 20), or inf."""
    if expression.is_Rational:
        return max(0.0, math.log10(abs(expression.p) or 1) - math.log10(expression.q))
    if expression.is_NumberSymbol or expression is I:
        return 0.5
    if not expression.args:
        return 1.31
    bounds = [_log10_bound(arg) for arg in expression.args]
    if max(bounds) > MAX_LOG10:
        return math.inf
    if expression.is_Pow or isinstance(expression, sympy.exp):
        base, exponent = bounds if expression.is_Pow else (1.31, bounds[0])
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
    parts = value.as_real_imag()
    if not all(part.is_Number and part.is_finite for part in parts):
        return None
    real, imaginary = (Integer(0) if getattr(p, "_prec", 0) == 1 else p for p in parts)
    return real + I * imaginary


def _close(a: Expr, b: Expr) -> bool:
    scale = max(abs(a), abs(b))
    if 1 < scale < 10**MAX_WHOLE_DIGITS:
        scale = Integer(1)
    return bool(abs(a - b) <= scale * Rational(1, 10**AGREE_DIGITS))


def _points(symbols: list[Symbol], integers: bool) -> list[dict[Symbol, Rational]]:
    pool, step = (_INTEGERS, Integer(1)) if integers else (_NON_INTEGERS, Rational(1, 53))
    points = [
        {s: pool[(t + 3 * j) % len(pool)] + j * step for j, s in enumerate(symbols)}
        for t in range(len(pool))
    ]
    # All-positive points too: with mixed signs, roots and logarithms are seldom real.
    return points + [{s: abs(v) for s, v in p.items()} for p in points[:5] if not integers]


def _samples(a: Expr, b: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Value pairs of two expressions at the sample points at which both have a value."""
    symbols = sorted(a.free_symbols | b.free_symbols, key=lambda s: s.name)
    both = sympy.Tuple(a, b)
    if not (integers := both.has(*_COUNTING)) and not any(s.name in _REAL_NAMES for s in symbols):
        signs = any(p.base.is_negative and p.exp.free_symbols for p in both.atoms(sympy.Pow))
        integers = both.has(*_ROUNDING) or signs  # as (-1)^n is one
    for point in _points(symbols, integers) if symbols else [{}]:
        va, vb = _number(a, point), _number(b, point)
        if va is not None and vb is not None:
            yield va, vb


def _agree_everywhere(a: Expr, b: Expr) -> bool:
    """Whether they agree wherever both are real; if they never are, at all points."""
    enough = 3 if a.free_symbols or b.free_symbols else 1
    real, other = [], []
    for va, vb in _samples(a, b):
        kind = real if va.is_real and vb.is_real else other
        kind.append(_close(va, vb))
        if kind is real and not real[-1]:
            return False
    agreeing = real or other
    return all(agreeing) and len(agreeing) >= enough


def _equal(a: Basic, b: Basic) -> bool:
    """Whether two parsed expressions are equal by the rules of this module."""
    if a == b:
        return True
    if not (isinstance(a, Expr) and isinstance(b, Expr)):
        return type(a) is type(b) and verify(a, b, timeout_seconds=None)
    letters = {s.name: s for s in a.free_symbols | b.free_symbols}
    if "i" in letters and not letters.keys() & _COUNTERS:  # as in 6 - 5i
        a, b = (side.xreplace({letters["i"]: I}) for side in (a, b))
    if {a, b} & {oo, -oo}:
        return False
    if a.has(*_NO_SAMPLING) or b.has(*_NO_SAMPLING):
        return verify(a, b, timeout_seconds=None)
    return _agree_everywhere(a, b)


def same_relation(gold: forms.Relation, answer: forms.Relation) -> bool:
    """Whether two relations with one operator say the same: one is the other times a constant."""
    (g, g_op), (a, a_op) = _standard(gold), _standard(answer)
    pairs = [(vg, va) for vg, va in _samples(g, a) if vg.is_real and va.is_real]
    if g_op != a_op or len(pairs) < 3:
        return False
    if all(vg == 0 and va == 0 for vg, va in pairs):
        # Two identities, which hold for all values: the same one if each side is the same.
        is_number = any(not parse(side).free_symbols for side in gold.sides)
        same = (lambda g, a: parse(g).doit() == parse(a).doit()) if is_number else same_expression
        return all(map(same, gold.sides, answer.sides))
    if any(vg == 0 or va == 0 for vg, va in pairs):
        return False
    ratio = pairs[0][0] / pairs[0][1]
    is_turned = g_op in ("<", "\\le") and not ratio > 0
    return not is_turned and all(_close(vg, ratio * va) for vg, va in pairs)


def _standard(relation: forms.Relation) -> tuple[Expr, str]:
    """``(left - right, op)`` with ``>`` and ``\\ge`` turned round."""
    (left, right), op = map(parse, relation.sides), relation.ops[0]
    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        raise Unreadable("a side is no expression")
    return (right - left, TURNED[op]) if op in (">", "\\ge") else (left - right, op)


def same_set(gold: forms.Form, answer: forms.Form) -> bool | None:
    """Whether two sets of real numbers are one; None where they are not both such sets."""
    try:
        letters, sets = zip(_real_set(gold), _real_set(answer), strict=True)
    except _NoSet:
        return None
    except TypeError:  # letters among the ends
        return False
    is_other = len({*letters} - {None}) > 1 or len(_units((gold, answer))) > 1
    return None if is_other else _equal_sets(*sets)


def _units(form: Any) -> set[str]:
    """The units of the ends of sets."""
    if isinstance(form, forms.Scalar):
        return {form.unit} - {None, "?"}  # type: ignore[return-value]
    parts = vars(form).values() if isinstance(form, forms.Form) else form
    return set().union(*map(_units, parts)) if isinstance(form, forms.Form | tuple) else set()


def _real_set(form: forms.Form) -> tuple[str | None, sympy.Set]:
    """The letter, if there is one, and the set that a form stands for. _NoSet: it is none."""
    match forms.as_interval(form):
        case forms.Interval(low, high, low_open, high_open):
            return None, _interval(_end(low), _end(high), low_open, high_open)
        case forms.Union(parts) if len(parts) <= MAX_PARTS:
            return None, sympy.Union(*(_real_set(part)[1] for part in parts))
        case forms.Group("set", items):
            return None, sympy.FiniteSet(*map(_end, items))
        case forms.Group("list", items, raw=raw, disjunction=is_or) if len(items) <= MAX_PARTS:
            letters, sets = zip(*map(_real_set, items), strict=True)
            if len(set(letters)) > 1 or (letters[0] is None and not is_or):
                raise _NoSet
            # Where nothing is in all of them and only a comma joins them (x<1, x>2), it means "or".
            common = sympy.S.EmptySet if is_or else sympy.Intersection(*sets)
            is_or |= common is sympy.S.EmptySet and not forms.WORD_BETWEEN.search(raw)
            return letters[0], sympy.Union(*sets) if is_or else common
        case forms.Relation() as relation:
            return _bounded(relation)
        case forms.Scalar(text) if len(pieces := forms.split_outside(text, forms.SETMINUS)[0]) > 1:
            first, *rest = (_real_set(forms.parse_form(piece))[1] for piece in pieces)
            return None, sympy.Complement(first, sympy.Union(*rest))
    raise _NoSet


def _end(form: forms.Form) -> Expr:
    if not isinstance(form, forms.Scalar) or form.counted or form.percent or form.malformed:
        raise _NoSet
    end = parse(form.text)
    if not isinstance(end, Expr) or end.is_extended_real is False:
        raise Unreadable(form.text[:200])
    return end


def _interval(low: Expr, high: Expr, low_open: bool, high_open: bool) -> sympy.Set:
    holds_infinity = (low == -oo and not low_open) or (high == oo and not high_open)
    found = sympy.Interval(low, high, low_open, high_open)
    if holds_infinity or found is sympy.S.EmptySet:
        raise Unreadable(f"no interval: {low}, {high}")
    return found


def _bounded(form: forms.Relation) -> tuple[str, sympy.Set]:
    """``x > 2``, ``2 \\le x < 5``, ``|x| < 2``, ``x \\ne 1``: the letter and its set."""
    letters, sets = set(), []
    for i, op in enumerate(form.ops):
        name, bound = form.sides[i], form.forms[i + 1]
        if not forms.NAME.fullmatch(name):
            name, bound, op = form.sides[i + 1], form.forms[i], TURNED.get(op, op)
        size = _P.size.fullmatch(name)
        if not forms.NAME.fullmatch(name) or op not in TURNED or (op == "=" and len(form.ops) > 1):
            raise _NoSet
        letters.add(size.group(1) if size else name)
        is_outside = op == "\\ne" or (size and op in (">", "\\ge"))
        if op in ("=", "\\ne"):
            ends = [*map(_end, forms.items_of(bound, "list", "set"))]
            if size and any(end.is_negative for end in ends):  # no size is
                raise _NoSet
            found: sympy.Set = sympy.FiniteSet(*ends, *(-end for end in ends if size))
        elif size:
            is_open = op in ("<", "\\ge")
            found = _interval(-_end(bound), _end(bound), is_open, is_open)
        else:
            low, high = (-oo, _end(bound)) if op in ("<", "\\le") else (_end(bound), oo)
            found = _interval(low, high, op != "\\ge", op != "\\le")
        sets.append(sympy.Complement(sympy.S.Reals, found) if is_outside else found)
    if len(letters) != 1:
        raise _NoSet
    return letters.pop(), sympy.Intersection(*sets)


def _equal_sets(a: Basic, b: Basic) -> bool:
    """Whether two sets, parts of sets or ends are one: as sympy sees it, or part by part."""
    if a == b:
        return True
    if not isinstance(a, sympy.Set) and not isinstance(b, sympy.Set):
        return _equal(a, b)
    are_alike = type(a) is type(b) and len(a.args) == len(b.args)
    if isinstance(a, sympy.Interval):  # both ends, and whether they are open
        return are_alike and all(map(_equal_sets, a.args, b.args))
    # The parts of a set are different, so each has one partner at most.
    is_known = are_alike and isinstance(a, sympy.Union | sympy.FiniteSet)
    return is_known and all(any(_equal_sets(one, part) for part in b.args) for one in a.args)
