"""pass@k and maj@k of a run from its stored verdicts and answer symbols."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.store import stats

NUM_ORDERS = 64
ORDER_SEED = 20260624


def pass_curve(correct: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Unbiased pass@k of every problem, float [len(ks), N], from ``correct`` bool [N, K]."""
    counts = correct.sum(axis=1)
    return np.stack([stats.pass_at_k(counts, num_samples=correct.shape[1], k=k) for k in ks])


def majority_curve(codes: np.ndarray, correct: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """maj@k of every problem, float [len(ks), N]: the chance that the commonest answer among k of
    its samples is the correct one.

    The mean over ``NUM_ORDERS`` random orders of the samples, the same for every run, of the first
    k; exact for k = 1 and k = K, and close to the mean over all subsets between. A tie counts by
    the share of tied answers that is correct; samples without an answer cast no vote, and without
    any vote the problem is lost.

    Args:
        codes: int [N, K] of ``stats.answer_codes``. correct: bool [N, K]. ks: each in 1..K.
    """
    num_problems, num_samples = correct.shape
    assert all(1 <= k <= num_samples for k in ks), ks
    orders = _orders(num_samples)
    places = np.array(ks) - 1
    gold = stats.gold_codes(codes, correct)
    out = np.zeros((len(ks), num_problems))
    for index in np.flatnonzero(correct.any(axis=1)):
        row = codes[index]
        symbols = np.unique(row[row != ord(stats.NO_VOTE)])
        votes = row == symbols[:, None]  # [S, K]
        running = votes[:, orders].cumsum(axis=-1)[:, :, places]  # [S, orders, ks]
        top = running.max(axis=0)
        leading = running == top
        won = leading[symbols == gold[index]][0] & (top > 0)
        out[:, index] = (won / leading.sum(axis=0)).mean(axis=0)
    # With one sample the majority is that sample: no need to leave it to the drawn orders.
    for place, k in enumerate(ks):
        if k == 1:
            out[place] = correct.mean(axis=1)
    return out


def _orders(num_samples: int) -> np.ndarray:
    """int [NUM_ORDERS, num_samples]: the same random orders wherever they are needed."""
    generator = np.random.default_rng([ORDER_SEED, num_samples])
    return np.stack([generator.permutation(num_samples) for _ in range(NUM_ORDERS)])
