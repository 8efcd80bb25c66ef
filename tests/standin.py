"""Stand-ins for checkpoints that cannot be downloaded here: the real ones' special tokens, ids,
rendered chat format and generation defaults over a byte-level vocabulary and a tiny random body.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

QWEN_SPECIALS = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
QWEN_ROWS = 151_936
LLAMA_SPECIALS = {
    "<|begin_of_text|>": 128000,
    "<|end_of_text|>": 128001,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eom_id|>": 128008,
    "<|eot_id|>": 128009,
}
LLAMA_ROWS = 128_256
QWEN_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
LLAMA_DATE = "26 Jul 2024"

# What the published templates render for system, user and assistant turns without tools.
QWEN_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\n" + QWEN_SYSTEM + "<|im_end|>\\n' }}"
    "{% endif %}"
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Meta's 3.1 template falls back to a fixed date; 3.2's asks the clock, which is what
# ``strftime_now`` stands for: both take ``date_string`` when it is given.
LLAMA_TEMPLATE = (
    "{{ bos_token }}"
    "{% if date_string is not defined %}"
    "{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '" + LLAMA_DATE + "' %}{% endif %}"
    "{% endif %}"
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set system = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}"
    "{{ 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' }}"
    "{{ system + '<|eot_id|>' }}"
    "{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


def byte_vocabulary(size: int) -> dict[str, int]:
    """The 256 byte symbols as ids 0..255, then entries that no text is ever encoded to."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    fillers = [f"unused{i}" for i in range(256, size)]
    return {token: i for i, token in enumerate([*symbols, *fillers])}


def byte_ids(text: str) -> list[int]:
    """The ids of ``text`` without special tokens, computed without any tokenizer."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2's byte symbols
    others = [b for b in range(256) if b not in printable]
    symbol = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    rank = {s: i for i, s in enumerate(sorted(symbol.values()))}
    return [rank[symbol[b]] for b in text.encode()]


def build_tokenizer(family: str = "qwen2.5", *, small: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of a family; ``small`` puts the special tokens right behind the 256 bytes."""
    specials = {"qwen2.5": QWEN_SPECIALS, "llama-3": LLAMA_SPECIALS}[family]
    size = 256 if small else min(specials.values())
    backend = Tokenizer(models.BPE(vocab=byte_vocabulary(size), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    names = list(specials)
    if not small:  # reserved tokens fill the gaps between the named ones
        rows = range(min(specials.values()), max(specials.values()) + 1)
        by_id = {i: name for name, i in specials.items()}
        names = [by_id.get(i, f"<|reserved_{i}|>") for i in rows]
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names])
    if family == "qwen2.5":
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
        )
        tokenizer.chat_template = QWEN_TEMPLATE
        return tokenizer
    begin = "<|begin_of_text|>"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, backend.token_to_id(begin))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=begin, eos_token="<|eot_id|>"
    )
    tokenizer.chat_template = LLAMA_TEMPLATE
    return tokenizer


def build_model(
    family: str = "qwen2.5", *, small: bool = False, seed: int = 0, **changes: Any
) -> PreTrainedModel:
    """A random float32 model with grouped-query attention; ``changes`` go to its config."""
    specials = {"qwen2.5": QWEN_SPECIALS, "llama-3": LLAMA_SPECIALS}[family]
    full = {"qwen2.5": QWEN_ROWS, "llama-3": LLAMA_ROWS}[family]
    tokenizer = build_tokenizer(family, small=small)
    settings: dict[str, Any] = {
        "vocab_size": 256 + len(specials) if small else full,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # of size 32, the smallest that vLLM's CPU attention has
        "num_key_value_heads": 1,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": family == "qwen2.5",
        "initializer_range": 0.1,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        **changes,
    }
    kind, make = {
        "qwen2.5": (Qwen2Config, Qwen2ForCausalLM),
        "llama-3": (LlamaConfig, LlamaForCausalLM),
    }[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(kind(**settings)).eval()
    if family == "qwen2.5":  # what the published checkpoints ship, and a sampler must not inherit
        model.generation_config = GenerationConfig(
            do_sample=True,
            repetition_penalty=1.1,
            temperature=0.7,
            top_p=0.8,
            top_k=20,
            eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
            pad_token_id=tokenizer.pad_token_id,
        )
    return model


def write_checkpoint(
    directory: Path, family: str = "qwen2.5", *, small: bool = False, seed: int = 0, **changes: Any
) -> Path:
    """A Hugging Face directory with such a model and its tokenizer; returns ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    build_model(family, small=small, seed=seed, **changes).save_pretrained(directory)
    build_tokenizer(family, small=small).save_pretrained(directory)
    return directory


def training_rows(count: int = 8) -> list[dict[str, Any]]:
    """Rows with the columns of the hub's training sets: sums, each with a worked trace."""
    rows = []
    for i in range(count):
        question, answer = f"What is {i + 3} + {2 * i + 1}?", str(3 * i + 4)
        trace = f"<think>\n{i + 3} and {2 * i + 1} make {answer}.\n</think>\n\n\\boxed{{{answer}}}"
        rows.append({
            "data_source": "standin",
            "prompt": [{"role": "user", "content": question}],
            "target": [{"role": "assistant", "content": trace}],
            "reward_model": {"ground_truth": answer, "style": "rule"},
        })  # fmt: skip
    return rows


def write_training_set(path: Path, count: int = 8) -> Path:
    """``training_rows`` as JSONL; returns ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in training_rows(count)))
    return path
