"""Samplers: the right distribution, the right weights, the right seed, the right stop."""

from dataclasses import replace

import pytest
import torch
from tiny import (
    END,
    SPEC,
    VOCABULARY,
    build_double,
    build_model,
    build_tokenizer,
)

from sgpo.core.cpu_model import Decoder
from sgpo.core.sampling import cpu as compact_decoder
from sgpo.core.sampling import sampler as sampling
from sgpo.core.sampling.cpu import CompactSampler
from sgpo.core.sampling.sampler import SamplingParams, TransformersSampler, make_completion
from sgpo.core.seeding import generator
from sgpo.core.types import FinishReason

TOKENIZER = build_tokenizer()
STOP = SPEC.stop_ids(TOKENIZER)
SAMPLERS = {"compact": CompactSampler, "transformers": TransformersSampler}
PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 8, 9, 10, 11, 12, 4, 3), (2, 6, 3)]


def make(kind: str, model=None, **changes):
    return SAMPLERS[kind](model or build_model(), TOKENIZER, stop_ids=STOP, **changes)


def ids_of(groups):
    return [[c.token_ids for c in group] for group in groups]


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
    ],
    ids=lambda shape: "-".join(shape) or "grouped",
)
def test_compact_decoder_equals_the_models_own_forward(family, shape):
    """Teacher-forced: prefill at unequal lengths, then single steps with a row dropped midway."""
    model = build_double(family, **shape)
    new = 4
    forced = torch.randint(5, 20, (len(PROMPTS), new), generator=generator(0, "forced"))
    with torch.inference_mode():
        batch = compact_decoder._Batch(Decoder(model), PROMPTS, new)
        rows = torch.arange(len(PROMPTS))
        steps = [model.lm_head(batch.hidden)]
        for t in range(new):
            if t == 2:
                rows = torch.tensor([0, 2, 3])
                batch.select(rows)
            batch.step(forced[rows, t])
            logits = torch.full_like(steps[0], torch.nan)
            logits[rows] = model.lm_head(batch.hidden)
            steps.append(logits)
        for row, prompt in enumerate(PROMPTS):
            whole = torch.tensor([[*prompt, *forced[row].tolist()]])
            expected = model(whole).logits[0, len(prompt) - 1 :]
            last = new + 1 if row in (0, 2, 3) else 3
            got = torch.stack([s[row] for s in steps[:last]])
            torch.testing.assert_close(got, expected[:last], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[1::2]], ids=["padded", "one length"])
def test_greedy_ids_are_those_of_generate(family, prompts):
    """At a vanishing temperature every draw is the most probable token."""
    model = build_model(family, initializer_range=0.8)
    groups = make("compact", model).sample(
        prompts, 2, SamplingParams(max_tokens=12, temperature=1e-4, seed=3)
    )
    lengths = set()
    for prompt, group in zip(prompts, groups, strict=True):
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False
        )
        expected = tuple(out[0, len(prompt) :].tolist())
        assert [c.token_ids for c in group] == [expected] * 2
        lengths.add(len(expected))
    assert max(lengths) > 3


@pytest.mark.parametrize("kind", SAMPLERS)
def test_seeds_decide_and_samples_of_a_group_differ(kind):
    sampler = make(kind)
    params = SamplingParams(max_tokens=8, seed=1)
    first, again = (ids_of(sampler.sample(PROMPTS, 6, params)) for _ in range(2))
    other = ids_of(sampler.sample(PROMPTS, 6, replace(params, seed=2)))
    assert first == again != other
    assert all(len(set(group)) > 1 for group in first)
    assert [len(group) for group in first] == [6] * len(PROMPTS)


@pytest.mark.parametrize("kind", SAMPLERS)
def test_sampling_leaves_the_global_generator_alone(kind):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    make(kind).sample(PROMPTS[:2], 2, SamplingParams(max_tokens=3, seed=1))
    assert torch.equal(torch.rand(3), expected)


def test_compact_samples_do_not_depend_on_the_batch():
    model = build_model()
    params = SamplingParams(max_tokens=12, seed=4, top_p=0.95)
    whole = ids_of(make("compact", model).sample(PROMPTS, 5, params))
    for size in (1, 7, 10):
        assert ids_of(make("compact", model, max_batch=size).sample(PROMPTS, 5, params)) == whole


@pytest.mark.parametrize("kind", SAMPLERS)
def test_results_come_in_submission_order(kind):
    """Each greedy-like completion must be the argmax continuation of its own prompt."""
    model = build_model()
    params = SamplingParams(max_tokens=1, temperature=1e-3)
    groups = make(kind, model, max_batch=3).sample(PROMPTS, 2, params)
    for prompt, group in zip(PROMPTS, groups, strict=True):
        with torch.no_grad():
            best = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
        assert [c.token_ids for c in group] == [(best,)] * 2


@pytest.mark.parametrize("kind", SAMPLERS)
def test_weights_changed_in_place_are_the_ones_that_sample(kind):
    model = build_model()
    sampler, params = make(kind, model), SamplingParams(max_tokens=6, seed=1)
    before = ids_of(sampler.sample(PROMPTS, 3, params))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(0, "w")))
    after = ids_of(sampler.sample(PROMPTS, 3, params))
    assert after != before
    assert after == ids_of(make(kind, model).sample(PROMPTS, 3, params))
    other = build_model(seed=9)
    sampler.sync(other)
    assert ids_of(sampler.sample(PROMPTS, 3, params)) == ids_of(
        make(kind, other).sample(PROMPTS, 3, params)
    )


