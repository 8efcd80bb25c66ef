"""Shares of tokens, KL mass and SFT loss by token class, from the ``steps`` analyses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.report.estimates import PERCENT, Score
from benchmarks.store import stats
from benchmarks.store.records import Analysis, Study

CLASSES = ("choice", "commitment", "style", "routine")  # in the order in which they are stored
DECISIONS = ("choice", "commitment")
QUANTITIES = ("tokens", "kl", "kl_kept", "nll")
ANALYSIS = "steps"
_RNG_SEED = 20260624


def model_of(study: Study) -> str | None:
    """The model that the analyses were planned on; None when there are none."""
    return next((a.model for a in study.analyses if a.key == ANALYSIS), None)


def example(study: Study) -> Mapping[str, Any] | None:
    """The example of seed 0 (the first seed of the study), None where there is none."""
    found = study.analyses_of(ANALYSIS)
    return found[0].result["example"] if found else None


def mean_share(study: Study, quantity: str, classes: Sequence[str]) -> float | None:
    """The mean of :func:`shares` alone, without its draws."""
    tables = [_table(a, quantity) for a in study.analyses_of(ANALYSIS)]
    if not tables or not all(len(t) for t in tables):
        return None
    columns = [CLASSES.index(name) for name in classes]
    share = sum(t[:, columns].sum() for t in tables) / sum(t.sum() for t in tables)
    return PERCENT * float(share)


def shares(study: Study, quantity: str, classes: Sequence[str]) -> Score | None:
    """Share in percent that ``classes`` have of a quantity (one of ``QUANTITIES``), pooled over
    the problems of every seed. Seeds and, within each, its problems are resampled: every seed has
    problems of its own, which its own warm-up failed."""
    found = study.analyses_of(ANALYSIS)
    tables = [_table(a, quantity) for a in found]
    if not tables or not all(len(t) for t in tables):
        return None
    columns = [CLASSES.index(name) for name in classes]
    tops = [t[:, columns].sum(axis=1) for t in tables]
    bottoms = [t.sum(axis=1) for t in tables]
    generator = np.random.default_rng(_RNG_SEED)
    draws = nested_ratio_draws(tops, bottoms, generator, num_draws=study.resamples.num_draws)
    mean = mean_share(study, quantity, classes)
    assert mean is not None, "checked above"
    return Score(
        mean=mean,
        draws=PERCENT * draws,
        num_seeds=len(tables),
        run_ids=tuple(run_id for a in found for run_id in a.inputs),
    )


def excess(study: Study) -> Score | None:
    """Share of the KL mass on decision tokens minus their share of the tokens, in points."""
    mass, tokens = (shares(study, q, DECISIONS) for q in ("kl", "tokens"))
    # Both come from one generator state, so a draw has the same problems on both sides.
    if mass is None or tokens is None:
        return None
    return Score(mass.mean - tokens.mean, mass.draws - tokens.draws, mass.num_seeds, mass.run_ids)


def nested_ratio_draws(
    tops: Sequence[np.ndarray],
    bottoms: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    num_draws: int,
) -> np.ndarray:
    """Bootstrap draws float [D] of sum(top) / sum(bottom), for groups that share no members.

    A draw takes groups with replacement and members with replacement within each taken group: the
    nested two-level bootstrap, as against the crossed one of ``benchmarks.store.stats``.

    Args:
        tops, bottoms: one float array [N_g] a group, of equal lengths.
    """
    group_sums = np.empty((2, num_draws, len(tops)))
    for g, (top, bottom) in enumerate(zip(tops, bottoms, strict=True)):
        size = len(top)
        weights = rng.multinomial(size, np.full(size, 1.0 / size), size=num_draws)
        group_sums[0, :, g] = weights @ top
        group_sums[1, :, g] = weights @ bottom
    # A group that is taken twice brings the same members twice; its own noise is not halved.
    taken = rng.multinomial(len(tops), np.full(len(tops), 1.0 / len(tops)), size=num_draws)
    top, bottom = (taken * group_sums).sum(axis=-1)
    if not (bottom > 0).all():
        raise stats.StatsError("a share of nothing: the quantity is zero on all problems drawn")
    return top / bottom


def _table(analysis: Analysis, quantity: str) -> np.ndarray:
    rows = analysis.result["problems"]
    return np.array([row[quantity] for row in rows], dtype=float).reshape(len(rows), len(CLASSES))
