"""One claim with its verdict: what every module of claims returns."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import stats
from benchmarks.estimates import Score
from benchmarks.store import NOT_RUN


@dataclass(frozen=True)
class Claim:
    """One claim on one model. ``effect`` is None where runs are missing; ``probability`` is the
    share of bootstrap draws in which the claim is true; ``paper`` is the paper's effect as text."""

    key: str
    statement: str
    subject: str
    unit: str
    effect: Score | None
    verdict: str
    paper: str
    detail: str = ""
    probability: float | None = None


def judged(*, effect: Score | None, probability: float | None = None, **text) -> Claim:
    """The claim of an effect with its verdict; "not run" without one.

    ``probability`` defaults to the share of the effect's draws above 0; ``text``: the other fields
    of :class:`Claim`.
    """
    if effect is None:
        return Claim(effect=None, verdict=NOT_RUN, **text)
    return Claim(
        effect=effect,
        verdict=stats.verdict(effect.interval, num_seeds=effect.num_seeds),
        probability=float((effect.draws > 0).mean()) if probability is None else probability,
        **text,
    )
