"""How likely a mini model finds each of the 64 plans of a type, exactly and without sampling.

The plan of a derivation is three choices, each a single token whose distribution the model states
outright. Teacher-forcing the derivation under every plan gives every conditional probability, so
the probability of a plan is their product.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sgpo.core.logprobs import completion_hidden, pad_sequences
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.mini.problems import SLOTS, TYPES, Plan, Task
from sgpo.mini.suites import LEVEL_LENGTHS, random_task, to_problem
from sgpo.mini.text import derivation_pieces

PLANS: tuple[Plan, ...] = tuple(Plan(*choices) for choices in itertools.product(*SLOTS))
_OPENERS = ("Order", "Combine", "Finish")


@dataclass(frozen=True)
class PlanMass:
    """Probabilities of plans under the unguided prompt, one row a task.

    ``plans`` [P, 64]: in the order of ``PLANS``, rows sum to one. ``go_on`` [P]: probability that
    the writer opens all three lines instead of jumping to a guess, averaged over the plans it
    would write. ``off_options`` [P]: mean mass that the three choices leave on other tokens.
    """

    plans: torch.Tensor
    go_on: torch.Tensor
    off_options: torch.Tensor


def held_out_tasks(per_level: int, seed: int = 0) -> list[Task]:
    """``per_level`` tasks of each type and each level without compositions, from the development
    partition: text of these digits was neither pretrained on nor trained on."""
    rng = random.Random(f"plan-mass-{seed}")
    return [
        random_task(rng, level, "development", kind.name)
        for kind in TYPES
        for level in LEVEL_LENGTHS
        for _ in range(per_level)
    ]


@torch.no_grad()
def plan_mass(model: Any, tokenizer: Any, tasks: Sequence[Task]) -> PlanMass:
    """``PlanMass`` of ``tasks`` (without inner tasks), from the model's full softmax.

    P(order) P(combine | order) P(finish | order, combine): each choice is conditioned on the
    faithful derivation of the lines before it, so that arithmetic slips do not enter, and on being
    reached, so that guesses do not either (``go_on`` tells those apart). Probabilities of a slot
    are taken among its four options; what lies outside of them is reported.
    """
    rows = [_one_task(model, tokenizer, task) for task in tasks]
    plans, go_on, off = (torch.stack(column) for column in zip(*rows, strict=True))
    return PlanMass(plans, go_on, off)


def _one_task(
    model: Any, tokenizer: Any, task: Task
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The row of one task: the sixteen derivations that differ before their last choice."""
    assert task.inner is None, "plans of compositions are not enumerated"
    prompt = PROMPT_SPECS["mini"].prompt_ids(tokenizer, to_problem("plan-mass", 0, task))
    texts, places = [], []
    for order, combine in itertools.product(*SLOTS[:2]):
        pieces = derivation_pieces(task, [Plan(order, combine, SLOTS[2][0])])
        opened = [pieces.index(word) for word in _OPENERS]
        # "Order", the type's name, the option; the two other lines name their option at once.
        chosen = [opened[0] + 2, opened[1] + 1, opened[2] + 1]
        texts.append(tuple(tokenizer.convert_tokens_to_ids(pieces[: chosen[2] + 1])))
        places.append((opened, chosen))
    batch = pad_sequences([prompt] * len(texts), texts)
    logits = model.get_output_embeddings()(completion_hidden(model, batch)).float()
    starts = [0, *itertools.accumulate(len(text) for text in texts)]
    probabilities = torch.softmax(logits, -1)
    options = [_ids(tokenizer, [f" {option}" for option in slot]) for slot in SLOTS]
    openers = _ids(tokenizer, _OPENERS)
    grid = torch.ones(4, 4, 4, dtype=torch.float64)
    opening = torch.ones(4, 4, dtype=torch.float64)
    off = []
    for index, (start, (opened, chosen)) in enumerate(zip(starts[:-1], places, strict=True)):
        i, j = divmod(index, 4)
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
