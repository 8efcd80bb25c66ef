"""Resume states: weights and optimiser moments as safetensors, with checksums, no pickle.

Everything else that a step depends on (data order, sampling noise) is derived from the run's
seed and the step number, so a state is complete with these files. A model in shards is saved by
torch.distributed.checkpoint, a file a rank, and can be restored on another number of ranks.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
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


@dataclass(eq=False)
class Checkpoints:
    """The resume states of a run below ``directory``, the newest of which are kept. All ranks call
    ``save`` and ``load`` together. ``optimizer``: None keeps weights alone, a third of the bytes.
    ``teacher``: a second model, if its weights move."""

    directory: Path
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer | None
    ranks: Ranks = Ranks()
    teacher: PreTrainedModel | None = None

    def save(self, step: int, extra: dict | None = None) -> None:
        """Write the state after ``step`` finished steps, with JSON values that the loop needs."""
        target = self.directory / f"step-{step:06d}"
        if is_sharded(self.model):
            self._save_shards(target, step, extra or {})
        else:
            with whole_directory(target) as temporary:
                save_file(_weights(self.model), temporary / _MODEL)
                if self.optimizer is not None:
                    save_file(self._moments(), temporary / _OPTIMIZER)
                if self.teacher is not None:
                    save_file(_weights(self.teacher), temporary / _TEACHER)
                _describe(temporary, step, extra or {})
        if self.ranks.first:
            for old in self.steps()[:-KEEP]:
                shutil.rmtree(old)

    def load(self) -> tuple[int, dict] | None:
        """Restore the newest intact state: its number of finished steps and ``extra``, or None
        where there is none. A damaged one is reported on standard output and passed over;
        ValueError for one of a run in shards where this one is whole, or the reverse."""
        state = self.ranks.from_first(self._newest_intact() if self.ranks.first else None)
        if state is None:
            return None
        if (state / _SHARDS).is_dir() != is_sharded(self.model):
            how = "whole" if is_sharded(self.model) else "in shards"
            raise ValueError(
                f"{state}: was saved {how} and this run is not; continue it with the same launcher "
                "(torchrun or not), or delete the run"
            )
        if is_sharded(self.model):
            self._load_shards(state)
        else:
            _restore_weights(self.model, load_file(state / _MODEL))
            if self.teacher is not None:
                _restore_weights(self.teacher, load_file(state / _TEACHER))
            if self.optimizer is not None:
                self._restore_moments(load_file(state / _OPTIMIZER))
        meta = read_json(state / "state.json")
        return meta["step"], meta["extra"]

    def steps(self) -> list[Path]:
        return sorted(self.directory.glob("step-*"))

    def forget_after(self, step: int) -> None:
        """Drop the states of later steps, which this run makes again and perhaps otherwise."""
        if self.ranks.first:
            for state in self.steps():
                if int(state.name.removeprefix("step-")) > step:
                    shutil.rmtree(state)
        self.ranks.from_first(None)

    def _newest_intact(self) -> Path | None:
        for state in reversed(self.steps()):
            problem = _damage(state, [_MODEL] if self.optimizer is None else [_MODEL, _OPTIMIZER])
            if problem is None:
                return state
            print(f"{state}: {problem}; using the previous resume state", flush=True)
        return None

    def _moments(self) -> Tensors:
        if self.optimizer is None:
            return {}
        return {
            f"{name}|{key}": value.detach().contiguous()
            for name, parameter in self.model.named_parameters()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }

    def _restore_moments(self, tensors: Tensors) -> None:
        parameters = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, value in tensors.items():
            name, _, field = key.rpartition("|")
            self.optimizer.state[parameters[name]][field] = value

    def _save_shards(self, target: Path, step: int, extra: dict) -> None:
        """Every rank writes its shards into one directory, which rank 0 then puts in place."""
        temporary = target.with_name(f".tmp-{target.name}")  # a killed attempt left at most this
        ranks = self.ranks
        if ranks.first:
            shutil.rmtree(temporary, ignore_errors=True)
            (temporary / _SHARDS).mkdir(parents=True)
        ranks.from_first(None)
        with ranks.watched("saving a resume state"):
            writer = HuggingFaceStorageWriter(str(temporary / _SHARDS), save_distributed=True)
            dcp.save(self._sharded(), storage_writer=writer, no_dist=ranks.size == 1)
        if ranks.first:
            with whole_directory(target) as directory:
                (temporary / _SHARDS).rename(directory / _SHARDS)
                _describe(directory, step, extra)
            shutil.rmtree(temporary)
        ranks.from_first(None)

    def _load_shards(self, state: Path) -> None:
        """Read this rank's part of every tensor, whatever number of ranks wrote them."""
        reader = HuggingFaceStorageReader(str(state / _SHARDS))
        if self.optimizer is None:
            dcp.load(self._sharded(), storage_reader=reader, no_dist=True)
            return
        stored = reader.read_metadata().state_dict_metadata
        # Moments to read into: the optimiser makes none before an update has moved a weight.
        moved = {n: p for n, p in self.model.named_parameters() if f"{n}|step" in stored}
        moments = self.optimizer.state
        moments.clear()
        for parameter in moved.values():
            moments[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        tensors = self._sharded()
        dcp.load(tensors, storage_reader=reader, no_dist=True)
        for name, parameter in moved.items():
            moments[parameter]["step"] = tensors[f"{name}|step"].reshape(())

    def _sharded(self) -> Tensors:
        """Weights and moments by name; scalars as vectors, because a file has no place for them."""
        tensors = {name: p.detach() for name, p in self.model.named_parameters()}
        if self.teacher is not None:
            named = self.teacher.named_parameters()
            tensors |= {f"teacher|{name}": p.detach() for name, p in named}
        moments = self._moments().items()
        return tensors | {name: t.reshape(1) if t.dim() == 0 else t for name, t in moments}


def _describe(directory: Path, step: int, extra: dict) -> None:
    """``state.json``: what the state holds, with the checksum of every file."""
    files = sorted(p.relative_to(directory) for p in directory.rglob("*.safetensors"))
    sums = {str(name): sha256_of(directory / name) for name in files}
    state = {"step": step, "sha256": sums, "extra": extra}
    write_sealed_json(directory / "state.json", state)


def _damage(state: Path, needed: list[str]) -> str | None:
    """What is wrong with the files of ``state``, which has those ``needed`` if it is whole."""
    try:
        sums = dict(read_sealed_json(state / "state.json")["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable state.json ({error})"
    whole = [] if (state / _SHARDS).is_dir() else needed
    for name in dict.fromkeys((*whole, *sums)):
        if not (state / name).exists():
            return f"{name} is missing"
        if sha256_of(state / name) != sums.get(name):
            return f"{name} does not match its checksum"
    return None


def _weights(model: PreTrainedModel) -> Tensors:
    return {name: p.detach().contiguous() for name, p in model.named_parameters()}


@torch.no_grad()
def _restore_weights(model: PreTrainedModel, weights: Tensors) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])
