"""What the threshold delta of Eq. 5 does: accuracy, and the share of the KL mass it masks."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from matplotlib.ticker import NullLocator

from benchmarks.report import estimates
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures import style
from benchmarks.report.figures.bands import band_caption, seed_band
from benchmarks.report.tables.ablations import REFERENCE, model_of
from benchmarks.store.records import Study
from benchmarks.store.stats import Estimate

NAME = "delta"
TITLE = "Past the paper: the threshold delta"
USES = "scores"
METRIC = "kl_masked_share"
BASELINE = "grpo"
PAPER_DELTA = 1.0
SWEEP = (
    (0.1, "sgpo_delta0.1"),
    (0.3, "sgpo_delta0.3"),
    (PAPER_DELTA, REFERENCE),
    (3.0, "sgpo_delta3"),
    (math.inf, "sgpo_no_clip"),
)
INFINITY_AT = 10.0  # where the log axis shows infinity: one more step of the sweep
# From light to dark with rising delta; each is told apart by its line as well.
SHADES = ("#9ECAE1", "#6BAED6", style.COLOURS["sgpo"], "#2171B5", "#08306B")
DASHES = (":", "-.", "-", "--", (0, (6, 1.5)))


def needs(study: Study) -> list[tuple[str, str]]:
    """SGPO at every delta and SFT+GRPO; none where the study plans no variant at all."""
    model = model_of(study)
    if model is None:
        return []
    return [(model, method) for method in (BASELINE, *(m for _, m in SWEEP))]


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/delta.{png,pdf}."""
    figure, axes = style.new_figure(1, 2, width=7.6, height=3.3)
    model = model_of(study)
    _draw_accuracy(axes[0, 0], study, model)
    _draw_masked(axes[0, 1], study, model)
    return style.save(figure, out_dir / "figures" / NAME)


def _draw_accuracy(axis, study: Study, model: str | None) -> None:
    axis.set_title("Accuracy")
    axis.set_ylabel("average accuracy, %")
    axis.set_xlabel("threshold δ, nats (log scale; ∞: no clipping)")
    axis.set_xscale("log")
    axis.set_xlim(0.07, 14.0)
    axis.set_xticks([_position(delta) for delta, _ in SWEEP], [_text(d) for d, _ in SWEEP])
    axis.xaxis.set_minor_locator(NullLocator())
    scores = {d: _interval(study, model, method) for d, method in SWEEP}
    points = [(_position(d), interval) for d, interval in scores.items() if interval]
    colour = style.COLOURS[REFERENCE]
    for (x, left), (next_x, right) in itertools.pairwise(points):
        line = ":" if next_x == INFINITY_AT else "-"
        axis.plot([x, next_x], [left.mean, right.mean], color=colour, linestyle=line)
    for x, interval in points:
        face = colour if x == PAPER_DELTA else "white"
        arms = [[interval.mean - interval.low], [interval.high - interval.mean]]
        axis.errorbar(
            [x], [interval.mean], yerr=np.maximum(arms, 0.0), color=colour, marker="o",
            markersize=6, markerfacecolor=face, capsize=3, elinewidth=1.2, linestyle="none",
        )  # fmt: skip
    look = {"color": colour, "marker": "o", "linestyle": "none"}
    axis.plot([], [], label="SGPO, δ of the paper", **look)
    axis.plot([], [], label="SGPO, other δ", markerfacecolor="white", **look)
    _draw_baseline(axis, study, model)
    absent = [_text(d) for d, interval in scores.items() if not interval]
    if absent:
        style.not_run_note(axis, f"not run: δ = {', '.join(absent)}")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.35 * (high - low))  # room for the legend above the intervals
    axis.legend(loc="upper right")


def _draw_baseline(axis, study: Study, model: str | None) -> None:
    """SFT+GRPO, which distils nothing, as a line with its interval."""
    interval = _interval(study, model, BASELINE)
    label, look = study.method_label(BASELINE), {"color": style.COLOURS[BASELINE]}
    if interval is None:
        axis.plot([], [], linestyle="--", label=f"{label} (not run)", **look)
        return
    axis.axhspan(interval.low, interval.high, alpha=0.12, linewidth=0, **look)
    axis.axhline(interval.mean, linestyle="--", label=label, **look)


def _draw_masked(axis, study: Study, model: str | None) -> None:
    axis.set_title("Share of the KL mass that is masked")
    axis.set_xlabel("training step")
    axis.set_ylabel("masked share, 0 to 1")
    axis.set_ylim(-0.03, 1.03)
    axis.margins(x=0.01)
    for (delta, method), colour, line in zip(SWEEP, SHADES, DASHES, strict=True):
        runs = study.runs_of(model, method, scored=False) if model else ()
        band = seed_band(runs, METRIC) if runs else None
        label = f"δ = {_text(delta)}"
        if band is None:
            state = "not recorded" if runs else "not run"
            axis.plot([], [], color=colour, linestyle=line, label=f"{label} ({state})")
            continue
        steps, mean, low, high = band
        dagger = " †" if any(run.diverged for run in runs) else ""
        axis.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axis.plot(steps, mean, color=colour, linestyle=line, label=label + dagger)
    axis.legend(loc="best")


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Average accuracy against the threshold delta, and the masked share of the KL mass "
            "against training step for each delta",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    model = model_of(study)
    if model is None:
        return f"{TITLE}: not run. Made by: {study.command(NAME)}"
    return (
        f"Threshold δ of Eq. 5 ({study.profile} profile), {study.model(model).label}; the paper "
        f"has δ = 1 and Table 2's δ = ∞. Left: average accuracy, 95% intervals over seeds and "
        f"problems. Right: share of the selected completions' KL mass on tokens above δ, which are "
        f"left out of the loss. {band_caption(study, model, [m for _, m in SWEEP])}"
    )


def _interval(study: Study, model: str | None, method: str) -> Estimate | None:
    score = estimates.accuracy(study, model, method, AVERAGE) if model else None
    return score.interval if score else None


def _position(delta: float) -> float:
    return INFINITY_AT if math.isinf(delta) else delta


def _text(delta: float) -> str:
    return "∞" if math.isinf(delta) else f"{delta:g}"
