"""pass@k and maj@k: what more samples are worth to each method, and whether training narrows it."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import COLOURS, LINES, WARNING, new_figure
from benchmarks.report.tables.accuracy import models
from benchmarks.store.records import Study

METHODS = ("base", "grpo", "hpt", "luffy", "sgpo")
MARKERS = {"base": "x", "grpo": "s", "hpt": "D", "luffy": "v", "sgpo": "^"}
BANDS = ("grpo", "sgpo")  # five bands on top of each other could not be read
KINDS = ("pass@k", "maj@k")


def needs(study: Study) -> list[Need]:
    """None where no benchmark has enough samples a problem."""
    planned = [(model, method) for model in models(study) for method in METHODS]
    return [need for need in planned if measures.ks_of(study) and study.cells_of(*need)]


def figure(study: Study) -> Figure:
    """pass@k above, maj@k below, one column a model."""
    shown = models(study)
    drawn, axes = new_figure(2, len(shown), width=max(3.0 * len(shown), 4.0), height=5.4)
    for column, model in zip(axes.T, shown, strict=True):
        for axis, kind in zip(column, KINDS, strict=True):
            _draw(axis, study, model, kind)
        column[0].set_title(study.model(model).label)
        column[1].set_xlabel("samples k (log scale)")
    for axis, kind in zip(axes[:, 0], KINDS, strict=True):
        axis.set_ylabel(f"{kind}, %")
    limits = [axis.get_ylim() for axis in axes.flat]
    for axis in axes.flat:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[0, 0].legend(loc="upper left")
    return drawn


def _draw(axis: Axes, study: Study, model: str, kind: str) -> None:
    ks = measures.ks_of(study)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    absent = []
    for method in METHODS:
        if not study.cells_of(model, method):
            continue
        look = {
            "color": COLOURS[method],
            "linestyle": LINES.get(method, "-"),
            "marker": MARKERS[method],
            "markersize": 4,
        }
        label = study.method_label(method)
        scores = measures.sample_curve(study, model, method, kind)
        if scores is None:
            missing = not study.runs_of(model, method, scored=True)
            absent.append(f"{label} ({'not run' if missing else 'not stored'})")
            axis.plot([], [], label=label, **look)
            continue
        intervals = [score.interval for score in scores]
        if method in BANDS:
            axis.fill_between(
                ks, [i.low for i in intervals], [i.high for i in intervals],
                color=look["color"], alpha=0.13, linewidth=0,
            )  # fmt: skip
        axis.plot(ks, [i.mean for i in intervals], label=label, **look)
    if absent:  # said in the panel itself: the legend is that of the first panel
        axis.text(
            0.98, 0.02, "\n".join(absent), transform=axis.transAxes, ha="right", va="bottom",
            fontsize=8, color=WARNING,
        )  # fmt: skip


def caption(study: Study) -> str:
    sets = " and ".join(
        f"{b.label} (n={b.num_problems}, {b.k} samples)" for b in measures.benchmarks_of(study)
    )
    return (
        f"What more samples are worth ({study.profile} profile). Above: unbiased pass@k, the "
        f"chance that one of k samples is correct. Below: maj@k, the chance that the commonest "
        f"answer of k samples is correct (ties count by share; mean over {measures.NUM_ORDERS} "
        f"orders of the stored samples, so k = {measures.ks_of(study)[-1]} has one value). Mean of "
        f"{sets}, the benchmarks with that many samples. Bands, for SFT+GRPO and SGPO: 95% "
        f'intervals over seeds and problems. "not stored": a run was evaluated without keeping its '
        "answers."
    )


PASSK = Artefact(
    "passk",
    "Past the paper: pass@k and maj@k",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="pass@k and maj@k of each method against the number of samples k, by model",
)
