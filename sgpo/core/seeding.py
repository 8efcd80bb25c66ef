"""Named sub-seeds: one run seed, many independent streams, none of them shared by accident."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import torch

Item = TypeVar("Item")


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream ``names`` of run ``seed``.

    Hashing keeps streams independent of the order in which they are opened, so that a resumed
    run draws exactly what an uninterrupted one would have drawn at the same step.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU ``torch.Generator`` for the stream ``names`` of run ``seed``."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


def shuffled(items: Sequence[Item], seed: int, *names: str | int) -> list[Item]:
    """``items`` in the random order that the stream ``names`` of run ``seed`` draws."""
    order = torch.randperm(len(items), generator=generator(seed, *names))
    return [items[i] for i in order.tolist()]
