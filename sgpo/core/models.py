"""Checkpoints: their name, their load, and what their position encoding can hold.

Two faults of this field's releases are caught here before a run: a token budget that leaves no
room for the prompt (32K generated tokens in a 32K context), and a base frequency that the library
dropped silently while it read an older or newer spelling of the config.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sgpo.core.files import read_json

# Weights in safetensors only; code, other formats and originals are never fetched.
PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
SUPPORTED = "Qwen2- and Llama-shaped checkpoints"
RELATIVE_TOLERANCE = 1e-4  # float32 rounding is 1e-7; a dropped base frequency is off by far more


def rope_settings(config: dict[str, Any]) -> dict[str, Any]:
    """``rope_type``, ``rope_theta`` and scaling values of a config.json in either spelling."""
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = scaling.get("rope_theta", config.get("rope_theta", 10_000.0))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return {**scaling, "rope_type": kind, "rope_theta": float(theta)}


def context_length(config: dict[str, Any]) -> int:
    """Positions that the checkpoint was made for: ``max_position_embeddings``, or the length that
    YaRN scaling makes of it (published Qwen2.5 configs leave that off) where it is larger."""
    length = int(config["max_position_embeddings"])
    rope = rope_settings(config)
    if rope["rope_type"] == "yarn":
        original = rope.get("original_max_position_embeddings", length)
        return max(length, int(original * rope["factor"]))
    return length


def expected_inverse_frequencies(config: dict[str, Any]) -> torch.Tensor | None:
    """Inverse frequencies float32 [head size / 2] that config.json asks for; None for scalings
    other than ``default`` and ``llama3``, which are not checked here."""
    rope = rope_settings(config)
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    exponents = torch.arange(0, size, 2, dtype=torch.float64) / size
    frequencies = rope["rope_theta"] ** -exponents
    if rope["rope_type"] == "llama3":
        # Long waves are slowed by `factor`, short ones kept, and in between it is interpolated.
        old = rope["original_max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = old * frequencies / (2 * math.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = kept * frequencies + (1 - kept) * frequencies / rope["factor"]
    elif rope["rope_type"] != "default":
        return None
    return frequencies.float()


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a checkpoint directory as it stands on disk, before any library reads it."""
    path = directory / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{directory}: no config.json; not a Hugging Face checkpoint") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def check_rope(model: PreTrainedModel, directory: Path) -> None:
    """ValueError unless the loaded model rotates by the frequencies that its config.json states."""
    config = read_config(directory)
    expected = expected_inverse_frequencies(config)
    if expected is None:
        return
    actual = model.model.rotary_emb.inv_freq.detach().float().cpu()
    if actual.shape != expected.shape or not torch.allclose(
        actual, expected, rtol=RELATIVE_TOLERANCE, atol=0.0
    ):
        theta = rope_settings(config)["rope_theta"]
        raise ValueError(
            f"{directory}: the loaded model does not use the position encoding of its config.json "
            f"(rope_theta={theta:g}); this version of transformers reads that config differently"
        )


def check_architecture(directory: Path) -> None:
    """ValueError unless config.json asks for a language model that is supported. Neither tokenizer
    nor weights are read."""
    kind = read_config(directory).get("model_type")
    if str(kind) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ValueError(
            f"{directory}: model_type={kind!r} is no language model that transformers "
            f"{transformers.__version__} knows; {SUPPORTED} are supported"
        )
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config)
    # Whatever a library makes of values that it did not expect is the answer to what is asked here.
    except Exception as error:
        why = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ValueError(f"{directory}/config.json describes no model ({why})") from error
    if not hasattr(empty.base_model, "rotary_emb"):
        raise ValueError(
            f"{directory}: model_type={kind!r} has no rotary position encoding; {SUPPORTED} are "
            "supported"
        )


def load_model(directory: Path) -> PreTrainedModel:
    """The float32 model of a local directory: safetensors only, no code from the directory.
    ValueError for damaged weights or an architecture or position encoding that is not supported."""
    check_architecture(directory)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except SafetensorError as error:
        raise ValueError(f"{directory}: damaged weights ({error}); delete the run") from error
    check_rope(model, directory)
    return model.eval()


