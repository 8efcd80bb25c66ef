"""How the cost of an RL step grows with problems, samples, completion length and vocabulary.

One thing is varied at a time around a middle setting, on a randomly initialised Qwen2 that stops
nowhere, so that every completion has the asked-for length. Through each axis two least-squares
fits go: the line seconds = fixed + x * each, and the exponent b of seconds ~ a * x^b in the
logarithms. Below 1 a fixed cost is being spread, 1 is linear. An axis is called superlinear where
the exponent between its two largest values is above ``SUPERLINEAR``; the FLOPs of the same steps,
counted, then tell arithmetic that grows faster than x from arithmetic that runs slower.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.perf.common import in_rounds, spread, table, threads
from benchmarks.perf.rl_step import OurStep, StepShape
from benchmarks.perf.roofline import count_flops

MIDDLE = StepShape(model="qwen-m", num_problems=16, num_samples=12, completion_tokens=48)
AXES: dict[str, tuple[int, ...]] = {
    "num_problems": (4, 8, 16, 32, 64),
    "num_samples": (3, 6, 12, 24, 48),
    "completion_tokens": (12, 24, 48, 96, 192),
    "vocabulary_rows": (128, 512, 2048, 8192, 32768),
}
SUPERLINEAR = 1.1  # exponent that timing noise does not reach
ARITHMETIC = {
    "completion_tokens": "every token attends to all earlier ones, so pairs grow with the square",
}
MEMORY = "its FLOPs do not: larger tensors leave the caches, and the same arithmetic runs slower"


def run(
    repeats: int, *, axes: dict[str, tuple[int, ...]] = AXES, middle: StepShape = MIDDLE
) -> dict[str, Any]:
    """Measure and print each axis with its fits; seconds of a GRPO step on one thread."""
    result: dict[str, Any] = {"setting": vars(middle) | {"threads": 1}, "unit": "seconds per step"}
    result["axes"] = {}
    with tempfile.TemporaryDirectory() as scratch, threads(1):
        for axis, values in axes.items():
            steps = {str(v): _step(replace(middle, **{axis: v}), Path(scratch)) for v in values}
            seconds = in_rounds(steps, min(repeats, 3), warmup=1)
            flops = [count_flops(step)["total"] for step in steps.values()]
            result["axes"][axis] = _fits(axis, values, [seconds[str(v)] for v in values], flops)
    print(_text(result), flush=True)
    return result


def _fits(
    axis: str, values: Sequence[int], seconds: Sequence[list[float]], flops: Sequence[float]
) -> dict[str, Any]:
    medians = [spread(s)["median"] for s in seconds]
    found = {
        "values": list(values),
        "seconds": {str(v): spread(s) for v, s in zip(values, seconds, strict=True)},
        "flops": list(flops),
        "line": line(values, medians),
        "exponent": exponent(values, medians),
        "last_step_exponent": exponent(values[-2:], medians[-2:]),
        "last_step_flops_exponent": exponent(values[-2:], flops[-2:]),
    }
    return found | {"explanation": explanation(axis, found)}


def explanation(axis: str, found: dict[str, Any]) -> str:
    """Why ``axis`` is superlinear; empty where it is not."""
    if found["last_step_exponent"] <= SUPERLINEAR:
        return ""
    if found["last_step_flops_exponent"] > (1 + SUPERLINEAR) / 2:
        reason = ARITHMETIC.get(axis, "unexplained")
        return f"superlinear, and so are its FLOPs: {reason}"
    return f"superlinear; {MEMORY}"


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares ``y = fixed + x * each``, and ``largest_miss``: the largest distance of a
    point from the line over the largest y."""
    each, fixed = (float(v) for v in np.polyfit(x, y, 1))
    miss = max(abs(fixed + each * a - b) for a, b in zip(x, y, strict=True))
    return {"fixed": fixed, "each": each, "largest_miss": miss / max(y)}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """b of the least-squares line log y = log a + b log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _step(shape: StepShape, scratch: Path) -> Any:
    return OurStep(GRPO(GRPOConfig(num_samples=shape.num_samples)), scratch, shape)


def _text(result: dict[str, Any]) -> str:
    rows = [("axis", "values", "seconds (median)", "fixed s", "s for each 1000", "largest miss",
             "exponent", "largest two", "FLOPs of these")]  # fmt: skip
    notes = []
    for axis, found in result["axes"].items():
        medians = [found["seconds"][str(v)]["median"] for v in found["values"]]
        fit = found["line"]
        rows.append(
            (
                axis,
                " ".join(map(str, found["values"])),
                " ".join(f"{s:.2f}" for s in medians),
                f"{fit['fixed']:.3f}",
                f"{1000 * fit['each']:.3g}",
                f"{fit['largest_miss']:.0%}",
                f"{found['exponent']:.2f}",
                f"{found['last_step_exponent']:.2f}",
                f"{found['last_step_flops_exponent']:.2f}",
            )
        )
        if found["explanation"]:
            notes.append(f"{axis}: {found['explanation']}")
    return "\n".join([table(rows), *(notes or ["no axis is superlinear"])])
