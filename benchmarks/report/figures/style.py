"""One look for every figure: method order, colours, line styles, and files without dates."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402  (the backend must be chosen first)
from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402

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
    plt.close(figure)
    return written


def _with_palette(png: io.BytesIO) -> bytes:
    """The picture in 256 colours, a third of the size: few lines have more shades than that."""
    small = io.BytesIO()
    with Image.open(png) as image:
        dpi = image.info["dpi"]
        image.convert("RGB").quantize(256).save(small, format="png", optimize=True, dpi=dpi)
    return small.getvalue()


def not_run_note(axis, text: str) -> None:
    """Says inside an otherwise empty panel that its runs are missing."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color=WARNING)
