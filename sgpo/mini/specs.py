"""The sizes of the mini world's models; ``models`` builds them. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# About 1/sqrt(hidden). At the architectures' own 0.02, made for widths in the thousands, attention
# starts so flat that copying from the prompt is not learned in 900 steps.
INITIALIZER_RANGE = 0.1
# Weights made before (README.md), named by the hash of their recipe: making them takes minutes.
BASES = Path(__file__).parent / "bases"


@dataclass(frozen=True)
class ModelSpec:
    """One mini model; ``family`` is ``qwen2`` or ``llama``, sizes are in units of the config.

    ``rate``: the learning rate of foundation and lesson.
    """

    key: str
    label: str
    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    initializer_range: float = INITIALIZER_RANGE
    rate: float = 3e-3

    def architecture(self) -> dict[str, Any]:
        """What identifies the weights' shape, for the cache key: plain JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "label"}


MODELS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        ModelSpec("qwen-s", "mini-Qwen2-S", "qwen2", 48, 128, 2, 4, 2),
        ModelSpec("qwen-m", "mini-Qwen2-M", "qwen2", 64, 192, 3, 4, 2),
        ModelSpec("qwen-l", "mini-Qwen2-L", "qwen2", 128, 384, 4, 4, 2),
        ModelSpec("llama-s", "mini-Llama-S", "llama", 48, 128, 2, 4, 2),
        ModelSpec("llama-m", "mini-Llama-M", "llama", 64, 192, 3, 4, 4),
    )
}


def model_spec(key: str) -> ModelSpec:
    """The spec of a key. Raises ValueError that lists the known keys."""
    if key not in MODELS:
        raise ValueError(f"unknown mini model {key!r}; choose one of {', '.join(MODELS)}")
    return MODELS[key]
