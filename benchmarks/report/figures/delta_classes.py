"""What the threshold delta masks, by class of token, with few and with many style outliers."""

from __future__ import annotations

import math
from pathlib import Path

from benchmarks.report import estimates
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures import style
from benchmarks.report.figures.lines import arms, plot_metric
from benchmarks.store import experiments
from benchmarks.store.records import Study

NAME = "delta_classes"
TITLE = "Past the paper: what delta masks"
USES = "scores"
DELTAS = (0.1, 0.3, 1.0, 3.0, math.inf)
SWEEP = tuple(zip(DELTAS, experiments.SWEEP, strict=True))
# From light to dark with rising delta; each is told apart by its line as well.
SHADES = ("#9ECAE1", "#6BAED6", style.COLOURS["sgpo"], "#2171B5", "#08306B")
DASHES = (":", "-.", "-", "--", (0, (6, 1.5)))
CLASSES = (
    ("choice", "choices of the plan"),
    ("commitment", "go on or guess"),
    ("style", "style"),
    ("routine", "routine"),
)
ROWS = (
    ("qwen-m", "30% of guided texts open\nwith a style line (the study)"),
    (experiments.STYLE_MODEL, "all guided texts open\nwith a style line"),
)
MORE = (experiments.SECOND_MODEL,)  # accuracy only, at some thresholds
BASELINE = "grpo"
MARKERS = ("o", "s")


def needs(study: Study) -> list[tuple[str, str]]:
    """SGPO at every delta and SFT+GRPO in both worlds, and the repeated ones on another model;
    none where the study does not plan the experiment."""
    if not study.cells_of(experiments.STYLE_MODEL, "sgpo"):
        return []
    found = [(model, m) for model, _ in ROWS for m in (BASELINE, *(m for _, m in SWEEP))]
    more = [(model, m) for model in MORE for _, m in SWEEP if study.cells_of(model, m)]
    return found + more


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/delta_classes.{png,pdf}."""
    figure, axes = style.new_figure(2, 1 + len(CLASSES), width=12.0, height=5.4)
    for row, (model, title) in enumerate(ROWS):
        _draw_accuracy(axes[row, 0], study, model, title)
        for column, (key, label) in enumerate(CLASSES, 1):
            axis = axes[row, column]
            axis.set_title(f"masked: {label}")
            for (delta, method), colour, dash in zip(SWEEP, SHADES, DASHES, strict=True):
                plot_metric(
                    axis, study, model, method, f"kl_masked_{key}",
                    label=f"δ = {_text(delta)}", color=colour, linestyle=dash,
                )  # fmt: skip
            axis.set_ylim(-0.03, 1.03)
            axis.set_xlabel("training step")
            if column == 1:
                axis.set_ylabel("masked on these tokens,\nshare of all KL mass")
                axis.legend(loc="upper right", fontsize=7.5)
    return style.save(figure, out_dir / "figures" / NAME)


def _draw_accuracy(axis, study: Study, model: str, title: str) -> None:
    axis.set_title(title)
    axis.set_ylabel("average accuracy, %")
    axis.set_xlabel("threshold δ, nats (∞: no mask)")
    axis.set_xticks(range(len(SWEEP)), [_text(delta) for delta, _ in SWEEP])
    shown = [model, *(MORE if model == ROWS[0][0] else ())]
    for index, key in enumerate(shown):
        look = {"color": style.COLOURS["sgpo"], "marker": MARKERS[index], "linestyle": "-"}
        if index:
            look |= {"color": "#888888", "markerfacecolor": "white"}
        drawn = []
        for x, (_, method) in enumerate(SWEEP):
            score = estimates.accuracy(study, key, method, AVERAGE)
            if score is not None:
                drawn.append((x, score.interval))
        axis.plot([x for x, _ in drawn], [i.mean for _, i in drawn], **look)
        for x, interval in drawn:
            bar = {k: v for k, v in look.items() if k != "linestyle"}
            axis.errorbar([x], [interval.mean], yerr=arms(interval), capsize=3, **bar)
        planned = [m for _, m in SWEEP if study.cells_of(key, m)]
        state = "" if len(drawn) == len(planned) and planned else " (not run)"
        where = f", {_label(study, key)}" if len(shown) > 1 else ""
        axis.plot([], [], label=f"SGPO{where}{state}", **look)
    baseline = estimates.accuracy(study, model, BASELINE, AVERAGE)
    look = {"color": style.COLOURS[BASELINE], "linestyle": "--"}
    where = f", {_label(study, model)}" if len(shown) > 1 else ""
    label = f"{study.method_label(BASELINE)}{where}"
    if baseline is None:
        axis.plot([], [], label=f"{label} (not run)", **look)
    else:
        interval = baseline.interval
        axis.axhspan(interval.low, interval.high, alpha=0.12, linewidth=0, color=look["color"])
        axis.axhline(interval.mean, label=label, **look)
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.45 * (high - low))  # room for the legend
    axis.legend(loc="upper left", fontsize=7)


def _label(study: Study, model: str) -> str:
    known = (m.label for m in study.models + study.extra_models if m.key == model)
    return next(known, model)


def _text(delta: float) -> str:
    return "∞" if math.isinf(delta) else f"{delta:g}"


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Accuracy against the threshold delta, and the masked share of the KL mass on "
            "choices, commitments, style and routine tokens over training, in two worlds",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    counts = {len(study.cells_of(*need)) for need in needs(study)} - {0}
    seeds = " or ".join(map(str, sorted(counts))) or "no"
    return (
        f"Threshold δ of Eq. 5 by the world's own token classes ({study.profile} profile, {seeds} "
        f"seeds). Left: average accuracy, 95% intervals over seeds and problems. Others: KL mass "
        f"of the distilled completions that lies on tokens of a class and above δ, as a share of "
        f"all their KL mass; line: mean over seeds, 5 steps smoothed; band: range of the seeds. "
        f"Choices and commitments (the word that opens a line: go on or guess) are the decisions. "
        f"Upper row: the study's base model, whose guided texts open with a style line in 30% of "
        f"cases; Eq. 4 hardly ever selects those. Lower row: a base model all of whose guided "
        f"texts do, so that Eq. 4 cannot avoid them. Made by: {study.command(NAME)}"
    )
