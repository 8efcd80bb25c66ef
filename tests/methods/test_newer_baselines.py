"""DAPO, Dr. GRPO, ReLIFT, CHORD, SDPO and distillation from a separate teacher: loss and gradient
against their equations, written out densely in float64 from the same samples."""

import math
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import (
    MAX_TOKENS,
    SPEC,
    build_double,
    build_problems,
    build_rollout,
    build_tokenizer,
    build_trainer,
    collected,
    dense_logprobs,
    grader,
    gradient,
)

import baselines
from baselines.chord import CHORD, CHORDConfig, mu_at
from baselines.dapo import DAPO, DAPOConfig, overlong_penalty
from baselines.dr_grpo import DrGRPO, DrGRPOConfig
from baselines.grpo import GRPO, GRPOConfig
from baselines.opd import OPD, OPDConfig
from baselines.relift import ReLIFT, ReLIFTConfig
from baselines.sdpo import SDPO, SDPOConfig
from benchmarks.config import load_method_file
from sgpo.core.config import RolloutConfig
from sgpo.core.types import Role

ROLLOUT = RolloutConfig(max_tokens=MAX_TOKENS)


def begun(method, model=None, num_steps=3):
    """``method`` after its ``begin``, with its teacher placed beside ``model``."""
    model = model if model is not None else build_double()
    if getattr(method, "teacher", None) is not None:
        method.teacher.place(model, build_tokenizer())
    if hasattr(method, "begin"):
        method.begin(model, num_steps, ROLLOUT, build_tokenizer())
    return method, model


def moved(trajectories, shift=0.3):
    """The same trajectories sampled by another policy: ratios leave 1, some leave the clip."""
    out = []
    for i, t in enumerate(trajectories):
        noise = torch.linspace(-shift, shift, len(t.completion_ids), dtype=torch.float64)
        out.append((t, noise * (-1) ** i))
    return out


def agree(method, model, trajectories, expected):
    """Loss and gradient of ``method`` equal those of the dense ``expected()``."""
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    dense_loss = expected()
    dense_loss.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(dense_loss.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(grad, dense.to(grad), rtol=1e-4, atol=2e-6)
    assert dense.abs().max() > 1e-4


def off_policy(model, trajectories):
    """Trajectories with ``old_logprobs`` away from the present policy's."""
    with torch.no_grad():
        return [
            t.with_(old_logprobs=dense_logprobs(model, t.prompt_ids, t.completion_ids) + noise)
            for t, noise in moved(trajectories)
        ]


def clipped(logprobs, old, advantage, low, high):
    ratio = (logprobs - old).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def by_problem(trajectories):
    return [
        [t for t in trajectories if t.problem_id == key]
        for key in dict.fromkeys(t.problem_id for t in trajectories)
    ]


def test_dr_grpo_divides_by_a_constant_and_by_no_deviation():
    method, model = begun(DrGRPO(DrGRPOConfig(num_samples=5)))
    trajectories, model = collected(method, model=model)
    trajectories = off_policy(model, trajectories)

    def expected():
        total = 0.0
        for group in by_problem(trajectories):
            mean = sum(t.reward for t in group) / len(group)
            for t in group:
                logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
                total = total - clipped(logprobs, t.old_logprobs, t.reward - mean, 0.2, 0.2).sum()
        return total / (len(trajectories) * MAX_TOKENS)

    agree(method, model, trajectories, expected)


def test_dapo_is_a_token_mean_of_shaped_rewards_over_mixed_groups():
    method, model = begun(DAPO(DAPOConfig(num_samples=5, cache_share=0.5)))
    trajectories, model = collected(method, model=model, problems=build_problems(8))
    assert all(len({t.reward for t in group}) == 2 for group in by_problem(trajectories))
    assert len({len(t.completion_ids) for t in trajectories}) > 2
    trajectories = off_policy(model, trajectories)
    tokens = sum(len(t.completion_ids) for t in trajectories)

    def expected():
        total = 0.0
        for group in by_problem(trajectories):
            over = [max(0, len(t.completion_ids) - 4) / 4 for t in group]  # L_max 8, L_cache 4
            shaped = [2 * t.reward - 1 - extra for t, extra in zip(group, over, strict=True)]
            mean = sum(shaped) / len(shaped)
            spread = math.sqrt(sum((r - mean) ** 2 for r in shaped) / (len(shaped) - 1))
            for t, reward in zip(group, shaped, strict=True):
                logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
                advantage = (reward - mean) / (spread + 1e-6)
                total = total - clipped(logprobs, t.old_logprobs, advantage, 0.2, 0.28).sum()
        return total / tokens

    agree(method, model, trajectories, expected)


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([1, 80, 90, 100])
    found = overlong_penalty(lengths, max_tokens=100, cache_share=0.2)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, -0.5, -1.0]))
    assert not overlong_penalty(lengths, max_tokens=100, cache_share=0.0).any()


