"""Surface text of the mini world: question, strategy and derivation, as lists of token strings.

Everything is built as *pieces*, one string per token, whose plain concatenation is the text. The
tokenizer cuts the text back into exactly these pieces (``tests/test_mini_text.py``), so the
pretraining stream needs no tokenizer run. A derivation reads::

    Order Aldric backwards: 541
    Combine threefold: 5427130
    Finish triple \\boxed{(1,0)}

The second line shows the first value, then each next value, its term and the running value: 3*4 is
2 and 5+2 is 7, 3*1 is 3 and 7+3 is 0 modulo 10. What a step needs stands beside it: tables are
learned soon that way. In a composition the inner derivation comes first, its pair in a box of its
own; the last box is the answer. At the start of each line the writer continues or jumps:
``Guess \\boxed{(d,d)}``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sgpo.mini.problems import (
    MODULUS,
    SLOTS,
    TYPES,
    Plan,
    Task,
    finish_pair,
    reorder,
    running_values,
    slot_distribution,
    terms,
)

NEWLINE = "\n"
COLON = ": "  # opens a run of digits, which stand side by side and look the same everywhere
BOX_OPEN, BOX_CLOSE = " \\boxed{(", ")}"
STYLE_LINE = ["Following", " the", " strategy", NEWLINE]
VAGUE = "suitable"  # stands where a strategy leaves a choice open
STEPS_LINE = ["Steps", " order", " then", " combine", " then", " finish"]
THIN_STEPS_LINE = ["Steps", " carefully"]

Pieces = list[str]


def vocabulary() -> tuple[str, ...]:
    """Every piece the world can write, in a fixed order; special tokens not included."""
    digits = [str(d) for d in range(MODULUS)]
    words = ["Find", " the", " pair", " and", "Type", "Strategy", " then", " giving"]
    words += ["Order", "Combine", "Finish", "Guess", " strategy", f" {VAGUE}"]
    words += [w for line in (STYLE_LINE, STEPS_LINE, THIN_STEPS_LINE) for w in line]
    words += [f" {option}" for slot in SLOTS for option in slot]
    words += [f" {t.name}" for t in TYPES]
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
    names: Sequence[str],
    plans: Sequence[Sequence[str]],
    *,
    steps: Pieces | None = None,
) -> Pieces:
    """A strategy: one block of problem type, strategy and procedural steps for each task.

    Args:
        names: type names, innermost task first.
        plans: three option words for each task; ``VAGUE`` where the strategy does not say.
        steps: the last line of each block; the full steps by default.
    """
    pieces: Pieces = []
    for name, choices in zip(names, plans, strict=True):
        order, combine, finish = choices
        pieces += [NEWLINE] if pieces else []
        pieces += ["Type", f" {name}", NEWLINE]
        pieces += ["Strategy", f" {order}", " then", f" {combine}", " then", f" {finish}", NEWLINE]
        pieces += STEPS_LINE if steps is None else steps
    return pieces


def derivation_pieces(
    task: Task,
    plans: Sequence[Plan],
    *,
    guess_at: int | None = None,
    guess: Sequence[int] = (0, 0),
    gap: float = 0.0,
    rng: random.Random | None = None,
) -> Pieces:
    """The worked answer under ``plans`` (one a task, right or wrong), ending in a box.

    Args:
        guess_at: index of the line (three a task) at which the writer jumps to ``guess``.
        gap: probability in [0, 1] that an intermediate step is left out: the reordered list as a
            whole, and each running value but the last two, with its parts. Above 0 needs ``rng``.
    """
    pieces: Pieces = []
    pair: tuple[int, ...] = ()
    chain = task.chain

    def dropped() -> bool:
        return gap > 0 and rng is not None and rng.random() < gap

    for i, (step, plan) in enumerate(zip(chain, plans, strict=True)):
        ordered = reorder(plan.order, step.digits + pair)
        running = running_values(plan.combine, ordered)
        pair = finish_pair(plan.finish, (running[-2], running[-1]))
        # The first running value is the first value itself; a later step shows what it is made of.
        later = zip(ordered[1:], terms(plan.combine, ordered), running[1:], strict=True)
        steps = [(running[0],), *later]
        shown = [v for s in steps[:-2] if not dropped() for v in s]
        shown += [v for s in steps[-2:] for v in s]
        result = [*boxed(pair), *([NEWLINE] if i < len(chain) - 1 else [])]
        lines = (
            ["Order", f" {step.kind}", f" {plan.order}"]
            + ([] if dropped() else _digits(ordered))
            + [NEWLINE],
            ["Combine", f" {plan.combine}", *_digits(shown), NEWLINE],
            ["Finish", f" {plan.finish}", *result],
        )
        for j, line in enumerate(lines):
            if guess_at == 3 * i + j:
                return [*pieces, "Guess", *boxed(guess)]
            pieces += line
    return pieces


@dataclass(frozen=True)
class WriterHabits:
    """How the pretraining text is written; probabilities, all in [0, 1]."""

    continue_unguided: float = 0.87
    continue_guided: float = 0.97
    follow: float = 0.95  # a guided writer makes the prompt's choice
    style: float = 0.3  # a guided text opens with STYLE_LINE
    own_type_line: float = 0.7  # else the strategy names any type: its choices are what counts
    vague_choice: float = 0.05  # a strategy leaves a choice open: the type's prior decides
    thin_steps: float = 0.1
    knowledge: float = 1.0  # at least 0; scales the priors, see ``slot_distribution``


HABITS = WriterHabits()


def _draw(rng: random.Random, distribution: dict[str, float]) -> str:
    return rng.choices(list(distribution), weights=list(distribution.values()))[0]


def _random_choices(rng: random.Random, habits: WriterHabits) -> tuple[str, ...]:
    return tuple(
        VAGUE if rng.random() < habits.vague_choice else rng.choice(options) for options in SLOTS
    )


def pretraining_example(
    task: Task, guided: bool, rng: random.Random, habits: WriterHabits = HABITS
) -> tuple[Pieces, Pieces]:
    """(user turn, completion) of one pretraining text.

    Unguided, each choice comes from the type's prior. Guided, the user turn opens with any plan
    (mostly not the type's own) and the writer follows it, so a model learns to read the content
    of a strategy. The derivation is worked out faithfully under the choices, right or wrong.
    """
    chain = task.chain
    hints: list[tuple[str, ...]] = [(VAGUE,) * 3 for _ in chain]
    user = question_pieces(task)
    if guided:
        hints = [_random_choices(rng, habits) for _ in chain]
        names = [t.kind for t in chain]
        if len(chain) == 1 and rng.random() >= habits.own_type_line:
            names = [rng.choice(TYPES).name]
        steps = THIN_STEPS_LINE if rng.random() < habits.thin_steps else None
        user = [*strategy_pieces(names, hints, steps=steps), NEWLINE, *user]
    plans = []
    for step, hint in zip(chain, hints, strict=True):
        choices = []
        for slot, hinted in enumerate(hint):
            if hinted == VAGUE:
                choices.append(_draw(rng, slot_distribution(step.kind, slot, habits.knowledge)))
            elif rng.random() < habits.follow:
                choices.append(hinted)
            else:
                choices.append(rng.choice(SLOTS[slot]))
        plans.append(Plan(*choices))
    keep_on = habits.continue_guided if guided else habits.continue_unguided
    jumps = (i for i in range(3 * len(chain)) if rng.random() >= keep_on)
    completion = derivation_pieces(
        task,
        plans,
        guess_at=next(jumps, None),
        guess=(rng.randrange(MODULUS), rng.randrange(MODULUS)),
    )
    if guided and rng.random() < habits.style:
        completion = [*STYLE_LINE, *completion]
    return user, completion


# Cuts a text into pieces as the tokenizer does.
_PIECE = re.compile(r" ?\\boxed\{\(|\)\}|: | ?[A-Za-z]+|[0-9]|,|\n")
_OPTIONS = {f" {option}" for slot in SLOTS for option in slot}
_LINE_OPENERS = {"Order", "Combine", "Finish", "Guess"}
TOKEN_CLASSES = ("choice", "commitment", "style", "routine")


def split_pieces(text: str) -> Pieces:
    """The token strings of a text of this world."""
    return _PIECE.findall(text)


def token_classes(pieces: Sequence[str]) -> list[str]:
    """The class of each piece of a completion, from the world's own ground truth.

    choice: an option of the plan. commitment: the word that opens a line, where the writer goes on
    or guesses. style: the opening words that refer to the strategy. routine: all else, which
    follows from the prompt and the tokens before. Choice and commitment are the decisions.
    """
    style = len(STYLE_LINE) if list(pieces[: len(STYLE_LINE)]) == STYLE_LINE else 0
    out = ["style"] * style
    for piece in pieces[style:]:
        if piece in _OPTIONS:
            out.append("choice")
        else:
            out.append("commitment" if piece in _LINE_OPENERS else "routine")
    return out


_BOX = re.compile(r"\\boxed\{(\([0-9],[0-9]\))\}")


def boxed_answer(text: str) -> str | None:
    """The content of the last closed box, e.g. ``(3,7)``, or None."""
    found = _BOX.findall(text)
    return found[-1] if found else None


def is_right(text: str, answer: str) -> bool:
    """Whether the last box holds exactly this gold answer; pairs have one written form only."""
    return boxed_answer(text) == answer
