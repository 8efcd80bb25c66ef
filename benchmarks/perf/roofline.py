"""How near the CPU step comes to the machine's limit: FLOPs counted, matmul peak measured.

The peak is the best rate of a large float32 matrix product on the threads of the step; a second
figure is the rate at the products' own shapes, which a tiny model cannot exceed. FLOPs are counted
by ``flops.flop_counter`` on the very step that is timed: matrix products and attention, forward
and backward, as executed.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.perf.common import in_rounds, spread, table, threads, timed
from benchmarks.perf.flops import flop_counter
from benchmarks.perf.rl_step import NUM_THREADS, SHAPE, OurStep, StepShape
from sgpo.method import SGPO, SGPOConfig
from sgpo.mini.models import model_spec

PEAK_SIZE = 2048


def run(repeats: int, shape: StepShape = SHAPE) -> dict[str, Any]:
    """Measure and print; FLOPs, seconds and fractions of the peak as JSON values."""
    with tempfile.TemporaryDirectory() as scratch, threads(NUM_THREADS):
        steps = {
            "grpo": OurStep(GRPO(GRPOConfig(num_samples=shape.num_samples)), Path(scratch), shape),
            "sgpo": OurStep(SGPO(SGPOConfig()), Path(scratch), shape),
        }
        flops = {name: count_flops(step) for name, step in steps.items()}
        products = {name: partial(matmul_rate, *dims) for name, dims in _products(shape).items()}
        measured = in_rounds(products | steps, repeats)
    rates = {name: spread(measured[name]) for name in products}
    peak = rates["peak"]["max"]
    found = {}
    for name, step in steps.items():
        sampling = spread(step.sampling[-repeats:])["median"]
        total = spread(measured[name])["median"]
        parts = {
            "sampling": (flops[name]["sampling"], sampling),
            "scoring and update": (flops[name]["total"] - flops[name]["sampling"],
                                   total - sampling),
            "whole step": (flops[name]["total"], total),
        }  # fmt: skip
        found[name] = {
            part: {"flops": f, "seconds": s, "flops_per_second": f / s, "of_peak": f / s / peak}
            for part, (f, s) in parts.items()
        }
    result = {
        "setting": vars(shape) | {"threads": NUM_THREADS},
        "matmul_flops_per_second": rates,
        "steps": found,
    }
    print(_text(result), flush=True)
    return result


def count_flops(step: OurStep) -> dict[str, float]:
    """FLOPs of one call of ``step``: ``total`` and the part inside its sampler."""
    inside = flop_counter()
    sample = step.inner.sample

    def counted(*args: Any, **kwargs: Any) -> Any:
        with inside:
            return sample(*args, **kwargs)

    step.inner.sample = counted
    try:
        with flop_counter() as outside:
            step()
    finally:
        step.inner.sample = sample
    return {
        "total": float(outside.get_total_flops()),
        "sampling": float(inside.get_total_flops()),
    }


def _products(shape: StepShape) -> dict[str, tuple[int, int, int]]:
    """Sizes (m, k, n) of the products whose rates are measured."""
    spec = model_spec(shape.model)
    sequences = shape.num_problems * shape.num_samples
    return {
        "peak": (PEAK_SIZE, PEAK_SIZE, PEAK_SIZE),
        "mlp of an update": (4096, spec.hidden_size, spec.intermediate_size),
        "mlp of a decoder step": (sequences, spec.hidden_size, spec.intermediate_size),
    }


def matmul_rate(
    m: int,
    k: int,
    n: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> float:
    """FLOPs per second of products [m, k] x [k, n], over about 10 GFLOP or one product."""
    device = device or torch.device("cpu")
    a, b, out = (
        torch.randn(rows, columns, dtype=dtype, device=device)
        for rows, columns in ((m, k), (k, n), (m, n))
    )
    flops = 2.0 * m * k * n
    count = max(1, int(1e10 / flops))

    def products() -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    products()
    return count * flops / timed(products)


def _text(result: dict[str, Any]) -> str:
    rates = [("matrix product", "GFLOP/s (best)")]
    for name, r in result["matmul_flops_per_second"].items():
        rates.append((name, f"{r['max'] / 1e9:.0f}"))
    rows = [("step", "GFLOP", "seconds", "GFLOP/s", "of peak")]
    for name, parts in result["steps"].items():
        for part, p in parts.items():
            rows.append(
                (
                    f"{name}: {part}",
                    f"{p['flops'] / 1e9:.1f}",
                    f"{p['seconds']:.3f}",
                    f"{p['flops_per_second'] / 1e9:.0f}",
                    f"{p['of_peak']:.0%}",
                )
            )
    return f"{table(rates)}\n{table(rows)}"
