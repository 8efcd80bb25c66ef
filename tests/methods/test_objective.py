"""Eq. 1-8 of the paper: golden values of an independent float64 reference, and closed forms."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build_model, build_problems, build_trainer, collected, equal_weights, weights_of

from sgpo.core.logprobs import kl_divergence
from sgpo.core.losses import clipped_surrogate, group_centered, group_standardized
from sgpo.core.types import Role
from sgpo.method import SGPO, SGPOConfig
from sgpo.objective import (
    adaptive_weight,
    clipped_distillation,
    group_advantage_weight,
    proximal_mask,
    select_reachable,
)

CASES = json.loads((Path(__file__).parents[1] / "golden" / "sgpo.json").read_text())["cases"]
EXACT = {"rtol": 0, "atol": 1e-6}


def double(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.fixture(params=CASES, ids=lambda case: f"seed{case['seed']}")
def case(request):
    return request.param


def golden_grpo_loss(case) -> torch.Tensor:
    return clipped_surrogate(
        logprobs=double(case["logprobs"]),
        old_logprobs=double(case["old_logprobs"]),
        advantages=group_standardized(double(case["rewards"])),
        completion_mask=torch.tensor(case["completion_mask"]),
        clip_low=case["clip_low"],
        clip_high=case["clip_high"],
        reduction="sequence_mean",
    )


def golden_alpha(case) -> torch.Tensor:
    return adaptive_weight(
        pass_guided=double(case["guided_rewards"]).mean(),
        pass_autonomous=double(case["rewards"]).mean(),
        base=case["alpha_base"],
        smoothing=case["alpha_smoothing"],
        maximum=case["alpha_max"],
    )


def test_golden_advantages_and_surrogate(case):
    advantages = group_standardized(double(case["rewards"]))
    torch.testing.assert_close(advantages, double(case["advantages"]), **EXACT)
    torch.testing.assert_close(golden_grpo_loss(case), double(case["loss_grpo"]), **EXACT)


def test_golden_weight_and_target(case):
    if case["selected"] is None:
        assert case["alpha"] == 0.0  # the reference reports the weight that took effect: none
    else:
        torch.testing.assert_close(golden_alpha(case), double(case["alpha"]), **EXACT)
    logprobs = torch.log_softmax(double(case["unguided_logits"]), -1)
    own = logprobs.gather(-1, torch.tensor(case["guided_tokens"])[..., None]).squeeze(-1)
    sums = (own * torch.tensor(case["guided_mask"])).sum(-1)
    correct = [reward == 1.0 for reward in case["guided_rewards"]]
    assert select_reachable(sum_logprobs=sums, correct=correct) == case["selected"]


def test_golden_distillation_total_and_gradient(case):
    chosen = case["selected"]
    if chosen is None:
        assert case["loss_kd"] in (None, 0.0)
        torch.testing.assert_close(golden_grpo_loss(case), double(case["loss_total"]), **EXACT)
        return
    unguided = double(case["unguided_logits"][chosen]).requires_grad_()
    mask = torch.tensor(case["guided_mask"][chosen])
    kl = kl_divergence(double(case["guided_logits"][chosen]), unguided, direction="forward")
    kept = proximal_mask(kl, case["kl_threshold"]) * mask
    loss = clipped_distillation(kl=kl, completion_mask=mask, kl_threshold=case["kl_threshold"])
    total = golden_grpo_loss(case) + golden_alpha(case) * loss
    total.backward()
    torch.testing.assert_close(kl.detach() * mask, double(case["kd_kl"]) * mask, **EXACT)
    assert kept.tolist() == (torch.tensor(case["kd_kept"]) * mask).tolist()
    torch.testing.assert_close(loss.detach(), double(case["loss_kd"]), **EXACT)
    torch.testing.assert_close(total.detach(), double(case["loss_total"]), **EXACT)
    expected = double(case["grad_unguided_logits_selected"])
    torch.testing.assert_close(unguided.grad, expected, **EXACT)


def test_clipping_masks_by_value_and_divides_by_the_full_length():
    kl = double([[0.2, 1.0, 1.5, 9.0], [0.4, 3.0, 0.6, 7.0]]).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    loss = clipped_distillation(kl=kl, completion_mask=mask, kl_threshold=1.0)
    torch.testing.assert_close(loss.detach(), double([1.2 / 3, 1.0 / 4]))  # 1.0 itself is kept
    loss.sum().backward()
    # Constant on either side of the threshold: the mask itself contributes no gradient.
    expected = double([[1 / 3, 1 / 3, 0, 0], [1 / 4, 0, 1 / 4, 0]])
    torch.testing.assert_close(kl.grad, expected)
    assert not proximal_mask(kl, 1.0).requires_grad


def test_distillation_without_threshold_and_at_its_edges():
    for kl, mask, threshold, expected in (
        ([[0.2, 1.0, 50.0], [4.0, 2.0, 100.0]], [[1, 1, 1], [1, 1, 0]], math.inf, [51.2 / 3, 3.0]),
        ([[math.inf, 0.5]], [[1, 1]], 1.0, [0.25]),  # masked like any other
        ([[5.0, 6.0]], [[1, 1]], 1.0, [0.0]),  # nothing kept
        ([[5.0, 6.0]], [[0, 0]], 1.0, [0.0]),  # nothing there
    ):
        kl = double(kl).requires_grad_()
        loss = clipped_distillation(
            kl=kl, completion_mask=torch.tensor(mask), kl_threshold=threshold
        )
        assert loss.tolist() == pytest.approx(expected)
        loss.sum().backward()
        assert kl.grad.isfinite().all() and (any(expected) or not kl.grad.any())


@pytest.mark.parametrize(
    ("guided", "autonomous", "expected"),
    [
        (0.5, 0.4, 0.5 * 0.2 / 0.5),  # inside
        (0.25, 0.25, 0.5 * 0.1 / 0.35),  # equal rates leave the smoothing
        (1.0, 0.0, 0.8),  # 0.5 * 1.1 / 0.1 = 5.5, clipped above
        (0.0, 0.0, 0.5),
        (0.0, 1.0, 0.0),  # clipped below
        (0.5, 0.625, 0.0),  # -0.025 / 0.725: just below zero
    ],
)
def test_adaptive_weight_by_hand(guided, autonomous, expected):
    rates = {"pass_guided": double(guided), "pass_autonomous": double(autonomous)}
    assert float(adaptive_weight(**rates)) == pytest.approx(expected, abs=1e-12)
    other = adaptive_weight(**rates, base=2.0, smoothing=0.2, maximum=3.0)
    by_hand = 2.0 * (guided - autonomous + 0.2) / (autonomous + 0.2)
    assert float(other) == pytest.approx(min(max(by_hand, 0.0), 3.0), abs=1e-12)


def test_group_advantage_weight_by_hand():
    # 1 of 4 right, the guided one right: mean 0.4, sample variance 0.3.
    rewards = double([1, 0, 0, 0])
    expected = 0.6 / (math.sqrt(0.3) + 1e-6)
    value = group_advantage_weight(rewards=rewards, selected_reward=1.0, maximum=2.0)
    assert float(value) == pytest.approx(expected, abs=1e-12)
    assert float(group_advantage_weight(rewards=rewards, selected_reward=1.0)) == 0.8  # the cap
    assert float(group_advantage_weight(rewards=double([1, 1]), selected_reward=1.0)) == 0.0
    assert float(group_advantage_weight(rewards=rewards, selected_reward=0.0)) == 0.0  # negative


def test_reachable_target():
    sums = [-3.0, -1.0, -2.0, -2.0]
    assert select_reachable(sum_logprobs=sums, correct=[True] * 4) == 1
    assert select_reachable(sum_logprobs=sums, correct=[True, False, True, True]) == 2  # a tie
    assert select_reachable(sum_logprobs=sums, correct=[False] * 4) is None
    assert select_reachable(sum_logprobs=[math.nan, -1.0], correct=[True, True]) == 1
    assert select_reachable(sum_logprobs=[math.nan], correct=[True]) is None
    # Sums prefer the short completion, means the one that is likelier a token.
    rows = [[-1.5], [-0.5] * 4]
    assert select_reachable(sum_logprobs=[sum(r) for r in rows], correct=[True, True]) == 0
    means = [sum(r) / len(r) for r in rows]
    assert select_reachable(sum_logprobs=means, correct=[True, True]) == 1


def test_advantages_are_numpys_with_ddof_1_and_equal_rewards_have_none():
    rewards = np.random.default_rng(0).random((3, 5, 7))
    centered = rewards - rewards.mean(-1, keepdims=True)
    expected = centered / (rewards.std(-1, ddof=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(group_standardized(torch.tensor(rewards)), expected, atol=1e-12)
    np.testing.assert_allclose(group_centered(torch.tensor(rewards)), centered, atol=1e-12)
    for equal in ([[0.1, 0.1, 0.1]], [[1.0], [0.0]]):
        assert not group_standardized(torch.tensor(equal)).any()


# Classes of tokens and one-factor interventions, token by token -----------------------------------


class Halves:
    """Any world will do: a token's class is its id modulo 2."""

    names = ("routine", "choice")

    def __call__(self, token_ids):
        return token_ids % 2


