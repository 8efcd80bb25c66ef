"""Gain of SGPO over the base model against the base model's score (the paper's "complementary
scaling"), and the paper's own three points in a panel of their own."""

from __future__ import annotations

from pathlib import Path

from matplotlib.ticker import MaxNLocator

from benchmarks.report import estimates
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures import style
from benchmarks.report.tables.table1 import PAPER_RESULTS
from benchmarks.store.records import Study, read_rows
from benchmarks.store.stats import Estimate

NAME = "scaling"
TITLE = "Gain against base score"
USES = "scores"


def models(study: Study) -> list[str]:
    """Models with a planned base and SGPO cell."""
    return [
        model.key
        for model in study.models
        if study.cells_of(model.key, "base") and study.cells_of(model.key, "sgpo")
    ]


def needs(study: Study) -> list[tuple[str, str]]:
    return [(model, method) for model in models(study) for method in ("base", "sgpo")]


def points(study: Study) -> dict[str, tuple[Score, Score]]:
    """Model -> (base average in percent, SGPO's gain over it in points); missing ones left out."""
    found = {}
    for model in models(study):
        base = estimates.accuracy(study, model, "base", AVERAGE)
        gain = estimates.gain(study, model, "sgpo", "base")
        if base is not None and gain is not None:
            found[model] = (base, gain)
    return found


def paper_points() -> dict[str, tuple[float, float]]:
    """The paper's models -> (base average, SGPO's gain over it), from Table 1 as printed."""
    averages = {
        (r["model"], r["setting"]): float(r["value"])
        for r in read_rows(PAPER_RESULTS)
        if r["table"] == "table1" and r["benchmark"] == "Average"
    }
    return {
        model: (base, averages[model, "SGPO"] - base)
        for (model, setting), base in averages.items()
        if setting == "Base"
    }


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/scaling.{png,pdf}."""
    figure, axes = style.new_figure(1, 2, width=7.2, height=3.4)
    _draw_ours(axes[0, 0], study)
    _draw_paper(axes[0, 1])
    for axis in axes.flat:
        axis.set_xlabel("base model, average accuracy, %")
        axis.set_ylabel("gain of SGPO over base, points")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best")
    return style.save(figure, out_dir / "figures" / NAME)


def _draw_ours(axis, study: Study) -> None:
    axis.set_title(f"This study ({study.profile} profile)")
    found = points(study)
    if not found:
        style.not_run_note(axis, "not run")
    for index, model in enumerate(models(study)):
        marker = style.MARKERS[index % len(style.MARKERS)]
        colour = style.FAMILY_COLOURS[_families(study).index(study.model(model).family)]
        look = {"color": colour, "marker": marker, "markersize": 6, "linestyle": "none"}
        label = study.model(model).label
        if model not in found:
            axis.plot([], [], label=f"{label} (not run)", **look)
            continue
        base, gain = (score.interval for score in found[model])
        axis.errorbar(
            [base.mean],
            [gain.mean],
            xerr=_arms(base),
            yerr=_arms(gain),
            capsize=3,
            elinewidth=1.2,
            **look,
        )
        axis.plot([], [], label=label, **look)  # a legend entry without error bars
    axis.axhline(0.0, color=style.INK, linewidth=0.8)


def _arms(interval: Estimate) -> list[list[float]]:
    """Lengths below and above the mean; rounding can put a bound a hair inside it."""
    below, above = interval.mean - interval.low, interval.high - interval.mean
    return [[max(below, 0.0)], [max(above, 0.0)]]


def _draw_paper(axis) -> None:
    axis.set_title("As printed in the paper (no intervals)")
    for index, (model, (base, gain)) in enumerate(paper_points().items()):
        axis.plot(
            [base],
            [gain],
            linestyle="none",
            marker=style.MARKERS[index],
            markersize=6,
            color="#666666",
            markerfacecolor="white",
            label=model,
        )
    axis.axhline(0.0, color=style.INK, linewidth=0.8)
    axis.set_ylim(top=12.5)
    axis.margins(x=0.15)


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Gain of SGPO over the base model against the base model's average accuracy",
            caption=caption(study),
        )
    ]


# Sizes of the mini world learn the arithmetic equally well; what a base knows about plans is set.
MINIATURES = ("mini", "quick")
BUILT_IN = (
    " In the mini world the order of the base scores is built in (how well the pretraining text "
    "knows each type's plan is set per size), so this is no evidence on scaling with size."
)


def caption(study: Study) -> str:
    return (
        f"Gain of SGPO over its base model against the base model's score, average of the "
        f"benchmarks ({study.profile} profile). Left: our models, 95% intervals on both axes "
        f"(base: over problems; gain: over seeds and problems, paired). Right: the paper's three "
        f"models as printed; other models and problems, so only the shape can be compared."
        f"{BUILT_IN if study.profile in MINIATURES else ''}"
    )


def _families(study: Study) -> list[str]:
    return sorted({model.family for model in study.models}, reverse=True)
