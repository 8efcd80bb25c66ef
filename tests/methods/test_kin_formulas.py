"""The baselines of the same idea (SRFT, on-policy self-distillation) against their formulas,
written out densely from the same samples."""

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    SPEC,
    build_model,
    build_problems,
    build_rollout,
    build_tokenizer,
    collected,
    dense_logprobs,
    gradient,
)

from baselines.opsd import OPSD, OPSDConfig
from baselines.srft import SRFT, SRFTConfig, self_weights
from sgpo.core.types import Role

ENTROPY = 0.05  # an entropy bonus large enough to show in a gradient


def dense_logits(model, prompt, completion):
    return model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]


@pytest.mark.parametrize("context", ["solution", "strategy"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "jensen_shannon"])
def test_opsd_loss_and_gradient_by_the_formula(direction, context):
    method = OPSD(OPSDConfig(num_samples=5, direction=direction, context=context))
    problems = build_problems(4)
    trajectories, model = collected(method, problems=problems)
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    tokenizer, question = build_tokenizer(), {p.id: p for p in problems}
    total, tokens = 0.0, 0
    for t in trajectories:
        problem = question[t.problem_id]
        shown = problem.expert if context == "solution" else problem.strategy
        words = f"<|user|> {shown} {problem.question} <|end|> <|assistant|>"
        taught = tuple(tokenizer.convert_tokens_to_ids(words.split()))
        with torch.no_grad():
            teacher = F.log_softmax(dense_logits(model, taught, t.completion_ids), -1)
        student = F.log_softmax(dense_logits(model, t.prompt_ids, t.completion_ids), -1)
        if direction == "jensen_shannon":
            middle = ((teacher.exp() + student.exp()) / 2).log()
            pairs = [(teacher, middle, 0.5), (student, middle, 0.5)]
        else:
            pairs = [(*((teacher, student)[:: 1 if direction == "forward" else -1]), 1.0)]
        for p, q, share in pairs:
            total = total + share * F.kl_div(q, p, log_target=True, reduction="sum")
        tokens += len(t.completion_ids)
    (total / tokens).backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx((total / tokens).item(), abs=2e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=2e-6)
    assert dense.abs().max() > 1e-3


def test_opsd_is_at_rest_when_the_teacher_sees_what_the_student_sees():
    method = OPSD(OPSDConfig(num_samples=4, direction="reverse"))
    trajectories, model = collected(method)
    blind = [t.with_(second_prompt_ids=t.prompt_ids) for t in trajectories]
    loss, grad = gradient(method, model, [blind], method.totals(blind))
    assert loss == pytest.approx(0.0, abs=1e-7) and grad.abs().max() < 1e-6


def test_opsd_samples_without_the_solution():
    """Its samples are those that SFT+GRPO would draw."""
    problems = build_problems(4)
    trajectories, model = collected(OPSD(OPSDConfig(num_samples=4)), problems=problems)
    rollout = build_rollout(model)
    rollout.begin_step(1)
    plain = [t for group in rollout.groups(problems, 4) for t in group]
    assert [(t.prompt_ids, t.completion_ids) for t in trajectories] == [
        (t.prompt_ids, t.completion_ids) for t in plain
    ]
    solved = {p.id: SPEC.prompt_ids(rollout.tokenizer, p, solved=True) for p in problems}
    assert all(t.second_prompt_ids == solved[t.problem_id] for t in trajectories)


def srft_reference(model, trajectories, num_problems, sign, published=False):
    """The three terms of SRFT by the shortest code; advantages over samples and trace together.
    ``published``: H is a mean over the sequence, L_self has rewards of +1 and -1, and the entropy
    bonus is over the whole response, as in the code of HPT's authors."""
    samples = sum(t.role is not Role.DEMO for t in trajectories)
    averaged = [t for t in trajectories if published or t.role is not Role.DEMO]
    tokens = sum(len(t.completion_ids) for t in averaged)
    total = 0.0
    for problem in sorted({t.problem_id for t in trajectories}):
        group = [t for t in trajectories if t.problem_id == problem]
        rewards = torch.tensor([t.reward for t in group])
        spread = rewards.std(correction=1)
        for t in group:
            advantage = float((t.reward - rewards.mean()) / (spread + 1e-6)) if spread else 0.0
            logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
            fixed = entropy.detach().mean() if published else entropy.detach()
            if t in averaged:
                total = total - ENTROPY * entropy.sum() / tokens
            if t.role is Role.DEMO:
                nll = -(0.5 * (sign * fixed).exp() * logprobs).mean()
                # pi_b = 1: the ratio is the probability itself, at most 1, and A >= 0: no clip.
                assert advantage >= 0
                total = total + (nll - (logprobs.exp() * advantage).mean()) / num_problems
            else:
                if published:
                    advantage = 1.0 if t.reward else -1.0
                weight = 0.1 * fixed.exp() if advantage > 0 else 1.0
                ratio = (logprobs - logprobs.detach()).exp()
                total = total - (weight * advantage * ratio).mean() / samples
    return total


PUBLISHED = {"entropy_level": "sequence", "self_signal": "reward", "entropy_over": "response"}


@pytest.mark.parametrize(("sign", "published"), [(-1, False), (1, False), (-1, True)])
def test_srft_loss_and_gradient_by_the_formula(sign, published):
    config = SRFTConfig(
        num_samples=5,
        sft_entropy_sign=sign,
        entropy_coefficient=ENTROPY,
        **(PUBLISHED if published else {}),
    )
    method = SRFT(config)
    trajectories, model = collected(method, problems=build_problems(6))
    assert {t.reward for t in trajectories if t.role is not Role.DEMO} == {0.0, 1.0}
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    expected = srft_reference(model, trajectories, 6, sign, published)
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), rel=1e-6, abs=2e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=2e-6)
    assert dense.abs().max() > 1e-3


def test_srft_weights_by_hand():
    entropy = torch.tensor([[0.0, 0.6931472], [0.0, 2.0], [1.0, 0.0]], requires_grad=True)
    advantages = torch.tensor([1.5, -0.5, 0.0])
    weights = self_weights(advantages=advantages, entropy=entropy, positive_scale=0.1)
    expected = torch.tensor([[0.1, 0.2], [1.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(weights, expected)
    assert not weights.requires_grad


def test_a_wrong_trace_is_not_unlearned_without_bound():
    """With pi_b = 1 the ratio of a wrong trace lies below the trust region: no gradient from it."""
    method = SRFT(SRFTConfig(num_samples=5, sft_scale=0.0, entropy_coefficient=0.0))
    trajectories, model = collected(method, model=build_model(), problems=build_problems(4))
    wrong = [t.with_(advantage=-1.0) for t in trajectories if t.role is Role.DEMO]
    totals = method.totals(trajectories)
    with torch.no_grad():
        likely = max(
            dense_logprobs(model, t.prompt_ids, t.completion_ids).exp().max() for t in wrong
        )
    assert likely < 0.8
    _, grad = gradient(method, model, [wrong], totals)
    assert not grad.any()


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="num_samples=0"):
        OPSDConfig(num_samples=0)
    with pytest.raises(ValueError, match="num_samples=0"):
        SRFTConfig(num_samples=0)
    with pytest.raises(ValueError, match="sft_entropy_sign=2: must be -1 or 1"):
        SRFTConfig(sft_entropy_sign=2)
