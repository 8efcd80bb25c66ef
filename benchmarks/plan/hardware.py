"""What this machine has for a run: GPUs, memory, disk, installed engines, access to the hub."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path


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
