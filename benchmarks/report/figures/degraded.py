"""Does alpha switch bad strategies off? SGPO with strategies that were spoilt on purpose."""

from __future__ import annotations

import textwrap

from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import (
    DASHES,
    SHADES,
    absent,
    curve,
    legend,
    new_figure,
    points,
    zero,
)
from benchmarks.store import experiments
from benchmarks.store.records import Study

MODEL = experiments.DEGRADED_MODEL
BASELINE = "grpo"
MARGIN = 2.0  # points; "harmless" allows that much
ROWS = (
    ("sgpo", "as extracted"),
    (experiments.degraded_method("wrong_choice"), "one choice wrong"),
    (experiments.degraded_method("wrong_type"), "another type's plan"),
    (experiments.degraded_method("open"), "vague: every choice open"),
    (experiments.degraded_method("leak"), "answer given away"),
)
CURVES = {"alpha_mean": "Mean weight α (Eq. 6)", "guided_reward": "Guided pass rate"}


def needs(study: Study) -> list[Need]:
    """SGPO with each kind of strategy, and SFT+GRPO; none where the study does not plan it."""
    if not study.cells_of(MODEL, ROWS[1][0]):
        return []
    return [(MODEL, method) for method in (BASELINE, *(m for m, _ in ROWS))]


def difference(study: Study, method: str) -> Score | None:
    """Average accuracy minus SFT+GRPO's, paired, over the seeds that every row has."""
    seeds = estimates.common_seeds(study, MODEL, [m for _, m in needs(study)])
    ours, theirs = (
        estimates.accuracy(study, MODEL, m, AVERAGE, seeds) if seeds else None
        for m in (method, BASELINE)
    )
    return None if ours is None or theirs is None else ours - theirs


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 3, width=7.6, height=3.3, width_ratios=(1.1, 1, 1))
    left = axes[0, 0]
    for place, ((method, label), colour) in enumerate(zip(ROWS, SHADES, strict=False)):
        score = difference(study, method)
        points(left, [score], [place], color=colour)
        if score is None:
            absent(left, label)
    left.set(title="Accuracy minus SFT+GRPO's, paired", xlabel="points")
    left.set_yticks(range(len(ROWS)), [textwrap.fill(label, 14) for _, label in ROWS], fontsize=7.5)
    left.set_ylim(len(ROWS) - 0.5, -0.5)
    zero(left, upright=True)
    left.axvline(-MARGIN, color="#888888", linewidth=0.8, linestyle=":")
    for axis, (metric, title) in zip(axes[0, 1:], CURVES.items(), strict=True):
        for (method, label), colour, dash in zip(ROWS, SHADES, DASHES, strict=False):
            curve(axis, study, MODEL, method, metric, label=label, color=colour, linestyle=dash)
        axis.set(title=title, xlabel="training step", ylim=(-0.03, 1.03))
    legend(drawn, axes[0, 1:2], columns=3)
    return drawn


def caption(study: Study) -> str:
    return (
        f"SGPO with spoilt strategies in all training problems ({study.profile} profile). "
        f"One choice wrong: one of the plan's three. Another type's "
        f"plan: type and plan of a problem that is solved otherwise. Vague: no choice is named. "
        f"Answer given away: the right plan with the boxed answer behind it; the base model never "
        f"saw an answer in a strategy, so it has not learned to copy one, which a larger model "
        f"would: its guided pass rate shows that it cannot use that text at all, so this row says "
        f"nothing about copied answers. Left: average of the benchmarks minus that of SFT+GRPO, "
        f"which distils nothing, paired over common seeds and problems, 95% intervals; dotted: the "
        f"margin of {MARGIN:g} points within which a strategy counts as harmless. Curves: mean "
        f"over seeds, 5 steps smoothed; band: range of the seeds. Appendix H of the paper says "
        f"that α switches bad strategies off."
    )


DEGRADED = Artefact(
    "degraded",
    "Past the paper: strategies spoilt on purpose",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Paired difference in accuracy to SFT+GRPO, mean alpha and guided pass rate of SGPO with "
    "good and with spoilt strategies",
    extended=True,
)