@pytest.mark.parametrize("kind", SAMPLERS)
def test_stop_token_is_kept_and_truncation_is_flagged(kind):
    groups = make(kind).sample(PROMPTS, 40, SamplingParams(max_tokens=5, seed=2))
    reasons = set()
    for completion in (c for group in groups for c in group):
        reasons.add(completion.finish_reason)
        if completion.finish_reason is FinishReason.STOP:
            assert completion.token_ids[-1] == END and END not in completion.token_ids[:-1]
        else:
            assert len(completion.token_ids) == 5 and END not in completion.token_ids
        words = [VOCABULARY[i] for i in completion.token_ids if i > 4]
        assert completion.text.split() == words
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH}


def test_completion_is_cut_after_the_first_stop_token():
    stop = frozenset({END})
    cut = make_completion([5, END, 6, END], stop, TOKENIZER)
    assert cut.token_ids == (5, END) and cut.finish_reason is FinishReason.STOP
    assert make_completion([END], stop, TOKENIZER).token_ids == (END,)
    whole = make_completion([5, 6], stop, TOKENIZER)
    assert whole.finish_reason is FinishReason.LENGTH and whole.text == "w0 w1"


@pytest.mark.parametrize("kind", SAMPLERS)
def test_progress_counts_every_completion(kind):
    counts = []
    sampler = make(kind, max_batch=6)
    sampler.sample(PROMPTS, 3, SamplingParams(max_tokens=2), counts.append)
    assert sum(counts) == 12 and len(counts) > 1


def test_finished_rows_leave_the_batch(monkeypatch):
    """Rows that stopped a while ago must not be decoded to the end of the budget."""
    rows = []
    step = compact_decoder._Batch.step

    def counted(self, tokens):
        rows.append(len(tokens))
        return step(self, tokens)

    monkeypatch.setattr(compact_decoder._Batch, "step", counted)
    groups = make("compact").sample(PROMPTS, 32, SamplingParams(max_tokens=40, seed=1))
    lengths = [len(c.token_ids) for group in groups for c in group]
    for step, decoded in enumerate(rows, start=1):
        alive = sum(length > step for length in lengths)
        assert alive <= decoded <= alive / compact_decoder.COMPACT_BELOW + 1, step
    assert len(rows) == max(lengths) - 1  # the first token comes from the prompt


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("llama", {"mlp_bias": True}, "mlp_bias"),
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 0},
            "sliding",
        ),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type",
        ),
    ],
)
def test_unsupported_architectures_are_refused(family, changes, named):
    """The compact decoder must say so, not compute something else."""
    with pytest.raises(ValueError, match=named):
        make("compact", build_model(family, **changes))


def test_half_precision_is_refused():
    with pytest.raises(ValueError, match="dtype=torch.bfloat16"):
        make("compact", build_model().bfloat16())


def test_checkpoint_defaults_do_not_leak_into_sampling():
    """Instruct checkpoints ship a repetition penalty; the policy is the softmax without it."""
    model = build_model()
    params = SamplingParams(max_tokens=8, seed=1)
    plain = ids_of(make("transformers", model).sample(PROMPTS, 4, params))
    model.generation_config.repetition_penalty = 50.0
    model.generation_config.top_k = 2
    model.generation_config.min_new_tokens = 7
    assert ids_of(make("transformers", model).sample(PROMPTS, 4, params)) == plain


def test_a_tokenizer_without_padding_token_still_samples():
    """Llama 3 tokenizers have none."""
    tokenizer, params = build_tokenizer(), SamplingParams(max_tokens=4, seed=1)
    expected = ids_of(make("transformers").sample(PROMPTS, 2, params))
    tokenizer.pad_token = None
    sampler = TransformersSampler(build_model(), tokenizer, stop_ids=STOP)
    assert ids_of(sampler.sample(PROMPTS, 2, params)) == expected


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 4, "temperature": 0.0}, "temperature=0.0"),
        ({"max_tokens": 4, "top_p": 0.0}, "top_p=0.0"),
        ({"max_tokens": 4, "top_p": 1.5}, "top_p=1.5"),
        ({"max_tokens": 4, "temperature": float("nan")}, "temperature=nan"),
    ],
)
def test_impossible_parameters_are_refused(values, named):
    with pytest.raises(ValueError, match=named):
        SamplingParams(**values)


def test_a_long_prompt_makes_its_batch_small(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_BATCH_PAIRS", 400)
    rows = [[0] * length for length in (5, 5, 10, 10, 20, 25, 5, 5, 5)]
    found = [[len(row) for row in batch] for batch in sampling._batches(rows, 3)]
    # 4 x 10^2 is 400 but three rows are the most; 20^2 fills a batch; 25^2 is more than one.
    assert found == [[5, 5, 10], [10], [20], [25], [5, 5, 5]]
    assert [row for batch in sampling._batches(rows, 3) for row in batch] == rows
