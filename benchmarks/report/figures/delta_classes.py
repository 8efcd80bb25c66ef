"""What the threshold delta of Eq. 5 masks against what is learned at it, over all worlds."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import estimates, worlds
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.report.figures.axes import absent, legend, look, marks, new_figure, points, zero
from benchmarks.report.tables.accuracy import REFERENCE, model_of
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study

BASELINE = "grpo"
SECOND = experiments.SECOND_MODEL  # where claims repeat some thresholds
SWEEP = experiments.SWEEP
# Line of the figure: classes of ``worlds.CLASSES``, name, colour, mark.
LINES = (
    (("hard",), "choices, hardest third of types", "#D55E00", "o"),
    (("middle",), "choices, middle third", "#E69F00", "s"),
    (("easy",), "choices, easiest third", "#F0C987", "D"),
    (("opening",), "first token of a completion", "#0072B2", "v"),
    (("style", "commitment", "routine"), "all other tokens", "#777777", "x"),
)


def delta_of(method: str) -> float:
    """The threshold of a method of ``SWEEP``; SGPO has the paper's 1."""
    if method in (REFERENCE, "sgpo_no_clip"):
        return 1.0 if method == REFERENCE else math.inf
    return float(method.removeprefix("sgpo_delta"))


def delta_text(method: str) -> str:
    delta = delta_of(method)
    return "∞" if math.isinf(delta) else f"{delta:g}"


def needs(study: Study) -> list[Need]:
    """SGPO at every delta and SFT+GRPO, where SGPO's variants are planned."""
    model = model_of(study)
    return [(model, method) for method in (BASELINE, *SWEEP)] if model else []


def masked(study: Study, method: str) -> list[tuple[tuple[str, ...], Score | None]]:
    """Of each line of the figure its classes and the share of their KL that is masked; of all
    tokens together where no run has a ledger."""
    model = model_of(study)
    found = [(line[0], worlds.masked_share(study, model, method, line[0])) for line in LINES]
    if any(score for _, score in found):
        return found
    return [((), estimates.run_statistic(study, model, method, _of_all))]


def _of_all(run: Run) -> float:
    values = run.metrics.get("kl_masked_share", np.array([np.nan]))
    return PERCENT * float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def figure(study: Study) -> Figure:
    drawn, axes = new_figure(1, 2, width=7.2, height=3.7)
    left, right = axes[0]
    shares = {method: dict(masked(study, method)) for method in SWEEP}
    looks = {classes: (name, colour, mark) for classes, name, colour, mark in LINES}
    looks[()] = ("all tokens", "#777777", "o")
    for classes, (name, colour, mark) in looks.items():
        found = [shares[method].get(classes) for method in SWEEP]
        if any(found):
            known = [(x, score.mean) for x, score in enumerate(found) if score]
            left.plot(*zip(*known, strict=True), color=colour, label=name, marker=mark,
                      markersize=5)  # fmt: skip
            points(left, range(len(SWEEP)), found, color=colour, marker="none")
    for method in SWEEP:
        if not any(shares[method].values()):
            absent(left, study.method_label(method))
    left.set(title="masked", ylabel="share of the KL offered, %", ylim=(-3, 103))
    _gains(right, study)
    for axis in axes[0]:
        axis.set_xticks(range(len(SWEEP)), map(delta_text, SWEEP))
        axis.set_xlabel("threshold δ, nats")
        axis.set_xlim(-0.4, len(SWEEP) - 0.6)
    legend(drawn, [left], columns=3)
    return drawn


def _gains(axis: Axes, study: Study) -> None:
    found = {m: estimates.gain(study, model_of(study), m, BASELINE) for m in SWEEP}
    points(axis, range(len(SWEEP)), list(found.values()), **marks(REFERENCE))
    known = [(x, score.mean) for x, score in enumerate(found.values()) if score]
    if known:
        axis.plot(*zip(*known, strict=True), **look(REFERENCE) | {"linewidth": 1})
    for method in (m for m, score in found.items() if score is None):
        absent(axis, study.method_label(method))
    zero(axis)
    axis.set(title=f"learned: minus {study.method_label(BASELINE)}, paired",
             ylabel="average accuracy, points")  # fmt: skip


def message(study: Study) -> str:
    """What the figure says, in its own numbers; "" where something is missing."""
    model = model_of(study)
    hard, easy = (
        worlds.masked_share(study, model, REFERENCE, [third]) for third in ("hard", "easy")
    )
    gains = {m: estimates.gain(study, model, m, BASELINE) for m in SWEEP}
    if hard is None or easy is None or not all(gains.values()):
        return ""
    best = max(gains, key=lambda m: gains[m].mean)
    text = (
        f"δ = 1 masks {hard.mean:.0f}% of the KL that is offered on the choices of the hardest "
        f"third of types and {easy.mean:.0f}% on those of the easiest; SGPO's gain over "
        f"{study.method_label(BASELINE)} is {_points(gains[REFERENCE])} there"
    )
    if best == REFERENCE:
        return f"{text}, and larger at no other δ. "
    more = estimates.gain(study, model, best, REFERENCE)
    return (
        f"{text} and largest at δ = {delta_text(best)}, chosen with hindsight: "
        f"{_points(gains[best])}, {_points(more)} against δ = 1. "
    )


def _points(score: Score) -> str:
    found = score.interval
    return f"{found.mean:+.1f} [{found.low:.1f}, {found.high:.1f}] points"


def caption(study: Study) -> str:
    model = model_of(study)
    counts = sorted({len(study.cells_of(model, method)) for method in SWEEP})
    over = estimates.units_text(study, " or ".join(map(str, counts)))
    return (
        f"{message(study)}What the threshold δ of Eq. 5 masks and what is learned at it, "
        f"{study.model(model).label}, {over}. Left: share of the KL offered on distilled tokens of "
        "a class that lies above δ and teaches nothing, summed over training; choices: the three "
        "words of a plan, by how rarely the world's writers find the type's plan. Right: average "
        f"accuracy minus {study.method_label(BASELINE)}'s in the same world. 95% intervals."
    )


DELTA = Artefact(
    "delta",
    "Past the paper: what delta masks and what is learned",
    "scores",
    needs,
    caption,
    draw=figure,
    alt="Share of the offered KL that is masked, by class of token, and the accuracy gained over "
    "SFT+GRPO, both against the threshold delta",
    extended=True,
)
