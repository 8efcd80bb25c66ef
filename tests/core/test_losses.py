"""Losses that methods share: by hand, against LUFFY's released code, and at the edges."""

import json
import math
from pathlib import Path

import pytest
import torch

from baselines.luffy import luffy_loss
from sgpo.core.losses import (
    clipped_surrogate,
    group_centered,
    importance_ratio,
    negative_log_likelihood,
    reduce_tokens,
    with_advantages,
)
from sgpo.core.types import Role, Trajectory

LUFFY_CASES = json.loads((Path(__file__).parents[1] / "golden" / "luffy.json").read_text())["cases"]


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("case", LUFFY_CASES, ids=lambda case: f"seed{case['seed']}")
def test_luffy_golden_loss_and_gradient(case):
    logprobs = double(case["logprobs"]).requires_grad_()
    loss = luffy_loss(
        logprobs=logprobs,
        old_logprobs=double(case["old_logprobs"]),
        advantages=double(case["advantages"]),
        completion_mask=torch.tensor(case["completion_mask"]),
        is_demo=torch.tensor(case["is_demo_token"]),
        shaping=0.1,
        normalizer=case["normalizer"],
    )
    loss.backward()
    torch.testing.assert_close(loss.detach(), double(case["loss"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(logprobs.grad, double(case["grad_logprobs"]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "gradient"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.27, 2.0, -2.54, -2.54),  # inside the upper bound
        (1.5, 2.0, -2.56, 0.0),  # clipped at 1.28: no further push up
        (0.5, 2.0, -1.0, -1.0),  # below, but the pessimistic bound is the ratio itself
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8: no further push down
        (1.5, -2.0, 3.0, 3.0),  # above with a bad sample: not clipped
    ],
)
def test_asymmetric_clip_by_hand(ratio, advantage, expected, gradient):
    for advantages in ([advantage], [[advantage]]):  # of a sequence, or of each token
        logprobs = double([[math.log(ratio)]]).requires_grad_()
        loss = clipped_surrogate(
            logprobs=logprobs,
            old_logprobs=double([[0.0]]),
            advantages=double(advantages),
            completion_mask=torch.ones(1, 1),
        )
        loss.backward()
        found = loss.item(), logprobs.grad.item()
        assert found == pytest.approx((expected, gradient), abs=1e-12)


VALUES = [[1.0, 2.0, 3.0], [10.0, 77.0, 77.0], [77.0, 77.0, 77.0]]
MASK = [[1, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("reduction", "denominator", "expected"),
    [
        ("sequence_mean", None, (2.0 + 10.0 + 0.0) / 3),
        ("sequence_mean", 8.0, 12.0 / 8),
        ("token_mean", None, 16.0 / 4),
        ("token_mean", 32.0, 16.0 / 32),
        ("constant", 5.0, 16.0 / 5),
    ],
)
def test_reductions_by_hand(reduction, denominator, expected):
    for mask in (torch.tensor(MASK), torch.tensor(MASK).bool()):
        how = {"reduction": reduction, "denominator": denominator}
        value = reduce_tokens(double(VALUES), mask, **how)
        assert value.item() == pytest.approx(expected, abs=1e-12)
        if reduction != "constant":  # the supervised loss is the same of the log-probabilities
            nll = negative_log_likelihood(logprobs=-double(VALUES), completion_mask=mask, **how)
            assert nll.item() == value.item()
    with pytest.raises(ValueError, match="reduction='mean'.*sequence_mean, token_mean or constant"):
        reduce_tokens(double(VALUES), torch.tensor(MASK), reduction="mean")


@pytest.mark.parametrize("garbage", [math.inf, -math.inf, math.nan, 1e30])
def test_padding_never_reaches_the_loss(garbage):
    given = {
        "logprobs": double([[-1.2, garbage]]),
        "old_logprobs": double([[-1.0, garbage]]),
        "advantages": double([1.0]),
        "completion_mask": torch.tensor([[1, 0]]),
    }
    mixed = luffy_loss(**given, is_demo=torch.tensor([False]), normalizer=1.0)
    for loss in (clipped_surrogate(**given), mixed):
        assert loss.item() == pytest.approx(-math.exp(-0.2), abs=1e-12)
    given["completion_mask"] = torch.tensor([[0, 0]])
    for reduction in ("sequence_mean", "token_mean"):
        assert clipped_surrogate(**given, reduction=reduction).item() == 0


def test_ratio_stays_finite_whatever_the_log_probabilities():
    there, back = torch.tensor([500.0, -500.0, -1.0]), torch.tensor([-500.0, 500.0, -1.0])
    expected = [math.exp(20), math.exp(-20), 1.0]
    assert importance_ratio(there, back).tolist() == pytest.approx(expected, rel=1e-5)


def test_advantages_of_groups_keep_the_order():
    groups = [
        [Trajectory(f"p{i}", Role.AUTONOMOUS, (2,), (4,), reward) for reward in rewards]
        for i, rewards in enumerate([(1.0, 0.0, 0.0, 0.0), (1.0, 1.0)])
    ]
    found = with_advantages(groups, group_centered)
    assert [t.advantage for t in found] == [0.75, -0.25, -0.25, -0.25, 0.0, 0.0]
