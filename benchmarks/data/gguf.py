"""A checkpoint out of a GGUF file: its weights dequantised, its vocabulary, its defaults.

transformers reads the file. What it leaves to be set right is done here: a head that repeats the
embedding is tied again, the end of turn becomes eos, and nothing in the config says quantised.
"""

from __future__ import annotations

import argparse
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from sgpo.core.cpu_model import SUPPORTED
from sgpo.core.files import sha256_of, whole_directory, write_json
from sgpo.core.prompts import native_spec

RECORD = "import.json"
SAME_MATRIX = 0.98  # mean cosine of rows; two quantisations of one matrix are at 0.99 and above


def import_gguf(file: Path, out: Path) -> str:
    """Write ``file`` as a bfloat16 Hugging Face directory ``out``; a sentence that says what it is.

    ``out``/import.json keeps the file's digest and the types that its tensors were stored in.

    Raises:
        ValueError: no GGUF file, an architecture other than Qwen2 and Llama, a package that is
            missing, or ``out`` exists.
    """
    if out.exists():
        raise ValueError(f"--out {out}: exists already; name another directory")
    kinds = _tensor_types(file)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    if model.config.model_type not in SUPPORTED:
        raise ValueError(
            f"{file}: model_type={model.config.model_type!r}: must be {' or '.join(SUPPORTED)}"
        )
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    if tokenizer.chat_template:
        tokenizer.eos_token = native_spec(tokenizer).end_of_turn
    whole = _clean(model, tokenizer)
    stored = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    with whole_directory(out) as directory:
        whole.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        write_json(
            directory / RECORD,
            {"file": file.name, "sha256": sha256_of(file), "tensors": dict(kinds)},
        )
    return (
        f"{out}: {model.config.model_type}, {whole.num_parameters():,} weights in bfloat16, "
        f"restored from quantised ones ({stored} tensors): scores are not the original's"
    )


def import_command(options: argparse.Namespace) -> int:
    """``sgpo checkpoint import``."""
    print(import_gguf(options.file, options.out))
    return 0


def _tensor_types(file: Path) -> Counter[str]:
    """How many tensors the file stores in which type."""
    missing = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if missing:
        remedy = ".venv/bin/pip install -e '.[gguf]'"
        raise ValueError(f"{' and '.join(missing)} missing: {remedy} in the checkout")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise ValueError(f"{file}: no GGUF file (its first bytes are not GGUF)")
    from gguf import GGUFReader

    return Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)


def _clean(read: PreTrainedModel, tokenizer: Any) -> PreTrainedModel:
    """The same model in bfloat16, tied where it was before it was quantised, with the config of an
    ordinary checkpoint and generation defaults that only name its special tokens."""
    state = {name: tensor.to(torch.bfloat16) for name, tensor in read.state_dict().items()}
    head, embedding = read.lm_head.weight, read.get_input_embeddings().weight
    tied = read.config.tie_word_embeddings or (
        float(torch.cosine_similarity(head, embedding, dim=-1).mean()) > SAME_MATRIX
    )
    if tied:  # the head is the copy in the finer type
        state["model.embed_tokens.weight"] = state["lm_head.weight"]
    settings = read.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "transformers_version"):
        settings.pop(key, None)
    ends = [tokenizer.eos_token_id]
    if settings.get("eos_token_id") not in (*ends, None):
        ends.append(settings["eos_token_id"])  # the file's own end of text
    settings |= {
        "tie_word_embeddings": tied,
        "dtype": "bfloat16",
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = type(read)(type(read.config)(**settings)).to(torch.bfloat16)
    model.load_state_dict(state)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=settings.get("bos_token_id"),
        eos_token_id=ends,
        pad_token_id=settings.get("pad_token_id"),
    )
    return model
