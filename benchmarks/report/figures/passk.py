"""pass@k and maj@k: what more samples are worth to each method, and whether training narrows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import estimates, measures
from benchmarks.report.document import Block, Image
from benchmarks.report.estimates import Score
from benchmarks.report.figures import style
from benchmarks.report.tables import table1
from benchmarks.store.records import Benchmark, Run, Study

NAME = "passk"
TITLE = "Past the paper: pass@k and maj@k"
USES = "scores"
METHODS = ("base", "grpo", "hpt", "luffy", "sgpo")
MARKERS = {"base": "x", "grpo": "s", "hpt": "D", "luffy": "v", "sgpo": "^"}
FEWEST = 8  # samples a problem, below which a benchmark says nothing about k
PANELS = (
    ("pass@k", "pass@k, %"),
    ("maj@k", "maj@k, %"),
)


def needs(study: Study) -> list[tuple[str, str]]:
    return [
        (model, method)
        for model in table1.models(study)
        for method in METHODS
        if study.cells_of(model, method)
    ]


def benchmarks_of(study: Study) -> list[Benchmark]:
    """Those with many samples a problem, with the common number of them last in :func:`ks_of`."""
    return [b for b in study.benchmarks if b.k >= FEWEST]


def ks_of(study: Study) -> list[int]:
    """Powers of two up to the smallest number of samples that the benchmarks have."""
    most = min((b.k for b in benchmarks_of(study)), default=0)
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def pass_at(study: Study, model: str, method: str, k: int, seeds=None) -> Score | None:
    """Unbiased pass@k in percent, mean over the benchmarks of :func:`benchmarks_of`."""
    return _score(study, model, method, lambda run, key: _pass_rows(run, key, (k,))[0], seeds)


def curve(study: Study, model: str, method: str, kind: str) -> list[Score] | None:
    """pass@k or maj@k at every k of :func:`ks_of`; None where runs or their answers are missing."""
    ks = ks_of(study)
    made: dict[tuple[str, str], np.ndarray | None] = {}

    def rows(run: Run, key: str) -> np.ndarray | None:
        at = (run.cell.run_id, key)
        if at not in made:
            made[at] = _pass_rows(run, key, ks) if kind == "pass@k" else _vote_rows(run, key, ks)
        return made[at]

    def point(index: int) -> Callable[[Run, str], np.ndarray | None]:
        return lambda run, key: None if rows(run, key) is None else rows(run, key)[index]

    scores = [_score(study, model, method, point(index)) for index in range(len(ks))]
    return [s for s in scores if s] if scores and all(scores) else None


def _pass_rows(run: Run, key: str, ks) -> np.ndarray:
    return measures.pass_curve(run.correct[key], ks)


def _vote_rows(run: Run, key: str, ks) -> np.ndarray | None:
    found = run.answers.get(key)
    return None if found is None else measures.majority_curve(found, run.correct[key], ks)


def _score(study: Study, model: str, method: str, statistic, seeds=None) -> Score | None:
    keys = [b.key for b in benchmarks_of(study)]
    if not keys:
        return None
    return estimates.problem_statistic(study, model, method, keys, statistic, seeds)


def build(study: Study, out_dir: Path) -> list[Path]:
    """Writes figures/passk.{png,pdf}: pass@k above, maj@k below, one column a model."""
    models = table1.models(study)
    columns = max(len(models), 1)
    figure, axes = style.new_figure(2, columns, width=max(3.0 * columns, 4.0), height=5.4)
    if not models or not ks_of(study):
        for axis in axes.flat:
            style.not_run_note(axis, "not run")
        return style.save(figure, out_dir / "figures" / NAME)
    for column, model in enumerate(models):
        for row, (kind, unit) in enumerate(PANELS):
            axis = axes[row, column]
            _draw(axis, study, model, kind)
            if row == 0:
                axis.set_title(study.model(model).label)
            if column == 0:
                axis.set_ylabel(unit)
            if row == 1:
                axis.set_xlabel("samples k (log scale)")
    low = min(axis.get_ylim()[0] for axis in axes.flat)
    high = max(axis.get_ylim()[1] for axis in axes.flat)
    for axis in axes.flat:
        axis.set_ylim(low, high)
    axes[0, 0].legend(loc="upper left")
    return style.save(figure, out_dir / "figures" / NAME)


def _draw(axis, study: Study, model: str, kind: str) -> None:
    ks = ks_of(study)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ks, [str(k) for k in ks])
    absent = []
    for method in METHODS:
        if not study.cells_of(model, method):
            continue
        look = {
            "color": style.COLOURS[method],
            "linestyle": style.LINES.get(method, "-"),
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
        if method in ("grpo", "sgpo"):  # five bands on top of each other could not be read
            axis.fill_between(
                ks, [i.low for i in intervals], [i.high for i in intervals],
                color=look["color"], alpha=0.13, linewidth=0,
            )  # fmt: skip
        axis.plot(ks, [i.mean for i in intervals], label=label, **look)
    if absent:  # said in the panel itself: the legend is that of the first panel
        axis.text(
            0.98, 0.02, "\n".join(absent), transform=axis.transAxes, ha="right", va="bottom",
            fontsize=8, color=style.WARNING,
        )  # fmt: skip


def blocks(study: Study, out_dir: Path) -> list[Block]:
    return [
        Image(
            path=out_dir / "figures" / f"{NAME}.png",
            source=f"figures/{NAME}.png",
            alt="pass@k and maj@k of each method against the number of samples k, by model",
            caption=caption(study),
        )
    ]


def caption(study: Study) -> str:
    if not ks_of(study) or not table1.models(study):
        return f"{TITLE}: not run. Made by: {study.command(NAME)}"
    sets = " and ".join(f"{b.label} (n={b.num_problems}, {b.k} samples)" for b in
                        benchmarks_of(study))  # fmt: skip
    return (
        f"What more samples are worth ({study.profile} profile). Above: unbiased pass@k, the "
        f"chance that one of k samples is correct. Below: maj@k, the chance that the commonest "
        f"answer of k samples is correct (ties count by share; mean over {measures.NUM_ORDERS} "
        f"orders of the stored samples, so k = {ks_of(study)[-1]} has one value). Mean of {sets}, "
        f"the benchmarks with that many samples. Bands, for SFT+GRPO and SGPO: 95% intervals over "
        f'seeds and problems. "not stored": a run was evaluated without keeping its answers.'
    )
