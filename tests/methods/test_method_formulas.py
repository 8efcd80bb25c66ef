"""Every method against its paper's formula, written out densely from the same samples."""

import math

import pytest
import torch
from tiny import (
    END,
    MAX_TOKENS,
    build_model,
    build_problems,
    build_rollout,
    collected,
    dense_logprobs,
    gradient,
)

from baselines.grpo import GRPO, GRPOConfig
from baselines.hpt import HPT, HPTConfig
from baselines.luffy import LUFFY, LUFFYConfig
from baselines.sft import SFT, SFTConfig
from sgpo.core.logprobs import kl_divergence
from sgpo.core.losses import group_standardized
from sgpo.core.types import Role
from sgpo.method import SGPO, SGPOConfig
from sgpo.objective import adaptive_weight, group_advantage_weight

ENTROPY = 0.05  # an entropy bonus large enough to show in a gradient


def rewards_of(trajectories, problem_id, role=Role.AUTONOMOUS):
    return [t.reward for t in trajectories if t.problem_id == problem_id and t.role is role]


def test_grpo_loss_and_gradient_by_the_formula():
    method = GRPO(GRPOConfig(num_samples=6))
    trajectories, model = collected(method)
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    terms = []
    for problem in sorted({t.problem_id for t in trajectories}):
        group = [t for t in trajectories if t.problem_id == problem]
        advantages = group_standardized(torch.tensor([t.reward for t in group]))
        for t, advantage in zip(group, advantages, strict=True):
            logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
            ratio = (logprobs - logprobs.detach()).exp()
            terms.append(-(ratio * advantage).mean())
    expected = torch.stack(terms).mean()
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=1e-6)
    assert dense.abs().max() > 1e-3


SGPO_VARIANTS = {
    "paper": {},
    "no_clipping": {"kl_threshold": math.inf},
    "no_selection": {"select_target": False},
    "mean_selection": {"length_normalized_selection": True},
    "fixed_weight": {"alpha_mode": "fixed"},
    "group_advantage": {"alpha_mode": "group_advantage"},
    "reverse": {"direction": "reverse"},
    "nll": {"distillation": "nll"},
    "nll_masked": {"distillation": "nll_masked"},
    "distillation_only": {"autonomous_term": False},
}


def sgpo_reference(model, trajectories, guided, config):
    """Eq. 7 by the shortest code, from the raw samples of both groups."""
    problems = sorted({t.problem_id for t in trajectories})
    total = 0.0
    for problem in problems:
        own = [t for t in trajectories if t.problem_id == problem and t.role is Role.AUTONOMOUS]
        helped = [t for t in guided if t.problem_id == problem]
        rewards = torch.tensor([t.reward for t in own])
        if config.autonomous_term:
            for t, advantage in zip(own, group_standardized(rewards), strict=True):
                logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
                surrogate = (logprobs - logprobs.detach()).exp() * advantage
                total = total - surrogate.mean() / len(own)
        correct = [t for t in helped if t.reward == 1]
        if not correct:
            continue
        if config.select_target:
            rows = [dense_logprobs(model, t.prompt_ids, t.completion_ids) for t in correct]
            normal = config.length_normalized_selection
            scores = [(r.mean() if normal else r.sum()).item() for r in rows]
            correct = [correct[scores.index(max(scores))]]
        alpha = {
            "adaptive": lambda o=rewards, h=helped: float(
                adaptive_weight(
                    pass_guided=sum(t.reward for t in h) / len(h),
                    pass_autonomous=float(o.mean()),
                )
            ),
            "fixed": lambda: 1.0,
            "group_advantage": lambda o=rewards: float(
                group_advantage_weight(rewards=o, selected_reward=1.0)
            ),
        }[config.alpha_mode]()
        for t in correct:
            total = total + alpha / len(correct) * distillation_reference(model, t, config)
    return total / len(problems)


def distillation_reference(model, t, config):
    if config.distillation == "nll":
        return -dense_logprobs(model, t.prompt_ids, t.completion_ids).mean()
    logits = [
        model(torch.tensor([prompt + t.completion_ids])).logits[0, len(prompt) - 1 : -1]
        for prompt in (t.second_prompt_ids, t.prompt_ids)
    ]
    kl = kl_divergence(logits[0].detach(), logits[1], direction=config.direction)
    if config.distillation == "nll_masked":
        logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
        return -(logprobs * (kl.detach() <= config.kl_threshold)).sum() / len(t.completion_ids)
    return (kl * (kl <= config.kl_threshold)).sum() / len(t.completion_ids)


@pytest.mark.parametrize("variant", SGPO_VARIANTS)
def test_sgpo_loss_and_gradient_by_the_formula(variant):
    """Every variant against Eq. 1-8 written out densely, from the same samples."""
    config = SGPOConfig(num_autonomous=4, num_guided=4, **SGPO_VARIANTS[variant])
    method, model, problems = SGPO(config), build_model(), build_problems(6)
    trajectories, _ = collected(method, model, problems=problems)
    rollout = build_rollout(model)
    rollout.begin_step(1)  # equal step and seed: the samples that the method saw
    guided = [t for group in rollout.groups(problems, 4, guided=True) for t in group]
    counts = [sum(rewards_of(guided, p.id, Role.GUIDED)) for p in problems]
    assert max(counts) > 1, "selection needs a choice"
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    expected = sgpo_reference(model, trajectories, guided, config)
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), abs=2e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=2e-6)
    assert dense.abs().max() > 1e-4


