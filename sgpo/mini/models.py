"""The mini world's models and their tokenizer: real Qwen2 and Llama architectures, very small, and
an ordinary Hugging Face fast tokenizer with a chat template.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_utils import PreTrainedModel

from sgpo.mini.writing import vocabulary

PAD, UNKNOWN, USER, ASSISTANT, END = SPECIALS = (
    "<|pad|>",
    "<|unk|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('the mini template knows the roles user and assistant only') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

PIECES = (*SPECIALS, *vocabulary())  # token ids are places in it
MAX_POSITIONS = 256
# About 1/sqrt(hidden). At the architectures' own 0.02, made for widths in the thousands, attention
# starts so flat that copying from the prompt is not learned in 900 steps.
INITIALIZER_RANGE = 0.1

_FAMILIES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


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

    def config(self) -> Any:
        """The transformers configuration of this model."""
        config_class, _ = _FAMILIES[self.family]
        return config_class(
            vocab_size=len(PIECES),  # one row a token: a padded row could be sampled, not decoded
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=True,
            initializer_range=self.initializer_range,
            pad_token_id=SPECIALS.index(PAD),
            eos_token_id=SPECIALS.index(END),
            bos_token_id=None,
        )

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


def build_model(spec: ModelSpec, seed: int) -> PreTrainedModel:
    """A randomly initialised float32 model; the global torch generator is left as it was."""
    _, model_class = _FAMILIES[spec.family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(spec.config())


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the worlds' pieces; digits are single tokens.

    Tokens carry their leading space and decoding only concatenates, so ``decode(encode(x)) == x``
    for every text of the world. ``eos`` is ``<|end|>``, which closes a turn; ``pad`` is another
    token. Text from outside the world has no tokens and is dropped.

    Every token is an added token over an empty BPE model: ``AutoTokenizer`` rebuilds model,
    pre-tokenizer and decoder of any checkpoint whose ``model_type`` is ``qwen2``, and added tokens
    are what it leaves as saved.
    """
    backend = Tokenizer(models.BPE(vocab={}, merges=[]))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in vocabulary()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=256,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