def divergences(model, teacher, trajectories, sharpness=1.0):
    """(trajectory, the KL of each of its tokens) of every target, without padding or chunks."""
    for t in (t for t in trajectories if t.role is Role.GUIDED):
        taught, own = (
            m(torch.tensor([prompt + t.completion_ids])).logits[0, len(prompt) - 1 : -1]
            for m, prompt in ((teacher, t.second_prompt_ids), (model, t.prompt_ids))
        )
        yield t, kl_divergence(sharpness * taught, own, direction="forward").tolist()


def test_metrics_by_class_add_up_and_are_right_token_by_token():
    method = SGPO(SGPOConfig(num_autonomous=4, num_guided=4, kl_threshold=0.7), Halves())
    trajectories, model = collected(method, problems=build_problems(6))
    sums = method.loss(model, trajectories, method.totals(trajectories)).sums
    mass, masked = [0.0] * 2, [0.0] * 2
    for t, values in divergences(model, model, trajectories):
        for token, value in zip(t.completion_ids, values, strict=True):
            mass[token % 2] += value
            masked[token % 2] += value if value > 0.7 else 0.0
    assert 0 < sum(masked) < sum(mass)
    for i, name in enumerate(Halves.names):
        assert sums[f"kl_mass_{name}"] == pytest.approx((mass[i], sum(mass)), rel=1e-4)
        assert sums[f"kl_masked_{name}"] == pytest.approx((masked[i], sum(mass)), rel=1e-4)
    assert sums["kl_masked_share"] == pytest.approx((sum(masked), sum(mass)), rel=1e-4)