def test_dapo_draws_other_problems_within_the_budget(tmp_path):
    """12 samples a problem: 4 problems pay for 6 groups of 8. One problem of the step that nobody
    solves is made up for by another; where nothing is solved the budget ends the search."""
    trainer = build_trainer(DAPO(DAPOConfig(num_samples=8)), tmp_path, grade=half_right)
    unsolved = trainer.step_problems(1)[0].answer
    trainer.rollout.grader = lambda pairs, truncated=None: [
        replace(v, correct=v.correct and gold != unsolved)
        for (gold, _), v in zip(pairs, half_right(pairs, truncated=truncated), strict=True)
    ]
    record = trainer.step(1)
    assert (record["extra_problems"], record["num_samples"]) == (1, 40)
    hopeless = build_trainer(DAPO(DAPOConfig(num_samples=8)), tmp_path / "none", grade=all_wrong)
    record = hopeless.step(1)
    assert (record["extra_problems"], record["num_samples"]) == (2, 48)


@pytest.mark.parametrize("phi", [True, False])
def test_chord_mixes_both_losses_by_mu(phi):
    config = CHORDConfig(num_samples=5, phi=phi, mu_peak=0.6, rise=0.0, fall=1.0)
    method, model = begun(CHORD(config), num_steps=3)
    trajectories, model = collected(method, model=model)
    mu = mu_at(0.0, config)
    assert mu == pytest.approx(0.6)
    demos = [t for t in trajectories if t.role is Role.DEMO]
    own = off_policy(model, [t for t in trajectories if t.role is not Role.DEMO])

    def expected():
        total, tokens = 0.0, sum(len(t.completion_ids) for t in demos)
        for group in by_problem(own):
            rewards = torch.tensor([t.reward for t in group], dtype=torch.float64)
            spread = rewards.std(correction=1)
            for t in group:
                advantage = (t.reward - rewards.mean()) / (spread + 1e-6) if spread else 0.0
                logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
                value = clipped(logprobs, t.old_logprobs, advantage, 0.2, 0.28).mean()
                total = total - (1 - mu) * value / len(own)
        for t in demos:
            logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids)
            p = logprobs.detach().exp()
            total = total - mu * ((p * (1 - p) if phi else 1.0) * logprobs).sum() / tokens
        return total

    agree(method, model, own + demos, expected)


def test_mu_rises_falls_and_stays():
    config = CHORDConfig(mu_peak=0.8, mu_valley=0.2, rise=0.25, fall=0.5)
    found = [mu_at(done, config) for done in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.0, 0.4, 0.8, 0.5, 0.2, 0.2])


def test_chord_with_mu_0_is_grpo():
    plain, model = collected(GRPO(GRPOConfig(num_samples=5)))
    _, grad = gradient(GRPO(GRPOConfig(num_samples=5)), model, [plain], {"trajectories": 20.0})
    method, _ = begun(CHORD(CHORDConfig(num_samples=5, mu_peak=0.0, mu_valley=0.0)), model)
    mixed, model = collected(method, model=model)
    _, own = gradient(method, model, [mixed], method.totals(mixed))
    assert len(plain) == 20
    torch.testing.assert_close(own, grad, rtol=1e-5, atol=1e-7)


