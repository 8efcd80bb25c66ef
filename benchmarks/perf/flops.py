"""FLOPs: counted as executed, and those that the passes of an SGPO update ask for, by formula.

The formula: of a sequence of n tokens, c of them completion, per layer with M weights in its
matrices:

- matrices: 2 M n;
- attention: 4 n^2 x heads x head size for scores and values, of which causality uses half;

and of the head 2 x vocabulary x hidden size x c, because it is applied to completion tokens alone.
A backward pass takes twice that. Biases, norms, softmax and the optimiser are not counted, nor
what is computed again to save memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmarks.data.checkpoints import Shape


def _attention(query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


# torch's counter knows the fused attention of GPUs alone; the CPU's would go uncounted.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def flop_counter() -> FlopCounterMode:
    """Counts the FLOPs of matrix products and attention in its block, forward and backward, as
    executed; of attention all pairs of positions, masked or not."""
    return FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)


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
    h, kv = shape.hidden_size, shape.num_kv_heads * shape.head_dim
    weights = shape.num_layers * (2 * h * h + 2 * h * kv + 3 * h * shape.intermediate_size)
    pairs = shape.num_layers * shape.num_heads * shape.head_dim * attention_share
    total = 0.0
    for s in sequences:
        n = s.prompt + s.completion
        forward = 2 * weights * n + 4 * pairs * n * n + 2 * shape.vocab_size * h * s.completion
        total += (3 if s.trained else 1) * forward
    return total
