"""What a mini model states exactly: KL by the world's token classes, and plan probabilities.

The world knows of every token what it is for (``writing.TOKEN_CLASSES``), and a plan is three
choices of one token each, so nothing here has to be estimated from samples.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sgpo.core.logprobs import completion_hidden, completion_kl, pad_sequences
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Problem
from sgpo.mini.sets import random_task
from sgpo.mini.world import NAMES, SLOTS, Plan
from sgpo.mini.writing import (
    NEWLINE,
    STYLE_LINE,
    TOKEN_CLASSES,
    Task,
    derivation_lines,
    question_pieces,
    token_classes,
    vocabulary,
)

DECISIONS = ("choice", "commitment")
LEVELS = (1, 2, 3)  # without compositions, whose plans are too many to enumerate


class MiniTokenClassifier:
    """``writing.token_classes`` on padded token ids, without a Python loop over tokens.

    ``names`` are ``TOKEN_CLASSES``. The class of a token is read off a table, except that the
    words of the style line are ``style`` where a completion opens with that line. Special tokens
    and padding are ``routine``.
    """

    names: tuple[str, ...] = TOKEN_CLASSES

    def __init__(self, tokenizer: Any) -> None:
        self.table = torch.full((len(tokenizer),), self.names.index("routine"))
        for piece in vocabulary():
            (name,) = token_classes([piece])
            self.table[tokenizer.convert_tokens_to_ids(piece)] = self.names.index(name)
        self.style_line = torch.tensor(tokenizer.convert_tokens_to_ids(STYLE_LINE))

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Index into ``names`` of every token of completions [B, T], int64 [B, T]."""
        self.table = self.table.to(token_ids.device)
        self.style_line = self.style_line.to(token_ids.device)
        classes = self.table[token_ids]
        length = len(self.style_line)
        opening = token_ids[:, :length]
        if opening.shape[1] == length:
            opens = (opening == self.style_line).all(1, keepdim=True)
            style = self.names.index("style")
            classes[:, :length] = torch.where(opens, style, classes[:, :length])
        return classes


@dataclass(frozen=True)
class TokenProfile:
    """One completion token by token, end token included: ``pieces`` as text, ``classes`` from
    ``TOKEN_CLASSES``, ``kl`` = d of Eq. 3 and ``nll`` = the SFT loss, both in nats under the
    unguided prompt."""

    pieces: tuple[str, ...]
    classes: tuple[str, ...]
    kl: tuple[float, ...]
    nll: tuple[float, ...]


@torch.no_grad()
def token_profiles(
    model: Any, tokenizer: Any, problem: Problem, completions: Sequence[tuple[int, ...]]
) -> list[TokenProfile]:
    """The profile of each of a problem's ``completions`` (token ids, one or more), in order."""
    assert completions
    spec, classify = PROMPT_SPECS["mini"], MiniTokenClassifier(tokenizer)
    prompts = [spec.prompt_ids(tokenizer, problem, guided=guided) for guided in (False, True)]
    student, teacher = (
        pad_sequences([p] * len(completions), completions).to(model.device) for p in prompts
    )
    kl, logprobs = completion_kl(model, student, teacher, direction="forward")
    return [
        TokenProfile(
            pieces=tuple(tokenizer.convert_ids_to_tokens(list(ids))),
            classes=tuple(TOKEN_CLASSES[c] for c in classify(torch.tensor([ids]))[0].tolist()),
            kl=tuple(kl[row, : len(ids)].tolist()),
            nll=tuple((-logprobs[row, : len(ids)]).tolist()),
        )
        for row, ids in enumerate(completions)
    ]


def reachable(profiles: Sequence[TokenProfile]) -> TokenProfile:
    """The profile of the likeliest completion without guidance: the reachable target of Eq. 4 of
    arXiv:2606.24064 when all are of correct guided completions."""
    return min(profiles, key=lambda profile: sum(profile.nll))


@dataclass(frozen=True)
class Step:
    """Tokens ``start`` to ``stop`` of a derivation, which belong together. ``kind`` is the class
    of a decision that stands alone, ``style``, or ``routine``."""

    kind: str
    start: int
    stop: int


def derivation_steps(pieces: Sequence[str], classes: Sequence[str]) -> list[Step]:
    """The semantic steps of a derivation, in order; together they hold every token once.

    Every decision is a step of its own. What follows it up to the next decision is routine work:
    the combining line is cut after its first value and then after every third digit, where a
    running value is reached; a line's closing newline belongs to the work before it.
    """
    steps: list[Step] = []
    start, digits, combining = 0, 0, False
    for i, (piece, kind) in enumerate(zip(pieces, classes, strict=True)):
        alone = kind in DECISIONS
        previous = classes[i - 1] if i else kind
        reached = combining and digits % 3 == 1 and piece != NEWLINE and not alone
        if i > start and (alone or previous in DECISIONS or previous != kind or reached):
            steps.append(Step(classes[start], start, i))
            start = i
        if alone:
            digits = 0
            combining = piece == "Combine" or (combining and kind == "choice")
        digits = digits + 1 if piece.isdigit() else digits
    return [*steps, Step(classes[start], start, len(pieces))]


