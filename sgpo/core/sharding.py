"""A model spread over ranks with torch FSDP2, driven so that no pass of a method communicates.

``fully_shard`` keeps float32 master weights, gradients and optimiser moments in shards. Parameters
are gathered once before an update (``gather``) and gradients summed over ranks once after it
(``reduce_gradients``). In between, ranks may run different numbers of micro-batches and forward
passes, as methods do whose batches hold different roles: nothing can wait for a partner, so
nothing can deadlock. The price is memory: a rank holds all parameters in the compute type and
all gradients in float32 during an update.

Every function takes a plain model too and then does the plain thing.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from sgpo.core.distributed import Ranks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def needs_sharding(ranks: Ranks, precision: str) -> bool:
    """Whether a run goes through FSDP2: several ranks, or a compute type below the master's."""
    return ranks.size > 1 or precision != "float32"


def shard(model: PreTrainedModel, device: torch.device, precision: str) -> None:
    """Spread the float32 ``model`` in place over the ranks of the process group; a process without
    one gets a group of its own. Forward and backward compute in ``precision`` (``float32`` or
    ``bfloat16``); gradients are accumulated and summed over ranks in float32."""
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.HashStore(),
            rank=0,
            world_size=1,
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[precision], reduce_dtype=torch.float32)
    for layer in model.base_model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to(device)  # buffers; the shards are there already
    model.sharded_precision = precision
    for module in _sharded_modules(model):
        # A loss is divided by counts over all ranks, so gradients add up to the whole one's.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    model.set_reshard_after_forward(False)
    model.set_reshard_after_backward(False)
    with torch.no_grad():  # settles which module is the root; later calls go past it
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)
    free(model)


def is_sharded(model: PreTrainedModel) -> bool:
    return isinstance(model, FSDPModule)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's shard of ``tensor``, which is ``tensor`` itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def recompute_activations(model: PreTrainedModel) -> None:
    """Keep only the input of each layer and recompute the rest in the backward pass."""
    for layer in model.base_model.layers:
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)
        layer.gradient_checkpointing = True  # says so; transformers' own way needs train()


def compile_layers(model: PreTrainedModel) -> None:
    """Compile every layer in place, when it is first run: one compilation serves all."""
    for layer in model.base_model.layers:
        layer.compile()


def gather(model: PreTrainedModel) -> None:
    """Make all parameters whole on every rank, for passes with or without gradients."""
    for module in _sharded_modules(model):
        module.unshard()
    if is_sharded(model):
        model.set_requires_gradient_sync(False)


def reduce_gradients(model: PreTrainedModel) -> None:
    """Make gradients whole: one for every parameter, 0 where no loss reached it, so that the
    optimiser's moments move on there too. Those of a sharded model are summed over ranks into
    shards, sent by a closing pass over one token with a loss of 0, which every rank runs."""
    if not is_sharded(model):
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return
    gather(model)
    model.set_requires_gradient_sync(True)
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    (model(input_ids=token, use_cache=False).logits.float().sum() * 0.0).backward()
    free(model)


def clip_gradients(optimizer: torch.optim.Optimizer, limit: float) -> float:
    """The norm of all gradients before they are scaled down to at most ``limit``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def full_state(model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and whole detached tensor (float32 masters, if sharded) of everything in the state dict,
    one at a time. All ranks must run through it together."""
    free(model)
    for name, tensor in model.state_dict().items():
        yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def export(model: PreTrainedModel, directory: Path | None) -> None:
    """Write ``model`` as an ordinary Hugging Face directory. All ranks call it; those whose
    ``directory`` is None only take part in the gathering."""
    if not is_sharded(model):
        assert directory is not None
        model.save_pretrained(directory)
        return
    tied = model.all_tied_weights_keys if model.config.tie_word_embeddings else ()
    kept = (pair for pair in full_state(model) if directory is not None and pair[0] not in tied)
    state = {name: tensor.cpu() for name, tensor in kept}
    if directory is not None:
        model.save_pretrained(directory, state_dict=state)


def _sharded_modules(model: PreTrainedModel) -> list[FSDPModule]:
    return [m for m in model.modules() if isinstance(m, FSDPModule)]


def free(model: PreTrainedModel) -> None:
    """Back to shards: the counterpart of ``gather``."""
    for module in _sharded_modules(model):
        module.reshard()
