"""One claim with its verdict: what every module of claims returns."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.report.estimates import Score
from benchmarks.store import stats
from benchmarks.store.records import NOT_RUN

NOT_MEASURED = "not measured"
TIMES = "x"  # unit of an effect that is the logarithm of a factor
MARGIN = 2.0  # points; "not below" leaves that much room, stated before any number was seen


@dataclass(frozen=True)
class Claim:
    """One claim on one model. ``effect`` is None where runs are missing; ``probability`` is the
    share of bootstrap draws in which the claim is true; ``paper`` is the paper's effect as text.
    ``past``: no claim of the paper. An effect in ``TIMES`` is the logarithm of a factor. The
    claim says that the effect is above ``-margin``."""

    key: str
    statement: str
    subject: str
    unit: str
    effect: Score | None
    verdict: str
    paper: str
    detail: str = ""
    probability: float | None = None
    past: bool = False
    margin: float = 0.0


def judged(
    *, effect: Score | None, probability: float | None = None, margin: float = 0.0, **text
) -> Claim:
    """The claim of an effect with its verdict; "not run" without one.

    ``probability`` defaults to the share of the effect's draws above ``-margin``; ``text``: the
    other fields of :class:`Claim`.
    """
    if effect is None:
        return Claim(effect=None, verdict=NOT_RUN, margin=margin, **text)
    i = effect.interval
    shifted = stats.Estimate(i.mean + margin, i.low + margin, i.high + margin)
    return Claim(
        effect=effect,
        verdict=stats.verdict(shifted, num_seeds=effect.num_seeds),
        probability=float((effect.draws > -margin).mean()) if probability is None else probability,
        margin=margin,
        **text,
    )


def effect_text(claim: Claim) -> str:
    """ "+3.1 points [1.0, 5.2]", "1.33x [1.02, 1.46]" or "not run"."""
    if claim.effect is None:
        return NOT_RUN
    e = claim.effect.interval
    if claim.unit == TIMES:
        return f"{math.exp(e.mean):.2f}x [{math.exp(e.low):.2f}, {math.exp(e.high):.2f}]"
    digits = 1 if claim.unit == "points" else 3
    # Adding zero turns a rounded -0.0 into 0.0.
    mean, low, high = (round(value, digits) + 0.0 for value in (e.mean, e.low, e.high))
    return f"{mean:+.{digits}f} {claim.unit} [{low:.{digits}f}, {high:.{digits}f}]"
