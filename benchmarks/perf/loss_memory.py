"""Peak memory and time of the two losses over a real vocabulary: ours in chunks, dense, Liger's.

What the losses are: ``loss_work``. Every measurement is a process of its own that makes its inputs
first; its peak is what it grew by from there. The gradients of head and hidden states, which all
implementations return, are part of it: no implementation can be below them. ``workspace_gib`` is
the peak without them, which is what chunks can save.

Where the dense loss does not fit, it is measured at sizes that do, a line is fitted through their
peaks and seconds, and what the line says is marked as fitted. Liger's chunked losses are plain
torch and run on a CPU; its Triton kernels need a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.perf.common import spread, table
from benchmarks.perf.loss_work import GIB, THREADS, Shape
from sgpo.core.distributed import describe_device, select_device

LOSSES = ("nll", "kl")
IMPLEMENTATIONS = ("dense", "chunked", "liger")
SHAPES = (Shape(2048), Shape(16384))
# Tensors of tokens x vocabulary that the dense loss holds at its peak, rounded up: logits,
# log-softmax and their gradients, for the KL of two models the intermediate products too.
DENSE_COPIES = {"nll": 4, "kl": 9}
COMPARED = ("peak_gib", "workspace_gib", "seconds")
LONG = 4096  # tokens above which a case runs once: its time is hardly spread
MEMORY_TARGET, TIME_TARGET = 1 / 8, 1.5
NO_LIGER = "liger-kernel is not installed: pip install liger-kernel"


def run(repeats: int, shapes: Sequence[Shape] = SHAPES, device: str = "auto") -> dict[str, Any]:
    """Measure every case, up to three times where it is short; print and return the rows."""
    device = select_device(device).type
    rows = []
    for loss in LOSSES:
        dense = [replace(shapes[0], tokens=t) for t in _dense_tokens(loss, shapes, device)]
        for shape in sorted({*shapes, *dense}, key=lambda s: s.tokens):
            names = IMPLEMENTATIONS if shape in shapes else ("dense",)
            rows += _rounds(loss, shape, [n for n in names if n != "dense" or shape in dense],
                            min(repeats, 1 if shape.tokens > LONG else 3), device)  # fmt: skip
    result = {
        **describe_device(torch.device(device)),
        "threads": THREADS,
        "targets": {"peak of dense": MEMORY_TARGET, "time of dense": TIME_TARGET},
        "rows": rows,
        "compared": [_compared(r, rows) for r in rows if Shape(**r["shape"]) in shapes],
    }
    print(_text(result), flush=True)
    return result


def _rounds(
    loss: str, shape: Shape, names: Sequence[str], repeats: int, device: str
) -> list[dict[str, Any]]:
    """A row per implementation, measured in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    missing = {}
    for _ in range(repeats):
        for name in names:
            if name == "liger" and (reason := _no_liger(shape, device)):
                missing[name] = reason
                continue
            found[name].append(_measure(loss, name, shape, device))
            seen = found[name][-1]
            print(f"{loss} {name} {shape.tokens}: {seen['peak_gib']:.2f} GiB, "
                  f"{seen['seconds']:.1f} s", flush=True)  # fmt: skip
    rows = []
    for name, values in found.items():
        row = {"loss": loss, "implementation": name, "shape": asdict(shape)}
        if name in missing:
            rows.append(row | {"not_run": missing[name]})
        else:
            row |= {key: spread([v[key] for v in values]) for key in values[0]}
            beyond = [v["peak_gib"] - shape.gradient_gib for v in values]
            rows.append(row | {"workspace_gib": spread(beyond)})
    _same_gradients([r for r in rows if "not_run" not in r])
    return rows


def _no_liger(shape: Shape, device: str) -> str | None:
    """Why Liger's loss is not run, or None."""
    if importlib.util.find_spec("liger_kernel") is None:
        return NO_LIGER
    if device == "cpu" and shape.tokens > LONG:
        return f"Liger's loss is left out above {LONG} tokens on a CPU, where it takes minutes"
    return None


