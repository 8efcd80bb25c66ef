"""What every speed case shares: paired timing, spreads, ratios, and the record that is kept.

Variants of a case run in turn inside one process (A B C, A B C, ...), so that a machine that slows
down slows all of them. A ratio is formed within each round and its median over rounds reported.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sgpo.core.files import write_json
from sgpo.core.runlog import environment

Clock = Callable[[], float]
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


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, Any]:
    """``spread`` of numerator / denominator formed round by round; both of one length."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def timed(work: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of wall time that one call of ``work`` takes."""
    began = clock()
    work()
    return clock() - began


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


def keep(case: str, result: dict[str, Any], directory: Path) -> Path:
    """Write ``result`` with the machine it was measured on to ``directory/case.json``; the path.
    A ``device_name`` in the result is the accelerator that it was measured on."""
    path = directory / f"{case}.json"
    place = environment(result.get("device_name"))
    write_json(path, {"case": case, "environment": place, **result})
    return path


def machine_line() -> str:
    """The machine in one line, as it stands above every table."""
    env = environment()
    versions = ", ".join(f"{name} {env['packages'][name]}" for name in ("torch", "transformers"))
    return f"{env['cpu']}; {env['machine']}; Python {env['python']}, {versions}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
