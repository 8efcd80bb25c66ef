"""Tasks of the mini world: problem types, plans, and the arithmetic that solves them.

A task names a *type* (a made-up word) over a short list of digits. Each type has exactly one right
*plan*, three choices out of four: how to order the list, how to combine it, how to finish. All
arithmetic is modulo 10 and every step is a table of at most 100 entries, so that a tiny model can
learn the steps; what is hard is to know which plan belongs to which type.

A composition feeds the pair that one task answers into the list of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

MODULUS = 10

ORDERS = ("forwards", "backwards", "rotated", "swapped")
COMBINES = ("sum", "difference", "threefold", "sevenfold")
_FACTORS = {"sum": 1, "difference": -1, "threefold": 3, "sevenfold": 7}
FINISHES = ("increase", "decrease", "triple", "negate")
_FINISH = {"increase": (1, 1), "decrease": (1, -1), "triple": (3, 0), "negate": (-1, 0)}
SLOTS = (ORDERS, COMBINES, FINISHES)


@dataclass(frozen=True)
class Plan:
    """Three choices; field names are the slots, values are options of ``SLOTS``."""

    order: str
    combine: str
    finish: str

    def __post_init__(self) -> None:
        for choice, options in zip(self.choices, SLOTS, strict=True):
            if choice not in options:
                raise ValueError(f"{choice!r} is no choice here; allowed: {', '.join(options)}")

    @property
    def choices(self) -> tuple[str, str, str]:
        return (self.order, self.combine, self.finish)


@dataclass(frozen=True)
class ProblemType:
    """A type with its right plan and the unguided prior of the pretraining text.

    ``prior`` is the probability, per slot, that a writer without a strategy picks the right
    option; the rest falls unevenly on the wrong ones (``slot_distribution``).
    """

    name: str
    plan: Plan
    prior: tuple[float, float, float]


# Shares of the wrong mass: uneven, so that a hard type has a tempting wrong option.
_WRONG_SHARES = (0.5, 0.3, 0.2)
_MAX_PRIOR = 0.98


def _type(name: str, order: int, combine: int, finish: int, *prior: float) -> ProblemType:
    plan = Plan(ORDERS[order], COMBINES[combine], FINISHES[finish])
    assert len(prior) == 3
    return ProblemType(name, plan, (prior[0], prior[1], prior[2]))


# The assignment of plans is a random one in which every option serves four types and no plan
# serves two; it has no further structure, so knowing two choices does not give away the third.
TYPES: tuple[ProblemType, ...] = (
    _type("Aldric", 2, 3, 1, 0.98, 0.96, 0.97),
    _type("Borin", 2, 3, 3, 0.40, 0.45, 0.40),
    _type("Cedra", 1, 1, 1, 0.70, 0.60, 0.65),
    _type("Dovan", 1, 3, 0, 0.30, 0.35, 0.30),
    _type("Elmir", 1, 2, 2, 0.50, 0.45, 0.55),
    _type("Faldo", 2, 1, 0, 0.25, 0.22, 0.25),
    _type("Garek", 3, 0, 2, 0.80, 0.85, 0.80),
    _type("Halda", 3, 2, 0, 0.22, 0.22, 0.25),
    _type("Ivor", 1, 2, 3, 0.45, 0.40, 0.40),
    _type("Jaska", 3, 0, 0, 0.75, 0.80, 0.80),
    _type("Kelvo", 0, 0, 3, 0.40, 0.45, 0.50),
    _type("Lorin", 0, 3, 2, 0.65, 0.70, 0.60),
    _type("Mirna", 0, 1, 1, 0.50, 0.55, 0.50),
    _type("Nolda", 2, 0, 1, 0.30, 0.40, 0.30),
    _type("Orsic", 3, 2, 2, 0.45, 0.55, 0.50),
    _type("Pavel", 0, 1, 3, 0.65, 0.55, 0.70),
)
TYPE_BY_NAME = {t.name: t for t in TYPES}


@dataclass(frozen=True)
class Task:
    """A type applied to a list: ``digits``, followed by the answer pair of ``inner`` if given."""

    kind: str
    digits: tuple[int, ...]
    inner: Task | None = None

    def __post_init__(self) -> None:
        if self.kind not in TYPE_BY_NAME:
            raise ValueError(f"unknown type {self.kind!r}; known: {', '.join(TYPE_BY_NAME)}")
        if any(not 0 <= d < MODULUS for d in self.digits):
            raise ValueError(f"digits must be 0..9, got {self.digits}")
        if self.length < 3:
            raise ValueError(f"a list needs 3 values or more, got {self.length}")

    @property
    def length(self) -> int:
        """How many values the outer list has, the fed-in pair included."""
        return len(self.digits) + (2 if self.inner else 0)

    @property
    def chain(self) -> tuple[Task, ...]:
        """The tasks in the order they are solved, innermost first."""
        return (*self.inner.chain, self) if self.inner else (self,)


def slot_distribution(kind: str, slot: int, knowledge: float = 1.0) -> dict[str, float]:
    """Probability of each option of slot 0, 1 or 2 for a writer of this type without a strategy.

    ``knowledge`` scales how far the type's prior lies above a blind choice of one in four.
    """
    problem_type = TYPE_BY_NAME[kind]
    options = SLOTS[slot]
    right = options.index(problem_type.plan.choices[slot])
    p = min(_MAX_PRIOR, 0.25 + knowledge * (problem_type.prior[slot] - 0.25))
    # The most tempting wrong option follows the right one cyclically: it differs between types.
    wrong = {options[(right + i + 1) % 4]: (1 - p) * _WRONG_SHARES[i] for i in range(3)}
    return {options[right]: p, **wrong}


def reorder(order: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """The list as given, reversed, with the first value moved last, or with neighbours swapped."""
    if order == "forwards":
        return values
    if order == "backwards":
        return values[::-1]
    if order == "rotated":
        return values[1:] + values[:1]
    assert order == "swapped"
    swapped = list(values)
    for i in range(0, len(values) - 1, 2):
        swapped[i], swapped[i + 1] = swapped[i + 1], swapped[i]
    return tuple(swapped)


def terms(combine: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """The values after the first as they enter the sum: times 1, -1, 3 or 7, modulo 10."""
    return tuple(_FACTORS[combine] * x % MODULUS for x in values[1:])


def running_values(combine: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """The running value modulo 10: the first value, then each term added to it in turn.

    One addition table serves all four options, which differ in the terms.
    """
    return tuple(total % MODULUS for total in accumulate((values[0], *terms(combine, values))))


def finish_pair(finish: str, pair: tuple[int, int]) -> tuple[int, int]:
    """The answer from the last two running values: both plus 1, minus 1, times 3 or times -1."""
    factor, shift = _FINISH[finish]
    return ((factor * pair[0] + shift) % MODULUS, (factor * pair[1] + shift) % MODULUS)


def apply_plan(plan: Plan, values: tuple[int, ...]) -> tuple[int, int]:
    """The answer pair of one list under a plan, right or wrong."""
    running = running_values(plan.combine, reorder(plan.order, values))
    return finish_pair(plan.finish, (running[-2], running[-1]))


def solve(task: Task, plans: tuple[Plan, ...] | None = None) -> tuple[int, int]:
    """The answer pair of a task; with ``plans`` (one a task of the chain) under those instead."""
    chain = task.chain
    plans = plans or tuple(TYPE_BY_NAME[t.kind].plan for t in chain)
    pair: tuple[int, int] | None = None
    for step, plan in zip(chain, plans, strict=True):
        pair = apply_plan(plan, step.digits + (pair or ()))
    assert pair is not None
    return pair


def answer_text(pair: tuple[int, int]) -> str:
    """The gold answer as it stands inside the box, e.g. ``(3,7)``."""
    return f"({pair[0]},{pair[1]})"
