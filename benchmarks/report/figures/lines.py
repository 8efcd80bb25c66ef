"""One metric of several runs as a line with a band over seeds, for figures of experiments."""

from __future__ import annotations

from typing import Any

from benchmarks.report.figures.bands import seed_band
from benchmarks.store.records import Run, Study
from benchmarks.store.stats import Estimate

# Settings of SGPO: its own colour first, then ones that no method of the main comparison has
# (from Tol's palettes, told apart under the common colour-vision deficiencies).
SHADES = ("#D55E00", "#332288", "#CC79A7", "#000000", "#AA9900", "#882255")
DASHES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


def plot_metric(
    axis: Any, study: Study, model: str, method: str, metric: str, *, label: str, **look: Any
) -> bool:
    """Draw mean and band of ``metric`` over the seeds of one method; whether there was something
    to draw. Runs that are missing, or lack the metric, get a legend entry that says so."""
    runs = study.runs_of(model, method, scored=False)
    band = seed_band(runs, metric) if runs else None
    if band is None:
        state = "not recorded" if runs else "not run"
        axis.plot([], [], label=f"{label} ({state})", **look)
        return False
    steps, mean, low, high = band
    dagger = " †" if any(run.diverged for run in runs) else ""
    axis.fill_between(steps, low, high, color=look.get("color"), alpha=0.16, linewidth=0)
    axis.plot(steps, mean, label=label + dagger, **look)
    return True


def arms(interval: Estimate) -> list[list[float]]:
    """Lengths below and above the mean for one error bar; rounding can put a bound inside it."""
    below, above = interval.mean - interval.low, interval.high - interval.mean
    return [[max(below, 0.0)], [max(above, 0.0)]]


def last_values(runs: tuple[Run, ...], metric: str) -> list[float]:
    """The value of ``metric`` at each run's last step; a run without it is left out."""
    return [float(r.metrics[metric][-1]) for r in runs if metric in r.metrics]
