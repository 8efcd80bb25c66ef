"""Maps of where SGPO helps: its paired difference to each baseline, by base model and teacher."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import absent, legend, marks, new_figure, points, zero
from benchmarks.store import experiments
from benchmarks.store.records import NOT_RUN, Study

TRAINED = ("sft", *experiments.MAP_METHODS)
BASELINES = experiments.MAP_BASELINES


@dataclass(frozen=True)
class MapCell:
    """SGPO's gain over ``baseline``, the better of the baselines by its mean, in points."""

    gain: Score
    baseline: str


def gains(study: Study, model: str, gap: float) -> dict[str, Score] | None:
    """Baseline -> SGPO's gain over it at a teacher gap; None when a run is missing.

    Seeds are those that the cells of every gap have, so that all rest on the same ones.
    """
    everywhere = [
        experiments.gap_method(m, g) for g in experiments.GAPS for m in experiments.MAP_METHODS
    ]
    keys = {m: experiments.gap_method(m, gap) for m in experiments.MAP_METHODS}
    seeds = estimates.common_seeds(study, model, everywhere)
    scores = {m: estimates.accuracy(study, model, key, AVERAGE, seeds) for m, key in keys.items()}
    if not seeds or any(score is None for score in scores.values()):
        return None
    return {m: scores["sgpo"] - scores[m] for m in BASELINES}


def map_cell(study: Study, model: str, gap: float) -> MapCell | None:
    """SGPO against the baseline with the higher mean; None when a run that it needs is missing."""
    found = gains(study, model, gap)
    if found is None:
        return None
    best = min(found, key=lambda m: found[m].mean)
    return MapCell(found[best], best)


def pass_rate(study: Study, model: str) -> float | None:
    """Mean unguided pass rate of the base models at temperature 1 in [0, 1], as their runs measured
    it; None when one is missing."""
    runs = study.runs_of(model, "base", scored=False)
    if not runs or not all(run.stored.has("regime.json") for run in runs):
        return None
    windows = [run.stored.object("regime.json")["window"] for run in runs]
    return float(np.mean([window["mean_unguided"] for window in windows]))


def needs(study: Study, models: tuple[str, ...]) -> list[Need]:
    """Every run of a map, with the base models for their pass rates; none where the study does
    not plan it."""
    gaps = [g for g in experiments.GAPS if g != experiments.STUDY_GAP]
    if not study.cells_of(models[0], experiments.gap_method("sgpo", gaps[0])):
        return []
    keys = [experiments.gap_method(m, g) for g in experiments.GAPS for m in TRAINED]
    return [(model, key) for model in models for key in ("base", *keys)]


def figure(study: Study, models: tuple[str, ...], vary: str) -> Figure:
    """A panel a teacher, a row a base model, a mark a baseline."""
    drawn, axes = new_figure(
        1, len(experiments.GAPS), width=7.4, height=1.7 + 0.38 * len(models), sharex=True,
        sharey=True,
    )  # fmt: skip
    names = [_row_label(study, model, models) for model in models]
    for axis, gap in zip(axes[0], experiments.GAPS, strict=True):
        found = [gains(study, model, gap) for model in models]
        for baseline, shift in zip(BASELINES, (-0.14, 0.14), strict=True):
            scores = [cell and cell[baseline] for cell in found]
            places = [y + shift for y in range(len(models))]
            points(axis, scores, places, label=f"minus {study.method_label(baseline)}",
                   **marks(baseline))  # fmt: skip
        for name, cell in zip(names, found, strict=True):
            if cell is None:
                absent(axis, name)
        zero(axis, upright=True)
        axis.set(title=f"teacher gap {gap:g}", xlabel="SGPO's difference, points")
    axes[0, 0].set_yticks(range(len(models)), names)
    axes[0, 0].set_ylim(len(models) - 0.5, -0.5)
    axes[0, 0].set_ylabel(vary)
    legend(drawn, axes[0, :1])
    return drawn


def _row_label(study: Study, model: str, models: tuple[str, ...]) -> str:
    """The pass rate, behind the model's name where the names differ."""
    rate = pass_rate(study, model)
    measured = NOT_RUN if rate is None else f"{rate:.3f}"
    names = {study.model(m).label.split(", ")[0] for m in models}
    return measured if len(names) == 1 else f"{study.model(model).label}\n{measured}"


def _caption(study: Study, title: str) -> str:
    names = " and ".join(study.method_label(m) for m in BASELINES)
    return (
        f"{title} ({study.profile} profile). Average accuracy of SGPO minus that of {names}, in "
        f"points, paired over the seeds that all cells have and the problems, 95% intervals. "
        f"Teacher gap: chance that the expert leaves out a step; warm-up and RL both use that "
        f"expert. Rows carry the base model's mean unguided pass rate at temperature 1, measured "
        f"on training problems before any training. All settings are those tuned on the study's "
        f"own model and gap."
    )


def _map(name: str, title: str, models: tuple[str, ...], vary: str) -> Artefact:
    """``vary``: what the rows vary."""
    return Artefact(
        name,
        title,
        "scores",
        partial(needs, models=models),
        partial(_caption, title=title),
        draw=partial(figure, models=models, vary=vary),
        alt=f"SGPO's paired difference to each baseline, by {vary}, one panel a teacher gap",
        extended=True,
    )


SIZE = _map(
    "map_size",
    "Past the paper: model size x teacher gap",
    experiments.SIZE_MODELS,
    "base model and its pass rate",
)
