"""What an engine with weights of its own adds to the contract: syncing, probing, dying.

Tests of vLLM itself skip where it is not installed; ``CopyEngine`` stands in for it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from engines import (
    LONG,
    PROMPTS,
    STOP,
    TOKENIZER,
    CopyEngine,
    build,
    ids_of,
    perturb,
    process_state,
)
from tiny import VOCABULARY, dense_logprobs

from sgpo.core.config import EXIT_HUNG, VLLMSettings
from sgpo.core.sampling import SamplingParams
from sgpo.core.sampling import vllm as vllm_sampler
from sgpo.core.sampling.vllm import VLLMSampler, WeightsDiffer, full_weights
from sgpo.core.sampling.vllm_engine import EngineFailed, Watchdog, untouched


def test_seeded_prompts_that_fill_more_than_one_step_are_sampled(vllm_engine):
    """20,000 prompt tokens are read in several steps; on a CPU none may be read in two halves."""
    model = build()
    draws = torch.Generator().manual_seed(5)
    prompts = [
        tuple(torch.randint(5, len(VOCABULARY), (400,), generator=draws).tolist())
        for _ in range(50)
    ]
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=vllm_engine)
    groups = sampler.sample(prompts, 2, SamplingParams(max_tokens=2, seed=1))
    assert [len(group) for group in groups] == [2] * 50
    # Read alone, a prompt gives the same samples under the same seeds.
    assert ids_of(sampler.sample(prompts[:1], 2, SamplingParams(max_tokens=2, seed=1))) == (
        ids_of(groups[:1])
    )


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


def test_stale_weights_and_a_diverged_model_are_detected(make_engine_sampler):
    model = build()
    sampler = make_engine_sampler(model)
    sampler.sync(model)
    assert sampler.probe() < 1e-4
    perturb(model)
    with pytest.raises(WeightsDiffer, match="nats in the mean"):
        sampler.probe()
    sampler.sync(model)
    assert sampler.probe() < 1e-4
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(WeightsDiffer, match="nan nats"):
        sampler.probe()


@pytest.mark.parametrize("left", ["head", "prefix cache"])
def test_what_is_left_behind_is_detected(vllm_engine, monkeypatch, left):
    """The head: what vLLM's CPU backend does with a tied one that does not come under its name."""
    model = build(seed=4)
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=vllm_engine)
    sampler.sync(model)
    perturb(model)

    def without_head(model, dtype):
        return ((n, t) for n, t in full_weights(model, dtype) if n != "lm_head.weight")

    if left == "head":
        monkeypatch.setattr(vllm_sampler, "full_weights", without_head)
    else:
        monkeypatch.setattr(vllm_engine._llm, "reset_prefix_cache", lambda: True)
    with pytest.raises(WeightsDiffer):
        sampler.sync(model)
    monkeypatch.undo()
    sampler.sync(model)


def test_starting_the_engine_leaves_the_process_as_it_was(started):
    _, before, after = started
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
    engine = CopyEngine(build())
    sampler = VLLMSampler(engine.model, TOKENIZER, stop_ids=STOP, engine=engine)
    used = []
    for seed in (0, 1, 2**63 - 1):
        sampler.sample(PROMPTS, 5, SamplingParams(max_tokens=1, seed=seed))
        seeds = [request.seed for request in engine.requests]
        assert [b - a for a, b in zip(seeds, seeds[1:], strict=False)] == [5, 5, 5]
        used += [s + j for s in seeds for j in range(5)]
    assert len(set(used)) == len(used) and 0 <= min(used) and max(used) < 2**63


def test_impossible_requests_are_refused_before_the_engine_sees_them():
    sampler = VLLMSampler(build(), TOKENIZER, stop_ids=STOP, engine=CopyEngine(build()))
    with pytest.raises(ValueError, match="temperature=0.001"):
        sampler.sample(PROMPTS, 1, SamplingParams(max_tokens=4, temperature=0.001))
    with pytest.raises(ValueError, match="max_tokens=505.*prompt of 8 tokens.*context of 512"):
        sampler.sample(PROMPTS, 1, SamplingParams(max_tokens=505))


def test_without_vllm_the_sampler_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="vLLM is not installed.*setup-vllm-cpu"):
        VLLMSampler(build(), TOKENIZER, stop_ids=STOP)


# --- engines that die or hang -------------------------------------------------------------------


def die():
    raise RuntimeError("CUDA error: an illegal memory access\nand a page of advice")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (die, "while sampling: CUDA error: an illegal memory access;.*same command again"),
        # Steps that return and finish nothing, as after a half-loaded set of weights.
        (lambda: [], "no completion finished for 0.3 s"),
    ],
)
def test_an_engine_that_dies_or_stalls_is_one_line_and_stays_dead(
    vllm_engine, monkeypatch, step, message
):
    engine = vllm_engine
    sampler = VLLMSampler(build(), TOKENIZER, stop_ids=STOP, engine=engine)
    sampler.sync(build())
    monkeypatch.setattr(engine, "_settings", VLLMSettings(stall_seconds=0.3))
    monkeypatch.setattr(engine._llm.llm_engine, "step", step)
    with pytest.raises(EngineFailed, match=message) as caught:
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    assert "\n" not in str(caught.value)
    with pytest.raises(EngineFailed, match="failed earlier"):
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    monkeypatch.undo()
    engine._llm.llm_engine.abort_request([str(i) for i in range(len(PROMPTS))])
    engine._broken = False
    sampler.sync(build())


def test_a_call_that_never_returns_ends_the_process_within_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("sgpo.core.sampling.vllm_engine.HUNG_GRACE_SECONDS", 0.2)

    def hang():
        sys.stderr = (tmp_path / "said").open("w")
        with Watchdog(0.4):
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=hang)
    process.start()
    process.join(50)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == EXIT_HUNG
    assert "the vLLM engine hangs" in said and said.count("\n") == 1