def _measure(loss: str, name: str, shape: Shape, device: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.perf.loss_work", loss, name]
    command += [json.dumps(asdict(shape)), device]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["killed, probably out of memory"])[-1]
        raise ValueError(
            f"{loss} {name} at {shape.tokens} tokens: exit code {done.returncode}: {why}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _same_gradients(rows: list[dict[str, Any]]) -> None:
    for row in rows[1:]:
        for key in ("hidden_gradient", "head_gradient"):
            found, expected = row[key]["median"], rows[0][key]["median"]
            assert abs(found - expected) < 1e-4 * expected, (key, row, rows[0])


def _dense_tokens(loss: str, shapes: Sequence[Shape], device: str) -> list[int]:
    """Where the dense loss is measured: at the shapes' own tokens as far as they fit; if one does
    not, also at half of the fewest and at the most that fit, to fit a line."""
    available = _available(device)

    def fits(tokens: int) -> bool:
        return _dense_gib(loss, replace(shapes[0], tokens=tokens)) < 0.9 * available

    wanted = [s.tokens for s in shapes]
    if all(map(fits, wanted)):
        return wanted
    largest = min(wanted)
    while fits(2 * largest) and 2 * largest < max(wanted):
        largest *= 2
    return sorted(t for t in {*wanted, min(wanted) // 2, largest} if fits(t))


def _dense_gib(loss: str, shape: Shape) -> float:
    """Memory that a dense case needs, about."""
    logits = shape.tokens * shape.vocabulary * 4 / GIB
    return DENSE_COPIES[loss] * logits + 2 * shape.gradient_gib


def _available(device: str) -> float:
    if device == "cuda":
        return torch.cuda.mem_get_info()[0] / GIB
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("MemAvailable")) * 1024 / GIB


def _compared(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """``row`` beside the dense loss at its size, measured or from the fitted line."""
    result = {key: row[key] for key in ("loss", "implementation")}
    result |= {"tokens": row["shape"]["tokens"]}
    if "not_run" in row:
        return result | {"not_run": row["not_run"]}
    dense = [r for r in rows if (r["loss"], r["implementation"]) == (row["loss"], "dense")]
    own = next((r for r in dense if r["shape"] == row["shape"]), None)
    for key in COMPARED:
        points = [(r["shape"]["tokens"], r[key]["median"]) for r in dense]
        if own is None and len(points) < 2:
            continue
        expected = own[key]["median"] if own else at(points, result["tokens"])
        result |= {f"dense {key}": expected, f"{key} / dense": row[key]["median"] / expected}
    return result | {"dense is fitted": own is None}


def at(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at ``x`` of the least-squares line through two ``points`` (x, y) or more."""
    slope, start = np.polyfit(*zip(*points, strict=True), 1)
    return float(start + slope * x)


def _text(result: dict[str, Any]) -> str:
    lines = [("loss", "tokens", "implementation", "peak GiB", "workspace GiB", "seconds",
              "peak/dense", "workspace/dense", "time/dense")]  # fmt: skip
    compared = {(c["loss"], c["implementation"], c["tokens"]): c for c in result["compared"]}
    for row in result["rows"]:
        start = (row["loss"], str(row["shape"]["tokens"]), row["implementation"])
        if "not_run" in row:
            lines.append((*start, "not run", *[""] * 5))
            continue
        beside = compared.get((row["loss"], row["implementation"], row["shape"]["tokens"]), {})
        mark = "~" if beside.get("dense is fitted") else ""
        ratios = (
            f"{mark}{beside[f'{key} / dense']:.2f}" if f"{key} / dense" in beside else ""
            for key in COMPARED
        )
        lines.append((*start, *(f"{row[key]['median']:.2f}" for key in COMPARED), *ratios))
    notes = ["~: the dense loss did not fit here; a line through smaller sizes stands for it"]
    notes += sorted({r["not_run"] for r in result["rows"] if "not_run" in r})
    where = result.get("device_name", f"the CPU, {result['threads']} threads")
    return "\n".join([f"on {where}", table(lines), *notes])