def test_variants_of_sgpo_differ_from_each_other():
    """Guards the test above: a variant that changed nothing would pass it for free."""
    problems, gradients = build_problems(6), []
    for changes in SGPO_VARIANTS.values():
        method = SGPO(SGPOConfig(num_autonomous=4, num_guided=4, **changes))
        trajectories, model = collected(method, problems=problems)
        gradients.append(gradient(method, model, [trajectories], method.totals(trajectories))[1])
    for i, a in enumerate(gradients):
        for b in gradients[i + 1 :]:
            assert not torch.allclose(a, b, atol=1e-6)


def test_teacher_builds_no_graph():
    """The gradient equals that of a loss against constant teacher logits."""
    config = SGPOConfig(num_autonomous=4, num_guided=4, autonomous_term=False)
    trajectories, model = collected(SGPO(config), problems=build_problems(6))
    targets = [t for t in trajectories if t.role is Role.GUIDED]
    _, grad = gradient(SGPO(config), model, [trajectories], SGPO(config).totals(trajectories))
    teacher = build_model()  # the same weights, another object
    model.zero_grad()
    total = torch.zeros(())
    for t in targets:
        with torch.no_grad():
            ids = torch.tensor([t.second_prompt_ids + t.completion_ids])
            target = teacher(ids).logits[0, len(t.second_prompt_ids) - 1 : -1]
        logits = model(torch.tensor([t.prompt_ids + t.completion_ids])).logits[0]
        logits = logits[len(t.prompt_ids) - 1 : -1]
        kl = (target.softmax(-1) * (target.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)
        total = total + t.weight * (kl * (kl.detach() <= 1.0)).mean()
    (total / 6).backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=2e-6)


def luffy_reference(model, trajectories, num_problems, everywhere=False):
    """Shaped weights on demonstrations, plain ratios elsewhere; sums over a constant a problem."""
    averaged = [t for t in trajectories if everywhere or t.role is not Role.DEMO]
    tokens = sum(len(t.completion_ids) for t in averaged)
    total = 0.0
    for t in trajectories:
        logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
        if t.role is Role.DEMO:
            weight = logprobs.exp() / (logprobs.exp() + 0.1)
        else:
            weight = (logprobs - logprobs.detach()).exp()
        if t in averaged:
            total = total - ENTROPY * entropy.sum() / tokens
        total = total - (weight * t.advantage).sum() / (MAX_TOKENS * num_problems)
    return total


@pytest.mark.parametrize("with_demonstrations", [True, False])
def test_luffy_loss_by_the_formula(with_demonstrations):
    """Without demonstrations it is a plain policy gradient: unclipped ratio, centred advantages,
    constant divisor."""
    config = LUFFYConfig(max_tokens=MAX_TOKENS, num_samples=5, entropy_coefficient=ENTROPY)
    method = LUFFY(config)
    trajectories, model = collected(method)
    if not with_demonstrations:
        trajectories = [t for t in trajectories if t.role is not Role.DEMO]
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    expected = luffy_reference(model, trajectories, num_problems=4)
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), abs=2e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=2e-6)


def test_luffy_as_its_authors_scale_it():
    """64 problems on 8 GPUs: the mean over GPUs of the sum over a GPU's 8, the mean over the whole
    response for the entropy, and a clip of 1.0 that acts on that scale."""
    config = LUFFYConfig(
        max_tokens=MAX_TOKENS,
        num_samples=5,
        entropy_coefficient=ENTROPY,
        entropy_over="response",
        scaling="authors",
    )
    method = LUFFY(config)
    trajectories, model = collected(method)
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    expected = 64 / 8 * luffy_reference(model, trajectories, num_problems=4, everywhere=True)
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), abs=2e-5)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("authors", [False, True])
def test_hpt_loss_by_the_formula(authors):
    """``authors``: imitation is a mean over expert tokens, however few problems imitate."""
    config = HPTConfig(
        max_tokens=MAX_TOKENS, num_samples=6, gate=2, sft_coefficient=0.3,
        entropy_coefficient=ENTROPY, scaling="authors" if authors else "problems",
        entropy_over="response" if authors else "samples",
    )  # fmt: skip
    method, problems = HPT(config), build_problems(6)
    trajectories, model = collected(method, problems=problems)
    assert {t.role for t in trajectories} == {Role.DEMO, Role.AUTONOMOUS}
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    demo = sum(len(t.completion_ids) for t in trajectories if t.role is Role.DEMO)
    own = sum(len(t.completion_ids) for t in trajectories if t.role is Role.AUTONOMOUS)
    total = 0.0
    for t in trajectories:
        logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
        if t.role is Role.DEMO:
            total = total - 0.3 * (logprobs.sum() / demo if authors else logprobs.mean() / 6)
        else:
            ratio = (logprobs - logprobs.detach()).exp()
            total = total - (ratio * t.advantage).sum() / (MAX_TOKENS * 6)
        if authors or t.role is Role.AUTONOMOUS:
            total = total - ENTROPY * entropy.sum() / (own + demo if authors else own)
    total = total * (64 / 8 if authors else 1)
    total.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(total.item(), abs=1e-5)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=1e-5)


def test_sft_loss_is_the_token_mean_over_whole_traces():
    method = SFT(SFTConfig())
    trajectories, model = collected(method)
    assert all(t.completion_ids[-1] == END for t in trajectories)  # the stop token is learned
    loss, _ = gradient(method, model, [trajectories], method.totals(trajectories))
    rows = [dense_logprobs(model, t.prompt_ids, t.completion_ids) for t in trajectories]
    assert loss == pytest.approx(-torch.cat(rows).mean().item(), abs=1e-6)
