"""Where SGPO's targets differ from the policy, type by type and token by token: the run's ledger.

For every type and what a token is for, how many tokens were distilled, the KL that they offered
(d of Eq. 3) and the part of it that Eq. 5 masked, summed over the steps of a run. What became of a
type is in the verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sgpo.core.types import Problem
from sgpo.mini.probes import MiniTokenClassifier
from sgpo.mini.world import SLOTS

# The choices of a plan by slot; ``opening``: the first token of a completion, where the style line
# begins or the first line; then the classes of ``writing.TOKEN_CLASSES`` that are no choice.
PLACES = ("order", "combine", "finish", "opening", "commitment", "style", "routine")
SUMS = ("tokens", "kl", "kl_masked")


class Ledger:
    """Sums ``SUMS`` by type and place. ``problems``: of the training, which name the types. A run
    on many ranks counts the share of each."""

    def __init__(self, tokenizer: Any, problems: Sequence[Problem]) -> None:
        self.kind_of = {p.id: p.kind for p in problems}
        self.sums: dict[str, list[list[float]]] = {}
        self.classify = MiniTokenClassifier(tokenizer)
        self.slots = torch.full((len(tokenizer),), -1)
        for place, slot in enumerate(SLOTS):
            self.slots[tokenizer.convert_tokens_to_ids([f" {option}" for option in slot])] = place

    def add(
        self,
        problem_ids: Sequence[str],
        targets: torch.Tensor,
        mask: torch.Tensor,
        kl: torch.Tensor,
        dropped: torch.Tensor,
    ) -> None:
        """Count completions: token ids, mask, KL and what Eq. 5 drops, each [B, T]."""
        slots = self.slots.to(targets.device)[targets]
        places = torch.where(slots >= 0, slots, self.classify(targets) + len(SLOTS))
        places[:, 0] = PLACES.index("opening")
        for row, name in enumerate(problem_ids):
            own = mask[row]
            at = places[row][own]
            columns = (torch.ones_like(kl[row]), kl[row], kl[row] * dropped[row])
            sums = [torch.bincount(at, c[own], minlength=len(PLACES)).tolist() for c in columns]
            kind = self.kind_of[name]
            known = self.sums.setdefault(kind, [[0.0] * len(PLACES) for _ in SUMS])
            for total, found in zip(known, sums, strict=True):
                for place, value in enumerate(found):
                    total[place] += value

    def record(self) -> dict[str, Any]:
        """Type -> place -> its sums, as plain JSON values; places without tokens are left out."""
        return {
            kind: {
                place: dict(zip(SUMS, (round(s[i], 4) for s in sums), strict=True))
                for i, place in enumerate(PLACES)
                if sums[0][i]
            }
            for kind, sums in sorted(self.sums.items())
        }
