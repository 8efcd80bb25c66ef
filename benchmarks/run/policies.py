"""A model with its sampler, read from disk and laid out for the device and ranks of a cell."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.config import RunConfig
from benchmarks.data.checkpoints import Shape
from benchmarks.plan.cost import GIB, keeps_activations, work_bytes
from sgpo.core import sampling, sharding
from sgpo.core.distributed import Ranks
from sgpo.core.prompts import prompt_spec
from sgpo.core.sampling import Sampler
from sgpo.core.sampling.ranks import ReplicaSampler


def training_sampler(
    model: PreTrainedModel,
    tokenizer: Any,
    config: RunConfig,
    device: torch.device,
    ranks: Ranks,
) -> Sampler:
    """Prepare ``model`` (float32, on the CPU) in place for training; the sampler of its weights.

    One process in float32 trains the model as it is and samples from the same weights. Otherwise
    the model is spread over the ranks and the sampler has whole weights of its own: an engine's,
    or a replica's in the run's precision.
    """
    sharded = sharding.needs_sharding(ranks, config.precision)
    if not sharded:
        sampler = make_sampler(model.to(device), tokenizer, config)
    elif config.sampler == "vllm":
        sampler = make_sampler(model, tokenizer, config)
    else:
        replica = copy.deepcopy(model).to(device, sharding.DTYPES[config.precision])
        sampler = ReplicaSampler(replica, make_sampler(replica, tokenizer, config))
    if config.train.activation_checkpointing and not _keeps_activations(
        model, config, device, ranks
    ):
        sharding.recompute_activations(model)
    if sharded:
        sharding.shard(model, device, config.precision)
    return sampler


def _keeps_activations(
    model: PreTrainedModel, config: RunConfig, device: torch.device, ranks: Ranks
) -> bool:
    """Whether recomputing, which costs a third more time, is needless on this GPU; says which."""
    if device.type != "cuda":
        return False
    shape = Shape.from_config(model.config.to_dict(), 0, 0.0)
    free, _ = torch.cuda.mem_get_info(device)
    tokens = config.train.micro_batch_tokens
    keeps = keeps_activations(shape, tokens, work_bytes(config), ranks.size, free)
    if ranks.first:
        said = "are kept: an update fits" if keeps else "are recomputed: an update does not fit"
        print(f"activations {said} into the {free / GIB:.0f} GiB that are free", flush=True)
    return keeps


def evaluation_sampler(
    model: PreTrainedModel, tokenizer: Any, config: RunConfig, device: torch.device
) -> Sampler:
    """The sampler of finished weights, in the precision that the run samples in."""
    model.to(device, sharding.DTYPES[config.precision])
    return make_sampler(model, tokenizer, config)


def make_sampler(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> Sampler:
    """The sampler that ``config.sampler`` names, on the weights of ``model``. An engine whose dtype
    is left open works in the run's precision, so that it samples what the trainer scores."""
    stop_ids = prompt_spec(config.prompt, tokenizer).stop_ids(tokenizer)
    vllm = config.vllm
    if vllm.dtype == "auto" and vllm.server is None:
        vllm = replace(vllm, dtype=config.precision)
    return sampling.make_sampler(config.sampler, model, tokenizer, stop_ids=stop_ids, vllm=vllm)