def test_the_classifier_changes_no_number_of_the_training(tmp_path):
    config = SGPOConfig(num_autonomous=4, num_guided=4)
    finals, records = [], []
    for name, method in (("plain", SGPO(config)), ("sorted", SGPO(config, Halves()))):
        trainer = build_trainer(method, tmp_path / name)
        steps = [trainer.step(step) for step in (1, 2)]
        by_class = {k for k in steps[0] if k.endswith(Halves.names)}
        assert len(by_class) == (4 if name == "sorted" else 0)
        records.append([{k: v for k, v in s.items() if k not in by_class} for s in steps])
        finals.append(weights_of(trainer.model))
    assert equal_weights(*finals) and records[0] == records[1]


@pytest.mark.parametrize(
    ("changes", "leaves"),
    [
        ({"leave_out": "first"}, lambda token, place: place == 0),
        ({"leave_out": "choice"}, lambda token, place: token % 2 == 1),
        ({"sharpness": 2.0}, lambda token, place: False),
        ({"teacher": "initial"}, lambda token, place: False),
    ],
)
def test_one_factor_of_the_distillation_is_changed_and_nothing_else(changes, leaves):
    config = SGPOConfig(num_guided=4, kl_threshold=math.inf, autonomous_term=False, **changes)
    method, model = SGPO(config, Halves()), build_model(seed=1)
    trajectories, _ = collected(method, model, problems=build_problems(6))
    teacher = model
    if config.teacher == "initial":
        teacher = method.teacher.model
        with torch.no_grad():  # the policy has moved since
            model.get_input_embeddings().weight.mul_(1.3)
    loss = method.loss(model, trajectories, method.totals(trajectories)).loss
    expected = 0.0
    for t, values in divergences(model, teacher, trajectories, config.sharpness):
        kept = [v for i, v in enumerate(values) if not leaves(t.completion_ids[i], i)]
        expected += t.weight * sum(kept) / len(values) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-4) and expected > 0


def test_unverified_targets_are_wrong_ones_too():
    def targets(**changes):
        method = SGPO(SGPOConfig(select_target=False, **changes))
        return [t.reward for t in collected(method)[0] if t.role is Role.GUIDED]

    assert set(targets()) == {1.0} and set(targets(verified=False)) == {0.0, 1.0}
    with pytest.raises(ValueError, match="leave_out=style: only the miniature knows"):
        SGPO(SGPOConfig(leave_out="style"))