def all_wrong(pairs, *, truncated=None):
    verdicts = grader(pairs, truncated=truncated)
    return verdicts if truncated is None else [replace(v, correct=False) for v in verdicts]


def test_relift_with_an_empty_buffer_is_grpo(tmp_path):
    """With right samples everywhere nothing is buffered: the same weights as SFT+GRPO."""
    weights = []
    for name, method in (
        ("relift", ReLIFT(ReLIFTConfig(num_samples=6, buffer_size=1))),
        ("grpo", GRPO(GRPOConfig(num_samples=6))),
    ):
        trainer = build_trainer(method, tmp_path / name, grade=half_right)
        trainer.run()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def half_right(pairs, *, truncated=None):
    """Every other sample is right."""
    verdicts = grader(pairs, truncated=truncated)
    return (
        verdicts
        if truncated is None
        else [replace(v, correct=i % 2 == 0) for i, v in enumerate(verdicts)]
    )


def test_relift_buffers_what_it_cannot_solve_and_learns_the_newest_traces(tmp_path):
    method = ReLIFT(ReLIFTConfig(num_samples=4, buffer_size=3, entropy_coefficient=0.1))
    trainer = build_trainer(method, tmp_path, grade=all_wrong, problems=build_problems(12))
    first = trainer.step(1)
    seen = [p.id for p in trainer.step_problems(1)]
    assert first["replayed_traces"] == 3
    assert [entry["id"] for entry in method.buffer] == seen[3:]
    trainer.step(2)  # 1 + 4 traces: the newest 3 are learned
    newest = [p.id for p in trainer.step_problems(2)]
    assert [entry["id"] for entry in method.buffer] == [newest[3], seen[3]]


def test_relift_fine_tunes_by_the_formula():
    method, model = begun(ReLIFT(ReLIFTConfig(entropy_coefficient=0.2)))
    rollout = build_rollout(model)
    demos = rollout.demonstrations(build_problems(5))

    def expected():
        total, tokens = 0.0, sum(len(t.completion_ids) for t in demos)
        for t in demos:
            logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
            total = total - (logprobs + 0.2 * entropy).sum()
        return total / tokens

    agree(method, model, demos, expected)


def dense_logits(model, prompt, completion):
    return model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]


def jensen_shannon(p, q, beta):
    middle = (beta * p.exp() + (1 - beta) * q.exp()).log()
    of_p = (p.exp() * (p - middle)).sum(-1)
    return beta * of_p + (1 - beta) * (q.exp() * (q - middle)).sum(-1)


def test_sdpo_by_the_formula():
    """JSD over the student's 3 likeliest tokens and a tail, from a teacher with other weights that
    has read the first other right sample of the group."""
    method, model = begun(SDPO(SDPOConfig(num_samples=6, beta=0.3, top_k=3, max_ratio=1.1)))
    trajectories, model = collected(method, model=model, problems=build_problems(6))
    with torch.no_grad():
        for parameter in method.teacher.model.parameters():
            parameter.mul_(1.05)
    trajectories = off_policy(model, trajectories)
    tokens = sum(len(t.completion_ids) for t in trajectories)

    def top(logits, chosen):
        kept = torch.log_softmax(logits, -1).gather(-1, chosen)
        return torch.cat([kept, (1 - kept.exp().sum(-1, keepdim=True)).log()], -1)

    def expected():
        total = 0.0
        for t in trajectories:
            student = dense_logits(model, t.prompt_ids, t.completion_ids)
            with torch.no_grad():
                taught = dense_logits(method.teacher.model, t.second_prompt_ids, t.completion_ids)
            chosen = student.detach().topk(3, -1).indices
            divergence = jensen_shannon(top(taught, chosen), top(student, chosen), 0.3)
            logprobs = dense_logprobs(model, t.prompt_ids, t.completion_ids).detach()
            ratio = (logprobs - t.old_logprobs).exp().clamp(max=1.1)
            total = total + (ratio * divergence).sum()
        return total / tokens

    agree(method, model, trajectories, expected)


