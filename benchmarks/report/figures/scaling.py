"""Gain of SGPO over the base model against the base model's score (the paper's "complementary
scaling"), beside the paper's own three points on the same axes."""

from __future__ import annotations

from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import absent, new_figure, points, zero
from benchmarks.report.tables.accuracy import paper_records
from benchmarks.store.records import Study

FAMILY_LOOKS = (("#0072B2", "o"), ("#D55E00", "^"), ("#009E73", "s"), ("#CC79A7", "D"))


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
    drawn, axes = new_figure(1, 2, width=7.2, height=3.2, sharex=True, sharey=True)
    ours, papers = axes[0]
    found = gains(study)
    families = sorted({model.family for model in study.models}, reverse=True)
    for key in models(study):
        model = study.model(key)
        colour, mark = FAMILY_LOOKS[families.index(model.family) % len(FAMILY_LOOKS)]
        if key not in found:
            absent(ours, model.label)
            continue
        base, gain = found[key]
        points(ours, [base], [gain], color=colour, marker=mark)
        ours.annotate(model.label, (base.interval.high, gain.mean), (4, 0), va="center",
                      textcoords="offset points", color=colour, fontsize=8)  # fmt: skip
    for (model, place), below in zip(paper_points().items(), (True, False, False), strict=True):
        points(papers, *([value] for value in place), color="#666666", markerfacecolor="white")
        papers.annotate(model, place, (0, -15 if below else 7), textcoords="offset points",
                        ha="center", fontsize=8)  # fmt: skip
    ours.set(title=f"This study ({study.profile} profile)", ylabel="gain over base, points")
    papers.set_title("As printed in the paper (no intervals)")
    for axis in axes[0]:
        zero(axis)
        axis.set_xlabel("base model, average accuracy, %")
        axis.margins(x=0.3, y=0.12)
    return drawn


def caption(study: Study) -> str:
    own = study.own_problems
    base, gain = ("worlds", "worlds") if own else ("problems", "seeds and problems")
    return (
        f"Gain of SGPO over its base model against the base model's score, average of the "
        f"benchmarks ({study.profile} profile). Left: our models, 95% intervals on both axes "
        f"(base: over {base}; gain: over {gain}, paired). Right: the paper's three "
        f"models as printed; other models and problems, so only the shape can be compared."
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
