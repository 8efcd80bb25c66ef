"""The samplers that every test of the contract runs on; vLLM's skip where it is not installed."""

import importlib.util

import pytest
from engines import NO_VLLM, STOP, TOKENIZER, CopyEngine, build

from sgpo.core.config import VLLMSettings
from sgpo.core.sampling import CompactSampler, TransformersSampler
from sgpo.core.sampling.vllm import VLLMSampler
from sgpo.core.sampling.vllm_engine import InProcessEngine


@pytest.fixture(scope="session")
def vllm_engine():
    """One engine for all tests."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(NO_VLLM)
    return InProcessEngine(build().config, VLLMSettings(max_num_seqs=64))


@pytest.fixture(params=["compact", "transformers", "copy", "vllm"])
def make(request):
    """A function model -> sampler, of each kind."""
    if request.param == "compact":
        return lambda model, **how: CompactSampler(model, TOKENIZER, stop_ids=STOP, **how)
    if request.param == "transformers":
        return lambda model, **how: TransformersSampler(model, TOKENIZER, stop_ids=STOP, **how)
    return engine_maker(request, request.param)


@pytest.fixture(params=["copy", "vllm"])
def make_engine_sampler(request):
    return engine_maker(request, request.param)


def engine_maker(request, kind):
    def made(model, **ignored):
        engine = request.getfixturevalue("vllm_engine") if kind == "vllm" else CopyEngine(model)
        return VLLMSampler(model, TOKENIZER, stop_ids=STOP, engine=engine)

    if kind == "vllm":
        request.getfixturevalue("vllm_engine")
    return made
