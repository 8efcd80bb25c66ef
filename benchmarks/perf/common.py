"""What every speed case shares: paired timing, spreads, ratios, and the record that is kept.

Variants of a case run in turn inside one process (A B C, A B C, ...), so that a machine that slows
down slows all of them. A ratio is formed within each round and its median over rounds reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sgpo.core.files import write_json
from sgpo.core.runlog import environment

ROOT = Path(__file__).resolve().parents[2]
MATMUL_FLOPS = 1e10  # of one timing of a product
# A sentence, or a table whose first row is its header.
Block = str | list[tuple[str, ...]]
# host(rounds, between): runs its own loop of ``rounds`` steps, calls ``between`` after each, and
# returns the seconds of its steps without what ``between`` took.
Host = Callable[[int, Callable[[], None]], list[float]]


@dataclass(frozen=True)
class Case:
    """``run(repeats, **options)`` measures and returns JSON values; ``blocks`` of such a result
    are what the terminal and the page show; ``check(**options)`` raises ValueError, before
    anything runs, where the case cannot run."""

    what: str
    run: Callable[..., dict[str, Any]]
    blocks: Callable[[dict[str, Any]], list[Block]]
    check: Callable[..., None] = lambda **_: None


def spread(values: Sequence[float]) -> dict[str, Any]:
    """``{"median", "min", "max", "values"}`` of at least one measurement, in its unit."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": list(values),
    }


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """``spread`` of numerator / denominator formed round by round; both of one length."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def timed(work: Callable[[], object]) -> float:
    """Seconds of wall time that one call of ``work`` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_rounds(
    variants: Mapping[str, Callable[[], float]],
    repeats: int,
    *,
    warmup: int = 2,
    host: Host | None = None,
    host_name: str = "host",
) -> dict[str, list[float]]:
    """What each variant returned in ``repeats`` rounds; every round runs all of them in order.

    The first ``warmup`` rounds (allocator, thread pools, lazy imports) are run and dropped.

    Args:
        host: a variant that owns its loop and cannot be called step by step; the others run
            after each of its steps. Its seconds are returned under ``host_name``.
    """
    results: dict[str, list[float]] = {name: [] for name in variants}

    def one_round() -> None:
        for name, variant in variants.items():
            results[name].append(variant())

    rounds = warmup + repeats
    if host is None:
        for _ in range(rounds):
            one_round()
    else:
        results[host_name] = host(rounds, one_round)
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


def keep(case: str, result: dict[str, Any], directory: Path) -> Path:
    """Write ``result`` with the machine it was measured on to ``directory/case.json``; the path.
    A ``device_name`` in the result is the accelerator that it was measured on."""
    path = directory / f"{case}.json"
    place = environment(result.get("device_name"))
    write_json(path, {"case": case, "environment": place, **result})
    return path


def show(blocks: Sequence[Block]) -> str:
    """Blocks as text: of a table the first column to the left, the others to the right."""
    return "\n".join(block if isinstance(block, str) else _aligned(block) for block in blocks)


def _aligned(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        right = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *right]).rstrip())
    return "\n".join(lines)


def cells(values: Mapping[str, Any], form: str) -> list[str]:
    """Median, min and max of a ``spread`` as table cells."""
    return [format(values[key], form) for key in ("median", "min", "max")]
