"""Means with their intervals for cells of a study, in percent (or the metric's own unit).

The step between the stored records and the tables: every artefact and claim takes its numbers from
here, so that the same cell shows the same number everywhere. Differences are paired: over the units
that both sides have, and over problems.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from benchmarks.store.records import Run, Study
from benchmarks.store.stats import Estimate, Mean, interval_text

AVERAGE = "average"
PERCENT = 100.0
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Score:
    """One quantity and the runs it rests on; a ``share`` in percent stays within 0 and 100."""

    of: Mean
    run_ids: tuple[str, ...]
    share: bool = False

    @property
    def mean(self) -> float:
        return self.of.mean

    @functools.cached_property
    def interval(self) -> Estimate:
        found = self.of.interval()
        if not self.share:
            return found
        return Estimate(found.mean, max(found.low, 0.0), min(found.high, PERCENT))

    @property
    def num_seeds(self) -> int:
        return len(self.of.units)

    def __sub__(self, other: Score) -> Score:
        return Score(self.of - other.of, self.run_ids + other.run_ids)

    def text(self) -> str:
        """ "+4.4 [1.2, 7.6]", as a difference is printed."""
        found = self.interval
        return f"{found.mean:+.1f}" + interval_text(found.low, found.high, "{:.1f}".format)


def minus(ours: Score | None, theirs: Score | None) -> Score | None:
    """The paired difference, where both are there."""
    return None if ours is None or theirs is None else ours - theirs


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
    study: Study,
    model: str,
    method: str,
    benchmark: str,
    seeds: Sequence[int] | None = None,
    budget: float = 1.0,
) -> Score | None:
    """avg@k in percent of one cell of a table, or None when it cannot be computed.

    Args:
        benchmark: a benchmark key, or ``AVERAGE``: the unweighted mean of the benchmarks.
        seeds: use only these seeds (to pair with a method that has fewer); a base model's single
            run belongs to every seed.
        budget: training steps over the study's own number.

    None: a planned run is missing, or diverged before it could be evaluated.
    """
    keys = [b.key for b in study.benchmarks] if benchmark == AVERAGE else [benchmark]

    def share(run: Run, key: str) -> np.ndarray | None:
        found = run.budgets.get(budget, {}).get(key)
        return None if found is None else found.mean(axis=1)

    return problem_statistic(study, model, method, keys, share, seeds)


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
    rows = [[statistic(run, key) for run in runs] for key in keys]
    if any(found is None for row in rows for found in row):
        return None
    tables = [PERCENT * np.stack(row) for row in rows]
    world = runs[0].cell.seed if study.own_problems else None
    clusters = study.clusters(tuple(keys), world)
    of = Mean.over_problems(tables, clusters, shared=not study.own_problems)
    return Score(of, tuple(run.cell.run_id for run in runs), share=True)


def gain(
    study: Study,
    model: str,
    method: str,
    baseline: str,
    benchmark: str = AVERAGE,
    *,
    seeds: Sequence[int] | None = None,
    budget: float = 1.0,
) -> Score | None:
    """Accuracy of ``method`` minus that of ``baseline`` in points, paired over seeds and problems.

    ``seeds``: by default those that both have.
    """
    seeds = common_seeds(study, model, (method, baseline)) if seeds is None else seeds
    return minus(*(accuracy(study, model, m, benchmark, seeds, budget) for m in (method, baseline)))


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
    """Mean over seeds of a per-run number (of a training curve).

    None when a planned run is missing or the number is not finite for one of them.
    """
    runs = select(study.runs_of(model, method, scored=False), seeds)
    values = np.array([statistic(run) for run in runs])
    if not runs or not np.isfinite(values).all():
        return None
    return Score(Mean.over_units(values), tuple(run.cell.run_id for run in runs))


def run_gain(
    study: Study, model: str, method: str, baseline: str, statistic: Callable[[Run], float]
) -> Score | None:
    """:func:`run_statistic` of ``method`` minus that of ``baseline``, paired by seed."""
    pair = (method, baseline)
    seeds = common_seeds(study, model, pair)
    return minus(*(run_statistic(study, model, m, statistic, seeds) for m in pair))


def select(runs: Sequence[Run], seeds: Sequence[int] | None) -> tuple[Run, ...]:
    """The runs of ``seeds`` (all when None); a base run (seed None) always belongs."""
    if seeds is None:
        return tuple(runs)
    return tuple(run for run in runs if run.cell.seed is None or run.cell.seed in seeds)


def units_text(study: Study, number: int | str) -> str:
    """What a table's means are over, in words: "5 worlds", "5 seeds of one world", "3 seeds"."""
    plural = "s" * (str(number) != "1")
    if study.own_problems:
        return f"{number} world{plural}"
    seeds = f"{number} seed{plural}"
    return f"{seeds} of one world" if study.miniature else seeds


def over_text(study: Study, number: int | str) -> str:
    """What intervals are over. Where each world has problems of its own, the spread of worlds
    holds that of problems, and nothing else enters (``stats.Mean.over_problems``)."""
    units = units_text(study, number)
    if study.own_problems and str(number) != "1":
        return f"{units}, each with problems of its own"
    return f"{units} and the problems, those of one type together"
