"""Gain of SGPO over the base model against the base model's score (the paper's "complementary
scaling"), and the paper's own three points in a panel of their own."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import (
    FAMILY_COLOURS,
    INK,
    MARKERS,
    new_figure,
    not_run_note,
    points,
)
from benchmarks.report.tables.accuracy import paper_records
from benchmarks.store.records import Study

# Sizes of the mini world learn the arithmetic equally well; what a base knows about plans is set.
MINIATURES = ("mini", "quick")


def models(study: Study) -> list[str]:
    """Models with a planned base and SGPO cell."""
    return [
        model.key
        for model in study.models
        if study.cells_of(model.key, "base") and study.cells_of(model.key, "sgpo")
    ]


def gains(study: Study) -> dict[str, tuple[Score, Score]]:
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
        for r in paper_records("table1")
        if r["benchmark"] == "Average"
    }
    return {
        model: (base, averages[model, "SGPO"] - base)
        for (model, setting), base in averages.items()
        if setting == "Base"
    }


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 2, width=7.2, height=3.4)
    _ours(axes[0, 0], study)
    _papers(axes[0, 1])
    for axis in axes.flat:
        axis.set_xlabel("base model, average accuracy, %")
        axis.set_ylabel("gain of SGPO over base, points")
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.legend(loc="best")
    return drawn


def _ours(axis: Axes, study: Study) -> None:
    axis.set_title(f"This study ({study.profile} profile)")
    found = gains(study)
    if not found:
        not_run_note(axis, "not run")
    families = sorted({model.family for model in study.models}, reverse=True)
    for index, key in enumerate(models(study)):
        model = study.model(key)
        look = {
            "color": FAMILY_COLOURS[families.index(model.family)],
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 6,
            "linestyle": "none",
        }
        if key in found:
            base, gain = (score.interval for score in found[key])
            points(axis, [base], [gain], capsize=3, elinewidth=1.2, **look)
        state = "" if key in found else " (not run)"
        axis.plot([], [], label=model.label + state, **look)  # an entry without error bars
    axis.axhline(0.0, color=INK, linewidth=0.8)


def _papers(axis: Axes) -> None:
    axis.set_title("As printed in the paper (no intervals)")
    for marker, (model, (base, gain)) in zip(MARKERS, paper_points().items(), strict=False):
        axis.plot([base], [gain], linestyle="none", marker=marker, markersize=6, color="#666666",
                  markerfacecolor="white", label=model)  # fmt: skip
    axis.axhline(0.0, color=INK, linewidth=0.8)
    axis.set_ylim(top=12.5)
    axis.margins(x=0.15)


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


SCALING = Artefact(
    "scaling",
    "Gain against base score",
    "scores",
    lambda study: [(model, method) for model in models(study) for method in ("base", "sgpo")],
    caption,
    draw=figure,
    alt="Gain of SGPO over the base model against the base model's average accuracy",
)
