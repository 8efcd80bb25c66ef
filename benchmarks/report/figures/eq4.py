"""Eq. 4 with and without length normalisation: does the summed log-probability prefer short
targets, and does it matter?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.report import estimates
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures import style
from benchmarks.report.figures.lines import DASHES, SHADES, arms, plot_metric
from benchmarks.report.tables.ablations import model_of
from benchmarks.store.records import Study

NAME = "eq4"
TITLE = "Past the paper: Eq. 4 with and without length normalisation"
USES = "scores"
ROWS = (
    ("sgpo", "sum of log-probabilities (Eq. 4)"),
    ("sgpo_meanlogp", "mean log-probability"),
    ("sgpo_no_selection", "no selection"),
)


def needs(study: Study) -> list[tuple[str, str]]:
    """SGPO with each way of selecting; none where the study plans no variant."""
    model = model_of(study)
    return [(model, method) for method, _ in ROWS] if model else []


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/eq4.{png,pdf}."""
    figure, axes = style.new_figure(1, 3, width=10.5, height=3.4)
    model = model_of(study)
    _draw_differences(axes[0, 0], study, model)
    for axis, metric, title in (
        (axes[0, 1], "target_length", "Length of the distilled completions"),
        (axes[0, 2], "reward", "Autonomous pass rate"),
    ):
        axis.set_title(title)
        axis.set_xlabel("training step")
        for (method, label), colour, dash in zip(ROWS, SHADES, DASHES, strict=False):
            look = {"color": colour, "linestyle": dash}
            if model is None:
                axis.plot([], [], label=f"{label} (not run)", **look)
            else:
                plot_metric(axis, study, model, method, metric, label=label, **look)
    axes[0, 1].set_ylabel("tokens")
    axes[0, 2].set_ylabel("share of samples, 0 to 1")
    handles, labels = axes[0, 2].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(ROWS))
    return style.save(figure, out_dir / "figures" / NAME)


def _draw_differences(axis, study: Study, model: str | None) -> None:
    """Paired differences to Eq. 4 as printed, on each benchmark and on average."""
    columns = [(b.key, b.label) for b in study.benchmarks] + [(AVERAGE, "Average")]
    axis.set_title("Accuracy minus that of Eq. 4 as printed")
    axis.set_xlabel("points")
    axis.set_yticks(range(len(columns)), [label for _, label in columns])
    axis.set_ylim(len(columns) - 0.5, -0.5)
    axis.axvline(0.0, color=style.INK, linewidth=0.8)
    reference = ROWS[0][0]
    for index, (method, _) in enumerate(ROWS[1:], 1):
        look = {"color": SHADES[index], "marker": style.MARKERS[index]}
        for y, (key, _) in enumerate(columns):
            score = estimates.gain(study, model, method, reference, key) if model else None
            if score is None:
                continue
            interval = score.interval
            place = y + 0.2 * (index - 1.5)
            axis.errorbar([interval.mean], [place], xerr=arms(interval), capsize=3, markersize=5,
                          **look)  # fmt: skip


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="Paired differences in accuracy, length of targets and training reward for three "
            "ways of choosing what to distil",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    model = model_of(study)
    if model is None:
        return f"{TITLE}: not run. Made by: {study.command(NAME)}"
    counts = {len(study.cells_of(model, method)) for method, _ in ROWS}
    seeds = " or ".join(map(str, sorted(counts)))
    return (
        f"What is distilled ({study.profile} profile, {study.model(model).label}, {seeds} seeds): "
        f"Eq. 4 takes the correct guided completion with the largest sum of unguided token "
        f"log-probabilities, which favours short ones; the variant takes the largest mean; without "
        f"selection all correct ones are averaged. {_alike(study, model)} "
        f"Left: accuracy minus that of Eq. 4 in points, paired over seeds and problems, "
        f"95% intervals. Others: mean over seeds, 5 steps "
        f"smoothed; band: range of the seeds. Made by: {study.command(NAME)}"
    )


def _alike(study: Study, model: str) -> str:
    """In how many seeds the two ways of selecting ended in the same verdicts on every sample."""
    sums, means = (
        {run.cell.seed: run.correct for run in study.runs_of(model, method, scored=True)}
        for method, _ in ROWS[:2]
    )
    shared = sums.keys() & means.keys()
    same = sum(
        all(np.array_equal(sums[seed][key], means[seed][key]) for key in sums[seed])
        for seed in shared
    )
    return (
        f"The two differ only where lengths do, and here the correct answers to a problem are "
        f"nearly equally long: {same} of {len(shared)} seeds gave the same verdict on every sample."
    )
