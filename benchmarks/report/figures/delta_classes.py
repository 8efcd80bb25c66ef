"""What the threshold delta of Eq. 5 masks, by class of token, and what that costs or gains."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import estimates
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import (
    CLASS_LOOKS,
    absent,
    class_legend,
    class_look,
    look,
    marks,
    new_figure,
    points,
    zero,
)
from benchmarks.report.tables.accuracy import REFERENCE, model_of
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study

BASELINE = "grpo"
DELTAS = (0.5, 1.0, 1.2, 1.5, 2.0, 3.0, math.inf)  # of experiments.SWEEP; SGPO has the paper's 1
SWEEP = experiments.SWEEP
SECOND = experiments.SECOND_MODEL  # where claims repeat some thresholds


def needs(study: Study, worlds: Sequence[str]) -> list[Need]:
    """SGPO at every delta and SFT+GRPO on every model."""
    return [(model, method) for model in worlds for method in (BASELINE, *SWEEP)]


def masked_share(runs: Sequence[Run], kind: str) -> float | None:
    """Mean over runs and steps of the share of all KL mass that lies on tokens of a class and above
    delta; None where it was not recorded."""
    metric = f"kl_masked_{kind}"
    if not runs or any(metric not in run.metrics for run in runs):
        return None
    return float(np.mean([np.nanmean(run.metrics[metric]) for run in runs]))


def figure(study: Study, worlds: Sequence[str]) -> Figure:
    """A column a model: accuracy above, what is masked below, on the same deltas."""
    drawn, axes = new_figure(
        2, len(worlds), width=max(3.2 * len(worlds), 4.4), height=5.0, sharex=True, sharey="row"
    )
    for (above, below), model in zip(axes.T, worlds, strict=True):
        _differences(above, study, model)
        _masked(below, study, model)
        above.set_title(study.model(model).label, fontsize=8.5)
        below.set_xticks(range(len(DELTAS)), ["∞" if math.isinf(d) else f"{d:g}" for d in DELTAS])
        below.set_xlabel("threshold δ, nats")
    axes[0, 0].set_ylabel("accuracy minus δ=1's,\npaired, points")
    axes[1, 0].set_ylabel("masked, share of\nall KL mass")
    axes[1, 0].set_ylim(0, 1)
    class_legend(drawn, axes[0, 0], columns=3)
    return drawn


def _differences(axis: Axes, study: Study, model: str) -> None:
    """Every planned delta's, and SFT+GRPO's, which distils nothing, as a line."""
    planned = [m for m in SWEEP if m != REFERENCE and study.cells_of(model, m)]
    found = {m: estimates.gain(study, model, m, REFERENCE) for m in (*planned, BASELINE)}
    places = [SWEEP.index(m) for m in planned]
    points(axis, places, [found[m] for m in planned], **marks(REFERENCE))
    if any(found.values()):
        axis.plot([SWEEP.index(REFERENCE)], [0.0], **marks(REFERENCE))
    if found[BASELINE]:
        axis.axhline(found[BASELINE].mean, **look(BASELINE), label=study.method_label(BASELINE))
    for method, score in found.items():
        if score is None:
            absent(axis, study.method_label(method))
    zero(axis)


def _masked(axis: Axes, study: Study, model: str) -> None:
    """Bars of the masked share at each delta, stacked by class; one plain bar where classes are
    not recorded."""
    for x, method in enumerate(SWEEP):
        runs = study.runs_of(model, method, scored=False)
        bottom = 0.0
        for kind in (*CLASS_LOOKS, "share"):
            share = masked_share(runs, kind)
            if share is not None and (kind != "share" or not bottom):
                filled = {"facecolor": "#777777"} if kind == "share" else class_look(kind)
                axis.bar(x, share, bottom=bottom, width=0.62, **filled)
                bottom += share
    axis.grid(axis="x", visible=False)


def _seeds(study: Study, models: Sequence[str]) -> str:
    counts = {len(study.cells_of(model, method)) for model in models for method in SWEEP} - {0}
    return " or ".join(map(str, sorted(counts)))


READING = (
    "Above: average accuracy minus that at the paper's δ = 1, paired over seeds and problems, 95% "
    "intervals; dashed: SFT+GRPO, which distils nothing. Below: KL mass of the distilled "
    "completions on tokens above δ, which the loss leaves out, as a share of all their KL mass, "
    "mean over training and seeds, by the world's own token classes."
)


def _delta_caption(study: Study) -> str:
    model = model_of(study)
    return (
        f"Threshold δ of Eq. 5 ({study.profile} profile), {study.model(model).label}, "
        f"{_seeds(study, [model])} seeds; Table 2's ablation has δ = ∞. {READING}"
    )


def _sweep_models(study: Study) -> list[str]:
    model = model_of(study)
    return [model] if model else []


ALT = (
    "Accuracy minus that at delta 1, and the share of the KL mass that is masked by token class, "
    "against the threshold delta"
)
DELTA = Artefact(
    "delta",
    "Past the paper: the threshold delta",
    "scores",
    lambda study: needs(study, _sweep_models(study)),
    _delta_caption,
    draw=lambda study: figure(study, _sweep_models(study)),
    alt=ALT,
    extended=True,
)
