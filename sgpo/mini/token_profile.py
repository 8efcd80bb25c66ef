"""KL and SFT loss of every token of one solved example, beside the world's own token classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sgpo.core.logprobs import completion_kl, pad_sequences
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Problem
from sgpo.mini.text import NEWLINE, token_classes
from sgpo.objective import select_reachable

DECISIONS = ("choice", "commitment")
ROUTINE = "routine"


@dataclass(frozen=True)
class TokenProfile:
    """One completion token by token, end token included: ``pieces`` as text, ``classes`` from
    ``sgpo.mini.text.TOKEN_CLASSES``, ``kl`` = d of Eq. 3 and ``nll`` = the SFT loss, both in nats
    under the unguided prompt."""

    pieces: tuple[str, ...]
    classes: tuple[str, ...]
    kl: tuple[float, ...]
    nll: tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """Tokens ``start`` to ``stop`` of a derivation, which belong together. ``kind`` is the class
    of a decision that stands alone, ``style``, or ``routine``."""

    kind: str
    start: int
    stop: int


@torch.no_grad()
def reachable_profile(
    model: Any, tokenizer: Any, problem: Problem, completions: Sequence[tuple[int, ...]]
) -> TokenProfile:
    """The profile of the reachable target (Eq. 4 of arXiv:2606.24064) among correct guided
    ``completions`` (token ids, one or more)."""
    assert completions
    spec = PROMPT_SPECS["mini"]
    prompts = [spec.prompt_ids(tokenizer, problem, guided=guided) for guided in (False, True)]
    student, teacher = (pad_sequences([p] * len(completions), completions) for p in prompts)
    kl, logprobs = completion_kl(model, student, teacher, direction="forward")
    target = select_reachable(sum_logprobs=logprobs.sum(1), correct=[True] * len(completions))
    assert target is not None
    ids = list(completions[target])
    pieces = tuple(tokenizer.convert_ids_to_tokens(ids))
    written = [p for p in pieces if p not in tokenizer.all_special_tokens]
    classes = token_classes(written)
    return TokenProfile(
        pieces=pieces,
        classes=(*classes, *[ROUTINE] * (len(ids) - len(classes))),  # the end token
        kl=tuple(kl[target, : len(ids)].tolist()),
        nll=tuple((-logprobs[target, : len(ids)]).tolist()),
    )


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
