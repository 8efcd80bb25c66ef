"""Checkpoints: position encodings, architectures, precisions, and what a context holds."""

import json

import pytest
import standin
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sgpo.core.models import (
    cast,
    check_rope,
    context_length,
    fit_max_tokens,
    load_model,
    load_tokenizer,
)

LLAMA_31_ROPE = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("qwen2.5", {"rope_theta": 1e6, "rope_type": "default"}),
        ("llama-3", {"rope_theta": 5e5, **LLAMA_31_ROPE}),
    ],
)
def test_the_position_encoding_of_the_config_reaches_the_model(tmp_path, family, rope):
    changes = {"rope_parameters": rope, "max_position_embeddings": 32_768, "head_dim": 128}
    standin.write_checkpoint(tmp_path, family, small=True, **changes)
    model = load_model(tmp_path)
    check_rope(model, tmp_path)
    config = (tmp_path / "config.json").read_text()
    # The fault of the trackers: the base frequency is dropped and 10000 used instead.
    (tmp_path / "config.json").write_text(config.replace(str(rope["rope_theta"]), "10000.0"))
    with pytest.raises(ValueError, match="rope_theta=10000"):
        check_rope(model, tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("foo", "'foo' is no language model"), ("gpt2", "'gpt2' has no rotary position encoding")],
)
def test_an_architecture_that_is_not_supported_is_one_line(tmp_path, kind, message):
    shape = {"vocab_size": 10, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8}
    if kind == "gpt2":
        GPT2LMHeadModel(GPT2Config(**shape)).save_pretrained(tmp_path)
    else:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    for weights in tmp_path.glob("*.safetensors"):
        weights.write_bytes(b"never read")
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "broken",
    [{"num_attention_heads": 0}, {"hidden_size": "x"}, {"model_type": ["llama"]},
     {"rope_scaling": {"rope_type": "foo"}}, {"rope_parameters": {"rope_type": "foo"}}],
)  # fmt: skip
def test_a_config_that_describes_no_model_is_one_line(tmp_path, broken):
    standin.write_checkpoint(tmp_path, "llama-3", small=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | broken))
    with pytest.raises(ValueError, match="config.json|model_type") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("eos", [261, [261, 256], 65])  # one that is not there, one that is text
def test_a_smaller_tokenizer_of_another_model_is_refused(tmp_path, eos):
    standin.write_checkpoint(tmp_path, "llama-3", small=True, eos_token_id=eos)
    (tmp_path / "generation_config.json").unlink()
    standin.build_tokenizer("qwen2.5", small=True).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="take the model's own tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["qwen2.5", "llama-3"])
@pytest.mark.parametrize("eos", ["own", "a list", "none"])
def test_a_padded_vocabulary_and_any_way_to_name_eos_are_accepted(tmp_path, family, eos):
    ids = {"own": 258, "a list": [258, 257], "none": None}[eos]
    standin.write_checkpoint(tmp_path, family, small=True, vocab_size=320, eos_token_id=ids)
    assert len(load_tokenizer(tmp_path)) < 320


@pytest.mark.parametrize("family", ["qwen2.5", "llama-3"])
def test_weights_in_bfloat16_keep_exact_rotations(tmp_path, family):
    """As transformers' own load in bfloat16 has them; ``model.to`` alone would round them."""
    standin.write_checkpoint(tmp_path, family, small=True)
    ours = cast(load_model(tmp_path), torch.device("cpu"), torch.bfloat16)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    ids = torch.arange(5, 65).repeat(2)[None]
    assert torch.equal(ours(ids).logits, theirs(ids).logits)
    theirs.to(torch.float32).to(torch.bfloat16)
    assert not torch.equal(ours(ids).logits, theirs(ids).logits)


def test_context_length_and_the_cap():
    config = {"max_position_embeddings": 32_768}
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32_768, "rope_type": "yarn"}
    assert context_length(config) == 32_768
    assert context_length(config | {"rope_parameters": yarn}) == 131_072
    assert fit_max_tokens(131_072, 1000, 32_768) == (32_768, None)
    assert fit_max_tokens(100, 60, 40) == (40, None)
    cap, line = fit_max_tokens(32_768, 768, 32_768)
    assert cap == 32_000 and "capped at 32000 tokens" in line
    with pytest.raises(ValueError, match="longest prompt has 100 tokens"):
        fit_max_tokens(100, 100, 1)


def test_an_eos_that_is_no_token_id_is_one_line_that_names_the_file(tmp_path):
    standin.write_checkpoint(tmp_path, "llama-3", small=True)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id='</s>'"):
        load_tokenizer(tmp_path)
