"""How well a mini model knows each step of the arithmetic, apart from which plan it chooses."""

from __future__ import annotations

import random
from collections import defaultdict
from statistics import mean
from typing import Any

import torch

from sgpo.core.logprobs import pad_sequences, token_stats
from sgpo.mini.problems import TYPES, Plan
from sgpo.mini.suites import random_task
from sgpo.mini.text import derivation_pieces, question_pieces
from sgpo.mini.tokenizer import ASSISTANT, END, USER


def step_probabilities(
    model: Any, tokenizer: Any, level: int, count: int = 256, seed: int = 0
) -> dict[str, float]:
    """Mean probability of the right digit after each option, e.g. ``{"order swapped": 0.99}``.

    Teacher-forced on ``count`` development tasks of a level under random plans, so that arithmetic
    is measured apart from the choice of the plan.
    """
    rng = random.Random(seed)
    prompts, completions, names = [], [], []
    for _ in range(count):
        task = random_task(rng, level, "development")
        plans = [rng.choice(TYPES).plan for _ in task.chain]
        pieces = derivation_pieces(task, plans)
        prompt = [USER, *question_pieces(task), END, ASSISTANT]
        prompts.append(tuple(tokenizer.convert_tokens_to_ids(prompt)))
        completions.append(tuple(tokenizer.convert_tokens_to_ids(pieces)))
        names.append(_step_names(pieces, plans))
    with torch.no_grad():
        stats = token_stats(model, pad_sequences(prompts, completions), entropy="none")
    groups: dict[str, list[float]] = defaultdict(list)
    for row, labels in zip(stats.logprobs.exp().tolist(), names, strict=True):
        for probability, label in zip(row, labels, strict=False):
            if label:
                groups[label].append(probability)
    return {label: mean(groups[label]) for label in sorted(groups)}


def _step_names(pieces: list[str], plans: list[Plan]) -> list[str]:
    """For each digit of a derivation the step it belongs to, for other tokens an empty name."""
    options = {f" {c}": f"{slot} {c}" for p in plans for slot, c in vars(p).items()}
    current, names, seen = "", [], 0
    for piece in pieces:
        seen += piece.isdigit()
        seen = 0 if piece in options else seen
        current = options.get(piece, current)
        # A combine line has the first value, then each next value, its term, the running value.
        part = "copy" if seen == 1 else ("running value", "copy", current)[(seen - 1) % 3]
        name = part if current.startswith("combine") else current
        names.append(name if piece.isdigit() else "")
    return names
