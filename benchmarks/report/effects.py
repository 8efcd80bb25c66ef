"""How claims are measured: every effect says which runs it reads and what it finds in them.

An effect is oriented so that its claim says "above 0". A new one is a function under
:func:`effect`; most claims are a :func:`gain`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.report import estimates, measures
from benchmarks.report.estimates import PERCENT, Score
from benchmarks.report.figures import gains
from benchmarks.report.tables import accuracy
from benchmarks.report.tables.accuracy import REFERENCE, TABLE2
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study

TIMES = "x"  # unit of an effect that is the logarithm of a factor
ROW = ""  # in place of a method: the one of the subject's row
BASELINE = "grpo"
PROXIMAL = "sgpo_no_proximal"
Need = tuple[str, str]  # model, method


@dataclass(frozen=True)
class Subject:
    """What one test of a claim is on. ``text``: as it is printed. ``row``: a method, where the
    claim is asked of several on one model."""

    model: str
    text: str
    row: str = ""


@dataclass(frozen=True)
class Found:
    """``effect`` is None where runs are missing. ``picked_from``: it is the lowest of so many."""

    effect: Score | None
    detail: str = ""
    picked_from: int = 1


@dataclass(frozen=True)
class Effect:
    """What ``measure`` finds in the runs of ``methods`` on the subject's model, whether or not they
    are there; in those of ``models``; or in the analyses of the key ``analysis``."""

    measure: Callable[[Study, Subject], Found]
    methods: Sequence[str] | Callable[[Study], Sequence[str]] = ()
    unit: str = "points"
    models: Callable[[Study], list[str]] | None = None
    analysis: str = ""

    def reads(self, study: Study, subject: Subject) -> list[Need]:
        """(model, method) of every run that it looks at."""
        if self.analysis:
            ids = {i for a in study.analyses if a.key == self.analysis for i in a.inputs}
            return [(cell.model, cell.method) for cell in study.cells if cell.run_id in ids]
        models = self.models(study) if self.models else [subject.model]
        methods = self.methods(study) if callable(self.methods) else self.methods
        return [
            (model, accuracy.standing(study, model, method or subject.row))
            for model in models
            for method in methods
        ]


def effect(
    methods: Sequence[str] | Callable[[Study], Sequence[str]] = (), **about: Any
) -> Callable[[Callable[[Study, Subject], Found]], Effect]:
    """What a function measures, as an effect that reads the runs of ``methods``."""
    return lambda measure: Effect(measure, methods, **about)


def gain(ours: str, theirs: str) -> Effect:
    """Average accuracy of one method minus another's, paired over seeds and problems."""

    @effect((ours, theirs))
    def found(study: Study, subject: Subject) -> Found:
        pair = (
            accuracy.standing(study, subject.model, method or subject.row)
            for method in (ours, theirs)
        )
        return Found(estimates.gain(study, subject.model, *pair))

    return found


# Against the best of several ----------------------------------------------------------------------


@effect(accuracy.planned_rows)
def best_other_row(study: Study, subject: Subject) -> Found:
    """SGPO's average minus that of the best other row of Table 1, which is chosen by its mean with
    hindsight: the claim must hold against it. A row that diverged and has no score is named and
    does not compete."""
    model = subject.model
    others = [m for m in study.method_order if m != REFERENCE and study.cells_of(model, m)]
    found = {m: estimates.gain(study, model, REFERENCE, m) for m in others}
    present = {m: score for m, score in found.items() if score is not None}
    if not present or not all(study.runs_of(model, m, scored=True) for m in others):
        return Found(None)
    nearest = min(present, key=lambda m: present[m].mean)
    detail = f"best other row: {study.method_label(nearest)}"
    unscored = [study.method_label(m) for m in others if m not in present]
    if unscored:
        detail += f"; diverged before it could be scored: {', '.join(unscored)}"
    return Found(present[nearest], detail, len(present))


@effect(tuple(dict(TABLE2.rows)))
def largest_loss(study: Study, subject: Subject) -> Found:
    """Loss without the proximal constraints minus the largest other loss of Table 2, chosen by its
    mean, which works against the claim. Nothing while any row of Table 2 is missing."""
    # loss(PROXIMAL) - loss(other) = accuracy(other) - accuracy(PROXIMAL): SGPO drops out.
    labels = dict(TABLE2.rows)
    found = {m: estimates.gain(study, subject.model, m, PROXIMAL) for m in labels}
    if None in found.values():
        return Found(None)
    margins = {m: found[m] for m in labels if m not in (REFERENCE, PROXIMAL)}
    nearest = min(margins, key=lambda m: margins[m].mean)
    return Found(margins[nearest], f"largest other loss: {labels[nearest]}", len(margins))


# Between models and budgets -----------------------------------------------------------------------


def scaling_models(study: Study) -> list[str]:
    """Models with a planned base and SGPO cell."""
    both = ("base", REFERENCE)
    return [m.key for m in study.models if all(study.cells_of(m.key, method) for method in both)]


def scaling_family(study: Study) -> list[str]:
    """Model keys of the first family with two or more scaling models, from small to large."""
    models = [study.model(key) for key in scaling_models(study)]
    for family in dict.fromkeys(model.family for model in models):
        members = [model for model in models if model.family == family]
        if len(members) > 1:
            return [m.key for m in sorted(members, key=lambda model: model.parameters or 0)]
    return []


