"""The sampler that runs on vLLM, in this process or on a server.

The engine has its own copy of the weights. ``sync`` sends all of them and then probes: the engine
generates from fixed prompts, the trainer scores the same tokens, and a difference beyond the
tolerance of the engine's dtype is an error. The prompts are long enough to be cached, so that a
stale prefix cache shows too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core import sharding
from sgpo.core.config import PROBE_TOLERANCE, VLLMSettings
from sgpo.core.sampling.sampler import (
    Groups,
    Progress,
    Prompts,
    Sampler,
    SamplingParams,
    make_completion,
)
from sgpo.core.sampling.vllm_engine import InProcessEngine, RawCompletion, Request
from sgpo.core.sampling.vllm_server import ServerEngine
from sgpo.core.scoring import own_logprobs
from sgpo.core.seeding import derive_seed, generator
from sgpo.core.types import Completion, Role, Trajectory

MIN_TEMPERATURE = 0.01  # vLLM silently raises lower ones to this
_PROBE_LENGTHS = (160, 33, 7)  # a prefix cache block has at most 128 tokens
_PROBE_TOKENS, _PROBE_SAMPLES = 8, 2
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class WeightsDiffer(RuntimeError):
    """The engine does not compute what the trainer computes."""


class VLLMSampler(Sampler):
    """``Sampler`` on a vLLM engine.

    Sample j of prompt i has a seed of its own that follows from ``SamplingParams.seed``, i and j.
    Every rank of a distributed run has its own engine and calls ``sync`` together with the others,
    because gathering sharded weights takes all of them. Whatever the engine does wrong is an
    ``EngineFailed``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int],
        settings: VLLMSettings | None = None,
        engine: InProcessEngine | ServerEngine | None = None,
    ) -> None:
        """Starts the engine (seconds on a CPU, up to minutes on a GPU) unless one is given;
        ValueError when vLLM is not installed."""
        self.settings = settings or VLLMSettings()
        self.model, self.tokenizer, self.stop_ids = model, tokenizer, frozenset(stop_ids)
        if engine is None and self.settings.server:
            engine = ServerEngine(self.settings)
        self.engine = engine or InProcessEngine(model.config, self.settings)
        self.release = self.engine.release
        self._synced = False

    def sync(self, model: PreTrainedModel) -> None:
        """See ``Sampler.sync``; WeightsDiffer when the probe fails, and nothing may be sampled."""
        self.model = model
        self.engine.load(full_weights(model, _DTYPES.get(self.engine.dtype)))
        self.probe()
        self._synced = True

    def sample(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        """See ``Sampler.sample``; ValueError when a prompt with ``params.max_tokens`` exceeds the
        engine's context, or the temperature is one that vLLM would change."""
        self._refuse(prompts, params)
        if not self._synced:
            self.sync(self.model)
        groups = self._generate(prompts, n, params, sorted(self.stop_ids), progress)
        return [[self._completion(raw, params) for raw in group] for group in groups]

    def probe(self) -> float:
        """Mean |difference| in nats between engine and trainer on the probe's tokens; WeightsDiffer
        when it is beyond the tolerance, or not a number."""
        limit = self.engine.max_model_len - _PROBE_TOKENS
        vocabulary = self.model.config.get_text_config().vocab_size
        draws = generator(0, "probe")
        prompts = [
            tuple(torch.randint(vocabulary, (min(length, limit),), generator=draws).tolist())
            for length in _PROBE_LENGTHS
        ]
        params = SamplingParams(max_tokens=_PROBE_TOKENS, logprobs=True)
        groups = self._generate(prompts, _PROBE_SAMPLES, params, ())
        rows = [
            Trajectory("probe", Role.AUTONOMOUS, prompt, tuple(raw.token_ids), 0.0)
            for prompt, group in zip(prompts, groups, strict=True)
            for raw in group
        ]
        sharding.gather(self.model)
        ours = torch.cat(own_logprobs(self.model, rows, token_budget=1 << 20)).cpu()
        engines = torch.tensor([x for group in groups for raw in group for x in raw.logprobs])
        gap = (ours - engines).abs()
        mean, tolerance = float(gap.mean()), self.settings.probe_tolerance
        if tolerance is None:
            tolerance = PROBE_TOLERANCE[self.engine.dtype]
        if not mean <= tolerance:  # NaN fails too
            raise WeightsDiffer(
                f"the vLLM engine's log-probabilities are not the trainer's: they differ by "
                f"{mean:.3g} nats in the mean and {float(gap.max()):.3g} at most, allowed is "
                f"{tolerance:g} in {self.engine.dtype}; the weights did not arrive, or vLLM reads "
                "this architecture differently (use --set sampler=transformers)"
            )
        return mean

    def _refuse(self, prompts: Prompts, params: SamplingParams) -> None:
        if params.temperature < MIN_TEMPERATURE:
            raise ValueError(
                f"temperature={params.temperature}: vLLM samples at {MIN_TEMPERATURE} or above"
            )
        longest = max(map(len, prompts), default=0)
        if longest + params.max_tokens > self.engine.max_model_len:
            raise ValueError(
                f"max_tokens={params.max_tokens}: with a prompt of {longest} tokens it exceeds "
                f"the engine's context of {self.engine.max_model_len}; lower max_tokens or raise "
                "vllm.max_model_len as far as the model allows"
            )

    def _generate(self, prompts, n, params, stop_ids, progress=None) -> list[list[RawCompletion]]:
        # vLLM gives sample j the seed of its request plus j: requests stand n apart, so that no
        # two samples share one. Hashing keeps calls with neighbouring seeds apart.
        first = derive_seed(params.seed, "vllm") >> 1
        places = params.places if params.places is not None else range(len(prompts))
        requests = [
            Request(prompt, n, first + place * n, stop_ids, params)
            for prompt, place in zip(prompts, places, strict=True)
        ]
        groups = self.engine.generate(requests, progress)
        assert [len(group) for group in groups] == [n] * len(prompts)
        return groups

    def _completion(self, raw: RawCompletion, params: SamplingParams) -> Completion:
        made = make_completion(raw.token_ids, self.stop_ids, self.tokenizer, params, raw.logprobs)
        # Engine and suite must agree on where and why a completion ends, but for stop texts, which
        # an engine without a tokenizer does not see.
        agree = made.finish_reason == raw.finish_reason and len(made.token_ids) == len(
            raw.token_ids
        )
        assert agree or params.stops(made.text)
        return made


def full_weights(
    model: PreTrainedModel, dtype: torch.dtype | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole tensor of every weight of ``model``, cast to ``dtype`` (None: as it is).

    Sharded tensors are gathered one at a time, on all ranks together. Tied weights come under
    each of their names: vLLM's CPU backend keeps a copy of a tied head.
    """
    names = set()
    for name, tensor in sharding.full_state(model):
        names.add(name)
        yield name, tensor if dtype is None else tensor.to(dtype)
    assert "lm_head.weight" in names, "the head must travel under its own name"
