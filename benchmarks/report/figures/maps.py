"""Maps of where SGPO helps: its paired difference to the best baseline, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import AVERAGE, Score
from benchmarks.report.figures.axes import INK, new_figure
from benchmarks.store import experiments
from benchmarks.store.records import NOT_RUN, Study, StudyError

SCALE = 12.0  # points at which the colour is full
COLOURS = "PuOr_r"  # told apart under the common colour-vision deficiencies
PASS_RATE = "2 unguided pass rate"
TRAINED = ("sft", *experiments.MAP_METHODS)


@dataclass(frozen=True)
class MapCell:
    """SGPO's gain over ``baseline``, the better of the baselines by its mean, in points."""

    gain: Score
    baseline: str


def map_cell(study: Study, model: str, gap: float) -> MapCell | None:
    """The cell of ``model`` at a teacher gap; None when a run that it needs is missing.

    Seeds are the first ``experiments.SEEDS`` for every cell, those that the study ran more of
    included, so that all intervals rest on the same number.
    """
    methods = {m: experiments.gap_method(m, gap) for m in experiments.MAP_METHODS}
    seeds = estimates.common_seeds(study, model, list(methods.values()))[: experiments.SEEDS]
    scores = {
        m: estimates.accuracy(study, model, key, AVERAGE, seeds) for m, key in methods.items()
    }
    if not seeds or any(score is None for score in scores.values()):
        return None
    best = max(experiments.MAP_BASELINES, key=lambda m: scores[m].mean)
    return MapCell(scores["sgpo"] - scores[best], best)


def pass_rate(study: Study, model: str) -> float | None:
    """Mean unguided pass rate of the base model at temperature 1 in [0, 1], as its run measured
    it; None when that is missing.

    Raises:
        StudyError: the stored file is not what the run writes.
    """
    for run in study.runs_of(model, "base", scored=False):
        if run.stored.has("regime.json"):
            try:
                conditions = run.stored.object("regime.json")["conditions"]
                return next(float(c["value"]) for c in conditions if c["name"] == PASS_RATE)
            except (ValueError, KeyError, TypeError, StopIteration) as error:
                path = run.stored.path / "regime.json"
                raise StudyError(f"{path} is damaged ({error}); remove the run") from error
    return None


def needs(study: Study, models: tuple[str, ...]) -> list[Need]:
    """Every run of a map, with the base models for their pass rates; none where the study does
    not plan it."""
    gaps = [g for g in experiments.GAPS if g != experiments.STUDY_GAP]
    if not study.cells_of(models[0], experiments.gap_method("sgpo", gaps[0])):
        return []
    keys = [experiments.gap_method(m, g) for g in experiments.GAPS for m in TRAINED]
    return [(model, key) for model in models for key in ("base", *keys)]


def figure(study: Study, models: tuple[str, ...], vary: str) -> Figure:
    drawn, axes = new_figure(1, 1, width=6.4, height=1.5 + 0.62 * len(models))
    axis = axes[0, 0]
    cells = [[map_cell(study, m, g) for g in experiments.GAPS] for m in models]
    values = np.array([[c.gain.mean if c else np.nan for c in line] for line in cells])
    image = axis.imshow(values, cmap=COLOURS, vmin=-SCALE, vmax=SCALE, aspect="auto")
    for y, line in enumerate(cells):
        for x, cell in enumerate(line):
            dark = cell is not None and abs(cell.gain.mean) > 0.7 * SCALE
            axis.text(
                x, y, _cell_text(study, cell), ha="center", va="center", fontsize=8,
                color="white" if dark else INK,
            )  # fmt: skip
    axis.set_xticks(range(len(experiments.GAPS)), [f"{g:g}" for g in experiments.GAPS])
    axis.set_xlabel("teacher gap: chance that the expert leaves out a step")
    axis.set_yticks(range(len(models)), [_row_label(study, m) for m in models])
    axis.set_ylabel(vary)
    axis.grid(False)
    bar = drawn.colorbar(image, ax=axis, extend="both")
    bar.set_label("SGPO minus the best baseline, points")
    return drawn


def _cell_text(study: Study, cell: MapCell | None) -> str:
    if cell is None:
        return NOT_RUN
    interval = cell.gain.interval
    return (
        f"{interval.mean:+.1f} [{interval.low:.1f}, {interval.high:.1f}]\n"
        f"vs {study.method_label(cell.baseline)}"
    )


def _row_label(study: Study, model: str) -> str:
    rate = pass_rate(study, model)
    measured = NOT_RUN if rate is None else f"{rate:.3f}"
    return f"{study.model(model).label.split(', ')[0]}\npass rate {measured}"


def _caption(study: Study, name: str, title: str) -> str:
    names = " and ".join(study.method_label(m) for m in experiments.MAP_BASELINES)
    return (
        f"{title} ({study.profile} profile). Each cell: average accuracy of SGPO minus "
        f"that of the better of {names} (better by its mean, chosen with hindsight, which "
        f"favours the baseline), in points, paired over {experiments.SEEDS} seeds and the "
        f"problems, with its 95% interval. Warm-up and RL both use the expert of the column. "
        f"Rows carry the base model's mean unguided pass rate at temperature 1, measured on "
        f"training problems before any training. All settings are those tuned on the study's "
        f'own model and gap. "{NOT_RUN}": a run is missing; made by: {study.command(name)}'
    )


def _map(name: str, title: str, models: tuple[str, ...], vary: str) -> Artefact:
    """``vary``: what the rows vary."""
    return Artefact(
        name,
        title,
        "scores",
        partial(needs, models=models),
        partial(_caption, name=name, title=title),
        draw=partial(figure, models=models, vary=vary),
        alt=f"Map of SGPO's difference to the best baseline, {vary} by teacher gap",
        extended=True,
    )


DIFFICULTY = _map(
    "map_difficulty",
    "Past the paper: exploration difficulty x teacher gap",
    experiments.DIFFICULTY_MODELS,
    "base model, from easy to hard to explore",
)
SIZE = _map(
    "map_size",
    "Past the paper: model size x teacher gap",
    experiments.SIZE_MODELS,
    "base model, from small to large",
)
