"""The records that an answer is parsed into: answer_forms makes them, answer_compare compares."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Scalar:
    """One expression. ``value``: its exact value, if it is plain rational arithmetic."""

    text: str
    value: Fraction | None = None
    places: int | None = None  # decimals, if it is one decimal literal
    percent: bool = False
    unit: str | None = None
    malformed: bool = False  # looks like a number and has no agreed value: ``4 10/3``


@dataclass(frozen=True)
class Words:
    key: str


@dataclass(frozen=True)
class Based:
    """Digits with a base subscript: ``52_8``."""

    digits: str
    base: int


@dataclass(frozen=True)
class Group:
    """Several answers. ``kind``: list (bare), tuple, set, ratio or matrix (its cells by rows)."""

    kind: str
    items: tuple[Form, ...]
    columns: int = 0
    disjunction: bool = False  # the list was joined by "or"
    raw: str = ""


@dataclass(frozen=True)
class Interval:
    low: Form
    high: Form
    low_open: bool
    high_open: bool


@dataclass(frozen=True)
class Union:
    parts: tuple[Form, ...]


@dataclass(frozen=True)
class Relation:
    """``sides[0] ops[0] sides[1] ops[1] ..``; ops are "=", "<", ">", "\\le", "\\ge", "\\ne", .."""

    sides: tuple[str, ...]
    ops: tuple[str, ...]


Form = Scalar | Words | Based | Group | Interval | Union | Relation
