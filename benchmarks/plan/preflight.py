"""What stands in the way of a study on published checkpoints, said before anything is downloaded.

Each obstacle is one line: the value, what is allowed, what to do. Memory, hours and disk are the
estimates of ``benchmarks.plan.cost``; everything else is looked up on this machine. What
only the downloaded files can show, the run says before it trains: ``benchmarks.run.given``.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.config import Cell, RunConfig
from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.data.hub import fetch_dataset
from benchmarks.data.problems import STRATEGIES, data_source, prepared_problems
from benchmarks.data.suites import SUITES, local_file
from benchmarks.plan import cost as gpu_cost
from benchmarks.plan.cost import GB, GIB, PROMPT_ROOM, Gpu, disk_left, needed_disk, shape_of
from sgpo.core.models import checkpoint_directory, context_length, read_config, rope_settings

RANK_CHOICES = (1, 2, 4, 8, 16, 32, 64, 128)
HOST_ROOM = GIB  # main memory of a process besides weights


@dataclass(frozen=True)
class Hardware:
    """Bytes throughout. ``gpus``: memory of each visible GPU. ``rank``: of this process among the
    ``ranks`` of the launch, ``local_ranks`` of which run on this machine. ``token``: one for the
    hub is set. ``offline``: the hub must not be asked (HF_HUB_OFFLINE)."""

    gpus: tuple[float, ...]
    host_memory: float
    disk_free: float
    vllm: bool
    token: bool
    offline: bool
    rank: int = 0
    ranks: int = 1
    local_ranks: int = 1


def this_machine(results: Path) -> Hardware:
    """The machine that this process runs on; ``results`` says which disk counts."""
    import torch
    from huggingface_hub import constants, get_token

    gpus: list[float] = []
    if torch.cuda.is_available():
        indices = range(torch.cuda.device_count())
        gpus = [float(torch.cuda.get_device_properties(i).total_memory) for i in indices]
    folder = results.absolute()
    while not folder.exists():
        folder = folder.parent
    return Hardware(
        gpus=tuple(gpus),
        host_memory=float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        disk_free=float(shutil.disk_usage(folder).free),
        vllm=importlib.util.find_spec("vllm") is not None,
        token=get_token() is not None,
        offline=bool(constants.HF_HUB_OFFLINE),
        rank=int(os.environ.get("RANK", "0")),
        ranks=int(os.environ.get("WORLD_SIZE", "1")),
        local_ranks=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )


def check(left: Sequence[Cell], results: Path, hardware: Hardware | None = None) -> None:
    """ValueError with all obstacles, unless every cell that is left to run can be run here."""
    plain = [cell for cell in left if cell.config.checkpoint is None]
    real = [cell for cell in left if cell.config.checkpoint is not None]
    found = training_sets(plain) + [
        line
        for cell in plain
        if not importlib.util.find_spec("vllm")
        for line in _engine_missing(cell.config)
    ]
    if real:
        found += obstacles(real, results, hardware or this_machine(results))
    found = list(dict.fromkeys(found))
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
            *checkpoint(config, hardware),
            *context(shape, config),
            *_engine(shape, config, hardware),
            *_ranks(config, hardware),
        ]
    found += _memory(left, hardware)
    found += _host_memory(left, hardware)
    if hardware.rank == 0:  # which reads and writes for all
        found += training_sets(left)
        found += benchmarks(left)
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
        return _engine_missing(config)
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


def _engine_missing(config: RunConfig) -> list[str]:
    """The line for a run on vLLM where vLLM is not installed."""
    if config.sampler != "vllm" or config.vllm.server is not None:
        return []
    return [
        "sampler=vllm: vLLM is not installed; run `bash reproduce.sh setup-vllm` (GPU) or "
        "`bash reproduce.sh setup-vllm-cpu`, or use --set sampler=transformers (slow)"
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
    return local or is_cached(config.checkpoint, config.revision)


def checkpoint(config: RunConfig, hardware: Hardware) -> list[str]:
    """An incomplete directory, or one of the hub that cannot be fetched from here."""
    name = config.checkpoint
    if Path(name).expanduser().is_dir():
        try:
            checkpoint_directory(name)
        except ValueError as error:
            return [str(error)]
        return _rope(config)
    if is_cached(name, config.revision):
        return []
    if hardware.offline:
        return [
            f"checkpoint {name!r}: not in the hub's cache and HF_HUB_OFFLINE is set; unset it, or "
            "give a local directory with --set checkpoint=DIRECTORY"
        ]
    gated = any(c.gated and c.name == name for c in CHECKPOINTS.values())
    if gated and not hardware.token:
        return [
            f"checkpoint {name!r} is gated and no token is set: accept its terms on the hub and "
            "set HF_TOKEN, give a local directory with --set checkpoint=DIRECTORY, or leave it out "
            "with --models"
        ]
    return []


def is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def _rope(config: RunConfig) -> list[str]:
    """A local copy of the profile's model whose position encoding is another one."""
    known, directory = CHECKPOINTS.get(config.model), Path(config.checkpoint).expanduser()
    content = read_config(directory)
    shape = shape_of(config)
    if known is None or shape.num_parameters != known.shape.num_parameters:
        return []
    theta = rope_settings(content)["rope_theta"]
    if theta == known.shape.rope_theta and context_length(content) >= known.shape.context:
        return []
    return [
        f"checkpoint {config.checkpoint!r}: rope_theta={theta:g} and {context_length(content)} "
        f"positions, {known.name} has rope_theta={known.shape.rope_theta:g} and "
        f"{known.shape.context}: fetch its config.json again"
    ]


