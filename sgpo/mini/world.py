"""A world: its arithmetic, and everything that its seed draws.

A problem names a *type* (a made-up word) over a short list of digits. Each type has exactly one
right *plan*, three choices: how to order the list, how to combine it, how to finish. All arithmetic
is modulo 10 and every step is a table of at most 100 entries, so that a tiny model can learn the
steps once and for all worlds (``sgpo.mini.foundation``); what is hard, and differs between worlds,
is to know which plan belongs to which type.

The seed draws which plan a type has, how often a writer without a strategy finds each choice, how
faithfully a writer follows a strategy, and how often a text opens with the words that refer to it,
all from the ranges declared here. A plan that another one equals on the lists of any level is never
drawn, so "the right plan" means one.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from functools import cache

import numpy as np

MODULUS = 10
ORDERS = ("forwards", "backwards", "rotated", "returned", "swapped")
COMBINES = ("sum", "difference", "threefold", "sevenfold")
FINISHES = ("increase", "decrease", "triple", "septuple", "negate")
SLOTS = (ORDERS, COMBINES, FINISHES)
_FACTORS = {"sum": 1, "difference": -1, "threefold": 3, "sevenfold": 7}
_FINISH = {"increase": (1, 1), "decrease": (1, -1), "triple": (3, 0), "septuple": (7, 0),
           "negate": (-1, 0)}  # fmt: skip
LIST_LENGTHS = (3, 4, 5)  # of every list that a plan is applied to, fed-in pairs included

NAMES = tuple(
    "Aldric Borin Cedra Dovan Elmir Faldo Garek Halda Ivor Jaska Kelvo Lorin Mirna Nolda Orsic "
    "Pavel Quorn Rusk Selka Tavin Ulden Vesna Wolda Xerin Yarrow Zedda Arlo Brenna Corvo Dagna "
    "Edwin Fenna Gorvin Hesper Ilka Jorun Kasimir Lenna Morvan Nessa Olwin Perrin Quilla Rowan "
    "Sorin Tilda Ursin Valko Wanda Xandor Yelva Zorin Ambra Boreas Calix Delmo Enna Fabor Gilda "
    "Hodrin Isolde Jarvo Kelda Lumen".split()
)

# Declared ranges; every world draws from them.
FIDELITY = (0.80, 0.98)  # a guided writer makes the prompt's choice
STYLE = (0.1, 0.9)  # a guided text opens with the style line
LEAK = (0.003, 0.05)  # an unguided one does; log-uniform
FOUND = (0.02, 0.5)  # a writer without a strategy finds a type's whole plan; log-uniform
MAX_CHOICE = 0.97
# Each slot's share of a type's difficulty, before it is scaled to a sum of one.
SLOT_SHARE = (0.5, 1.5)
WRONG_DECAY = 0.6  # a wrong option is drawn so much less often than the one before it
MAX_AGREEMENT = 0.2  # share of lists on which another plan may happen to give the same answer


@dataclass(frozen=True)
class Plan:
    """Three choices; field names are the slots, values are options of ``SLOTS``."""

    order: str
    combine: str
    finish: str

    @property
    def choices(self) -> tuple[str, str, str]:
        return (self.order, self.combine, self.finish)


PLANS = tuple(Plan(*choices) for choices in itertools.product(*SLOTS))


@dataclass(frozen=True)
class Type:
    """``priors``: per slot the probability of each option, in the order of ``SLOTS``, for a writer
    without a strategy."""

    name: str
    plan: Plan
    priors: tuple[tuple[float, ...], ...]

    @property
    def found(self) -> float:
        """Probability that such a writer finds the whole plan."""
        chosen = zip(self.priors, SLOTS, self.plan.choices, strict=True)
        return math.prod(prior[slot.index(choice)] for prior, slot, choice in chosen)


@dataclass(frozen=True)
class World:
    """One world. ``fidelity``: of a guided writer; ``style``, ``leak``: how often a text opens with
    the style line, guided and not."""

    seed: int
    types: tuple[Type, ...]
    fidelity: float
    style: float
    leak: float

    def type(self, name: str) -> Type:
        return self.types[NAMES.index(name)]


@cache
def draw_world(seed: int) -> World:
    """The world of a seed, 0 or more."""
    if seed < 0:
        raise ValueError(f"world seed {seed}: must be at least 0")
    return _draw(random.Random(f"world-{seed}"), seed)


@cache
def throwaway_world(name: str) -> World:
    """A world that no seed gives, for what is to be learned apart from any world."""
    return _draw(random.Random(f"throwaway-{name}"), -1)


def _draw(rng: random.Random, seed: int) -> World:
    plans = rng.sample(sound_plans(), len(NAMES))
    types = tuple(
        Type(name, plan, _priors(rng, plan)) for name, plan in zip(NAMES, plans, strict=True)
    )
    return World(seed, types, rng.uniform(*FIDELITY), rng.uniform(*STYLE), _log_uniform(rng, LEAK))


def _log_uniform(rng: random.Random, bounds: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(bounds[0]), math.log(bounds[1])))


def _priors(rng: random.Random, plan: Plan) -> tuple[tuple[float, ...], ...]:
    """Per slot the options' probabilities: the right ones multiply to a draw of ``FOUND``, and the
    wrong ones fall off unevenly, so that a hard type has a tempting wrong option."""
    found = _log_uniform(rng, FOUND)
    shares = [rng.uniform(*SLOT_SHARE) for _ in SLOTS]
    priors = []
    for slot, choice, share in zip(SLOTS, plan.choices, shares, strict=True):
        right = min(MAX_CHOICE, found ** (share / sum(shares)))
        wrong = [WRONG_DECAY**i for i in range(len(slot) - 1)]
        rng.shuffle(wrong)
        rest = iter((1 - right) * w / sum(wrong) for w in wrong)
        priors.append(tuple(right if option == choice else next(rest) for option in slot))
    return tuple(priors)


def reorder(order: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """The list as given, reversed, with the first value moved last, the last moved first, or with
    neighbours swapped."""
    if order == "forwards":
        return values
    if order == "backwards":
        return values[::-1]
    if order == "rotated":
        return values[1:] + values[:1]
    if order == "returned":
        return values[-1:] + values[:-1]
    assert order == "swapped"
    pairs = [values[i : i + 2][::-1] for i in range(0, len(values), 2)]
    return tuple(v for pair in pairs for v in pair)


def terms(combine: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """The values after the first as they enter the sum: times 1, -1, 3 or 7, modulo 10."""
    return tuple(_FACTORS[combine] * x % MODULUS for x in values[1:])


def running_values(combine: str, values: tuple[int, ...]) -> tuple[int, ...]:
    """The running value modulo 10: the first value, then each term added to it in turn."""
    added = itertools.accumulate((values[0], *terms(combine, values)))
    return tuple(total % MODULUS for total in added)


def finish_pair(finish: str, pair: tuple[int, int]) -> tuple[int, int]:
    """The answer from the last two running values: both +1, -1, times 3, times 7 or times -1."""
    factor, shift = _FINISH[finish]
    return ((factor * pair[0] + shift) % MODULUS, (factor * pair[1] + shift) % MODULUS)


def apply_plan(plan: Plan, values: tuple[int, ...]) -> tuple[int, int]:
    """The answer pair of one list under a plan, right or wrong."""
    running = running_values(plan.combine, reorder(plan.order, values))
    return finish_pair(plan.finish, (running[-2], running[-1]))


@cache
def agreement(length: int) -> np.ndarray:
    """Share of all lists of this length on which two plans give the same answer, float [P, P] in
    the order of ``PLANS``: counted, list by list."""
    # One column a list; applying a plan to the rows applies it to all lists at once.
    lists = np.indices((MODULUS,) * length).reshape(length, -1)
    answers = []
    for plan in PLANS:
        first, *rest = reorder(plan.order, tuple(range(length)))
        factor, (times, plus) = _FACTORS[plan.combine], _FINISH[plan.finish]
        last = lists[first] + factor * lists[list(rest)].sum(0)
        before = last - factor * lists[rest[-1]]
        pair = [(times * value + plus) % MODULUS for value in (before, last)]
        answers.append((MODULUS * pair[0] + pair[1]).astype(np.uint8))
    stacked = np.stack(answers)
    return np.stack([(stacked == row).mean(1) for row in stacked])


@cache
def sound_plans() -> tuple[Plan, ...]:
    """The plans that no other one replaces: on every length used, each other plan agrees with them
    on at most ``MAX_AGREEMENT`` of the lists. The longest lists, which take seconds to count, give
    the same plans (tests/mini/test_worlds.py)."""
    closest = np.stack([agreement(n) - np.eye(len(PLANS)) for n in LIST_LENGTHS[:-1]]).max((0, 2))
    return tuple(plan for plan, share in zip(PLANS, closest, strict=True) if share <= MAX_AGREEMENT)
