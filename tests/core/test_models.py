"""Checkpoints: architectures, precisions, and what a context holds."""

import json

import pytest
import standin
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sgpo.core.models import cast, context_length, fit_max_tokens, load_model


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
    with pytest.raises(ValueError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


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
    assert context_length(config) == 32_768
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32_768}
    old = config | {"rope_scaling": yarn | {"type": "yarn"}}
    new = config | {"rope_parameters": yarn | {"rope_type": "yarn"}}
    assert context_length(old) == context_length(new) == 131_072
    assert fit_max_tokens(131_072, 1000, 32_768) == (32_768, None)
    assert fit_max_tokens(100, 60, 40) == (40, None)
    cap, line = fit_max_tokens(32_768, 768, 32_768)
    assert cap == 32_000 and "capped at 32000 tokens" in line
    with pytest.raises(ValueError, match="longest prompt has 100 tokens"):
        fit_max_tokens(100, 100, 1)