@dataclass(frozen=True)
class PlanMass:
    """Probabilities of plans under the unguided prompt, one row a task.

    ``plans`` [N, P]: in the order of ``world.PLANS``, rows sum to one. ``go_on`` [N]: probability
    that the writer opens all three lines instead of jumping to a guess, averaged over the plans it
    would write. ``off_options`` [N]: mean mass that the three choices leave on other tokens.
    """

    plans: torch.Tensor
    go_on: torch.Tensor
    off_options: torch.Tensor


def held_out_tasks(per_level: int, seed: int = 0) -> list[Task]:
    """``per_level`` tasks of each type and each of ``LEVELS``, from the development partition: text
    of these digits was neither in the lesson nor trained on."""
    rng = random.Random(f"plan-mass-{seed}")
    return [
        random_task(rng, level, "development", name)
        for name in NAMES
        for level in LEVELS
        for _ in range(per_level)
    ]


@torch.no_grad()
def plan_mass(model: Any, tokenizer: Any, tasks: Sequence[Task]) -> PlanMass:
    """``PlanMass`` of ``tasks`` (without inner tasks), from the model's full softmax.

    P(order) P(combine | order) P(finish | order, combine): each choice is conditioned on the
    faithful derivation of the lines before it, so that arithmetic slips do not enter, and on being
    reached, so that guesses do not either (``go_on`` tells those apart). Probabilities of a slot
    are taken among its options; what lies outside of them is reported.
    """
    rows = [_one_task(model, tokenizer, task) for task in tasks]
    plans, go_on, off = (torch.stack(column) for column in zip(*rows, strict=True))
    return PlanMass(plans, go_on, off)


def _one_task(
    model: Any, tokenizer: Any, task: Task
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The row of one task, from the derivations that differ before their last choice."""
    assert task.inner is None, "plans of compositions are not enumerated"
    problem = Problem("plan-mass", "".join(question_pieces(task)), "")
    prompt = PROMPT_SPECS["mini"].prompt_ids(tokenizer, problem)
    texts, places = [], []
    for order, combine in itertools.product(*SLOTS[:2]):
        lines = derivation_lines(task, [Plan(order, combine, SLOTS[2][0])])
        opened = [0, len(lines[0]), len(lines[0]) + len(lines[1])]
        # "Order", the type's name, the option; the two other lines name their option at once.
        chosen = [opened[0] + 2, opened[1] + 1, opened[2] + 1]
        pieces = [piece for line in lines for piece in line]
        texts.append(tuple(tokenizer.convert_tokens_to_ids(pieces[: chosen[2] + 1])))
        places.append((opened, chosen))
    batch = pad_sequences([prompt] * len(texts), texts)
    logits = model.get_output_embeddings()(completion_hidden(model, batch)).float()
    starts = [0, *itertools.accumulate(len(text) for text in texts)]
    probabilities = torch.softmax(logits, -1)
    options = [_ids(tokenizer, [f" {option}" for option in slot]) for slot in SLOTS]
    openers = _ids(tokenizer, ("Order", "Combine", "Finish"))
    sizes = [len(slot) for slot in SLOTS]
    grid = torch.ones(sizes, dtype=torch.float64)
    opening = torch.ones(sizes[:2], dtype=torch.float64)
    off = []
    for index, (start, (opened, chosen)) in enumerate(zip(starts[:-1], places, strict=True)):
        i, j = divmod(index, sizes[1])
        of_slot = [
            probabilities[start + place, ids].double()
            for place, ids in zip(chosen, options, strict=True)
        ]
        off.append(1 - torch.stack([p.sum() for p in of_slot]).mean())
        first, second, third = (p / p.sum() for p in of_slot)
        grid[i, j] = first[i] * second[j] * third
        for place, opener in zip(opened, openers, strict=True):
            opening[i, j] *= probabilities[start + place, opener].double()
    go_on = (grid.sum(-1) * opening).sum()
    return grid.flatten(), go_on, torch.stack(off).mean()


def _ids(tokenizer: Any, pieces: Sequence[str]) -> torch.Tensor:
    return torch.tensor(tokenizer.convert_tokens_to_ids(list(pieces)))
