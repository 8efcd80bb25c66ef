"""Means with bootstrap draws for cells of a study, in percent (or the metric's own unit).

The step between the stored records and the tables: every artefact and claim takes its numbers
from here, so that the same cell shows the same number everywhere. All draws come from the study's
shared resamples, hence differences of two scores are paired over seeds and problems.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from benchmarks.store import stats
from benchmarks.store.records import Run, Study

AVERAGE = "average"
PERCENT = 100.0
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Score:
    """``mean`` and bootstrap ``draws`` [D] of one quantity, the seeds and runs they rest on."""

    mean: float
    draws: np.ndarray
    num_seeds: int
    run_ids: tuple[str, ...]

    @property
    def interval(self) -> stats.Estimate:
        return stats.estimate(self.mean, self.draws)

    def __sub__(self, other: Score) -> Score:
        return Score(
            mean=self.mean - other.mean,
            draws=self.draws - other.draws,
            num_seeds=max(self.num_seeds, other.num_seeds),
            run_ids=self.run_ids + other.run_ids,
        )


def once(function: F) -> F:
    """``function(study, ...)`` worked out once for each study and arguments, for all that ask."""

    @functools.wraps(function)
    def cached(study: Study, *arguments: Any) -> Any:
        given = tuple(tuple(a) if isinstance(a, list) else a for a in arguments)
        key = (function.__module__, function.__qualname__, given)
        if key not in study.memo:
            study.memo[key] = function(study, *arguments)
        return study.memo[key]

    return cached


@once
def accuracy(
    study: Study, model: str, method: str, benchmark: str, seeds: Sequence[int] | None = None
) -> Score | None:
    """avg@k in percent of one cell of a table, or None when it cannot be computed.

    Args:
        benchmark: a benchmark key, or ``AVERAGE``: the unweighted mean of the benchmarks.
        seeds: use only these seeds (to pair with a method that has fewer); a base model's single
            run belongs to every seed.

    None: a planned run is missing, or diverged before it could be evaluated.
    """
    keys = [b.key for b in study.benchmarks] if benchmark == AVERAGE else [benchmark]
    return problem_statistic(study, model, method, keys, lambda run, key: run.accuracy[key], seeds)


def problem_statistic(
    study: Study,
    model: str,
    method: str,
    keys: Sequence[str],
    statistic: Callable[[Run, str], np.ndarray | None],
    seeds: Sequence[int] | None = None,
) -> Score | None:
    """Mean over seeds, problems and benchmarks, in percent, of a number that every problem has.

    Args:
        keys: benchmark keys; their means count equally.
        statistic: (run, benchmark key) -> float [N] in [0, 1], or None where the run lacks it.
        seeds: as for :func:`accuracy`.

    None: a planned run is missing, was not evaluated on one of ``keys``, or lacks the statistic.
    """
    runs = select(study.runs_of(model, method, scored=True), seeds)
    if not runs or any(key not in run.correct for run in runs for key in keys):
        return None
    seed_weights = study.resamples.seed_weights(len(runs))
    means, draws = [], []
    for key in keys:
        rows = [statistic(run, key) for run in runs]
        if any(found is None for found in rows):
            return None
        scores = PERCENT * np.stack(rows)
        means.append(scores.mean())
        draws.append(
            stats.weighted_means(
                scores,
                seed_weights=seed_weights,
                problem_weights=study.resamples.problem_weights[key],
            )
        )
    return Score(
        mean=float(np.mean(means)),
        draws=np.mean(draws, axis=0),
        num_seeds=len(runs),
        run_ids=tuple(run.cell.run_id for run in runs),
    )


def gain(
    study: Study, model: str, method: str, baseline: str, benchmark: str = AVERAGE
) -> Score | None:
    """Accuracy of ``method`` minus that of ``baseline`` in points, paired over seeds and problems.

    Where the two have different seeds, both are taken on the common ones.
    """
    seeds = common_seeds(study, model, (method, baseline))
    ours = accuracy(study, model, method, benchmark, seeds)
    theirs = accuracy(study, model, baseline, benchmark, seeds)
    return None if ours is None or theirs is None else ours - theirs


def common_seeds(study: Study, model: str, methods: Sequence[str]) -> list[int]:
    """Seeds planned for all of ``methods``; a base cell (seed None) does not restrict them."""
    sets = []
    for method in methods:
        seeds = {cell.seed for cell in study.cells_of(model, method)}
        if seeds and None not in seeds:
            sets.append(seeds)
    return sorted(set.intersection(*sets)) if sets else []


def run_statistic(
    study: Study,
    model: str,
    method: str,
    statistic: Callable[[Run], float],
    seeds: Sequence[int] | None = None,
) -> Score | None:
    """Mean over seeds of a per-run number (of a training curve), resampling seeds only.

    None when a planned run is missing or the number is not finite for one of them.
    """
    runs = select(study.runs_of(model, method, scored=False), seeds)
    if not runs:
        return None
    values = np.array([statistic(run) for run in runs])
    if not np.isfinite(values).all():
        return None
    draws = study.resamples.seed_weights(len(runs)) @ values
    ids = tuple(run.cell.run_id for run in runs)
    return Score(mean=float(values.mean()), draws=draws, num_seeds=len(runs), run_ids=ids)


def select(runs: Sequence[Run], seeds: Sequence[int] | None) -> tuple[Run, ...]:
    """The runs of ``seeds`` (all when None); a base run (seed None) always belongs."""
    if seeds is None:
        return tuple(runs)
    return tuple(run for run in runs if run.cell.seed is None or run.cell.seed in seeds)
