"""What the threshold delta masks, by class of token, with few and with many style outliers."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures.axes import (
    COLOURS,
    DELTA_DASHES,
    DELTA_SHADES,
    curve,
    new_figure,
    points,
)
from benchmarks.report.figures.delta import BASELINE, SWEEP, delta_text, draw_baseline
from benchmarks.store import experiments
from benchmarks.store.records import Study

CLASSES = {
    "choice": "choices of the plan",
    "commitment": "go on or guess",
    "style": "style",
    "routine": "routine",
}
WORLDS = {
    "qwen-m": "30% of guided texts open\nwith a style line (the study)",
    experiments.STYLE_MODEL: "all guided texts open\nwith a style line",
}
SECOND = experiments.SECOND_MODEL  # accuracy only, at some thresholds


def needs(study: Study) -> list[Need]:
    """SGPO at every delta and SFT+GRPO in both worlds, and the repeated ones on another model;
    none where the study does not plan the experiment."""
    if not study.cells_of(experiments.STYLE_MODEL, "sgpo"):
        return []
    found = [(model, m) for model in WORLDS for m in (BASELINE, *experiments.SWEEP)]
    return found + [(SECOND, m) for m in experiments.SWEEP if study.cells_of(SECOND, m)]


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(2, 1 + len(CLASSES), width=12.0, height=5.4)
    for row, (model, title) in zip(axes, WORLDS.items(), strict=True):
        _accuracy(row[0], study, model, title)
        for axis, (key, label) in zip(row[1:], CLASSES.items(), strict=True):
            axis.set_title(f"masked: {label}")
            for (delta, method), colour, dash in zip(
                SWEEP, DELTA_SHADES, DELTA_DASHES, strict=True
            ):
                curve(axis, study, model, method, f"kl_masked_{key}",
                      label=f"δ = {delta_text(delta)}", shade=0.16, color=colour,
                      linestyle=dash)  # fmt: skip
            axis.set_ylim(-0.03, 1.03)
            axis.set_xlabel("training step")
        row[1].set_ylabel("masked on these tokens,\nshare of all KL mass")
        row[1].legend(loc="upper right", fontsize=7.5)
    return drawn


def _accuracy(axis: Axes, study: Study, model: str, title: str) -> None:
    axis.set_title(title)
    axis.set_ylabel("average accuracy, %")
    axis.set_xlabel("threshold δ, nats (∞: no mask)")
    axis.set_xticks(range(len(SWEEP)), [delta_text(delta) for delta, _ in SWEEP])
    looks = {model: {"color": COLOURS["sgpo"], "marker": "o"}}
    if model == next(iter(WORLDS)):
        looks[SECOND] = {"color": "#888888", "marker": "s", "markerfacecolor": "white"}
    for key, look in looks.items():
        scores = {
            x: estimates.accuracy(study, key, method, AVERAGE)
            for x, method in enumerate(experiments.SWEEP)
        }
        found = {x: score.interval for x, score in scores.items() if score}
        axis.plot([*found], [i.mean for i in found.values()], linestyle="-", **look)
        for x, interval in found.items():
            points(axis, [x], [interval], capsize=3, **look)
        planned = [m for m in experiments.SWEEP if study.cells_of(key, m)]
        state = "" if len(found) == len(planned) and planned else " (not run)"
        where = f", {study.model(key).label}" if len(looks) > 1 else ""
        axis.plot([], [], label=f"SGPO{where}{state}", linestyle="-", **look)
    where = f", {study.model(model).label}" if len(looks) > 1 else ""
    draw_baseline(axis, study, model, f"{study.method_label(BASELINE)}{where}")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    axis.legend(loc="upper left", fontsize=7)


def caption(study: Study) -> str:
    counts = {len(study.cells_of(*need)) for need in needs(study)} - {0}
    return (
        f"Threshold δ of Eq. 5 by the world's own token classes ({study.profile} profile, "
        f"{' or '.join(map(str, sorted(counts)))} "
        f"seeds). Left: average accuracy, 95% intervals over seeds and problems. Others: KL mass "
        f"of the distilled completions that lies on tokens of a class and above δ, as a share of "
        f"all their KL mass; line: mean over seeds, 5 steps smoothed; band: range of the seeds. "
        f"Choices and commitments (the word that opens a line: go on or guess) are the decisions. "
        f"Upper row: the study's base model, whose guided texts open with a style line in 30% of "
        f"cases; Eq. 4 hardly ever selects those. Lower row: a base model all of whose guided "
        f"texts do, so that Eq. 4 cannot avoid them. Made by: {study.command('delta_classes')}"
    )


DELTA_CLASSES = Artefact(
    "delta_classes",
    "Past the paper: what delta masks",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Accuracy against the threshold delta, and the masked share of the KL mass on choices, "
    "commitments, style and routine tokens over training, in two worlds",
    extended=True,
)
