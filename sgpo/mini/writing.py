"""Surface text of the worlds, as lists of token strings, with exact targets.

Everything is built as *pieces*, one string per token, whose plain concatenation is the text. A
derivation reads::

    Order Aldric backwards: 541
    Combine threefold: 5427130
    Finish triple \\boxed{(1,0)}

The second line shows the first value, then each next value, its term and the running value: 3*4 is
2 and 5+2 is 7, 3*1 is 3 and 7+3 is 0 modulo 10. In a composition the inner derivation comes first,
its pair is fed to the end of the outer list. At the start of each line the writer continues or
jumps: ``Guess \\boxed{(d,d)}``.

Where a writer decides, the world knows the probability of every word, so a text carries whole
distributions and not only the words drawn: a base model learns a world from few texts that way.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.mini.world import (
    MODULUS,
    NAMES,
    SLOTS,
    Plan,
    World,
    apply_plan,
    finish_pair,
    reorder,
    running_values,
    terms,
)

NEWLINE = "\n"
COLON = ": "  # opens a run of digits, which stand side by side and look the same everywhere
BOX_OPEN, BOX_CLOSE = " \\boxed{(", ")}"
STYLE_LINE = ["Following", " the", " strategy", NEWLINE]
VAGUE = "suitable"  # stands where a strategy leaves a choice open
STEPS_LINE = ["Steps", " order", " then", " combine", " then", " finish"]
THIN_STEPS_LINE = ["Steps", " carefully"]

CONTINUE, CONTINUE_GUIDED = 0.9, 0.98  # instead of guessing, at each line
OWN_TYPE_LINE = 0.7  # else the strategy names any type: its choices are what counts
VAGUE_CHOICE, THIN_STEPS = 0.05, 0.1

Pieces = list[str]
Distribution = dict[str, float]


@dataclass(frozen=True)
class Task:
    """A type applied to a list: ``digits``, followed by the answer pair of ``inner`` if given."""

    kind: str
    digits: tuple[int, ...]
    inner: Task | None = None

    @property
    def chain(self) -> tuple[Task, ...]:
        """The tasks in the order they are solved, innermost first."""
        return (*self.inner.chain, self) if self.inner else (self,)


def solve(world: World, task: Task) -> tuple[int, int]:
    """The answer pair of a task."""
    pair: tuple[int, ...] = ()
    for step in task.chain:
        pair = apply_plan(world.type(step.kind).plan, step.digits + pair)
    return pair[0], pair[1]


def vocabulary() -> tuple[str, ...]:
    """Every piece that any world can write, in a fixed order; special tokens not included."""
    words = ["Find", " the", " pair", " and", "Type", "Strategy", " then", " giving"]
    words += ["Order", "Combine", "Finish", "Guess", " strategy", f" {VAGUE}"]
    words += [w for line in (STYLE_LINE, STEPS_LINE, THIN_STEPS_LINE) for w in line]
    words += [f" {option}" for slot in SLOTS for option in slot]
    words += [f" {name}" for name in NAMES]
    digits = [str(d) for d in range(MODULUS)]
    return tuple(dict.fromkeys([*digits, COLON, BOX_OPEN, ",", BOX_CLOSE, *words]))


def boxed(pair: Sequence[int]) -> Pieces:
    return [BOX_OPEN, str(pair[0]), ",", str(pair[1]), BOX_CLOSE]


def _digits(values: Sequence[int]) -> Pieces:
    return [COLON, *(str(v) for v in values)]


def question_pieces(task: Task) -> Pieces:
    """The question; a composition names its tasks in the order in which they are solved."""
    pieces = ["Find"]
    for i, step in enumerate(task.chain):
        joint = [" and", " then"] if i else []
        pieces += [*joint, " the", f" {step.kind}", " pair", *_digits(step.digits)]
    return pieces


def strategy_pieces(
    names: Sequence[str], plans: Sequence[Sequence[str]], steps: Pieces | None = None
) -> Pieces:
    """A strategy: one block of problem type, strategy and procedural steps for each task.

    ``names`` of types and ``plans`` (three option words each, ``VAGUE`` where it does not say) are
    innermost first; ``steps`` is the last line of each block, the full steps by default.
    """
    pieces: Pieces = []
    for name, (order, combine, finish) in zip(names, plans, strict=True):
        pieces += [NEWLINE] if pieces else []
        pieces += ["Type", f" {name}", NEWLINE]
        pieces += ["Strategy", f" {order}", " then", f" {combine}", " then", f" {finish}", NEWLINE]
        pieces += STEPS_LINE if steps is None else steps
    return pieces


def derivation_lines(
    task: Task, plans: Sequence[Plan], gap: float = 0.0, rng: random.Random | None = None
) -> list[Pieces]:
    """The worked answer under ``plans`` (one a task, right or wrong), three lines a task.

    ``gap``: probability that an intermediate step is left out: the reordered list as a whole, and
    each running value but the last two, with its parts. Above 0 it needs ``rng``.
    """

    def dropped() -> bool:
        return rng is not None and rng.random() < gap

    lines: list[Pieces] = []
    pair: tuple[int, ...] = ()
    for step, plan in zip(task.chain, plans, strict=True):
        ordered = reorder(plan.order, step.digits + pair)
        running = running_values(plan.combine, ordered)
        pair = finish_pair(plan.finish, (running[-2], running[-1]))
        # The first running value is the first value itself; a later step shows what it is made of.
        later = zip(ordered[1:], terms(plan.combine, ordered), running[1:], strict=True)
        steps = [(running[0],), *later]
        shown = [v for s in steps[:-2] if not dropped() for v in s]
        shown += [v for s in steps[-2:] for v in s]
        listed = [] if dropped() else _digits(ordered)
        lines += [
            ["Order", f" {step.kind}", f" {plan.order}", *listed, NEWLINE],
            ["Combine", f" {plan.combine}", *_digits(shown), NEWLINE],
            ["Finish", f" {plan.finish}", *boxed(pair), NEWLINE],
        ]
    lines[-1].pop()  # the last line ends the text
    return lines


def writer_text(
    world: World, task: Task, guided: bool, rng: random.Random
) -> tuple[Pieces, Pieces, dict[int, Distribution]]:
    """(user turn, completion, distributions) of one text of the world's writers.

    Unguided, each choice comes from the type's prior. Guided, the user turn opens with any plan
    (mostly not the type's own) and the writer follows it with the world's fidelity, so a model
    learns to read the content of a strategy. The derivation is worked out faithfully under the
    choices, right or wrong. ``distributions``: place in the completion -> probability of each piece
    there, wherever the writer decides.
    """
    chain = task.chain
    user, hints = question_pieces(task), [(VAGUE,) * 3 for _ in chain]
    if guided:
        hints = [
            tuple(VAGUE if rng.random() < VAGUE_CHOICE else rng.choice(slot) for slot in SLOTS)
            for _ in chain
        ]
        names = [step.kind for step in chain]
        if len(chain) == 1 and rng.random() >= OWN_TYPE_LINE:
            names = [rng.choice(NAMES)]
        steps = THIN_STEPS_LINE if rng.random() < THIN_STEPS else None
        user = [*strategy_pieces(names, hints, steps), NEWLINE, *user]
    choices = [
        [_choice(world, step.kind, slot, hinted) for slot, hinted in enumerate(hint)]
        for step, hint in zip(chain, hints, strict=True)
    ]
    plans = [Plan(*(_draw(rng, d).removeprefix(" ") for d in row)) for row in choices]
    decided = [d for row in choices for d in row]
    keep = CONTINUE_GUIDED if guided else CONTINUE
    styled = world.style if guided else world.leak
    completion: Pieces = []
    soft: dict[int, Distribution] = {}
    opening = {
        STYLE_LINE[0]: styled,
        "Order": (1 - styled) * keep,
        "Guess": (1 - styled) * (1 - keep),
    }
    if rng.random() < styled:
        soft[0] = opening
        completion += STYLE_LINE
    for index, line in enumerate(derivation_lines(task, plans)):
        start = len(completion)
        soft[start] = {line[0]: keep, "Guess": 1 - keep} if start else opening
        if rng.random() >= keep:
            guess = (rng.randrange(MODULUS), rng.randrange(MODULUS))
            blind = {str(d): 1 / MODULUS for d in range(MODULUS)}
            soft |= {start + 2: blind, start + 4: blind}
            return user, [*completion, "Guess", *boxed(guess)], soft
        soft[start + (2 if line[0] == "Order" else 1)] = decided[index]
        completion += line
    return user, completion, soft


def _choice(world: World, kind: str, slot: int, hinted: str) -> Distribution:
    options = [f" {option}" for option in SLOTS[slot]]
    if hinted == VAGUE:
        return dict(zip(options, world.type(kind).priors[slot], strict=True))
    blind = (1 - world.fidelity) / (len(options) - 1)
    return {o: world.fidelity if o == f" {hinted}" else blind for o in options}


def _draw(rng: random.Random, distribution: Distribution) -> str:
    return rng.choices(list(distribution), weights=list(distribution.values()))[0]


# What each token of a completion is for, from the world's own ground truth. choice: an option of
# the plan. commitment: the word that opens a line, where the writer goes on or guesses. style: the
# opening words that refer to the strategy. routine: all else, which follows from what stands
# before. Choice and commitment are the decisions.
TOKEN_CLASSES = ("choice", "commitment", "style", "routine")
LINE_OPENERS = ("Order", "Combine", "Finish", "Guess")
_OPTIONS = {f" {option}" for slot in SLOTS for option in slot}


def token_classes(pieces: Sequence[str]) -> list[str]:
    """The class of each piece of a completion."""
    style = len(STYLE_LINE) if list(pieces[: len(STYLE_LINE)]) == STYLE_LINE else 0
    out = ["style"] * style
    for piece in pieces[style:]:
        if piece in _OPTIONS:
            out.append("choice")
        else:
            out.append("commitment" if piece in LINE_OPENERS else "routine")
    return out


def is_right(text: str, answer: str) -> bool:
    """Whether a completion ends in this gold answer; pairs have one written form only."""
    return text.endswith(f"\\boxed{{{answer}}}")
