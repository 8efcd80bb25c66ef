"""Does alpha switch bad strategies off? SGPO with strategies that were spoilt on purpose."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures.axes import (
    COLOURS,
    DASHES,
    SHADES,
    WARNING,
    curve,
    new_figure,
    points,
)
from benchmarks.store import experiments
from benchmarks.store.records import Study

MODEL = experiments.DEGRADED_MODEL
BASELINE = "grpo"
ROWS = (
    ("sgpo", "as extracted"),
    (experiments.degraded_method("wrong_choice"), "one choice wrong"),
    (experiments.degraded_method("wrong_type"), "another type's plan"),
    (experiments.degraded_method("open"), "vague: every choice open"),
    (experiments.degraded_method("leak"), "answer given away"),
)
CURVES = (
    ("alpha_mean", "Mean weight α (Eq. 6)", (-0.03, 0.83)),
    ("guided_reward", "Guided pass rate", (-0.03, 1.03)),
    ("reward", "Autonomous pass rate", (-0.03, 1.03)),
)


def needs(study: Study) -> list[Need]:
    """SGPO with each kind of strategy, and SFT+GRPO; none where the study does not plan it."""
    if not study.cells_of(MODEL, ROWS[1][0]):
        return []
    return [(MODEL, method) for method in (BASELINE, *(m for m, _ in ROWS))]


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 1 + len(CURVES), width=12.0, height=3.6)
    _accuracy(axes[0, 0], study)
    for axis, (metric, title, limits) in zip(axes[0, 1:], CURVES, strict=True):
        for (method, label), colour, dash in zip(ROWS, SHADES, DASHES, strict=False):
            curve(axis, study, MODEL, method, metric, label=label, shade=0.16, color=colour,
                  linestyle=dash)  # fmt: skip
        axis.set_title(title)
        axis.set_xlabel("training step")
        axis.set_ylim(*limits)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(ROWS))
    return drawn


def _accuracy(axis: Axes, study: Study) -> None:
    axis.set_title("Accuracy")
    axis.set_xlabel("average accuracy, %")
    rows = [*ROWS, (BASELINE, "no distillation (SFT+GRPO)")]
    colours = [*SHADES[: len(ROWS)], COLOURS[BASELINE]]
    axis.set_yticks(range(len(rows)), [name for _, name in rows])
    axis.invert_yaxis()
    for y, ((method, _), colour) in enumerate(zip(rows, colours, strict=True)):
        seeds = estimates.common_seeds(study, MODEL, [method])[: experiments.SEEDS]
        score = estimates.accuracy(study, MODEL, method, AVERAGE, seeds) if seeds else None
        if score is None:
            axis.text(0.5, y, "not run", transform=axis.get_yaxis_transform(), ha="center",
                      va="center", color=WARNING)  # fmt: skip
            continue
        points(axis, [score.interval], [y], color=colour, marker="o", markersize=6, capsize=3)
    axis.set_ylim(len(rows) - 0.5, -0.5)


def caption(study: Study) -> str:
    return (
        f"SGPO with spoilt strategies in all training problems ({study.profile} profile, "
        f"{experiments.SEEDS} seeds). One choice wrong: one of the plan's three. Another type's "
        f"plan: type and plan of a problem that is solved otherwise. Vague: no choice is named. "
        f"Answer given away: the right plan with the boxed answer behind it; the base model never "
        f"saw an answer in a strategy, so it has not learned to copy one, which a larger model "
        f"would: the third panel shows that it cannot use that text at all, so this row says "
        f"nothing about copied answers. Accuracy: average of the benchmarks, 95% interval over "
        f"seeds and problems. "
        f"Curves: mean over seeds, 5 steps smoothed; band: range of the seeds. Appendix H of the "
        f"paper says that α switches bad strategies off. Made by: {study.command('degraded')}"
    )


DEGRADED = Artefact(
    "degraded",
    "Past the paper: strategies spoilt on purpose",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Accuracy, mean alpha, guided and autonomous pass rate of SGPO with good and with spoilt "
    "strategies",
    extended=True,
)
