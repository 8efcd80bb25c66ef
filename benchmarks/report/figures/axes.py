"""One look for every figure, and the marks that all share: a point with its interval, a curve with
its band over seeds, and the difference of two methods, paired by seed."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.report.estimates import Score, units_text
from benchmarks.report.measures import WINDOW, smooth
from benchmarks.store.records import NOT_RUN, Run, Study
from benchmarks.store.stats import Estimate, Mean
from sgpo.core.files import write_bytes

# Okabe and Ito's palette and, for SGPO's variants, Paul Tol's muted scheme: told apart under the
# common colour-vision deficiencies; line and marker differ too, so that a grey print still works.
LOOKS = {
    "base": ("#000000", "-", "x"),
    "sft": ("#888888", (0, (4, 2)), "o"),
    "sft_full": ("#56B4E9", (0, (4, 2)), "P"),
    "grpo": ("#0072B2", "--", "s"),
    "hpt": ("#E69F00", "-.", "D"),
    "luffy": ("#009E73", ":", "v"),
    "sgpo": ("#D55E00", "-", "^"),
    "sgpo_nll": ("#882255", "--", "o"),
    "sgpo_reverse": ("#332288", "-.", "v"),
    "sgpo_initial": ("#AA4499", (0, (6, 1.5)), "X"),
}
DASHES = ("-", "--", "-.", ":", (0, (6, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
INK = "#222222"
WARNING = "#8A1C1C"
Value = float | Estimate | Score  # a place in a panel

WIDE = 6.0  # inches of a figure; with type of 9 points it can be read at half a page and on a phone
STYLE = Path(__file__).with_name("report.mplstyle")


def new_figure(
    num_rows: int, num_columns: int, *, width: float = WIDE, height: float, **shared: Any
) -> tuple[Figure, np.ndarray]:
    """A figure (inches) and its axes [rows, columns], in the suite's style. ``shared``: sharex,
    sharey and the like."""
    matplotlib.rc_file(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(num_rows, num_columns, squeeze=False, **shared)


def save(figure: Figure, path: Path) -> list[Path]:
    """``path`` as .png and .pdf, without dates or versions: equal figures are equal bytes."""
    written = [write_bytes(path.with_suffix(".png"), png(figure))]
    figure.set_layout_engine("none")  # everything has its place; to find it takes half the time
    pdf = io.BytesIO()
    nameless = {"CreationDate": None, "Producer": None, "Creator": None}
    figure.savefig(pdf, format="pdf", metadata=nameless)
    return [*written, write_bytes(path.with_suffix(".pdf"), pdf.getvalue())]


def png(figure: Figure) -> bytes:
    """The picture in 256 colours, a third of the size: few lines have more shades than that."""
    whole, small = io.BytesIO(), io.BytesIO()
    figure.savefig(whole, format="png", metadata={"Software": None})
    with Image.open(whole) as image:
        dpi = image.info["dpi"]
        image.convert("RGB").quantize(256).save(small, format="png", optimize=True, dpi=dpi)
    return small.getvalue()


def look(method: str, *, marker: bool = False) -> dict[str, Any]:
    """Colour and line of a method, with ``marker`` its mark too."""
    colour, line, mark = LOOKS.get(method, ("#555555", "-", "o"))
    return {"color": colour, "linestyle": line} | ({"marker": mark} if marker else {})


def marks(method: str) -> dict[str, Any]:
    """Colour and mark of a method, without its line."""
    return look(method, marker=True) | {"linestyle": "none"}


def legend(figure: Figure, axes: Iterable[Axes], columns: int = 4) -> None:
    """What the labels of ``axes`` mean, each once, below all panels: never over the data."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center",
                  ncols=min(columns, len(found) or 1), handlelength=2.8)  # fmt: skip


def absent(axis: Axes, what: str = "", why: str = NOT_RUN, row: float | None = None) -> None:
    """A line inside the panel that says what it lacks, at a row of its values or in its corner."""
    taken = sum(text.get_color() == WARNING for text in axis.texts)
    place, across, aligned = (0.98, 0.03 + 0.11 * taken), axis.transAxes, ("right", "bottom")
    if row is not None:
        place, across, aligned = (0.02, row), axis.get_yaxis_transform(), ("left", "center")
    axis.text(*place, f"{what}: {why}" if what else why, transform=across, ha=aligned[0],
              va=aligned[1], color=WARNING)  # fmt: skip


