"""Where the guided-to-unguided KL mass of a mini model lies, by the world's own token classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sgpo.core.logprobs import completion_kl, pad_sequences
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Completion, Problem
from sgpo.mini.text import TOKEN_CLASSES, is_right, split_pieces, token_classes

DELTA = 1.0  # nats; the paper's clipping threshold


@dataclass(frozen=True)
class KLProfile:
    """KL(guided || unguided) on right guided completions.

    ``share_below``: share of the KL mass on tokens with d <= delta, over all right completions and
    over the reachable target of each problem (Eq. 4) alone. ``mass``: share of the mass by token
    class; ``kept_mass``: the same over tokens with d <= delta. ``per_token`` is in nats.
    """

    share_below: float
    share_below_target: float
    mass: dict[str, float]
    kept_mass: dict[str, float]
    per_token: float


def kl_profile(
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    samples: Sequence[Sequence[Completion]],
    delta: float = DELTA,
) -> KLProfile | None:
    """The KL profile of guided ``samples``; None if none of them is right.

    Implements d of Eq. 2-3 and the mask of Eq. 5 of arXiv:2606.24064.
    """
    spec = PROMPT_SPECS["mini"]
    all_d, target_d = [], []
    mass: dict[str, float] = dict.fromkeys(TOKEN_CLASSES, 0.0)
    kept: dict[str, float] = dict.fromkeys(TOKEN_CLASSES, 0.0)
    for problem, row in zip(problems, samples, strict=True):
        right = [c for c in row if is_right(c.text, problem.answer)]
        if not right:
            continue
        ids = [c.token_ids for c in right]
        prompts = [spec.prompt_ids(tokenizer, problem, guided=g) for g in (False, True)]
        student, teacher = (pad_sequences([p] * len(ids), ids).to(model.device) for p in prompts)
        with torch.no_grad():
            kl, logprobs = completion_kl(model, student, teacher, direction="forward")
        target = int(logprobs.sum(1).argmax())
        for j, completion in enumerate(right):
            values = kl[j, : len(completion.token_ids)].tolist()
            all_d += values
            target_d += values if j == target else []
            classes = token_classes(split_pieces(completion.text))
            classes += ["routine"] * (len(values) - len(classes))  # the end token
            for value, name in zip(values, classes, strict=True):
                mass[name] += value
                kept[name] += value if value <= delta else 0.0
    if not all_d:
        return None
    total, kept_total = sum(all_d), sum(kept.values())
    return KLProfile(
        share_below=_share_below(all_d, delta),
        share_below_target=_share_below(target_d, delta),
        mass={name: value / total for name, value in mass.items()},
        kept_mass={name: value / kept_total if kept_total else 0.0 for name, value in kept.items()},
        per_token=total / len(all_d),
    )


def _share_below(values: Sequence[float], delta: float) -> float:
    total = sum(values)
    return sum(v for v in values if v <= delta) / total if total else 0.0
