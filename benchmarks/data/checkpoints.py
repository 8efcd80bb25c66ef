"""The published checkpoints of the real profiles: name, revision and shape, as their config.json
states them. A plan and its cost can be made from this before anything is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What decides the memory and arithmetic of a Qwen2 or Llama decoder.

    ``context``: positions that it was made for; prompt and completion together must fit.
    ``tied``: the head is the transposed embedding. ``qkv_bias``: biases on q, k and v.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    context: int
    rope_theta: float
    tied: bool
    qkv_bias: bool

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def num_parameters(self) -> int:
        """Weights of the whole model, a tied head once."""
        h, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        attention = 2 * h * h + 2 * h * kv + (h + 2 * kv if self.qkv_bias else 0)
        layer = attention + 3 * h * self.intermediate_size + 2 * h
        return self.num_layers * layer + h + self.vocab_size * h * (1 if self.tied else 2)

    @property
    def cache_numbers(self) -> int:
        """Numbers that a token leaves in the key-value cache of all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim

    @classmethod
    def from_config(cls, config: dict[str, Any], context: int, rope_theta: float) -> Shape:
        """The shape of a local config.json (``sgpo.core.models`` reads the last two).

        Raises:
            ValueError: another architecture, of which no cost is known, or a value is missing.
        """
        kind = config.get("model_type")
        if kind not in ("qwen2", "llama"):
            raise ValueError(f"model_type={kind!r}: memory and time are known of qwen2 and llama")
        needed = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                  "num_attention_heads")  # fmt: skip
        for name in needed:
            if not isinstance(config.get(name), int):
                raise ValueError(f"config.json: {name}={config.get(name)!r} must be a whole number")
        size = config.get("head_dim")
        if size not in (None, config["hidden_size"] // config["num_attention_heads"]):
            raise ValueError(f"head_dim={size}: must be hidden_size / num_attention_heads")
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=config["num_attention_heads"],
            num_kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
            context=context,
            rope_theta=rope_theta,
            tied=bool(config.get("tie_word_embeddings", False)),
            qkv_bias=kind == "qwen2",
        )


@dataclass(frozen=True)
class Checkpoint:
    """A model of a study. ``name`` and ``revision`` (None: the main branch, whose commit a run
    records) on the hub; ``prompt`` names its spec; ``gated``: its terms must be accepted on the hub
    first."""

    key: str
    label: str
    family: str
    name: str
    revision: str | None
    prompt: str
    shape: Shape
    gated: bool = False


CHECKPOINTS: dict[str, Checkpoint] = {
    c.key: c
    for c in (
        Checkpoint(
            "qwen2.5-0.5b", "Qwen2.5-0.5B-Instruct", "qwen2", "Qwen/Qwen2.5-0.5B-Instruct",
            "7ae557604adf67be50417f59c2c2f167def9a775", "qwen2.5-instruct",
            Shape(151_936, 896, 4864, 24, 14, 2, 32_768, 1e6, tied=True, qkv_bias=True),
        ),
        Checkpoint(
            "smollm2-360m", "SmolLM2-360M-Instruct", "llama", "HuggingFaceTB/SmolLM2-360M-Instruct",
            None, "native",
            Shape(49_152, 960, 2560, 32, 15, 5, 8192, 1e5, tied=True, qkv_bias=False),
        ),
        Checkpoint(
            "qwen2.5-1.5b", "Qwen2.5-1.5B-Instruct", "qwen2", "Qwen/Qwen2.5-1.5B-Instruct",
            "989aa7980e4cf806f80c7fef2b1adb7bc71aa306", "qwen2.5-instruct",
            Shape(151_936, 1536, 8960, 28, 12, 2, 32_768, 1e6, tied=True, qkv_bias=True),
        ),
        Checkpoint(
            "qwen2.5-7b", "Qwen2.5-7B-Instruct", "qwen2", "Qwen/Qwen2.5-7B-Instruct",
            "a09a35458c702b33eeacc393d103063234e8bc28", "qwen2.5-instruct",
            Shape(152_064, 3584, 18_944, 28, 28, 4, 32_768, 1e6, tied=False, qkv_bias=True),
        ),
        Checkpoint(  # the paper names a Llama-3.2-8B-Instruct, which was never published
            "llama-3.1-8b", "Llama-3.1-8B-Instruct", "llama", "meta-llama/Llama-3.1-8B-Instruct",
            "0e9e39f249a16976918f6564b8830bc894c89659", "llama-3-instruct",
            Shape(128_256, 4096, 14_336, 32, 32, 8, 131_072, 5e5, tied=False, qkv_bias=False),
            gated=True,
        ),
    )
}  # fmt: skip
