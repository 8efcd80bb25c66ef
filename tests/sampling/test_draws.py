"""Draws follow softmax and nucleus, for both samplers."""

import numpy as np
import pytest
import torch
from scipy import stats
from tiny import (
    SPEC,
    VOCABULARY,
    build_model,
    build_tokenizer,
)

from sgpo.core.sampling.cpu import CompactSampler, draw
from sgpo.core.sampling.sampler import SamplingParams, TransformersSampler
from sgpo.core.seeding import generator

TOKENIZER = build_tokenizer()
STOP = SPEC.stop_ids(TOKENIZER)
SAMPLERS = {"compact": CompactSampler, "transformers": TransformersSampler}
PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 8, 9, 10, 11, 12, 4, 3), (2, 6, 3)]


def make(kind: str, model=None, **changes):
    return SAMPLERS[kind](model or build_model(), TOKENIZER, stop_ids=STOP, **changes)


def nucleus(logits, temperature, top_p):
    """Reference in numpy: the smallest set of most probable tokens that reaches ``top_p``."""
    scaled = np.array(logits, dtype=np.float64) / temperature
    probs = np.exp(scaled - scaled.max())
    probs /= probs.sum()
    kept, mass = np.zeros_like(probs), 0.0
    for token in np.argsort(-probs):
        if mass >= top_p:
            break
        kept[token] = probs[token]
        mass += probs[token]
    return kept / kept.sum()


LOGITS = [2.0, -1.0, 0.5, 1.5, -3.0, 0.0, 1.0]


def chi_square_p(counts, expected):
    """p-value of observed counts; tokens of no mass must not occur at all."""
    assert not counts[expected == 0].any()
    on = expected > 0
    return stats.chisquare(counts[on], expected[on] * counts.sum()).pvalue if on.sum() > 1 else 1.0


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.5, 0.01])
def test_draws_follow_the_nucleus(temperature, top_p):
    count = 20_000
    uniform = torch.rand(count, generator=generator(1, "draws"))
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p)
    tokens = draw(torch.tensor([LOGITS]).expand(count, -1), uniform, params)
    counts = np.bincount(tokens.numpy(), minlength=len(LOGITS))
    assert chi_square_p(counts, nucleus(LOGITS, temperature, top_p)) > 1e-3


def test_extreme_uniforms_stay_on_tokens_with_mass():
    almost_one = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    logits = torch.tensor([[-200.0, 0.0, 1.0, -200.0]])
    for top_p in (1.0, 0.9):
        params = SamplingParams(max_tokens=1, top_p=top_p)
        for uniform in (torch.tensor(0.0), almost_one):
            assert int(draw(logits, uniform[None], params)) in (1, 2)


def test_a_uniform_that_was_rounded_to_1_stays_in_the_nucleus():
    logits = torch.randn(2000, 6, generator=generator(1, "rounding"))
    tokens = draw(logits, torch.ones(2000), SamplingParams(max_tokens=1, top_p=0.5))
    ordered, order = torch.softmax(logits.double(), -1).sort(-1, descending=True)
    size = (ordered.cumsum(-1) < 0.5).sum(-1, keepdim=True)  # less one
    assert torch.equal(tokens, order.gather(1, size).squeeze(1))


@pytest.mark.parametrize("kind", SAMPLERS)
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 0.8)])
def test_first_token_follows_the_models_distribution(kind, temperature, top_p):
    model = build_model()
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, seed=5)
    group = make(kind, model).sample([PROMPTS[0]], 4000, params)[0]
    counts = np.bincount([c.token_ids[0] for c in group], minlength=len(VOCABULARY))
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    expected = nucleus(logits.numpy(), temperature, top_p)
    counts_rare = counts[(expected > 0) & (expected * 4000 < 5)]
    common = expected * 4000 >= 5
    assert chi_square_p(
        np.array([*counts[common], counts_rare.sum(), *counts[expected == 0]]),
        np.array([*expected[common], expected[~common].sum(), *expected[expected == 0]]),
    ) > 1e-3  # fmt: skip


def mean_logprob(model, groups):
    total, tokens = 0.0, 0
    with torch.no_grad():
        for prompt, group in zip(PROMPTS, groups, strict=True):
            for c in group:
                logits = model(torch.tensor([[*prompt, *c.token_ids]])).logits[0]
                logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
                picked = logprobs[range(len(c.token_ids)), list(c.token_ids)]
                total, tokens = total + picked.sum().item(), tokens + len(c.token_ids)
    return total / tokens


def test_both_samplers_draw_alike_over_whole_completions():
    model = build_model()
    params = SamplingParams(max_tokens=6, seed=3)
    values = [
        mean_logprob(model, make(kind, model).sample(PROMPTS, 60, params)) for kind in SAMPLERS
    ]
    # 240 completions each of about 5 tokens, one nat of spread a token: s.e. about 0.04.
    assert abs(values[0] - values[1]) < 0.15
