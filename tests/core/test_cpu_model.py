"""Scoring with prompts read once, against the model's own forward pass in float64."""

import copy
from unittest import mock

import pytest
import torch
from tiny import (
    METHODS,
    build_double,
    build_model,
    build_problems,
    build_tokenizer,
    collected,
    gradient,
)

from sgpo.core import cpu_model
from sgpo.core.logprobs import pad_sequences, token_stats

# Token 0 is the padding id, whose embedding row gets no gradient; it may still stand in a text.
PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 5, 6, 4, 3), (2, 8, 0, 10, 11, 12, 4, 3), (2, 7, 3)]
COMPLETIONS = [(9, 4), (5, 6, 7, 0, 9, 10, 4), (13,), (7, 8, 9, 4), (11,)]
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def own_forward():
    """Inside, scoring goes through the model's own forward pass."""
    return mock.patch.object(cpu_model, "applies_to", lambda model: False)


def scored(model, batch):
    """Log-probabilities, entropies and every parameter's gradient of a loss of both."""
    model.zero_grad()
    stats = token_stats(model, batch, entropy="loss")
    weights = torch.randn(
        stats.logprobs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    (weights * stats.logprobs + 0.3 * weights * stats.entropy).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    return stats.logprobs.detach(), stats.entropy.detach(), grads


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        {"rms_norm_eps": 0.5},
        {"head_dim": 8},
    ],
    ids=lambda shape: "-".join(shape) or "grouped",
)
@pytest.mark.parametrize("rows", [slice(None), slice(0, 3, 2), slice(4, None)])
def test_values_and_gradients_are_the_models_own(family, shape, rows):
    """Shared and single prompts, of one length and of several, completions of one token."""
    model = build_double(family, **shape)
    batch = pad_sequences(PROMPTS[rows], COMPLETIONS[rows])
    assert cpu_model.applies_to(model)
    logprobs, entropy, grads = scored(model, batch)
    with own_forward():
        own_logprobs, own_entropy, own_grads = scored(model, batch)
    torch.testing.assert_close(logprobs, own_logprobs, **EXACT)
    torch.testing.assert_close(entropy, own_entropy, **EXACT)
    assert grads.keys() == own_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, own_grads[name], msg=name, **EXACT)
        assert grad.abs().max() > 1e-3, name
    if not model.config.tie_word_embeddings:  # tied, the head's gradient falls on the row too
        assert not grads["model.embed_tokens.weight"][0].any()


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_gradient_is_the_same_on_both_routes(name):
    method = METHODS[name]()
    trajectories, _ = collected(method, problems=build_problems(6))
    model = build_double()
    if getattr(method, "teacher", None):  # of the model's precision, not of the sampling one's
        method.teacher.place(model, build_tokenizer())
    totals = method.totals(trajectories)
    loss, grad = gradient(method, model, [trajectories], totals)
    with own_forward():
        own_loss, own = gradient(method, model, [trajectories], totals)
    assert loss == pytest.approx(own_loss, abs=1e-9)
    torch.testing.assert_close(grad, own, **EXACT)
    assert grad.abs().max() > 1e-3


def test_a_prompt_is_read_once():
    """12 completions of each of 2 prompts: 2 prompts are embedded, not 24."""
    model = build_model()
    batch = pad_sequences(PROMPTS[:2] * 12, COMPLETIONS[:2] * 12)
    shapes = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(inputs[0].shape))
    )
    token_stats(model, batch)
    hook.remove()
    assert shapes == [(2, 5), (24, 6)]  # the last of 7 completion tokens predicts nothing


@pytest.mark.parametrize(("function", "rest"), [("_Normalize", (0.3,)), ("_SwiGLU", ())])
def test_written_gradients_are_those_of_finite_differences(function, rest):
    make = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 5, 8, generator=make, dtype=torch.float64, requires_grad=True)
    apply = getattr(cpu_model, function).apply
    assert torch.autograd.gradcheck(lambda t: apply(t, *rest), (x,))


def refusals():
    yield "checkpointing", lambda m: m.gradient_checkpointing_enable()
    yield "half precision", lambda m: m.bfloat16()
    yield "sliding window", lambda m: setattr(m.config, "use_sliding_window", True)
    yield "adapter", lambda m: setattr(m.model.layers[0].mlp, "down_proj", torch.nn.Identity())
    yield "other family", lambda m: setattr(m.config, "model_type", "qwen3")
    yield "dropout", lambda m: (m.train(), setattr(m.config, "attention_dropout", 0.1))


@pytest.mark.parametrize(("what", "change"), refusals())
def test_anything_else_takes_the_models_own_forward(what, change):
    model = build_model()
    assert cpu_model.applies_to(model)
    changed = copy.deepcopy(model)
    change(changed)
    assert not cpu_model.applies_to(changed), what
