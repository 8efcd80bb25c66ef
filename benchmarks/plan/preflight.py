"""What stands in the way of a study on published checkpoints, said before anything is downloaded.

Each obstacle is one line: the value, what is allowed, what to do. Memory, hours and disk are the
estimates of ``benchmarks.plan.cost``; everything else is looked up on this machine. What
only the downloaded files can show, the run says before it trains: ``benchmarks.run.prompt_room``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.config import Cell, RunConfig
from benchmarks.data.checkpoints import Shape
from benchmarks.plan import cost as gpu_cost
from benchmarks.plan import preflight_inputs as inputs
from benchmarks.plan.cost import GIB, Gpu
from benchmarks.plan.gpu_plan import GB, disk_left, needed_disk, shape_of
from benchmarks.plan.hardware import Hardware, this_machine
from benchmarks.run.tasks import is_done

RANK_CHOICES = (1, 2, 4, 8, 16, 32, 64, 128)
HOST_ROOM = GIB  # main memory of a process besides weights


def check(cells: Sequence[Cell], results: Path, hardware: Hardware | None = None) -> None:
    """ValueError with all obstacles, unless every unfinished cell can be run here."""
    left = [
        cell for cell in cells if cell.config.checkpoint is not None and not is_done(cell, results)
    ]
    if not left:
        return
    found = obstacles(left, results, hardware or this_machine(results))
    if len(found) == 1:
        raise ValueError(found[0])
    if found:
        raise ValueError("\n- ".join([f"{len(found)} things stand in the way:", *found]))


def obstacles(left: Sequence[Cell], results: Path, hardware: Hardware) -> list[str]:
    """One line each, every one once, for the cells that are left to run."""
    found: list[str] = []
    for cell in left:
        config = cell.config
        shape = shape_of(config)
        found += [
            *inputs.checkpoint(config, hardware),
            *inputs.context(shape, config),
            *_engine(shape, config, hardware),
            *_ranks(config, hardware),
        ]
    found += _memory(left, hardware)
    found += _host_memory(left, hardware)
    if hardware.rank == 0:  # which reads and writes for all
        found += inputs.training_sets(left)
        found += inputs.benchmarks(left)
        found += _disk(left, results, hardware)
    return list(dict.fromkeys(found))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _on_gpu(config: RunConfig, hardware: Hardware) -> bool:
    return config.device == "cuda" or (config.device == "auto" and bool(hardware.gpus))


def _engine(shape: Shape, config: RunConfig, hardware: Hardware) -> list[str]:
    """vLLM that is not installed, or whose cache cannot hold one longest sequence."""
    if config.sampler != "vllm" or config.vllm.server is not None:
        return []
    if not hardware.vllm:
        return [
            "sampler=vllm: vLLM is not installed; run `bash reproduce.sh setup-vllm` (GPU) or "
            "`bash reproduce.sh setup-vllm-cpu`, or use --set sampler=transformers (slow)"
        ]
    if not _on_gpu(config, hardware) or not hardware.gpus:
        return []
    held = gpu_cost.memory(shape, config, hardware.ranks, _gpu(hardware)).full_sequences
    if held is None or held >= 1:
        return []
    return [
        f"vllm.gpu_memory_utilization={config.vllm.gpu_memory_utilization:g}: vLLM's share of a "
        f"GPU of {min(hardware.gpus) / GIB:.0f} GiB holds {held:.1f} sequences of "
        f"{config.vllm.max_model_len or shape.context} tokens of {config.model}, at least 1 is "
        "needed; raise it, or lower vllm.max_model_len"
    ]


def _gpu(hardware: Hardware) -> Gpu:
    return Gpu("the smallest GPU here", min(hardware.gpus), gpu_cost.REFERENCE.flops)


def _ranks(config: RunConfig, hardware: Hardware) -> list[str]:
    if config.train is None:
        return []
    share = config.train.problems_per_step // config.train.updates_per_step
    if hardware.ranks <= share:
        return []
    return [
        f"{_count(hardware.ranks, 'rank')}: an update of {config.method} has {share} problems, at "
        "least one for each rank is needed; start fewer ranks or raise train.problems_per_step"
    ]


def _memory(left: Sequence[Cell], hardware: Hardware) -> list[str]:
    """GPUs that are missing or too small, one line a model: that of its most demanding run."""
    configs = [cell.config for cell in left if _on_gpu(cell.config, hardware)]
    if not configs:
        return []
    if not hardware.gpus:
        return [
            "device=cuda: torch sees no GPU here; run on a machine with one (sgpo doctor), plan "
            "with --dry-run, or use --set device=cpu with a tiny checkpoint"
        ]
    found = []
    if hardware.local_ranks > len(hardware.gpus):
        found.append(
            f"{_count(hardware.local_ranks, 'rank')} on this machine: it has "
            f"{_count(len(hardware.gpus), 'GPU')}; "
            "lower torchrun --nproc-per-node"
        )
    gpu, worst = _gpu(hardware), {}
    for config in configs:
        peak = gpu_cost.memory(shape_of(config), config, hardware.ranks, gpu).peak
        if peak > worst.get(config.model, (0.0, config))[0]:
            worst[config.model] = (peak, config)
    for model, (peak, config) in worst.items():
        if peak > gpu.memory:
            found.append(
                f"{model}: {config.method} needs about {peak / GIB:.0f} GiB on each of "
                f"{_count(hardware.ranks, 'GPU')}, the smallest has {gpu.memory / GIB:.0f}; "
                + _remedy(config, gpu, hardware.ranks)
            )
    return found


def _remedy(config: RunConfig, gpu: Gpu, ranks: int) -> str:
    shape = shape_of(config)
    for more in RANK_CHOICES:
        if more > ranks and gpu_cost.memory(shape, config, more, gpu).peak <= gpu.memory:
            return (
                f"spread it over at least {more} GPUs with torchrun (`sgpo slurm` writes the "
                "scripts), or use a smaller model with --models"
            )
    small = replace(config, vllm=replace(config.vllm, gpu_memory_utilization=0.2))
    if gpu_cost.memory(shape, small, ranks, gpu).peak <= gpu.memory:
        return "lower vllm.gpu_memory_utilization"
    return "more GPUs do not help: lower train.micro_batch_tokens and rollout.max_tokens"


def _host_memory(left: Sequence[Cell], hardware: Hardware) -> list[str]:
    """Every rank reads the float32 weights into main memory before they go to shards; without a
    GPU gradients and moments stay there as well."""
    found = []
    for config in {cell.config.model: cell.config for cell in left}.values():
        size = 4 if _on_gpu(config, hardware) else 20
        need = hardware.local_ranks * (size * shape_of(config).num_parameters + HOST_ROOM)
        if need > hardware.host_memory:
            found.append(
                f"{config.model}: {_count(hardware.local_ranks, 'rank')} on this machine: about "
                f"{need / GIB:.0f} GiB of main memory are needed, it has "
                f"{hardware.host_memory / GIB:.0f}; start fewer ranks a machine, or use a "
                "smaller model"
            )
    return found


def _disk(left: Sequence[Cell], results: Path, hardware: Hardware) -> list[str]:
    """Room for what the runs keep and what one of them needs while it trains, beside what is
    there."""
    download = needed_disk([c for c in left if not _in_cache(c.config)]).download
    space = disk_left(left, results)
    need = download + space.training + space.kept
    if need <= hardware.disk_free:
        return []
    return [
        f"disk: the runs need about {need / GB:.0f} GB more (weights {space.kept / GB:.0f}, "
        f"resume states {space.training / GB:.0f}, downloads {download / GB:.0f}), "
        f"{hardware.disk_free / GB:.0f} are free at {results}; free some, choose another --out, or "
        "run fewer cells at a time with --models and --methods"
    ]


def _in_cache(config: RunConfig) -> bool:
    local = Path(config.checkpoint).expanduser().is_dir()
    return local or inputs.is_cached(config.checkpoint, config.revision)
