"""The contract of all samplers: the right distribution, weights, seeds, order and ends."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from engines import LONG, PROMPTS, STOP, TOKENIZER, build, ids_of, perturb
from scipy import stats
from tiny import (
    END,
    SPEC,
    VOCABULARY,
    build_double,
    build_model,
    build_problems,
    build_tokenizer,
    dense_logprobs,
)

from benchmarks.config import EvalConfig
from benchmarks.run.evaluate import evaluate
from sgpo.core.distributed import Ranks
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import (
    CompactSampler,
    SamplingParams,
    TransformersSampler,
    compact,
    make_sampler,
)
from sgpo.core.sampling.ranks import ReplicaSampler
from sgpo.core.sampling.sampler import READ_EVERY, draw
from sgpo.core.seeding import generator
from sgpo.core.types import FinishReason

# --- every sampler ------------------------------------------------------------------------------


def test_seeds_decide_and_samples_differ(make):
    sampler, params = make(build()), SamplingParams(max_tokens=12, seed=1)
    prompts = [*PROMPTS, PROMPTS[0]]
    first, again = (ids_of(sampler.sample(prompts, 6, params)) for _ in range(2))
    other = ids_of(sampler.sample(prompts, 6, replace(params, seed=2)))
    assert first == again != other
    assert [len(group) for group in first] == [6] * len(prompts)
    assert all(len(set(group)) > 3 for group in first)
    assert len({*first[0], *first[-1]}) > 10, "equal prompts must not share their draws"
    # Calls with neighbouring seeds must not draw from shifted copies of one sequence.
    assert not {x for x in first[0] if len(x) > 3} & set(other[0])


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_draw_together_what_one_draws_alone(make, size):
    """Each rank's share knows its places in the whole call and gets the draws of those places."""
    sampler = make(build())
    params = SamplingParams(max_tokens=8, seed=1, top_p=0.9)
    alone = ids_of(sampler.sample(PROMPTS, 5, params))
    together = []
    for rank in range(size):
        own = Ranks(rank, size).share(len(PROMPTS))
        placed = replace(params, places=tuple(own))
        together += ids_of(sampler.sample([PROMPTS[i] for i in own], 5, placed))
    assert together == alone


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1::2]], ids=["padded", "one length"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_at_a_vanishing_temperature_samples_are_the_greedy_ones_in_order(make, family, prompts):
    model = build(2, family=family, initializer_range=0.8)  # no two logits nearly equal
    params = SamplingParams(max_tokens=12, temperature=0.01, seed=3)
    groups = make(model, max_batch=3).sample(prompts, 2, params)
    how = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": list(STOP)}
    for prompt, group in zip(prompts, groups, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **how)
        assert [c.token_ids for c in group] == [tuple(out[0, len(prompt) :].tolist())] * 2


def test_stop_token_is_kept_and_truncation_is_flagged(make):
    params = SamplingParams(max_tokens=5, seed=2, temperature=2.0)
    flat = [c for group in make(build()).sample(PROMPTS, 40, params) for c in group]
    for completion in flat:
        if completion.finish_reason is FinishReason.STOP:
            assert completion.token_ids[-1] == END and END not in completion.token_ids[:-1]
        else:
            assert len(completion.token_ids) == 5 and END not in completion.token_ids
        words = [VOCABULARY[i] for i in completion.token_ids if i > 4]
        assert completion.text.split() == words
    assert {c.finish_reason for c in flat} == set(FinishReason)
    # A stop token in the last place that the budget leaves is a stop, not a truncation.
    assert any(len(c.token_ids) == 5 and c.finish_reason is FinishReason.STOP for c in flat)


STOP_TEXTS = ("w3 w9", "w11", "s2 w")


def cut_by_hand(completion):
    """The completion up to the token with which its text first holds a stop text."""
    for count in range(1, len(completion.token_ids) + 1):
        ids = completion.token_ids[:count]
        text = TOKENIZER.decode(ids, skip_special_tokens=True)
        found = [i for i in range(len(text)) if text[i:].startswith(STOP_TEXTS)]
        if any(text[:i].strip() for i in found):
            ended = {"text": text, "finish_reason": FinishReason.STOP}
            return replace(completion, token_ids=ids, **ended)
    return completion


def test_a_completion_ends_where_a_stop_text_does(make):
    """The same samples as without, cut; so all samplers that draw alike agree here too."""
    sampler, params = make(build()), SamplingParams(max_tokens=40, seed=3)
    whole = [c for group in sampler.sample(PROMPTS, 20, params) for c in group]
    groups = sampler.sample(PROMPTS, 20, replace(params, stop_texts=STOP_TEXTS))
    cut = [c for group in groups for c in group]
    assert cut == [cut_by_hand(c) for c in whole]
    ends = {len(a.token_ids) for a, b in zip(cut, whole, strict=True) if a != b}
    assert len(ends) > READ_EVERY and min(ends) < READ_EVERY and cut != whole
    assert any(a == b for a, b in zip(cut, whole, strict=True))


def test_prompts_without_an_end_of_turn_are_evaluated_with_stop_texts(tmp_path):
    """What ends sampling is what grading cuts; the other prompts have none."""
    for name, spec in PROMPT_SPECS.items():
        assert bool(spec.stop_texts) == (not spec.chat) == name.endswith("-none")
        for stop in spec.stop_texts:
            assert spec.graded_text("so \\boxed{7}" + stop) == ("so \\boxed{7}", True)
    sampler, texts = CompactSampler(build(), TOKENIZER, stop_ids=STOP), []
    monitored = sampler.sample
    sampler.sample = lambda *call: texts.append(call[2].stop_texts) or monitored(*call)
    for spec in (SPEC, replace(SPEC, chat=False, stop_texts=("w1",))):
        evaluate(
            sampler=sampler,
            tokenizer=TOKENIZER,
            prompt_spec=spec,
            config=EvalConfig(suites=("own",), max_tokens=6),
            seed=1,
            samples_dir=tmp_path / str(len(texts)),
            suites={"own": (build_problems(2), 2)},
        )
    assert texts == [(), ("w1",)]


def test_the_checkpoints_own_defaults_do_not_leak_into_sampling(make):
    """Only our stop ids count, and the policy is the softmax without the repetition penalty that
    instruct checkpoints ship."""
    params = SamplingParams(max_tokens=8, seed=1)
    plain, changed = build(), build()
    changed.config.eos_token_id = 7
    changed.generation_config.repetition_penalty = 50.0
    changed.generation_config.top_k = 2
    changed.generation_config.min_new_tokens = 7
    groups = ids_of(make(changed).sample(PROMPTS, 40, params))
    assert groups == ids_of(make(plain).sample(PROMPTS, 40, params))
    assert any(7 in ids[:-1] for group in groups for ids in group)


def test_synced_weights_are_the_ones_that_sample(make):
    """After an update in place, and after a change to another model."""
    model, params = build(), SamplingParams(max_tokens=6, seed=1)
    sampler, prompts = make(model), [*PROMPTS, *LONG]
    found = [ids_of(sampler.sample(prompts, 3, params))]
    perturb(model)
    for changed in (model, build(seed=9)):
        sampler.release()
        sampler.sync(changed)
        found.append(ids_of(sampler.sample(prompts, 3, params)))
        assert found[-1] == ids_of(make(changed).sample(prompts, 3, params)) != found[-2]


def test_progress_counts_every_completion(make):
    counts = []
    sampler = make(build(), max_batch=6)
    sampler.sample(PROMPTS, 3, SamplingParams(max_tokens=2), counts.append)
    assert sum(counts) == 12 and len(counts) > 1


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


def fits(drawn, expected):
    """p-value of drawn tokens, rare ones taken together; a token without mass: 0."""
    counts = np.bincount(drawn, minlength=len(expected))
    if counts[expected == 0].any():
        return 0.0
    common = expected * counts.sum() >= 5
    rare = (expected > 0) & ~common
    observed, wanted = list(counts[common]), list(expected[common] * counts.sum())
    if rare.any():
        observed.append(counts[rare].sum())
        wanted.append(expected[rare].sum() * counts.sum())
    return stats.chisquare(observed, wanted).pvalue if len(observed) > 1 else 1.0


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7), (0.7, 0.8)])
def test_first_tokens_follow_the_tempered_nucleus(make, temperature, top_p):
    model = build()
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, seed=5)
    drawn = [c.token_ids[0] for c in make(model).sample([PROMPTS[0]], 2000, params)[0]]
    assert fits(drawn, nucleus(logits.numpy(), temperature, top_p)) > 1e-3