def context(shape: Shape, config: RunConfig) -> list[str]:
    """Completions that leave no room for a prompt."""
    engine = config.vllm.max_model_len if config.sampler == "vllm" else None
    found = []
    if engine is not None and engine > shape.context:
        found.append(
            f"vllm.max_model_len={engine}: {config.model} was made for {shape.context} positions; "
            "lower it"
        )
    limit = min(shape.context, engine or shape.context)
    lengths = {"evaluation.max_tokens": config.evaluation.max_tokens}
    if config.rollout is not None:
        lengths["rollout.max_tokens"] = config.rollout.max_tokens
    for name, length in lengths.items():
        room = limit - min(PROMPT_ROOM, limit // 2)  # small contexts are those of tests
        if length > room:
            found.append(
                f"{name}={length}: leaves fewer than {limit - room} of {limit} positions for the "
                f"prompt; lower it to {room}"
                + (" or raise vllm.max_model_len" if limit < shape.context else "")
            )
    return found


def training_sets(left: Sequence[Cell]) -> list[str]:
    """Training sets that are missing, changed, without strategies or too small; each is read once
    however many runs share it."""
    wanted: dict[tuple, RunConfig] = {}
    for config in (cell.config for cell in left):
        if config.train is not None and config.data.source != "mini":
            guided = getattr(config.settings, "num_guided", 0) > 0
            step = config.train.problems_per_step
            wanted.setdefault((config.data.source, config.data.split, guided, step), config)
    return [line for config in wanted.values() for line in _training_set(config)]


def _training_set(config: RunConfig) -> list[str]:
    name, separator, digits = config.data.source.rpartition("@")
    if not separator or not (Path(name) / "report.json").is_file():
        where = name or config.data.source
        return [
            f"data.source={config.data.source!r}: no prepared training set there; make it with "
            f"`sgpo data prepare --out {where}` (README, One GPU), or name another one"
        ]
    actual = data_source(Path(name))
    if actual != config.data.source:
        return [
            f"data.source={config.data.source!r}: the files there are {actual} now "
            "(strategies added?); name that, or restore them"
        ]
    guided = getattr(config.settings, "num_guided", 0) > 0
    if guided and not (Path(name) / STRATEGIES).is_file():
        return [
            f"{name}: no {STRATEGIES}, and {config.method} needs strategies; run `sgpo strategies "
            f"--data {name}` first, or leave the method out with --methods"
        ]
    count = len(prepared_problems(Path(name), config.data.split))
    if count < config.train.problems_per_step:
        return [
            f"{name}: {count} problems in split {config.data.split!r}, a step of {config.method} "
            f"takes {config.train.problems_per_step}; prepare more, or lower "
            "train.problems_per_step"
        ]
    return []


def benchmarks(left: Sequence[Cell]) -> list[str]:
    """Test sets that would be missed only after the training."""
    keys = dict.fromkeys(k for c in left for k in c.config.evaluation.suites if k in SUITES)
    missing = [key for key in keys if not _is_here(key)]
    if not missing:
        return []
    return [
        f"benchmark {', '.join(missing)}: neither below SGPO_DATA_DIR nor in the hub's cache; run "
        "`sgpo data check` once, which fetches and checks them"
    ]


def _is_here(key: str) -> bool:
    if local_file(key) is not None:
        return True
    try:
        fetch_dataset(SUITES[key].hub[0], offline=True)
    except ValueError:
        return False
    return True
