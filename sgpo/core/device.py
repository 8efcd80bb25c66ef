"""Which device a run computes on."""

from __future__ import annotations

import os
from typing import Any, Literal

import torch

DeviceName = Literal["cpu", "cuda", "auto"]


def select_device(name: DeviceName) -> torch.device:
    """The device of this process: ``auto`` is a GPU where there is one, and the CPU elsewhere.

    Of several GPUs, a rank started by torchrun gets that of its local rank, anything else the
    first.

    Raises:
        ValueError: ``cuda`` without a usable GPU, or fewer GPUs than local ranks.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError(
            "device='cuda': torch sees no GPU here; use --set device=cpu, or install a CUDA build "
            "of torch on a machine with one (sgpo doctor)"
        )
    if name == "cpu" or not available:
        return torch.device("cpu")
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ValueError(
            f"local rank {index}: only {torch.cuda.device_count()} GPUs are visible; lower "
            "torchrun --nproc-per-node, or check CUDA_VISIBLE_DEVICES"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def describe_device(device: torch.device) -> dict[str, Any]:
    """What a run's environment.json says about ``device``, as JSON types."""
    if device.type != "cuda":
        return {"device": str(device)}
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": str(device),
        "device_name": properties.name,
        "device_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }
