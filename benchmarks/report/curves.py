"""Training curves of running or stored runs, in the terminal or as a PNG: ``sgpo curves``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.report.compare import find_run
from benchmarks.store.runs import METRICS, StoredRun
from sgpo.core.files import write_bytes

SHOWN = {
    "reward": "reward, 0 to 1",
    "entropy": "entropy, nats a token",
    "response_length": "length, tokens",
    "kl_mean": "distilled KL, nats",
    "loss": "loss",
    "held_out_loss": "held-out loss",
}
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # characters of a curve in the terminal


def read(names: Sequence[str], results: Path) -> dict[str, pd.DataFrame]:
    """Run id -> its metrics so far by step. A running run is read as far as it got.

    Raises:
        ValueError: no such run, or one that has not logged a step.
    """
    found = {}
    for name in names:
        run = find_run(name, results, METRICS)
        rows = _so_far(run)
        if not rows:
            raise ValueError(f"{name}: no training step is logged there (yet)")
        found[run.run_id] = pd.DataFrame(rows).set_index("step").astype(float)
    return found


def _so_far(run: StoredRun) -> list[dict]:
    """The logged steps; the last line of a running run may be half written."""
    path = run.path / METRICS
    if run.published or not path.is_file():
        return run.metrics()
    whole = path.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def terminal(curves: dict[str, pd.DataFrame]) -> str:
    """A block a metric: of each run its curve in bars on one scale, first and last value."""
    lines = []
    for metric, label in SHOWN.items():
        known = {run: f[metric].dropna() for run, f in curves.items() if metric in f}
        known = {run: values for run, values in known.items() if len(values)}
        if not known:
            continue
        everything = np.concatenate([*known.values()])
        lines += ["", f"{label} ({everything.min():.3g} to {everything.max():.3g})"]
        for run, values in known.items():
            bars = _bars(values.to_numpy(), everything.min(), np.ptp(everything))
            ends = f"{values.iloc[0]:.3g} -> {values.iloc[-1]:.3g}"
            lines.append(f"  {bars:<{WIDTH}}  {ends}  step {values.index[-1]:g}  {run}")
    return "\n".join(lines[1:])


def _bars(values: np.ndarray, low: float, span: float) -> str:
    """``values`` as at most ``WIDTH`` bars, the means of equal parts."""
    parts = [part.mean() for part in np.array_split(values, min(WIDTH, len(values)))]
    return "".join(BARS[min(7, int(8 * (v - low) / span)) if span else 0] for v in parts)


def draw(curves: dict[str, pd.DataFrame], out: Path) -> None:
    """One panel a metric that some run has, one line a run, as PNG."""
    from matplotlib import pyplot as plt

    from benchmarks.report.figures.axes import DASHES, legend, new_figure, png

    metrics = [m for m in SHOWN if any(m in f and f[m].notna().any() for f in curves.values())]
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure, axes = new_figure(rows, columns, width=3.6 * columns, height=0.8 + 2.1 * rows)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for index, (run, values) in enumerate(curves.items()):
            known = values[metric].dropna() if metric in values else pd.Series(dtype=float)
            axis.plot(known.index, known, label=run, linestyle=DASHES[index % len(DASHES)],
                      marker="o" if len(known) == 1 else None)  # fmt: skip
        axis.set(ylabel=SHOWN[metric], xlabel="training step")
    for axis in axes.flat[len(metrics) :]:
        axis.axis("off")
    legend(figure, axes.flat[:1], columns=1)
    write_bytes(out, png(figure))
    plt.close(figure)


def show_curves(names: Sequence[str], out: Path | None, results: Path) -> int:
    """``sgpo curves``: print the curves, or draw them to the PNG ``out``; 0."""
    if out is not None and out.suffix != ".png":
        raise ValueError(f"--out {out}: must end in .png")
    curves = read(names, results)
    if out is None:
        print(terminal(curves))
    else:
        draw(curves, out)
        print(f"{out}: {len(curves)} runs")
    return 0
