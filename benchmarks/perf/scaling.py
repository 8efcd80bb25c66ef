"""How the cost of an RL step grows with problems, samples, completion length and vocabulary.

One thing is varied at a time around a middle setting, on a randomly initialised Qwen2 that stops
nowhere, so that every completion has the asked-for length. The exponent b of seconds ~ a * x^b is
fitted by least squares in the logarithms: below 1 a fixed cost is being spread, 1 is linear, above
1 needs an explanation (printed beside it).
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

MIDDLE = StepShape(model="qwen-m", num_problems=16, num_samples=12, completion_tokens=48)
AXES: dict[str, tuple[int, ...]] = {
    "num_problems": (4, 8, 16, 32, 64),
    "num_samples": (3, 6, 12, 24, 48),
    "completion_tokens": (12, 24, 48, 96, 192),
    "vocabulary_rows": (128, 512, 2048, 8192, 32768),
}
EXPLANATION = {
    "completion_tokens": "attention reads all earlier tokens: its cost grows with the square",
    "vocabulary_rows": "the head is one matrix product among many until its rows outgrow the body",
}


def run(
    repeats: int, *, axes: dict[str, tuple[int, ...]] = AXES, middle: StepShape = MIDDLE
) -> dict[str, Any]:
    """Measure and print each axis with its fitted exponent; seconds of a GRPO step on one thread.

    Every axis but the vocabulary must come out at most linear; where it does not, the explanation
    stands beside it.
    """
    result: dict[str, Any] = {"setting": vars(middle) | {"threads": 1}, "unit": "seconds per step"}
    result["axes"] = {}
    with tempfile.TemporaryDirectory() as scratch, threads(1):
        for axis, values in axes.items():
            steps = {str(v): _step(replace(middle, **{axis: v}), Path(scratch)) for v in values}
            seconds = in_rounds(steps, min(repeats, 3), warmup=1)
            medians = [spread(seconds[str(v)])["median"] for v in values]
            result["axes"][axis] = {
                "values": list(values),
                "seconds": {name: spread(s) for name, s in seconds.items()},
                "exponent": exponent(values, medians),
                "last_step_exponent": exponent(values[-2:], medians[-2:]),
            }
    print(_text(result), flush=True)
    return result


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """b of the least-squares line log y = log a + b log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _step(shape: StepShape, scratch: Path) -> Any:
    return OurStep(GRPO(GRPOConfig(num_samples=shape.num_samples)), scratch, shape)


def _text(result: dict[str, Any]) -> str:
    rows = [("axis", "values", "seconds (median)", "exponent", "largest two", "")]
    for axis, found in result["axes"].items():
        medians = [found["seconds"][str(v)]["median"] for v in found["values"]]
        rows.append(
            (
                axis,
                " ".join(map(str, found["values"])),
                " ".join(f"{s:.2f}" for s in medians),
                f"{found['exponent']:.2f}",
                f"{found['last_step_exponent']:.2f}",
                EXPLANATION.get(axis, ""),
            )
        )
    return table(rows)
