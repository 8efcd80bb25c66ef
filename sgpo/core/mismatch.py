"""How far an engine's log-probabilities are from the trainer's on the tokens it sampled.

A sampler with weights of its own computes the same policy in another precision and order of
operations. The trainer never trains on the engine's numbers (it recomputes its own), so the
difference is a bias of the samples: it is watched, not corrected.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from sgpo.core.scoring import own_logprobs
from sgpo.core.types import Completion, Role, Trajectory

MEASURED = 16  # completions scored per call: about one in a hundred of a paper-scale step
PER_FORWARD = 4  # fixed, so that every rank of a sharded model runs as many forward passes
RATIO_RANGE = (0.8, 1.2)  # PPO's usual clip range


def mismatch(sampler_logprobs: torch.Tensor, logprobs: torch.Tensor) -> dict[str, float]:
    """Statistics of ``d = logprobs - sampler_logprobs`` over sampled tokens [N], N >= 1.

    Returns:
        ``mismatch_mean``, ``mismatch_p95``, ``mismatch_max``: of |d|, in nats.
        ``mismatch_outside``: share of tokens whose ratio exp(d) leaves ``RATIO_RANGE``.
        ``mismatch_k3``: mean of exp(d) - 1 - d, the K3 estimate of KL(sampler || trainer).
    """
    assert sampler_logprobs.shape == logprobs.shape and logprobs.numel() > 0
    d = logprobs.double() - sampler_logprobs.double()
    ratio, size = d.exp(), d.abs()
    outside = (ratio < RATIO_RANGE[0]) | (ratio > RATIO_RANGE[1])
    return {
        "mismatch_mean": float(size.mean()),
        "mismatch_p95": float(size.quantile(0.95)),
        "mismatch_max": float(size.max()),
        "mismatch_outside": float(outside.double().mean()),
        "mismatch_k3": float((ratio - 1 - d).mean()),
    }


def sampler_mismatch(
    model: PreTrainedModel, sampled: Sequence[tuple[tuple[int, ...], Completion]]
) -> dict[str, float]:
    """``mismatch`` of ``MEASURED`` of the (prompt ids, completion) pairs, evenly picked, against
    the policy ``model``; {} when the sampler reported no log-probabilities."""
    if not sampled or sampled[0][1].sampler_logprobs is None:
        return {}
    step = max(1, len(sampled) // MEASURED)
    picked = sampled[::step][:MEASURED]
    rows = [Trajectory("", Role.AUTONOMOUS, prompt, c.token_ids, 0.0) for prompt, c in picked]
    ours = [
        values
        for start in range(0, len(rows), PER_FORWARD)
        for values in own_logprobs(model, rows[start : start + PER_FORWARD], 1 << 62)
    ]
    theirs = [torch.tensor(c.sampler_logprobs) for _, c in picked]
    return mismatch(torch.cat(theirs), torch.cat(ours).cpu())
