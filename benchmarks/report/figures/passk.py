"""pass@k and maj@k: what more samples are worth to each method, and whether training narrows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import estimates, measures
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import Score
from benchmarks.report.figures.axes import COLOURS, LINES, WARNING, new_figure
from benchmarks.report.tables.accuracy import models
from benchmarks.store.records import Benchmark, Run, Study

METHODS = ("base", "grpo", "hpt", "luffy", "sgpo")
MARKERS = {"base": "x", "grpo": "s", "hpt": "D", "luffy": "v", "sgpo": "^"}
BANDS = ("grpo", "sgpo")  # five bands on top of each other could not be read
FEWEST = 8  # samples a problem, below which a benchmark says nothing about k
KINDS = ("pass@k", "maj@k")
Statistic = Callable[[Run, str], np.ndarray | None]


def needs(study: Study) -> list[Need]:
    """None where no benchmark has enough samples a problem."""
    planned = [(model, method) for model in models(study) for method in METHODS]
    return [need for need in planned if ks_of(study) and study.cells_of(*need)]


def benchmarks_of(study: Study) -> list[Benchmark]:
    """Those with many samples a problem, with the common number of them last in :func:`ks_of`."""
    return [b for b in study.benchmarks if b.k >= FEWEST]


def ks_of(study: Study) -> list[int]:
    """Powers of two up to the smallest number of samples that the benchmarks have."""
    most = min((b.k for b in benchmarks_of(study)), default=0)
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def pass_at(
    study: Study, model: str, method: str, k: int, seeds: Sequence[int] | None = None
) -> Score | None:
    """Unbiased pass@k in percent, mean over the benchmarks of :func:`benchmarks_of`."""
    return _score(study, model, method, lambda run, key: _curve_of(run, key, "pass@k", (k,))[0],
                  seeds)  # fmt: skip


def curve(study: Study, model: str, method: str, kind: str) -> list[Score] | None:
    """pass@k or maj@k at every k of :func:`ks_of`; None where runs or their answers are missing."""
    ks = ks_of(study)
    made: dict[tuple[str, str], np.ndarray | None] = {}

    def at(index: int) -> Statistic:
        def statistic(run: Run, key: str) -> np.ndarray | None:
            place = (run.cell.run_id, key)
            if place not in made:
                made[place] = _curve_of(run, key, kind, ks)
            return None if made[place] is None else made[place][index]

        return statistic

    scores = [_score(study, model, method, at(index)) for index in range(len(ks))]
    return [s for s in scores if s] if scores and all(scores) else None


def _curve_of(run: Run, key: str, kind: str, ks: Sequence[int]) -> np.ndarray | None:
    if kind == "pass@k":
        return measures.pass_curve(run.correct[key], ks)
    found = run.answers.get(key)
    return None if found is None else measures.majority_curve(found, run.correct[key], ks)


def _score(
    study: Study,
    model: str,
    method: str,
    statistic: Statistic,
    seeds: Sequence[int] | None = None,
) -> Score | None:
    keys = [b.key for b in benchmarks_of(study)]
    return estimates.problem_statistic(study, model, method, keys, statistic, seeds)


def figure(study: Study) -> Figure:
    """pass@k above, maj@k below, one column a model."""
    shown = models(study)
    drawn, axes = new_figure(2, len(shown), width=max(3.0 * len(shown), 4.0), height=5.4)
    for column, model in zip(axes.T, shown, strict=True):
        for axis, kind in zip(column, KINDS, strict=True):
            _draw(axis, study, model, kind)
        column[0].set_title(study.model(model).label)
        column[1].set_xlabel("samples k (log scale)")
    for axis, kind in zip(axes[:, 0], KINDS, strict=True):
        axis.set_ylabel(f"{kind}, %")
    limits = [axis.get_ylim() for axis in axes.flat]
    for axis in axes.flat:
        axis.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    axes[0, 0].legend(loc="upper left")
    return drawn


def _draw(axis: Axes, study: Study, model: str, kind: str) -> None:
    ks = ks_of(study)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    absent = []
    for method in METHODS:
        if not study.cells_of(model, method):
            continue
        look = {
            "color": COLOURS[method],
            "linestyle": LINES.get(method, "-"),
            "marker": MARKERS[method],
            "markersize": 4,
        }
        label = study.method_label(method)
        scores = curve(study, model, method, kind)
        if scores is None:
            missing = not study.runs_of(model, method, scored=True)
            absent.append(f"{label} ({'not run' if missing else 'not stored'})")
            axis.plot([], [], label=label, **look)
            continue
        intervals = [score.interval for score in scores]
        if method in BANDS:
            axis.fill_between(
                ks, [i.low for i in intervals], [i.high for i in intervals],
                color=look["color"], alpha=0.13, linewidth=0,
            )  # fmt: skip
        axis.plot(ks, [i.mean for i in intervals], label=label, **look)
    if absent:  # said in the panel itself: the legend is that of the first panel
        axis.text(
            0.98, 0.02, "\n".join(absent), transform=axis.transAxes, ha="right", va="bottom",
            fontsize=8, color=WARNING,
        )  # fmt: skip


def caption(study: Study) -> str:
    sets = " and ".join(
        f"{b.label} (n={b.num_problems}, {b.k} samples)" for b in benchmarks_of(study)
    )
    return (
        f"What more samples are worth ({study.profile} profile). Above: unbiased pass@k, the "
        f"chance that one of k samples is correct. Below: maj@k, the chance that the commonest "
        f"answer of k samples is correct (ties count by share; mean over {measures.NUM_ORDERS} "
        f"orders of the stored samples, so k = {ks_of(study)[-1]} has one value). Mean of {sets}, "
        f"the benchmarks with that many samples. Bands, for SFT+GRPO and SGPO: 95% intervals over "
        f'seeds and problems. "not stored": a run was evaluated without keeping its answers.'
    )


PASSK = Artefact(
    "passk",
    "Past the paper: pass@k and maj@k",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="pass@k and maj@k of each method against the number of samples k, by model",
)
