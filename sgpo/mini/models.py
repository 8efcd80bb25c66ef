"""The mini world's models and their tokenizer: real Qwen2 and Llama architectures, very small, and
an ordinary Hugging Face fast tokenizer with a chat template.
"""

from __future__ import annotations

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

from sgpo.mini.specs import ModelSpec
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
_FAMILIES = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}


def model_config(spec: ModelSpec) -> Any:
    """The transformers configuration of a mini model."""
    config_class, _ = _FAMILIES[spec.family]
    return config_class(
        vocab_size=len(PIECES),  # one row a token: a padded row could be sampled, not decoded
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=spec.initializer_range,
        pad_token_id=SPECIALS.index(PAD),
        eos_token_id=SPECIALS.index(END),
        bos_token_id=None,
    )


def build_model(spec: ModelSpec, seed: int) -> PreTrainedModel:
    """A randomly initialised float32 model; the global torch generator is left as it was."""
    _, model_class = _FAMILIES[spec.family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(model_config(spec))


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