@effect(("base", REFERENCE), models=scaling_models)
def gain_of_sizes(study: Study, subject: Subject) -> Found:
    """SGPO's gain over base on the largest minus that on the smallest model of a family; both share
    problems and seeds."""
    family = scaling_family(study)
    sizes = [study.model(key) for key in (family[-1], family[0])] if family else []
    planned = [estimates.common_seeds(study, m.key, (REFERENCE, "base")) for m in sizes]
    both = sorted(set.intersection(*map(set, planned))) if planned else []
    scores = [estimates.gain(study, m.key, REFERENCE, "base", seeds=both) for m in sizes]
    if not sizes or None in scores:
        return Found(None, "needs base and SGPO runs of two models of one family")
    (large, small), (more, less) = sizes, scores
    detail = (
        f"gain {more.mean:.1f} on {large.label} ({large.parameters:,} weights), "
        f"{less.mean:.1f} on {small.label} ({small.parameters:,} weights)"
    )
    return Found(more - less, detail)


@effect((REFERENCE, BASELINE))
def equal_tokens(study: Study, subject: Subject) -> Found:
    """SGPO's accuracy minus SFT+GRPO's at as many scored tokens.

    SFT+GRPO's accuracy between two of its budgets is interpolated on the logarithm of the tokens;
    no effect where SGPO's spending lies outside its budgets.
    """
    ours = gains.at_cost(study, REFERENCE, 1.0)
    if ours is None:
        return Found(None)
    others = [gains.at_cost(study, BASELINE, budget) for budget in experiments.BUDGETS]
    theirs = interpolated([point for point in others if point], ours[0])
    detail = f"{ours[0] / 1000:.0f} thousand tokens scored in training"
    return Found(estimates.minus(ours[1], theirs), detail)


def interpolated(points: Sequence[tuple[float, Score]], at: float) -> Score | None:
    """The score at a cost between two known ones, linear in its logarithm; None outside them."""
    known = sorted(((c, score) for c, score in points if c > 0), key=lambda point: point[0])
    for (low, below), (high, above) in zip(known, known[1:], strict=False):
        if low <= at <= high:
            part = 0.0 if high == low else float(np.log(at / low) / np.log(high / low))
            of = below.of * (1 - part) + above.of * part
            return Score(of, below.run_ids + above.run_ids)
    return None


# Off training curves ------------------------------------------------------------------------------


def quarters(metric: str, unit: str, factor: float) -> Effect:
    """``factor`` times SGPO's mean of a metric over the last quarter of the steps minus over the
    first."""

    def change(run: Run) -> float:
        first, last = (_part(run, metric, *part) for part in ((0.0, 0.25), (0.75, 1.0)))
        return factor * (last - first)

    @effect((REFERENCE,), unit=unit)
    def found(study: Study, subject: Subject) -> Found:
        order = "last minus first" if factor > 0 else "first minus last"
        detail = f"{order} quarter of the steps, over seeds only"
        return Found(estimates.run_statistic(study, subject.model, REFERENCE, change), detail)

    return found


alpha_falls = quarters("alpha_mean", "alpha", -1.0)
guidance_kept = quarters("guided_reward", "points", PERCENT)


@effect((REFERENCE, BASELINE), unit="nats")
def late_entropy(study: Study, subject: Subject) -> Found:
    """SGPO's policy entropy minus SFT+GRPO's over the second half of the steps, paired by seed."""
    found = estimates.run_gain(
        study, subject.model, REFERENCE, BASELINE, lambda run: _part(run, "entropy", 0.5, 1.0)
    )
    return Found(found, "second half of the steps, over seeds only")


def _part(run: Run, metric: str, start: float, stop: float) -> float:
    """Mean of a metric over the steps between two shares of the run; NaN if not recorded."""
    values = run.metrics.get(metric, np.array([]))
    part = values[int(np.floor(start * len(values))) : int(np.ceil(stop * len(values)))]
    part = part[np.isfinite(part)]
    return float(part.mean()) if len(part) else float("nan")


def sooner(other: str) -> Effect:
    """How many times sooner SGPO reaches the lower of the two final rewards than its variant."""

    @effect((REFERENCE, other), unit=TIMES)
    def found(study: Study, subject: Subject) -> Found:
        race = measures.equal_reward(study, subject.model, REFERENCE, other)
        if race is None:
            return Found(None, "over seeds only")
        mine, theirs = race.steps
        detail = (
            f"reward {race.level:.2f} after {mine:.1f} against {theirs:.1f} steps; final reward "
            f"{race.gain_percent:+.1f}%; over seeds only"
        )
        return Found(race.log_factor, detail)

    return found


faster_than_fixed, faster_than_direct = sooner("sgpo_fixed_alpha"), sooner("sgpo_nll")


# Off analyses -------------------------------------------------------------------------------------


@effect(analysis=measures.STEPS)
def mass_on_decisions(study: Study, subject: Subject) -> Found:
    """Share of the KL mass on decision tokens minus that of the SFT loss on the same tokens, whose
    share exceeds that of the tokens by itself: sure tokens cost neither anything."""
    mass, loss, tokens = (
        measures.token_share(study, q, measures.DECISIONS) for q in ("kl", "nll", "tokens")
    )
    if mass is None or loss is None or tokens is None:
        return Found(None)
    detail = (
        f"{mass.mean:.0f}% of the KL mass and {loss.mean:.0f}% of the SFT loss on "
        f"{tokens.mean:.0f}% of the tokens; solved problems with 0 of 8 autonomous answers right, "
        "at the warm-up"
    )
    return Found(mass - loss, detail)


@effect(analysis=measures.PLANS)
def more_on_the_right_plan(study: Study, subject: Subject) -> Found:
    """Probability of the right plan after SGPO minus after the subject's row."""
    ours, theirs = (measures.plan_quantity(study, m, "right") for m in (REFERENCE, subject.row))
    if ours is None or theirs is None:
        return Found(None)
    more = Score((ours - theirs).of * PERCENT, ours.run_ids + theirs.run_ids)
    return Found(more, f"{ours.mean:.2f} against {theirs.mean:.2f}; over seeds and types")
