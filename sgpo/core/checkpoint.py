"""Resume states: weights and optimiser moments as safetensors, with checksums, no pickle.

Everything else that a step depends on (data order, sampling noise) is derived from the run's
seed and the step number, so a state is complete with these two files.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from sgpo.core.files import (
    read_json,
    read_sealed_json,
    sha256_of,
    whole_directory,
    write_sealed_json,
)

KEEP = 2  # the newest state and one to fall back on
_FILES = ("model.safetensors", "optimizer.safetensors")


def save_checkpoint(
    directory: Path,
    step: int,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    extra: dict | None = None,
) -> None:
    """Write the state after ``step`` finished steps below ``directory`` and drop old ones.

    ``extra``: small JSON values that the loop needs back (counters).
    """
    with whole_directory(directory / f"step-{step:06d}") as target:
        weights = {n: p.detach().contiguous() for n, p in model.named_parameters()}
        save_file(weights, target / _FILES[0])
        save_file(_optimizer_tensors(model, optimizer), target / _FILES[1])
        sums = {name: sha256_of(target / name) for name in _FILES}
        state = {"step": step, "sha256": sums, "extra": extra or {}}
        write_sealed_json(target / "state.json", state)
    for old in _states(directory)[:-KEEP]:
        shutil.rmtree(old)


def load_checkpoint(
    directory: Path, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> tuple[int, dict] | None:
    """Restore the newest intact state into ``model`` and ``optimizer``.

    Returns:
        Its number of finished steps and ``extra``, or None where there is no intact state. A
        state whose checksums do not match is reported on standard output and passed over.
    """
    for state in reversed(_states(directory)):
        problem = _damage(state)
        if problem:
            print(f"{state}: {problem}; using the previous resume state", flush=True)
            continue
        meta = read_json(state / "state.json")
        weights = load_file(state / _FILES[0])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
        _restore_optimizer(model, optimizer, load_file(state / _FILES[1]))
        return meta["step"], meta["extra"]
    return None


def _states(directory: Path) -> list[Path]:
    return sorted(directory.glob("step-*")) if directory.exists() else []


def _damage(state: Path) -> str | None:
    try:
        sums = read_sealed_json(state / "state.json")["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"unreadable state.json ({error})"
    for name in _FILES:
        if not (state / name).exists():
            return f"{name} is missing"
        if sha256_of(state / name) != sums.get(name):
            return f"{name} does not match its checksum"
    return None


def _optimizer_tensors(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}|{key}"] = value.detach().contiguous()
    return tensors


def _restore_optimizer(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, field = key.rpartition("|")
        optimizer.state[parameters[name]][field] = value
