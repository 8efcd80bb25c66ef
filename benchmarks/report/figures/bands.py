"""Training curves of several seeds as one line with a band."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.report.figures.style import COLOURS, LINES
from benchmarks.store.records import Run, Study

WINDOW = 5


def smooth(values: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Centred moving mean of ``values`` [T] over ``window`` (odd) steps, fewer at the ends.

    NaN entries are left out of the means; where a whole window is NaN the result is NaN.
    """
    assert window % 2 == 1, window
    known = np.isfinite(values)
    kernel = np.ones(window)
    half = window // 2
    totals = np.convolve(np.where(known, values, 0.0), kernel)[half : half + len(values)]
    counts = np.convolve(known.astype(float), kernel)[half : half + len(values)]
    return np.divide(totals, counts, out=np.full(len(values), np.nan), where=counts > 0)


def seed_band(
    runs: Sequence[Run], metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps, mean, lowest and highest smoothed value over runs, float [steps] each.

    A run that ended early (diverged) counts up to its last step. None if no run has the metric.
    """
    curves = [
        (run.metrics["step"], smooth(run.metrics[metric]))
        for run in runs
        if metric in run.metrics and np.isfinite(run.metrics[metric]).any()
    ]
    if not curves:
        return None
    steps = np.unique(np.concatenate([step for step, _ in curves]))
    aligned = np.full((len(curves), len(steps)), np.nan)
    for index, (step, values) in enumerate(curves):
        aligned[index, np.searchsorted(steps, step)] = values
    seen = np.isfinite(aligned).any(axis=0)
    steps, aligned = steps[seen], aligned[:, seen]
    return (
        steps,
        np.nanmean(aligned, axis=0),
        np.nanmin(aligned, axis=0),
        np.nanmax(aligned, axis=0),
    )


def plot_method(
    axis,
    study: Study,
    model: str,
    method: str,
    metric: str,
    *,
    label: str = "",
    band_alpha: float = 0.18,
) -> None:
    """One method's line and band (none at ``band_alpha`` 0); a method with a missing run gets a
    legend entry that says so. ``label``: other than the method's own."""
    runs = study.runs_of(model, method, scored=False)
    label = label or study.method_label(method)
    colour, line = COLOURS.get(method, "#555555"), LINES.get(method, "-")
    band = seed_band(runs, metric) if runs else None
    if band is None:
        state = "not run" if not runs else "not recorded"
        axis.plot([], [], color=colour, linestyle=line, label=f"{label} ({state})")
        return
    steps, mean, low, high = band
    dagger = " †" if any(run.diverged for run in runs) else ""
    if band_alpha:
        axis.fill_between(steps, low, high, color=colour, alpha=band_alpha, linewidth=0)
    axis.plot(steps, mean, color=colour, linestyle=line, label=label + dagger)


def band_caption(study: Study, model: str, methods: Sequence[str]) -> str:
    """What line and band are, with the number of seeds of each method where they differ."""
    counts = {len(study.cells_of(model, method)) for method in methods}
    number = " or ".join(str(count) for count in sorted(counts))
    return (
        f"Line: mean over {number} seeds; band: lowest to highest seed; both after a centred "
        f"moving mean over {WINDOW} steps (shorter at the ends). †: a run diverged."
    )
