"""What the threshold delta of Eq. 5 does: accuracy, and the share of the KL mass it masks."""

from __future__ import annotations

import itertools
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures.axes import (
    COLOURS,
    DELTA_DASHES,
    DELTA_SHADES,
    band_caption,
    curve,
    new_figure,
    not_run_note,
    points,
)
from benchmarks.report.tables.accuracy import REFERENCE, model_of
from benchmarks.store import experiments
from benchmarks.store.records import Study

BASELINE = "grpo"
PAPER_DELTA = 1.0
DELTAS = (0.1, 0.3, PAPER_DELTA, 3.0, math.inf)
SWEEP = tuple(zip(DELTAS, experiments.SWEEP, strict=True))
INFINITY_AT = 10.0  # where the log axis shows infinity: one more step of the sweep


def delta_text(delta: float) -> str:
    return "∞" if math.isinf(delta) else f"{delta:g}"


def needs(study: Study) -> list[Need]:
    """SGPO at every delta and SFT+GRPO; none where the study plans no variant at all."""
    model = model_of(study)
    if model is None:
        return []
    return [(model, method) for method in (BASELINE, *experiments.SWEEP)]


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 2, width=7.6, height=3.3)
    model = model_of(study)
    _accuracy(axes[0, 0], study, model)
    _masked(axes[0, 1], study, model)
    return drawn


def _accuracy(axis: Axes, study: Study, model: str) -> None:
    axis.set_title("Accuracy")
    axis.set_ylabel("average accuracy, %")
    axis.set_xlabel("threshold δ, nats (log scale; ∞: no clipping)")
    axis.set_xscale("log")
    axis.set_xlim(0.07, 14.0)
    places = {d: INFINITY_AT if math.isinf(d) else d for d in DELTAS}
    axis.set_xticks([*places.values()], [*map(delta_text, DELTAS)])
    axis.xaxis.set_minor_locator(NullLocator())
    scores = {d: estimates.accuracy(study, model, method, AVERAGE) for d, method in SWEEP}
    found = [(places[d], score.interval) for d, score in scores.items() if score]
    colour = COLOURS[REFERENCE]
    for (x, left), (next_x, right) in itertools.pairwise(found):
        line = ":" if next_x == INFINITY_AT else "-"
        axis.plot([x, next_x], [left.mean, right.mean], color=colour, linestyle=line)
    look = {"color": colour, "marker": "o", "linestyle": "none"}
    for x, interval in found:
        face = colour if x == PAPER_DELTA else "white"
        points(axis, [x], [interval], markersize=6, markerfacecolor=face, capsize=3,
               elinewidth=1.2, **look)  # fmt: skip
    axis.plot([], [], label="SGPO, δ of the paper", **look)
    axis.plot([], [], label="SGPO, other δ", markerfacecolor="white", **look)
    draw_baseline(axis, study, model, study.method_label(BASELINE))
    absent = [delta_text(d) for d, score in scores.items() if not score]
    if absent:
        not_run_note(axis, f"not run: δ = {', '.join(absent)}")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.35 * (high - low))  # room for the legend above the intervals
    axis.legend(loc="upper right")


def draw_baseline(axis: Axes, study: Study, model: str, label: str) -> None:
    """SFT+GRPO, which distils nothing, as a line with its interval."""
    score = estimates.accuracy(study, model, BASELINE, AVERAGE)
    look = {"color": COLOURS[BASELINE]}
    if score is None:
        axis.plot([], [], linestyle="--", label=f"{label} (not run)", **look)
        return
    interval = score.interval
    axis.axhspan(interval.low, interval.high, alpha=0.12, linewidth=0, **look)
    axis.axhline(interval.mean, linestyle="--", label=label, **look)


def _masked(axis: Axes, study: Study, model: str) -> None:
    axis.set_title("Share of the KL mass that is masked")
    axis.set_xlabel("training step")
    axis.set_ylabel("masked share, 0 to 1")
    axis.set_ylim(-0.03, 1.03)
    axis.margins(x=0.01)
    for (delta, method), colour, line in zip(SWEEP, DELTA_SHADES, DELTA_DASHES, strict=True):
        curve(axis, study, model, method, "kl_masked_share", label=f"δ = {delta_text(delta)}",
              color=colour, linestyle=line)  # fmt: skip
    axis.legend(loc="best")


def caption(study: Study) -> str:
    model = model_of(study)
    return (
        f"Threshold δ of Eq. 5 ({study.profile} profile), {study.model(model).label}; the paper "
        f"has δ = 1 and Table 2's δ = ∞. Left: average accuracy, 95% intervals over seeds and "
        f"problems. Right: share of the selected completions' KL mass on tokens above δ, which are "
        f"left out of the loss. {band_caption(study, model, experiments.SWEEP)}"
    )


DELTA = Artefact(
    "delta",
    "Past the paper: the threshold delta",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Average accuracy against the threshold delta, and the masked share of the KL mass against "
    "training step for each delta",
    extended=True,
)