def test_sdpo_shows_another_right_sample_and_leaves_out_who_has_none():
    method, model = begun(SDPO(SDPOConfig(num_samples=6)))
    problems = build_problems(6)
    trajectories, model = collected(method, model=model, problems=problems)
    rollout = build_rollout(model)
    rollout.begin_step(1)
    for problem, group in zip(problems, rollout.groups(problems, 6), strict=True):
        right = [t for t in group if t.reward == 1.0]
        expected = {}
        for t in group:
            decode = partial(rollout.tokenizer.decode, skip_special_tokens=True)
            others = [text for r in right if r is not t and (text := decode(r.completion_ids))]
            if others:
                text = others[0]
                shown = replace(problem, expert=text)
                expected[t.completion_ids] = SPEC.prompt_ids(rollout.tokenizer, shown, solved=True)
        taught = [t for t in trajectories if t.problem_id == problem.id]
        assert {t.completion_ids: t.second_prompt_ids for t in taught} == expected


def test_sdpo_is_at_rest_where_the_teacher_is_the_student():
    method, model = begun(SDPO(SDPOConfig(num_samples=6)))
    trajectories, model = collected(method, model=model)
    blind = [t.with_(second_prompt_ids=t.prompt_ids) for t in trajectories]
    loss, grad = gradient(method, model, [blind], method.totals(blind))
    assert loss == pytest.approx(0.0, abs=1e-7) and grad.abs().max() < 1e-6


@pytest.mark.parametrize("direction", ["forward", "reverse", "jensen_shannon"])
def test_distillation_from_another_model_by_the_formula(tmp_path, direction):
    teacher = build_double(seed=5)
    teacher.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    method, model = begun(OPD(OPDConfig(str(tmp_path), num_samples=4, direction=direction)))
    trajectories, model = collected(method, model=model)
    tokens = sum(len(t.completion_ids) for t in trajectories)
    other = method.teacher.model

    def expected():
        total = 0.0
        for t in trajectories:
            q = torch.log_softmax(dense_logits(model, t.prompt_ids, t.completion_ids), -1)
            with torch.no_grad():
                p = torch.log_softmax(dense_logits(other, t.prompt_ids, t.completion_ids), -1)
            total = total + {
                "forward": lambda p, q: (p.exp() * (p - q)).sum(),
                "reverse": lambda p, q: (q.exp() * (q - p)).sum(),
                "jensen_shannon": lambda p, q: jensen_shannon(p, q, 0.5).sum(),
            }[direction](p, q)
        return total / tokens

    agree(method, model, trajectories, expected)


def test_what_cannot_be_is_refused_in_one_line():
    for make, message in (
        (lambda: DAPOConfig(num_samples=1), "num_samples=1"),
        (lambda: DAPOConfig(cache_share=1.0), "cache_share=1.0"),
        (lambda: DAPOConfig(clip_low=2.0), "clip_low=2.0"),
        (lambda: DrGRPOConfig(clip_high=-0.5), "clip_high=-0.5"),
        (lambda: OPDConfig("x", beta=0.0), "beta=0.0"),
        (lambda: CHORDConfig(mu_peak=1.5), "mu_peak=1.5"),
        (lambda: ReLIFTConfig(buffer_size=0), "buffer_size=0"),
        (lambda: SDPOConfig(beta=1.0), "beta=1.0"),
        (lambda: OPDConfig("x", direction="sideways"), "direction='sideways'"),
        (lambda: OPD(OPDConfig()), "settings.teacher: names no checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_documented_file_makes_a_distillation_of_ones_own(tmp_path):
    readme = Path(baselines.__file__).with_name("README.md").read_text()
    file = tmp_path / "opd_qwen_l.py"
    file.write_text(re.search(r"```python\n(.*?)```", readme, re.DOTALL).group(1))
    module = load_method_file(file)
    method = module.METHOD(module.CONFIG())
    assert isinstance(method, OPD) and method.teacher.checkpoint.endswith("RUN_ID/model")
