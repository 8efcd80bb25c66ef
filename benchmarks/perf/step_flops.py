"""FLOPs that the passes of an SGPO update ask for, by formula.

Of a sequence of n tokens, c of them completion, per layer with M weights in its matrices:

- matrices: 2 M n;
- attention: 4 n^2 x heads x head size for scores and values, of which causality uses half;

and of the head 2 x vocabulary x hidden size x c, because it is applied to completion tokens alone.
A backward pass takes twice that. Biases, norms, softmax and the optimiser are not counted, nor
what is computed again to save memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.profiles.checkpoints import Shape


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