@pytest.mark.parametrize(
    ("name", "model", "line"),
    [
        ("sglang", {}, "unknown engine 'sglang': must be compact, transformers"),
        ("compact", {"vocab_size": 20}, "has 24 entries and the model 20 embeddings"),
        ("compact", {"family": "llama", "attention_bias": True}, "attention_bias"),
        ("compact", {"family": "llama", "mlp_bias": True}, "mlp_bias"),
        ("compact", {"dtype": torch.float16}, "dtype=torch.float16"),
        ("compact", {"hidden_act": "gelu"}, "hidden_act"),
        (
            "compact",
            {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
            "sliding",
        ),
        (
            "compact",
            {
                "family": "llama",
                "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
            },
            "rope_type",
        ),
    ],
)
def test_what_a_sampler_would_compute_otherwise_is_refused(name, model, line):
    built = build_model(**{k: v for k, v in model.items() if k != "dtype"})
    with pytest.raises(ValueError, match=line):
        make_sampler(name, built.to(model.get("dtype")), TOKENIZER, stop_ids=STOP)


# --- one draw -----------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [0.3, 0.95, 0.9999])
@pytest.mark.parametrize(("size", "first", "second"), [(20_000, 128, 4096), (100, 16, 16)])
def test_a_vocabulary_is_cut_exactly_without_sorting_it(size, first, second, top_p):
    """Rows from peaked to flat: nuclei of one token to nearly all. Every draw must be the token
    that sorting in float64 gives, unless the two lie within rounding of a step."""
    rows = 60
    logits = torch.randn(rows, size, generator=generator(1, "large"))
    logits *= torch.linspace(0.0, 12.0, rows)[:, None]
    uniform = torch.rand(rows, generator=generator(1, "uniform"))
    tokens = draw(logits, uniform, SamplingParams(max_tokens=1, top_p=top_p))
    probs, order = torch.softmax(logits.double(), -1).sort(-1, descending=True)
    probs[probs.cumsum(-1) - probs >= top_p] = 0
    cdf = probs.cumsum(-1) / probs.sum(-1, keepdim=True)
    place = (order == tokens[:, None]).nonzero()[:, 1]
    for row, at in enumerate(place.tolist()):
        low, high = (cdf[row, at - 1] if at else 0.0), cdf[row, at]
        assert low - 1e-5 <= uniform[row] <= high + 1e-5, row
        assert probs[row, at] > 0
    sizes = (probs > 0).sum(-1)
    assert sizes.min() < first <= second < sizes.max()  # within each look, and past the last


def test_extreme_uniforms_stay_on_tokens_of_the_nucleus():
    almost_one = torch.tensor(1.0).nextafter(torch.tensor(0.0))
    for logits, top_p, allowed in (
        ([-200.0, 0.0, 1.0, -200.0], 1.0, {1, 2}),
        ([-200.0, 0.0, 1.0, -200.0], 0.9, {1, 2}),
        ([0.0, 3.0, 3.1, -1.0], 0.5, {1, 2}),
    ):
        params = SamplingParams(max_tokens=1, top_p=top_p)
        uniforms = torch.tensor([0.0, almost_one, 1.0])  # a uniform may be rounded to 1
        drawn = draw(torch.tensor([logits] * 3), uniforms, params)
        assert set(drawn.tolist()) <= allowed


# --- samplers on the trainer's weights, and on a replica of them --------------------------------

KINDS = [CompactSampler, TransformersSampler]


SHAPES = {
    "grouped": {},
    "untied": {"tie_word_embeddings": False},
    "all heads": {"num_key_value_heads": 4},
    "one head": {"num_key_value_heads": 1},
    "rope": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "eps": {"rms_norm_eps": 0.5},
}


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_draw_the_same_samples_whatever_the_batch(family, shape, monkeypatch):
    """Decided by the same uniform numbers: two independent decoders must agree token by token, and
    what a GPU runs, without its graphs: all slots in every step, batches of few sizes."""
    model, rows, step = build_model(family, **SHAPES[shape]), [], compact._Batch.step
    for texts in [(), STOP_TEXTS] if shape == "grouped" else [()]:
        params = SamplingParams(20, seed=4, top_p=0.95, temperature=0.9, stop_texts=texts)
        whole, *others = [
            kind(model, TOKENIZER, stop_ids=STOP, max_batch=size).sample(PROMPTS, 9, params)
            for kind, size in product(KINDS, (256, 1, 7) if shape == "grouped" else (256,))
        ]
        assert all(other == whole for other in others)
        with monkeypatch.context() as patched:
            patched.setattr(compact, "_static", lambda device: True)
            patched.setattr(
                compact._Batch, "step", lambda self, t: rows.append(len(t)) or step(self, t)
            )
            assert make_compact(model).sample(PROMPTS, 9, params) == whole
    assert set(rows) <= {36, 32, 16}
    assert shape != "grouped" or len(set(rows)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_in_another_precision_reports_its_log_probabilities(kind):
    """Full softmax at temperature 1, of the model that sampled; none where trainer and sampler
    share their weights or compute alike."""
    model, double = build_model(), build_double()
    params = SamplingParams(max_tokens=6, seed=1, temperature=0.7, top_p=0.9, logprobs=True)
    shared = kind(model, TOKENIZER, stop_ids=STOP)
    for sampler in (shared, ReplicaSampler(model, shared)):
        assert sampler.sample(PROMPTS, 2, params)[0][0].sampler_logprobs is None
    replica = ReplicaSampler(double, kind(double, TOKENIZER, stop_ids=STOP))
    for prompt, group in zip(PROMPTS, replica.sample(PROMPTS, 2, params), strict=True):
        for c in group:
            expected = dense_logprobs(double, prompt, c.token_ids).float()
            found = torch.tensor(c.sampler_logprobs)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- the compact decoder ------------------------------------------------------------------------


def make_compact(model, **how):
    return CompactSampler(model, TOKENIZER, stop_ids=STOP, **how)


def test_bfloat16_computes_as_the_model_does():
    """As far from float32 as the model's own forward pass in bfloat16 is, or nearer."""
    exact = build(num_hidden_layers=4)
    rounded = build(num_hidden_layers=4).bfloat16()
    params = SamplingParams(max_tokens=24, seed=1, logprobs=True)
    replica = ReplicaSampler(rounded, make_compact(rounded))
    ours, theirs = [], []
    for prompt, group in zip(LONG, replica.sample(LONG, 4, params), strict=True):
        for c in group:
            with torch.no_grad():
                wanted = dense_logprobs(exact, prompt, c.token_ids)
                theirs.append(dense_logprobs(rounded, prompt, c.token_ids).float() - wanted)
            ours.append(torch.tensor(c.sampler_logprobs) - wanted)
    ours, theirs = torch.cat(ours).abs().mean(), torch.cat(theirs).abs().mean()
    assert 1e-4 < ours < 1.5 * theirs, (ours, theirs)


# --- transformers' generate ---------------------------------------------------------------------


def test_a_tokenizer_without_padding_token_still_samples():
    """Llama 3 tokenizers have none."""
    tokenizer, params = build_tokenizer(), SamplingParams(max_tokens=4, seed=1)
    tokenizer.pad_token = None
    one, other = (
        TransformersSampler(build_model(), t, stop_ids=STOP).sample(PROMPTS, 2, params)
        for t in (TOKENIZER, tokenizer)
    )
    assert ids_of(one) == ids_of(other)


def test_sampling_leaves_the_global_generator_alone(make):
    sampler = make(build())
    drawn = []
    for sampled in (False, True):
        torch.manual_seed(11)
        if sampled:
            sampler.sample(PROMPTS[:2], 2, SamplingParams(max_tokens=3, seed=1))
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)
