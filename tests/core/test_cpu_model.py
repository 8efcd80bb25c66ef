"""Scoring with prompts read once, against the model's own forward pass in float64."""

import copy
from unittest import mock

import pytest
import torch
from tiny import build_double, build_model

from sgpo.core import cpu_model
from sgpo.core.logprobs import pad_sequences, token_stats

# Token 0 is the padding id, whose embedding row gets no gradient; it may still stand in a text.
PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 5, 6, 4, 3), (2, 8, 0, 10, 11, 12, 4, 3), (2, 7, 3)]
COMPLETIONS = [(9, 4), (5, 6, 7, 0, 9, 10, 4), (13,), (7, 8, 9, 4), (11,)]
EXACT = {"rtol": 1e-9, "atol": 1e-9}
SHAPES = {
    "grouped": {},
    "untied": {"tie_word_embeddings": False},
    "all heads": {"num_key_value_heads": 4},
    "one head": {"num_key_value_heads": 1},
    "rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "eps": {"rms_norm_eps": 0.5},
    "wide heads": {"head_dim": 8},
}


def scored(model, batch):
    """Log-probabilities, entropies and every parameter's gradient of a loss of both."""
    model.zero_grad()
    stats = token_stats(model, batch, entropy="loss")
    make = torch.Generator().manual_seed(0)
    weights = torch.randn(stats.logprobs.shape, generator=make, dtype=torch.float64)
    (weights * stats.logprobs + 0.3 * weights * stats.entropy).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    return stats.logprobs.detach(), stats.entropy.detach(), grads


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_the_models_own(family, shape):
    """Shared and single prompts, of one length and of several, completions of one token."""
    model = build_double(family, **SHAPES[shape])
    assert cpu_model.applies_to(model)
    for rows in (slice(None), slice(0, 3, 2), slice(4, None)):
        batch = pad_sequences(PROMPTS[rows], COMPLETIONS[rows])
        ours = scored(model, batch)
        with mock.patch.object(cpu_model, "applies_to", lambda model: False):
            own = scored(model, batch)
        torch.testing.assert_close(ours[:2], own[:2], **EXACT)
        for name, grad in ours[2].items():
            torch.testing.assert_close(grad, own[2][name], msg=name, **EXACT)
            assert grad.abs().max() > 1e-3, name
        if shape == "untied":  # tied, the head's gradient falls on the row too
            assert not ours[2]["model.embed_tokens.weight"][0].any()


def test_a_prompt_is_read_once():
    """12 completions of each of 2 prompts: 2 prompts are embedded, not 24."""
    model = build_model()
    batch = pad_sequences(PROMPTS[:2] * 12, COMPLETIONS[:2] * 12)
    shapes = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(inputs[0].shape))
    )
    token_stats(model, batch)
    assert shapes == [(2, 5), (24, 6)]  # the last of 7 completion tokens predicts nothing


REFUSED = {
    "checkpointing": lambda m: m.gradient_checkpointing_enable(),
    "half precision": lambda m: m.bfloat16(),
    "sliding window": lambda m: setattr(m.config, "use_sliding_window", True),
    "adapter": lambda m: setattr(m.model.layers[0].mlp, "down_proj", torch.nn.Identity()),
    "other family": lambda m: setattr(m.config, "model_type", "qwen3"),
    "dropout": lambda m: (m.train(), setattr(m.config, "attention_dropout", 0.1)),
}


def test_anything_else_takes_the_models_own_forward():
    model = build_model()
    assert cpu_model.applies_to(model)
    for what, change in REFUSED.items():
        changed = copy.deepcopy(model)
        change(changed)
        assert not cpu_model.applies_to(changed), what
