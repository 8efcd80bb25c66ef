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
MATMUL_FLOPS = 1e10  # of one timing of a product
Block = str | list[tuple[str, ...]]  # a sentence, or a table whose first row is its header
# host(rounds, between): runs its own loop of ``rounds`` steps, calls ``between`` after each, and
# returns the seconds of its steps without what ``between`` took.
Host = Callable[[int, Callable[[], None]], list[float]]


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


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time that one call of ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_rounds(
    variants: Mapping[str, Callable[[], Any]],
    repeats: int,
    *,
    warmup: int = 2,
    host: tuple[str, Host] | None = None,
) -> dict[str, list[Any]]:
    """What each variant returned in ``repeats`` rounds; every round runs all of them in order.

    The first ``warmup`` rounds (allocator, thread pools, lazy imports) are run and dropped. A named
    ``host`` is a variant that owns its loop; the others then run after each of its steps.
    """
    results: dict[str, list[Any]] = {name: [] for name in variants}

    def one_round() -> None:
        for name, variant in variants.items():
            results[name].append(variant())

    rounds = warmup + repeats
    if host is None:
        for _ in range(rounds):
            one_round()
    else:
        name, loop = host
        results[name] = loop(rounds, one_round)
    assert all(len(values) == rounds for values in results.values())
    return {name: values[warmup:] for name, values in results.items()}


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with ``count`` torch threads, whatever OMP_NUM_THREADS says."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def matmul_rate(
    m: int, k: int, n: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> float:
    """FLOPs per second of products [m, k] x [k, n], over ``MATMUL_FLOPS`` or one product."""
    a, b, out = (
        torch.randn(rows, columns, dtype=dtype, device=device)
        for rows, columns in ((m, k), (k, n), (m, n))
    )
    flops = 2.0 * m * k * n
    count = max(1, int(MATMUL_FLOPS / flops))

    def products() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)
        synchronize(out.device)

    products()
    return count * flops / timed(products)


def synchronize(device: torch.device) -> None:
    """Wait for what was asked of a GPU; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> int:
    """Bytes in use on a GPU, or by this process; the peak counts from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide in the next peak
    # The process's own high-water mark: that of getrusage also knows the parent's memory.
    Path("/proc/self/clear_refs").write_text("5")
    return kernel_bytes("/proc/self/status", "VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since ``reset_peak``."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return kernel_bytes("/proc/self/status", "VmHWM")


def kernel_bytes(file: str, field: str) -> int:
    """A size that a file below /proc states in KiB."""
    lines = Path(file).read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith(f"{field}:")) * 1024
