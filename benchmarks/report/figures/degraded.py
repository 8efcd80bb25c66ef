"""Does alpha switch bad strategies off? SGPO with strategies that were spoilt on purpose."""

from __future__ import annotations

from pathlib import Path

from benchmarks.report import estimates
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures import style
from benchmarks.report.figures.lines import DASHES, SHADES, arms, plot_metric
from benchmarks.store import experiments
from benchmarks.store.records import Study

NAME = "degraded"
TITLE = "Past the paper: strategies spoilt on purpose"
USES = "scores"
MODEL = experiments.DEGRADED_MODEL
ROWS = (
    ("sgpo", "as extracted"),
    (experiments.degraded_method("wrong_choice"), "one choice wrong"),
    (experiments.degraded_method("wrong_type"), "another type's plan"),
    (experiments.degraded_method("open"), "vague: every choice open"),
    (experiments.degraded_method("leak"), "answer given away"),
)
BASELINE = "grpo"
CURVES = (
    ("alpha_mean", "Mean weight α (Eq. 6)", (-0.03, 0.83)),
    ("guided_reward", "Guided pass rate", (-0.03, 1.03)),
    ("reward", "Autonomous pass rate", (-0.03, 1.03)),
)


def needs(study: Study) -> list[tuple[str, str]]:
    """SGPO with each kind of strategy, and SFT+GRPO; none where the study does not plan it."""
    if not study.cells_of(MODEL, ROWS[1][0]):
        return []
    return [(MODEL, method) for method in (BASELINE, *(m for m, _ in ROWS))]


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/degraded.{png,pdf}."""
    figure, axes = style.new_figure(1, 1 + len(CURVES), width=12.0, height=3.6)
    _draw_accuracy(axes[0, 0], study)
    for axis, (metric, label, limits) in zip(axes[0, 1:], CURVES, strict=True):
        for (method, name), colour, dash in zip(ROWS, SHADES, DASHES, strict=False):
            plot_metric(
                axis, study, MODEL, method, metric, label=name, color=colour, linestyle=dash
            )
        axis.set_title(label)
        axis.set_xlabel("training step")
        axis.set_ylim(*limits)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(ROWS))
    return style.save(figure, out_dir / "figures" / NAME)


def _draw_accuracy(axis, study: Study) -> None:
    axis.set_title("Accuracy")
    axis.set_xlabel("average accuracy, %")
    rows = [*ROWS, (BASELINE, "no distillation (SFT+GRPO)")]
    colours = [*SHADES[: len(ROWS)], style.COLOURS[BASELINE]]
    axis.set_yticks(range(len(rows)), [name for _, name in rows])
    axis.invert_yaxis()
    for y, ((method, _), colour) in enumerate(zip(rows, colours, strict=True)):
        seeds = estimates.common_seeds(study, MODEL, [method])[: experiments.SEEDS]
        score = estimates.accuracy(study, MODEL, method, AVERAGE, seeds) if seeds else None
        if score is None:
            axis.text(0.5, y, "not run", transform=axis.get_yaxis_transform(), ha="center",
                      va="center", color="#8A1C1C")  # fmt: skip
            continue
        interval = score.interval
        axis.errorbar([interval.mean], [y], xerr=arms(interval), color=colour, marker="o",
                      markersize=6, capsize=3)  # fmt: skip
    axis.set_ylim(len(rows) - 0.5, -0.5)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Accuracy, mean alpha, guided and autonomous pass rate of SGPO with good and with "
            "spoilt strategies",
            caption=caption(study),
        )
    ]


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
        f"paper says that α switches bad strategies off. Made by: {study.command(NAME)}"
    )