def cast(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """``model``, moved in place. Its rotary frequencies stay float32, as a checkpoint loaded in
    ``dtype`` has them: rounded to bfloat16 they turn position 1,000 by up to three radians."""
    rotary = model.base_model.rotary_emb
    exact = {name: buffer.to(device) for name, buffer in rotary.named_buffers()}
    model.to(device, dtype)
    for name, buffer in exact.items():
        setattr(rotary, name, buffer)
    return model


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a local directory; ValueError when there is none or it is another model's:
    one that does not have an eos of the configs beside it, or has ordinary text in its place."""
    if not (directory / "tokenizer_config.json").exists():
        raise ValueError(
            f"{directory}: holds no tokenizer (tokenizer_config.json is missing); save the "
            "model's tokenizer beside its weights"
        )
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    ends = _eos_ids(directory)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    unknown = [i for i in ends if i < 0 or tokenizer.convert_ids_to_tokens(i) is None]
    if unknown or (ends and not special.intersection(ends)):
        raise ValueError(
            f"{directory}: its config names {(unknown or ends)[0]} as eos_token_id, which is no "
            "special token of the tokenizer beside it: take the model's own tokenizer, or set "
            "eos_token_id"
        )
    return tokenizer


def _eos_ids(directory: Path) -> list[int]:
    """The eos ids that config.json and generation_config.json name."""
    ids: list[int] = []
    for path in (directory / "config.json", directory / "generation_config.json"):
        config = read_json(path) if path.is_file() else {}
        found = config.get("eos_token_id") if isinstance(config, dict) else None
        own = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(one, int) for one in own):
            raise ValueError(
                f"{path}: eos_token_id={found!r}: must be a token id or a list of such"
            )
        ids += own
    return list(dict.fromkeys(ids))


def fit_max_tokens(context: int, longest_prompt: int, max_tokens: int) -> tuple[int, str | None]:
    """Tokens a completion may have in a ``context`` of so many positions, and a line that says so
    when that is fewer than asked for; ValueError when the longest prompt leaves no room at all."""
    room = context - longest_prompt
    if room < 1:
        raise ValueError(
            f"the longest prompt has {longest_prompt} tokens and fills the context of {context}: "
            "use a model with a longer context, or leave that problem out"
        )
    if max_tokens <= room:
        return max_tokens, None
    return room, (
        f"{max_tokens} tokens after a prompt of {longest_prompt} do not fit the context of "
        f"{context}: completions are capped at {room} tokens"
    )


def checkpoint_directory(name: str, revision: str | None = None) -> Path:
    """The directory of checkpoint ``name``, downloaded into the hub's cache if need be; ValueError
    when it is incomplete, not there, gated, or not to be had."""
    path = Path(name).expanduser()
    if not path.is_dir():
        if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
            raise ValueError(f"checkpoint {name!r}: no such directory")
        path = _download(name, revision)
    _check_complete(path)
    return path


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    what = f"checkpoint {name!r}" + (f" at revision {revision!r}" if revision else "")
    instead = "name a directory in its place (of a run: --set checkpoint=DIRECTORY)"
    reasons = {
        errors.GatedRepoError: (
            f"is gated: accept its terms on the hub and set HF_TOKEN, or {instead}"
        ),
        errors.RevisionNotFoundError: "the hub knows no such revision",
        errors.RepositoryNotFoundError: (
            "the hub knows no such model (or it is private and HF_TOKEN is not set)"
        ),
        errors.HFValidationError: "neither a directory nor a name like owner/model",
    }
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(PATTERNS)))
    except (*reasons, errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        unknown = f"not in the cache and the hub cannot be had ({line}); {instead}"
        reason = next((r for kind, r in reasons.items() if isinstance(error, kind)), unknown)
        raise ValueError(f"{what}: {reason}") from error


def _check_complete(path: Path) -> None:
    for needed, why in (
        ("config.json", "it is no model directory"),
        ("tokenizer_config.json", "save the model's tokenizer beside its weights"),
    ):
        if not (path / needed).is_file():
            raise ValueError(f"checkpoint {str(path)!r}: {needed} is missing; {why}")
    check_architecture(path)
    if not list(path.glob("*.safetensors")):
        raise ValueError(
            f"checkpoint {str(path)!r}: holds no .safetensors weights (other formats can run code "
            "when they are loaded and are refused)"
        )
