"""One look for every figure, and the two marks that all share: a curve with its band over seeds,
and a point with its interval. Files carry no dates: equal figures are equal bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (the backend must be chosen first)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.report.measures import WINDOW, smooth  # noqa: E402
from benchmarks.store.records import Run, Study  # noqa: E402
from benchmarks.store.stats import Estimate  # noqa: E402
from sgpo.core.files import write_bytes  # noqa: E402

# Okabe and Ito's palette, told apart under the common colour-vision deficiencies; line style and
# marker differ too, so that a grey print still works.
COLOURS = {
    "base": "#000000",
    "sft": "#999999",
    "sft_full": "#56B4E9",
    "grpo": "#0072B2",
    "hpt": "#E69F00",
    "luffy": "#009E73",
    "sgpo": "#D55E00",
    # SGPO's variants: further colours of Paul Tol's muted scheme, never in one figure with HPT.
    "sgpo_no_grpo": "#CC6677",
    "sgpo_no_proximal": "#117733",
    "sgpo_no_clip": "#88CCEE",
    "sgpo_no_selection": "#AA4499",
    "sgpo_fixed_alpha": "#999933",
    "sgpo_nll": "#882255",
    "sgpo_reverse": "#332288",
}
LINES = {
    "sft": (0, (4, 2)),
    "grpo": "--",
    "hpt": "-.",
    "luffy": ":",
    "sgpo": "-",
    "sgpo_no_grpo": "-.",
    "sgpo_no_proximal": ":",
    "sgpo_no_clip": (0, (6, 1.5)),
    "sgpo_no_selection": (0, (3, 1, 1, 1)),
    "sgpo_fixed_alpha": (0, (5, 1, 1, 1, 1, 1)),
    "sgpo_nll": "--",
    "sgpo_reverse": "-.",
}
MARKERS = ("o", "s", "^", "D", "v", "P")
FAMILY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
# Settings of SGPO: its own colour first, then ones that no method of the main comparison has.
SHADES = ("#D55E00", "#332288", "#CC79A7", "#000000", "#AA9900", "#882255")
DASHES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
# The sweep of delta, from light to dark as it rises; each is told apart by its line as well.
DELTA_SHADES = ("#9ECAE1", "#6BAED6", COLOURS["sgpo"], "#2171B5", "#08306B")
DELTA_DASHES = (":", "-.", "-", "--", (0, (6, 1.5)))
INK = "#222222"
WARNING = "#8A1C1C"

_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "pdf.fonttype": 42,
}


def new_figure(num_rows: int, num_columns: int, *, width: float, height: float):
    """A figure (inches) and its axes as an array [rows, columns], in the suite's style."""
    plt.rcdefaults()
    plt.rcParams.update(_SETTINGS)
    return plt.subplots(
        num_rows, num_columns, figsize=(width, height), squeeze=False, layout="constrained"
    )


def save(figure: Figure, path: Path) -> list[Path]:
    """``path`` as .png and .pdf, without dates or versions: equal figures are equal bytes."""
    written = []
    for suffix, metadata in (
        (".png", {"Software": None}),
        (".pdf", {"CreationDate": None, "Producer": None, "Creator": None}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
        content = buffer.getvalue() if suffix == ".pdf" else _with_palette(buffer)
        written.append(write_bytes(path.with_suffix(suffix), content))
        figure.set_layout_engine("none")  # everything has its place; to find it takes half the time
    plt.close(figure)
    return written


def _with_palette(png: io.BytesIO) -> bytes:
    """The picture in 256 colours, a third of the size: few lines have more shades than that."""
    small = io.BytesIO()
    with Image.open(png) as image:
        dpi = image.info["dpi"]
        image.convert("RGB").quantize(256).save(small, format="png", optimize=True, dpi=dpi)
    return small.getvalue()


def not_run_note(axis: Axes, text: str) -> None:
    """Says inside an otherwise empty panel that its runs are missing."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=WARNING)


# A point with its interval ------------------------------------------------------------------------


def points(
    axis: Axes,
    x: Sequence[float | Estimate],
    y: Sequence[float | Estimate],
    **look: Any,
) -> None:
    """Marks at ``x``, ``y`` with a whisker along each coordinate that is an estimate."""
    drawn = {"linestyle": "none"} | look
    bars = {"xerr": _arms(x), "yerr": _arms(y)}
    axis.errorbar([*map(_place, x)], [*map(_place, y)], **bars, **drawn)


def _place(value: float | Estimate) -> float:
    return value.mean if isinstance(value, Estimate) else value


def _arms(values: Sequence[float | Estimate]) -> np.ndarray | None:
    """Lengths below and above the means, [2, N]; rounding can put a bound a hair inside."""
    if not all(isinstance(v, Estimate) for v in values):
        return None
    arms = [[v.mean - v.low for v in values], [v.high - v.mean for v in values]]
    return np.maximum(arms, 0.0)


# A curve with its band over seeds -----------------------------------------------------------------


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


def curve(
    axis: Axes,
    study: Study,
    model: str,
    method: str,
    metric: str,
    *,
    label: str = "",
    shade: float = 0.18,
    **look: Any,
) -> None:
    """A method's mean over seeds and the band from lowest to highest seed (none at ``shade`` 0).

    A method with a missing run, or without the metric, gets a legend entry that says so.
    ``label`` and ``look``: other than the method's own.
    """
    runs = study.runs_of(model, method, scored=False)
    label = label or study.method_label(method)
    own = {"color": COLOURS.get(method, "#555555"), "linestyle": LINES.get(method, "-")}
    look = own | look
    band = seed_band(runs, metric) if runs else None
    if band is None:
        state = "not recorded" if runs else "not run"
        axis.plot([], [], label=f"{label} ({state})", **look)
        return
    steps, mean, low, high = band
    dagger = " †" if any(run.diverged for run in runs) else ""
    if shade:
        axis.fill_between(steps, low, high, color=look["color"], alpha=shade, linewidth=0)
    axis.plot(steps, mean, label=label + dagger, **look)


def band_caption(study: Study, model: str, methods: Sequence[str]) -> str:
    """What line and band are, with the number of seeds of each method where they differ."""
    counts = {len(study.cells_of(model, method)) for method in methods}
    number = " or ".join(str(count) for count in sorted(counts))
    return (
        f"Line: mean over {number} seeds; band: lowest to highest seed; both after a centred "
        f"moving mean over {WINDOW} steps (shorter at the ends). †: a run diverged."
    )
