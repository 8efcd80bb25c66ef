"""The sizes of the mini world's models; ``models`` builds them. Imports no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# About 1/sqrt(hidden). At the architectures' own 0.02, made for widths in the thousands, attention
# starts so flat that copying from the prompt is not learned in 900 steps.
INITIALIZER_RANGE = 0.1


@dataclass(frozen=True)
class ModelSpec:
    """One mini model; ``family`` is ``qwen2`` or ``llama``, sizes are in units of the config.

    ``initializer_range`` and ``rate``, the learning rate of foundation and lesson, fall with width.
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


def _lab(key: str, label: str, family: str, hidden: int, layers: int) -> ModelSpec:
    """A model of the lab profile: about ``12 * layers * hidden**2`` weights, heads of 32."""
    return ModelSpec(
        key, label, family, hidden, 3 * hidden, layers, hidden // 32, hidden // 64,
        initializer_range=round(hidden**-0.5, 4), rate=round(3e-3 * 64 / hidden, 6),
    )  # fmt: skip


LAB_MODELS: dict[str, ModelSpec] = {
    spec.key: spec
    for spec in (
        _lab("lab-qwen-1m", "lab-Qwen2-1M", "qwen2", 128, 5),
        _lab("lab-qwen-4m", "lab-Qwen2-4M", "qwen2", 192, 9),
        _lab("lab-qwen-16m", "lab-Qwen2-16M", "qwen2", 384, 9),
        _lab("lab-qwen-50m", "lab-Qwen2-50M", "qwen2", 640, 10),
        _lab("lab-llama-4m", "lab-Llama-4M", "llama", 192, 9),
        _lab("lab-llama-16m", "lab-Llama-16M", "llama", 384, 9),
    )
}


def model_spec(key: str) -> ModelSpec:
    """The spec of a key. Raises ValueError that lists the known keys."""
    known = MODELS | LAB_MODELS
    if key not in known:
        raise ValueError(f"unknown mini model {key!r}; choose one of {', '.join(known)}")
    return known[key]
