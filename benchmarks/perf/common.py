"""What every speed case shares: paired rounds, spreads, ratios, memory peaks.

Variants of a case run in turn inside one process (A B C, A B C, ...), so that a machine that slows
down slows all of them. A ratio is formed within each round and its median over rounds reported.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30
M_MMAP_THRESHOLD = -3  # of malloc.h
Block = str | list[tuple[str, ...]]  # a sentence, or a table whose first row is its header


def spread(values: Sequence[float]) -> dict[str, Any]:
    """``{"median", "min", "max", "values"}`` of at least one measurement, in its unit."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def shown(values: Mapping[str, Any], form: str) -> str:
    """``median (min-max)`` of a ``spread``."""
    median, low, high = (format(values[key], form) for key in ("median", "min", "max"))
    return f"{median} ({low}-{high})"


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """``spread`` of numerator / denominator formed round by round; both of one length."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def timed(work: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds of wall time that one call of ``work`` takes, with all that it asks of a GPU."""
    synchronize(device)
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: torch.device | None) -> None:
    """Wait for what was asked of a GPU; nothing on a CPU."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def in_rounds(
    variants: Mapping[str, Callable[[], Any]], repeats: int, *, warmup: int = 2
) -> dict[str, list[Any]]:
    """What each variant returned in ``repeats`` rounds; every round runs all of them in order.

    The first ``warmup`` rounds (allocator, thread pools, lazy imports) are run and dropped.
    """
    rounds = [{k: variant() for k, variant in variants.items()} for _ in range(warmup + repeats)]
    return {name: [found[name] for found in rounds[warmup:]] for name in variants}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads, whatever OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reset_peak(device: torch.device) -> int:
    """Bytes in use on a GPU, or by this process; the peak counts from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # What is free but kept would hide in the next peak, or stand beside what takes its place.
    # Unless the limit is fixed, malloc keeps blocks of up to 32 MiB once it has seen one freed.
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 2**20)
    libc.malloc_trim(0)
    # The process's own high-water mark: that of getrusage also knows the parent's memory.
    Path("/proc/self/clear_refs").write_text("5")
    return _kernel_bytes("/proc/self/status", "VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since ``reset_peak``."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kernel_bytes("/proc/self/status", "VmHWM")


def free_bytes(device: torch.device) -> int:
    """Memory that is free, of a GPU or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _kernel_bytes("/proc/meminfo", "MemAvailable")


def _kernel_bytes(file: str, field: str) -> int:
    """A size that a file below /proc states in KiB."""
    lines = Path(file).read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith(f"{field}:")) * 1024
