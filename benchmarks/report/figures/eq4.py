"""Eq. 4 with and without length normalisation: does the summed log-probability prefer short
targets, and does it matter?"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE
from benchmarks.report.figures.axes import (
    DASHES,
    INK,
    MARKERS,
    SHADES,
    curve,
    new_figure,
    points,
)
from benchmarks.report.tables.accuracy import REFERENCE, model_of
from benchmarks.store.records import Study

ROWS = (
    (REFERENCE, "sum of log-probabilities (Eq. 4)"),
    ("sgpo_meanlogp", "mean log-probability"),
    ("sgpo_no_selection", "no selection"),
)


def needs(study: Study) -> list[Need]:
    """SGPO with each way of selecting; none where the study plans no variant."""
    model = model_of(study)
    return [(model, method) for method, _ in ROWS] if model else []


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 3, width=10.5, height=3.4)
    model = model_of(study)
    _differences(axes[0, 0], study, model)
    for axis, metric, title, unit in (
        (axes[0, 1], "target_length", "Length of the distilled completions", "tokens"),
        (axes[0, 2], "reward", "Autonomous pass rate", "share of samples, 0 to 1"),
    ):
        axis.set_title(title)
        axis.set_xlabel("training step")
        axis.set_ylabel(unit)
        for (method, label), colour, dash in zip(ROWS, SHADES, DASHES, strict=False):
            curve(axis, study, model, method, metric, label=label, shade=0.16, color=colour,
                  linestyle=dash)  # fmt: skip
    handles, labels = axes[0, 2].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=len(ROWS))
    return drawn


def _differences(axis: Axes, study: Study, model: str) -> None:
    """Paired differences to Eq. 4 as printed, on each benchmark and on average."""
    columns = [(b.key, b.label) for b in study.benchmarks] + [(AVERAGE, "Average")]
    axis.set_title("Accuracy minus that of Eq. 4 as printed")
    axis.set_xlabel("points")
    axis.set_yticks(range(len(columns)), [label for _, label in columns])
    axis.set_ylim(len(columns) - 0.5, -0.5)
    axis.axvline(0.0, color=INK, linewidth=0.8)
    for index, (method, _) in enumerate(ROWS[1:], 1):
        for y, (key, _) in enumerate(columns):
            score = estimates.gain(study, model, method, REFERENCE, key)
            if score is not None:
                points(axis, [score.interval], [y + 0.2 * (index - 1.5)], capsize=3, markersize=5,
                       color=SHADES[index], marker=MARKERS[index])  # fmt: skip


def caption(study: Study) -> str:
    model = model_of(study)
    counts = {len(study.cells_of(model, method)) for method, _ in ROWS}
    seeds = " or ".join(map(str, sorted(counts)))
    return (
        f"What is distilled ({study.profile} profile, {study.model(model).label}, {seeds} seeds): "
        f"Eq. 4 takes the correct guided completion with the largest sum of unguided token "
        f"log-probabilities, which favours short ones; the variant takes the largest mean; without "
        f"selection all correct ones are averaged. {_alike(study, model)} "
        f"Left: accuracy minus that of Eq. 4 in points, paired over seeds and problems, "
        f"95% intervals. Others: mean over seeds, 5 steps "
        f"smoothed; band: range of the seeds. Made by: {study.command('eq4')}"
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


EQ4 = Artefact(
    "eq4",
    "Past the paper: Eq. 4 with and without length normalisation",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Paired differences in accuracy, length of targets and training reward for three ways of "
    "choosing what to distil",
    extended=True,
)