def zero(axis: Axes, *, upright: bool = False) -> None:
    """The line of no difference."""
    (axis.axvline if upright else axis.axhline)(0.0, color=INK, linewidth=0.8, zorder=1)


def points(
    axis: Axes, x: Sequence[Value | None], y: Sequence[Value | None], **changes: Any
) -> None:
    """Marks at ``x``, ``y`` with a whisker along each coordinate that has an interval; a place
    without a number is left out."""
    known = [(a, b) for a, b in zip(x, y, strict=True) if a is not None and b is not None]
    (x, x_arms), (y, y_arms) = (_with_arms([pair[i] for pair in known]) for i in (0, 1))
    drawn = {"linestyle": "none", "marker": "o", "markersize": 5, "capsize": 2.5} | changes
    axis.errorbar(x, y, xerr=x_arms, yerr=y_arms, elinewidth=1.2, **drawn)


def _with_arms(values: Sequence[Value]) -> tuple[list[float], np.ndarray | None]:
    """Places, and lengths below and above them, [2, N], 0 for a mean alone; rounding can put a
    bound a hair inside."""
    found = [v.interval if isinstance(v, Score) else v for v in values]
    if not found or not isinstance(found[0], Estimate):
        return found, None
    lengths = [[i.mean - i.low for i in found], [i.high - i.mean for i in found]]
    return [i.mean for i in found], np.nan_to_num(np.maximum(lengths, 0.0))


def seed_curves(runs: Sequence[Run], metric: str, window: int = WINDOW) -> pd.DataFrame:
    """The metric of each run that has it, smoothed: a row a step, a column a seed. A run that ended
    early (diverged) counts up to its last step."""
    found = {
        run.cell.seed: pd.Series(smooth(run.metrics[metric], window), index=run.metrics["step"])
        for run in runs
        if np.isfinite(run.metrics.get(metric, [])).any()
    }
    return pd.DataFrame(found).dropna(how="all")


def curve(
    axis: Axes,
    study: Study,
    model: str,
    method: str,
    metric: str,
    *,
    minus: str = "",
    label: str = "",
    window: int = WINDOW,
    band: bool = True,
    **changes: Any,
) -> None:
    """A method's mean over seeds and, with ``band``, its 95% interval at every step.

    ``minus``: a method whose curve of the same seed is taken off. What is missing is said in the
    panel. ``window``: steps of the moving average. ``label`` and ``changes``: other than the
    method's own.
    """
    label, drawn = label or study.method_label(method), look(method) | changes
    groups = [study.runs_of(model, m, scored=False) for m in (method, minus) if m]
    frames = [seed_curves(runs, metric, window) for runs in groups]
    values = frames[0] if len(frames) == 1 else (frames[0] - frames[1]).dropna(how="all")
    dagger = " †" if any(run.diverged for runs in groups for run in runs) else ""
    if values.dropna(axis=1, how="all").empty:
        absent(axis, label, "not recorded" if all(groups) else NOT_RUN)
        return
    steps = values.index.to_numpy()
    if band:
        rows = (row[np.isfinite(row)] for row in values.to_numpy())
        found = [Mean.over_units(row).interval() for row in rows]
        low, high = [i.low for i in found], [i.high for i in found]
        axis.fill_between(steps, low, high, color=drawn["color"], alpha=0.18, linewidth=0)
    axis.plot(steps, values.mean(axis=1), label=label + dagger, **drawn)


def band_caption(study: Study, model: str, methods: Sequence[str]) -> str:
    """What line and band are, over how many seeds, and which of ``methods`` are not there."""
    counts = sorted({len(study.cells_of(model, method)) for method in methods})
    over = units_text(study, " or ".join(map(str, counts)))
    band = "; band: its 95% interval, step by step; both" if counts[-1] > 1 else ","
    lacking = [m for m in methods if not study.runs_of(model, m, scored=False)]
    missing = "".join(f" {study.method_label(method)}: {NOT_RUN}." for method in lacking)
    return (
        f"Line: mean over {over}{band} after a centred moving mean over {WINDOW} steps (shorter at "
        f"the ends). †: a run diverged.{missing}"
    )
