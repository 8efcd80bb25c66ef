"""How much sooner one method reaches the reward another one ends with: the paper's speed claims.

Reward curves of 16 problems a step are noisy, and the first step at which a noisy curve touches a
level comes too early. So curves are averaged over seeds, smoothed as in the figures and fitted by
the nearest rising curve before anything is read off them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.report import estimates
from benchmarks.report.estimates import Score
from benchmarks.report.figures.axes import smooth
from benchmarks.store.records import Study

METRIC = "reward"
_CHUNK = 1_000_000


@dataclass(frozen=True)
class EqualReward:
    """Two methods at equal reward.

    ``log_factor``: natural logarithm of how many times sooner the first reaches what the second
    ends with; negative where the second is the faster one. ``gain_percent``: by how much the
    first's final reward is above the second's, in percent of the second's. ``level``: the lower of
    the two final rewards, in [0, 1]. ``steps``: after how many steps the first and the second
    are there.
    """

    log_factor: Score
    gain_percent: float
    level: float
    steps: tuple[float, float]

    @property
    def factor(self) -> float:
        return float(np.exp(self.log_factor.mean))


def compare(study: Study, model: str, first: str, second: str) -> EqualReward | None:
    """``first`` against ``second`` over the seeds that both are planned on; None where one of the
    runs is missing or lacks the metric. Draws resample seeds, the same for both."""
    seeds = estimates.common_seeds(study, model, (first, second))
    tables = []
    ids: tuple[str, ...] = ()
    for method in (first, second):
        runs = estimates.select(study.runs_of(model, method, scored=False), seeds)
        curves = [run.metrics.get(METRIC, np.array([])) for run in runs]
        # A run that diverged is shorter: its curve has no end that could be compared.
        if not curves or len({len(c) for c in curves}) > 1 or not len(curves[0]):
            return None
        tables.append(np.stack([smooth(c) for c in curves]))
        ids += tuple(run.cell.run_id for run in runs)
    if tables[0].shape != tables[1].shape or not all(np.isfinite(t).all() for t in tables):
        return None
    weights = study.resamples.seed_weights(len(tables[0]))
    rising = [isotonic(table.mean(axis=0)[None])[0] for table in tables]
    drawn = [isotonic(weights @ table) for table in tables]
    steps = reach_steps(*(curve[None] for curve in rising))
    return EqualReward(
        log_factor=Score(
            mean=float(log_factor(rising[0][None], rising[1][None])[0]),
            draws=log_factor(*drawn),
            num_seeds=len(seeds),
            run_ids=ids,
        ),
        gain_percent=float(100 * (rising[0][-1] / rising[1][-1] - 1)),
        level=float(min(rising[0][-1], rising[1][-1])),
        steps=(float(steps[0][0]), float(steps[1][0])),
    )


def isotonic(curves: np.ndarray) -> np.ndarray:
    """The nearest rising curve (least squares) to each row of float [D, T], same shape.

    The max-min formula of isotonic regression (Barlow et al. 1972, Theorem 1.9):
    max over j <= i of min over k >= i of the mean of entries j..k.
    """
    num_steps = curves.shape[1]
    sums = np.concatenate([np.zeros((len(curves), 1)), curves.cumsum(axis=1)], axis=1)
    starts, stops = np.arange(num_steps)[:, None], np.arange(num_steps)[None, :]
    inside = stops >= starts
    lengths = np.where(inside, stops - starts + 1, 1)
    fitted = np.empty_like(curves)
    rows = max(1, _CHUNK // num_steps**2)  # a few at a time: [rows, T, T] must stay small
    for at in range(0, len(curves), rows):
        part = sums[at : at + rows]
        means = (part[:, None, 1:] - part[:, :-1, None]) / lengths
        means = np.where(inside, means, np.inf)
        # least[j, i]: min over k >= i of the mean of j..k
        least = np.minimum.accumulate(means[:, :, ::-1], axis=2)[:, :, ::-1]
        fitted[at : at + rows] = np.where(inside, least, -np.inf).max(axis=1)
    return fitted


def reach_steps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Steps float [D], counted from 1, after which each of two sets of rising curves [D, T] is at
    the lower of their two final values; between steps by linear interpolation."""
    level = np.minimum(first[:, -1], second[:, -1])
    return _first_step(first, level), _first_step(second, level)


def log_factor(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logarithm, float [D], of the second's steps over the first's, for rising curves [D, T].

    Whichever ends lower has used all its steps or reached its end before; the measure is
    antisymmetric, and defined for every pair of curves.
    """
    ours, theirs = reach_steps(first, second)
    return np.log(theirs) - np.log(ours)


def _first_step(curves: np.ndarray, level: np.ndarray) -> np.ndarray:
    there = curves >= level[:, None] - 1e-12
    index = there.argmax(axis=1)
    rows = np.arange(len(curves))
    after, before = curves[rows, index], curves[rows, np.maximum(index - 1, 0)]
    rise = after - before
    part = np.divide(level - before, rise, out=np.ones(len(curves)), where=rise > 1e-12)
    return np.where(index == 0, 1.0, index + np.clip(part, 0.0, 1.0))
