"""Resume states: weights and optimiser moments as safetensors, with checksums, no pickle.

Everything else that a step depends on (data order, sampling noise) is derived from the run's
seed and the step number, so a state is complete with these files. A model in shards is saved by
torch.distributed.checkpoint, a file a rank, and can be restored on another number of ranks.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from transformers import PreTrainedModel

from sgpo.core.distributed import Ranks
from sgpo.core.files import (
    read_json,
    read_sealed_json,
    sha256_of,
    whole_directory,
    write_sealed_json,
)
from sgpo.core.sharding import is_sharded

KEEP = 2  # the newest state and one to fall back on
_MODEL, _OPTIMIZER, _TEACHER = (f"{n}.safetensors" for n in ("model", "optimizer", "teacher"))
_SHARDS = "sharded"

Tensors = dict[str, torch.Tensor]


def save_checkpoint(
    directory: Path,
    step: int,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    extra: dict | None = None,
    ranks: Ranks | None = None,
    teacher: PreTrainedModel | None = None,
) -> None:
    """Write the state after ``step`` finished steps below ``directory`` and drop old ones. All
    ranks call this together.

    ``extra``: JSON values that the loop needs back. ``teacher``: a second model whose weights move.
    """
    ranks = ranks or Ranks()
    target = directory / f"step-{step:06d}"
    if is_sharded(model):
        tensors = _sharded_tensors(model, optimizer, teacher)
        _save_shards(target, tensors, step, extra or {}, ranks)
    else:
        with whole_directory(target) as temporary:
            save_file(_weights(model), temporary / _MODEL)
            save_file(_moments(model, optimizer), temporary / _OPTIMIZER)
            if teacher is not None:
                save_file(_weights(teacher), temporary / _TEACHER)
            _describe(temporary, step, extra or {})
    if ranks.first:
        for old in _states(directory)[:-KEEP]:
            shutil.rmtree(old)


def load_checkpoint(
    directory: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    ranks: Ranks | None = None,
    teacher: PreTrainedModel | None = None,
) -> tuple[int, dict] | None:
    """Restore the newest intact state: its number of finished steps and ``extra``, or None where
    there is none. A damaged one is reported on standard output and passed over.

    Raises:
        ValueError: the state was made by a run in shards and this one is whole, or the reverse.
    """
    ranks = ranks or Ranks()
    state = ranks.from_first(_newest_intact(directory) if ranks.first else None)
    if state is None:
        return None
    if (state / _SHARDS).is_dir() != is_sharded(model):
        raise ValueError(
            f"{state}: was saved {'in shards' if not is_sharded(model) else 'whole'} and this run "
            "is not; continue it with the same launcher (torchrun or not), or delete the run"
        )
    if is_sharded(model):
        _load_shards(state, model, optimizer, teacher)
    else:
        _restore_weights(model, load_file(state / _MODEL))
        if teacher is not None:
            _restore_weights(teacher, load_file(state / _TEACHER))
        _restore_moments(model, optimizer, load_file(state / _OPTIMIZER))
    meta = read_json(state / "state.json")
    return meta["step"], meta["extra"]


def _newest_intact(directory: Path) -> Path | None:
    for state in reversed(_states(directory)):
        problem = _damage(state)
        if problem is None:
            return state
        print(f"{state}: {problem}; using the previous resume state", flush=True)
    return None


def _states(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*"))


def _describe(directory: Path, step: int, extra: dict) -> None:
    """``state.json``: what the state holds, with the checksum of every file."""
    files = sorted(p.relative_to(directory) for p in directory.rglob("*.safetensors"))
    sums = {str(name): sha256_of(directory / name) for name in files}
    state = {"step": step, "sha256": sums, "extra": extra}
    write_sealed_json(directory / "state.json", state)


def _damage(state: Path) -> str | None:
    try:
        sums = dict(read_sealed_json(state / "state.json")["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable state.json ({error})"
    whole = () if (state / _SHARDS).is_dir() else (_MODEL, _OPTIMIZER)
    for name in dict.fromkeys((*whole, *sums)):
        if not (state / name).exists():
            return f"{name} is missing"
        if sha256_of(state / name) != sums.get(name):
            return f"{name} does not match its checksum"
    return None


def _weights(model: PreTrainedModel) -> Tensors:
    return {name: p.detach().contiguous() for name, p in model.named_parameters()}


def _moments(model: PreTrainedModel, optimizer: torch.optim.Optimizer) -> Tensors:
    return {
        f"{name}|{key}": value.detach().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


@torch.no_grad()
def _restore_weights(model: PreTrainedModel, weights: Tensors) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def _restore_moments(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, tensors: Tensors
) -> None:
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, field = key.rpartition("|")
        optimizer.state[parameters[name]][field] = value


def _save_shards(target: Path, tensors: Tensors, step: int, extra: dict, ranks: Ranks) -> None:
    """Every rank writes its shards into one directory, which rank 0 then puts in place."""
    temporary = target.with_name(f".tmp-{target.name}")  # a killed attempt left at most this one
    if ranks.first:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / _SHARDS).mkdir(parents=True)
    ranks.from_first(None)
    with ranks.watched("saving a resume state"):
        writer = HuggingFaceStorageWriter(str(temporary / _SHARDS), save_distributed=True)
        dcp.save(tensors, storage_writer=writer, no_dist=ranks.size == 1)
    if ranks.first:
        with whole_directory(target) as directory:
            (temporary / _SHARDS).rename(directory / _SHARDS)
            _describe(directory, step, extra)
        shutil.rmtree(temporary)
    ranks.from_first(None)


def _load_shards(
    state: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    teacher: PreTrainedModel | None,
) -> None:
    """Read this rank's part of every tensor, whatever number of ranks wrote them."""
    reader = HuggingFaceStorageReader(str(state / _SHARDS))
    stored = reader.read_metadata().state_dict_metadata
    # Moments to read into: the optimiser makes them lazily, and none before an update has moved it.
    moved = {n: p for n, p in model.named_parameters() if f"{n}|step" in stored}
    optimizer.state.clear()
    for parameter in moved.values():
        optimizer.state[parameter] = {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    tensors = _sharded_tensors(model, optimizer, teacher)
    dcp.load(tensors, storage_reader=reader, no_dist=True)
    for name, parameter in moved.items():
        optimizer.state[parameter]["step"] = tensors[f"{name}|step"].reshape(())


def _sharded_tensors(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, teacher: PreTrainedModel | None
) -> Tensors:
    """Weights and moments by name; scalars as vectors, because a file has no place for them."""
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    if teacher is not None:
        tensors |= {f"teacher|{name}": p.detach() for name, p in teacher.named_parameters()}
    moments = _moments(model, optimizer)
    return tensors | {name: t.reshape(1) if t.dim() == 0 else t for name, t in moments.items()}
