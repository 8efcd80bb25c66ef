"""FLOPs: counted as executed, and those that the passes of an SGPO update ask for, by formula.

The formula is ``benchmarks.plan.cost.forward_flops``; the head counts for completion tokens alone,
because it is applied to them alone, and a backward pass counts twice. What is computed again to
save memory earns nothing. torch's counter refuses grouped-query attention, which every checkpoint
of ours has; attention is therefore counted here, by shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.data.checkpoints import Shape
from benchmarks.plan.cost import forward_flops


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any):
    """Scores and values: two products of all queries with all keys, masked or not."""
    batch, heads, length, size = query
    return 2 * batch * heads * length * key[-2] * (size + value[-1])


def _attention_backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any):
    """Scores again, then gradients to weights, values, queries and keys: five products."""
    batch, heads, length, size = query
    return 2 * batch * heads * length * key[-2] * (3 * size + 2 * value[-1])


_FORWARD = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
_SDPA = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{name}{suffix}"): count
    for name in _FORWARD
    for suffix, count in (("", _attention), ("_backward", _attention_backward))
}


def flop_counter() -> FlopCounterMode:
    """Counts the FLOPs of matrix products and attention in its block, forward and backward, as
    executed; of attention all pairs of positions."""
    return FlopCounterMode(display=False, custom_mapping=_SDPA)


@dataclass(frozen=True)
class Passed:
    """One sequence of an update: ``prompt`` + ``completion`` tokens, ``trained`` on or only
    scored, as a teacher's is."""

    prompt: int
    completion: int
    trained: bool


def model_flops(
    shape: Shape, sequences: Sequence[Passed], *, attention_share: float = 0.5
) -> float:
    """FLOPs of forward and, where trained, backward passes. ``attention_share``: of all pairs of
    positions, those that count."""
    return sum(
        (3 if s.trained else 1)
        * forward_flops(
            shape, s.prompt + s.completion, s.completion, attention_share=attention_share
        )
        for s in sequences
    )
