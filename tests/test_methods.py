"""Identities that the methods must keep, whatever their numbers: on a tiny random model."""

import math
from collections import defaultdict
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import (
    END,
    MAX_TOKENS,
    METHODS,
    SPEC,
    STRATEGY_WORDS,
    VOCABULARY,
    build_model,
    build_problems,
    build_rollout,
    build_tokenizer,
    build_trainer,
    equal_weights,
    weights_of,
)

from baselines.grpo import GRPO, GRPOConfig
from baselines.hpt import HPT, HPTConfig
from baselines.luffy import LUFFY, LUFFYConfig
from baselines.sft import SFT, SFTConfig
from sgpo.core.advantages import group_centered, group_standardized
from sgpo.core.types import Role, Trajectory
from sgpo.core.verifier import Verdict
from sgpo.guidance import adaptive_weight, group_advantage_weight
from sgpo.method import SGPO, SGPOConfig
from sgpo.objective import token_kl

ENTROPY = 0.05  # an entropy bonus large enough to show in a gradient


def collected(method, model=None, seed=7, problems=None, grade=None):
    """The trajectories of one step on a tiny model."""
    model = model or build_model()
    rollout = build_rollout(model, seed, **({"grade": grade} if grade else {}))
    rollout.begin_step(1)
    return method.collect(problems or build_problems(4), rollout), model


def gradient(method, model, batches, totals):
    """Summed loss and the flat gradient over micro-batches."""
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        output = method.loss(model, batch, totals)
        if output.loss.requires_grad:
            output.loss.backward()
        loss += float(output.loss.detach())
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return loss, torch.cat([g.flatten() for g in grads])


def dense_logprobs(model, prompt, completion, *, entropy=False):
    """Token log-probabilities of one completion, by the shortest code there is."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    logprobs = F.log_softmax(logits, -1)
    picked = logprobs[range(len(completion)), list(completion)]
    return (picked, -(logprobs.exp() * logprobs).sum(-1)) if entropy else picked


def rewards_of(trajectories, problem_id, role=Role.AUTONOMOUS):
    return [t.reward for t in trajectories if t.problem_id == problem_id and t.role is role]


def test_sgpo_without_distillation_is_grpo_bit_for_bit(tmp_path):
    methods = {
        "grpo": GRPO(GRPOConfig(num_samples=12)),
        "sgpo": SGPO(SGPOConfig(num_autonomous=12, num_guided=0, alpha_mode="zero")),
    }
    finals, losses = {}, {}
    for name, method in methods.items():
        trainer = build_trainer(method, tmp_path / name)
        start = weights_of(trainer.model)
        records = [trainer._step(step) for step in (1, 2, 3)]
        losses[name] = [(r["loss"], r["entropy"], r["grad_norm"], r["reward"]) for r in records]
        finals[name] = weights_of(trainer.model)
        assert not equal_weights(start, finals[name])
    assert losses["grpo"] == losses["sgpo"]
    assert equal_weights(finals["grpo"], finals["sgpo"])
    assert any(0 < reward < 1 for *_, reward in losses["grpo"])


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
    kl = token_kl(guided_logits=logits[0], unguided_logits=logits[1], direction=config.direction)
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


def test_strategy_never_stands_in_the_prompt_that_is_trained():
    strategy_ids = {VOCABULARY.index(word) for word in STRATEGY_WORDS}
    for name, make in METHODS.items():
        trajectories, _ = collected(make())
        for t in trajectories:
            assert not strategy_ids & set(t.prompt_ids), name
            if t.role is Role.GUIDED:
                assert strategy_ids & set(t.second_prompt_ids)
                assert t.prompt_ids[-3:] == t.second_prompt_ids[-3:]  # only the prefix differs
            else:
                assert t.second_prompt_ids is None
    assert any(t.role is Role.GUIDED for t in trajectories)


def test_luffy_without_demonstrations_is_plain_policy_gradient():
    """Unclipped ratio, centred advantages, constant divisor, entropy bonus."""
    config = LUFFYConfig(max_tokens=MAX_TOKENS, num_samples=5, entropy_coefficient=ENTROPY)
    method = LUFFY(config)
    trajectories, model = collected(method)
    own = [t for t in trajectories if t.role is not Role.DEMO]
    loss, grad = gradient(method, model, [own], method.totals(own))
    model.zero_grad()
    total, bonus, tokens = 0.0, 0.0, sum(len(t.completion_ids) for t in own)
    for t in own:
        logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
        total = total - ((logprobs - logprobs.detach()).exp() * t.advantage).sum()
        bonus = bonus + entropy.sum() / tokens
    expected = total / (MAX_TOKENS * len(own)) - ENTROPY * bonus
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=1e-6)


def test_luffy_advantages_are_centred_over_samples_and_trace_together():
    trajectories, _ = collected(LUFFY(LUFFYConfig(max_tokens=MAX_TOKENS, num_samples=5)))
    for problem in {t.problem_id for t in trajectories}:
        group = [t for t in trajectories if t.problem_id == problem]
        assert [t.role for t in group].count(Role.DEMO) == 1 and len(group) == 6
        rewards = torch.tensor([t.reward for t in group])
        expected = group_centered(rewards).tolist()
        assert [t.advantage for t in group] == pytest.approx(expected, abs=1e-7)


def test_luffy_weighs_demonstrations_by_the_shaped_probability():
    method = LUFFY(LUFFYConfig(max_tokens=MAX_TOKENS, num_samples=5, entropy_coefficient=0.0))
    trajectories, model = collected(method)
    demos = [t.with_(advantage=0.7) for t in trajectories if t.role is Role.DEMO]
    loss, _ = gradient(method, model, [demos], {"sequences": 4.0, "own_tokens": 1.0})
    expected = 0.0
    for t in demos:
        p = dense_logprobs(model, t.prompt_ids, t.completion_ids).exp()
        expected -= (p / (p + 0.1)).sum().item() * 0.7
    assert loss == pytest.approx(expected / (MAX_TOKENS * 4), abs=1e-6)


def test_hpt_gate_on_both_sides():
    method = HPT(HPTConfig(max_tokens=MAX_TOKENS, num_samples=6, gate=2))
    problems = build_problems(12)
    trajectories, model = collected(method, problems=problems)
    rollout = build_rollout(model)
    rollout.begin_step(1)
    groups = rollout.groups(problems, 6)
    counts = [int(sum(t.reward for t in group)) for group in groups]
    assert {2, 3} <= set(counts), "both sides of the gate's edge must occur"
    for problem, group, count in zip(problems, groups, counts, strict=True):
        mine = [t for t in trajectories if t.problem_id == problem.id]
        if count <= 2:
            assert [t.role for t in mine] == [Role.DEMO]
        else:
            assert [t.completion_ids for t in mine] == [t.completion_ids for t in group]
            expected = [t.reward - count / 6 for t in group]
            assert [t.advantage for t in mine] == pytest.approx(expected, abs=1e-6)


def test_hpt_loss_by_the_formula():
    config = HPTConfig(
        max_tokens=MAX_TOKENS, num_samples=6, gate=2, sft_coefficient=0.3,
        entropy_coefficient=ENTROPY,
    )  # fmt: skip
    method, problems = HPT(config), build_problems(6)
    trajectories, model = collected(method, problems=problems)
    assert {t.role for t in trajectories} == {Role.DEMO, Role.AUTONOMOUS}
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    tokens = sum(len(t.completion_ids) for t in trajectories if t.role is Role.AUTONOMOUS)
    total = 0.0
    for t in trajectories:
        logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
        if t.role is Role.DEMO:
            total = total - 0.3 * logprobs.mean() / 6
        else:
            ratio = (logprobs - logprobs.detach()).exp()
            total = total - (ratio * t.advantage).sum() / (MAX_TOKENS * 6 * 6)
            total = total - ENTROPY * entropy.sum() / tokens
    total.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(total.item(), abs=1e-6)
    torch.testing.assert_close(grad, dense, rtol=1e-4, atol=1e-6)


def test_sft_loss_is_the_token_mean_over_whole_traces():
    method = SFT(SFTConfig())
    trajectories, model = collected(method)
    assert all(t.completion_ids[-1] == END for t in trajectories)  # the stop token is learned
    loss, _ = gradient(method, model, [trajectories], method.totals(trajectories))
    rows = [dense_logprobs(model, t.prompt_ids, t.completion_ids) for t in trajectories]
    assert loss == pytest.approx(-torch.cat(rows).mean().item(), abs=1e-6)


def moved(trajectories):
    """``trajectories`` with old log-probabilities that differ from the current ones."""
    noise = torch.Generator().manual_seed(3)
    return [
        t.with_(old_logprobs=-3.0 + torch.randn(len(t.completion_ids), generator=noise))
        if t.role is Role.AUTONOMOUS
        else t
        for t in trajectories
    ]


@pytest.mark.parametrize("name", [*METHODS, "sgpo_no_selection"])
def test_split_order_and_padding_change_nothing(name):
    method = (METHODS | {"sgpo_no_selection": lambda: SGPO(
        SGPOConfig(num_autonomous=4, num_guided=4, select_target=False)
    )})[name]()  # fmt: skip
    trajectories, model = collected(method, problems=build_problems(6))
    trajectories = moved(trajectories)
    totals = method.totals(trajectories)
    loss, grad = gradient(method, model, [trajectories], totals)
    order = torch.randperm(len(trajectories), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = [trajectories[i] for i in order]
    by_length = sorted(trajectories, key=lambda t: len(t.prompt_ids) + len(t.completion_ids))
    assert totals == method.totals(shuffled)
    splits = {
        "one by one": [[t] for t in trajectories],
        "shuffled": [shuffled],
        "shuffled thirds": [shuffled[i::3] for i in range(3)],
        "long with short": [
            by_length[i :: len(by_length) // 2] for i in range(len(by_length) // 2)
        ],
    }
    for what, batches in splits.items():
        assert sum(map(len, batches)) == len(trajectories), what
        other_loss, other = gradient(method, model, batches, totals)
        assert other_loss == pytest.approx(loss, abs=2e-6), what
        torch.testing.assert_close(other, grad, rtol=1e-4, atol=2e-6, msg=what)
    assert grad.abs().max() > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_metrics_do_not_depend_on_the_split(name):
    method = METHODS[name]()
    trajectories, model = collected(method, problems=build_problems(6))
    totals = method.totals(trajectories)
    whole = method.loss(model, trajectories, totals).sums
    parts: dict[str, list[float]] = {}
    for t in trajectories:
        for key, (numerator, denominator) in method.loss(model, [t], totals).sums.items():
            entry = parts.setdefault(key, [0.0, 0.0])
            entry[0] += numerator
            entry[1] += denominator
    assert parts.keys() == whole.keys()
    for key, (numerator, denominator) in whole.items():
        assert parts[key] == pytest.approx([numerator, denominator], rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("name", ["grpo", "luffy", "hpt", "sgpo"])
def test_two_updates_use_the_log_probabilities_of_the_policy_that_sampled(tmp_path, name):
    method = METHODS[name]()
    if name == "hpt":  # a gate at which both updates hold samples
        method = HPT(HPTConfig(max_tokens=MAX_TOKENS, num_samples=6, gate=0))
    trainer = build_trainer(
        method, tmp_path, updates_per_step=2, learning_rate=5e-2, problems=build_problems(8),
        problems_per_step=8,
    )  # fmt: skip
    problems = trainer.step_problems(1)
    trainer.rollout.begin_step(1)
    trajectories = method.collect(problems, trainer.rollout)
    before = build_model()
    updates = trainer._updates(problems, trajectories)
    assert sum(map(len, updates)) == len(trajectories)
    ids = [{t.problem_id for t in update} for update in updates]
    assert ids == [{p.id for p in problems[:4]}, {p.id for p in problems[4:]}]
    for i, update in enumerate(updates):
        sums = defaultdict(lambda: [0.0, 0.0])
        for t in update:
            if t.role is Role.AUTONOMOUS:
                with torch.no_grad():
                    expected = dense_logprobs(before, t.prompt_ids, t.completion_ids)
                torch.testing.assert_close(t.old_logprobs, expected, rtol=0, atol=1e-5)
            else:
                assert t.old_logprobs is None
        trainer._update(1, update, sums)
        share = sums["clip_share"][0] / sums["clip_share"][1]
        assert share == 0 if i == 0 else share > 0, "first update: ratio 1; second: moved"


def test_one_update_equals_explicit_old_log_probabilities_of_the_same_policy():
    method = METHODS["grpo"]()
    trajectories, model = collected(method)
    with torch.no_grad():
        explicit = [
            t.with_(old_logprobs=dense_logprobs(model, t.prompt_ids, t.completion_ids))
            for t in trajectories
        ]
    totals = method.totals(trajectories)
    a, b = (gradient(method, model, [rows], totals)[1] for rows in (trajectories, explicit))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_group_advantage_and_adaptive_weights_reach_the_trajectories():
    problems = build_problems(6)
    for mode in ("adaptive", "group_advantage"):
        config = SGPOConfig(num_autonomous=4, num_guided=4, alpha_mode=mode)
        trajectories, model = collected(SGPO(config), problems=problems)
        rollout = build_rollout(model)
        rollout.begin_step(1)
        guided = rollout.groups(problems, 4, guided=True)
        weights = {t.problem_id: t.weight for t in trajectories if t.role is Role.GUIDED}
        assert weights
        for problem, group in zip(problems, guided, strict=True):
            helped = [t.reward for t in group]
            if not any(helped):
                assert problem.id not in weights  # C is empty: nothing to distil
                continue
            own = rewards_of(trajectories, problem.id)
            p, q = sum(helped) / 4, sum(own) / 4
            if mode == "adaptive":
                expected = min(max(0.5 * (p - q + 0.1) / (q + 0.1), 0), 0.8)
            else:
                joined = torch.tensor([*own, 1.0])
                deviation = float(joined.std(correction=1))
                raw = (1 - float(joined.mean())) / (deviation + 1e-6) if deviation else 0.0
                expected = min(max(raw, 0), 0.8)
            assert weights[problem.id] == pytest.approx(expected, abs=1e-6)


def test_unselected_targets_share_the_weight_of_their_problem():
    config = SGPOConfig(num_autonomous=4, num_guided=4, select_target=False, alpha_mode="fixed")
    trajectories, _ = collected(SGPO(config), problems=build_problems(6))
    sums: dict[str, list[float]] = {}
    for t in trajectories:
        if t.role is Role.GUIDED:
            assert t.reward == 1.0
            sums.setdefault(t.problem_id, []).append(t.weight)
    assert max(map(len, sums.values())) > 1
    assert all(sum(w) == pytest.approx(1.0) for w in sums.values())


def all_wrong(pairs, *, truncated=None):
    return [Verdict(False, "wrong", None) for _ in pairs]


def all_right(pairs, *, truncated=None):
    return [Verdict(True, "correct", None) for _ in pairs]


@pytest.mark.parametrize("grade", [all_wrong, all_right])
@pytest.mark.parametrize("name", ["grpo", "luffy"])
def test_equal_rewards_have_no_policy_gradient(name, grade):
    config = {"entropy_coefficient": 0.0} if name == "luffy" else {}
    method = METHODS[name]()
    method = type(method)(replace(method.config, **config))
    trajectories, model = collected(method, grade=grade)
    loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    assert loss == 0.0 and not grad.any()


def test_without_autonomous_term_and_without_targets_nothing_moves(tmp_path):
    method = SGPO(SGPOConfig(num_autonomous=4, num_guided=4, autonomous_term=False))
    trainer = build_trainer(method, tmp_path, grade=all_wrong, collapse_patience=99)
    start = weights_of(trainer.model)
    trainer.run()
    assert equal_weights(start, weights_of(trainer.model))


def test_methods_refuse_impossible_settings():
    with pytest.raises(ValueError, match="num_samples=1"):
        GRPOConfig(num_samples=1)
    with pytest.raises(ValueError, match="gate=12.*num_samples=12"):
        HPTConfig(max_tokens=8, gate=12)
    with pytest.raises(ValueError, match="shaping=0"):
        LUFFYConfig(max_tokens=8, shaping=0.0)
    with pytest.raises(ValueError, match="num_guided=0 with alpha_mode='adaptive'"):
        SGPOConfig(num_guided=0)
    with pytest.raises(ValueError, match="num_guided=4 with alpha_mode='zero'"):
        SGPOConfig(alpha_mode="zero")
    with pytest.raises(ValueError, match="kl_threshold=nan"):
        SGPOConfig(kl_threshold=math.nan)


@pytest.mark.parametrize("name", ["sft", "luffy", "hpt"])
def test_missing_traces_are_named(name):
    problems = [replace(p, expert=None) if p.id == "p2" else p for p in build_problems(4)]
    with pytest.raises(ValueError, match="problem 'p2' has no expert trace"):
        collected(METHODS[name](), problems=problems)


def test_sgpo_names_the_problem_without_a_strategy():
    problems = [replace(p, strategy=None) if p.id == "p1" else p for p in build_problems(4)]
    with pytest.raises(ValueError, match="problem 'p1' has no strategy"):
        collected(METHODS["sgpo"](), problems=problems)


def test_sample_budget_is_the_papers_for_every_method():
    """12 per problem: what each method draws, LUFFY's trace counted."""
    problems = build_problems(3)
    defaults = {
        "grpo": GRPO(GRPOConfig()),
        "hpt": HPT(HPTConfig(max_tokens=MAX_TOKENS)),
        "luffy": LUFFY(LUFFYConfig(max_tokens=MAX_TOKENS)),
        "sgpo": SGPO(SGPOConfig()),
    }
    drawn = {}
    for name, method in defaults.items():
        rollout = build_rollout(build_model())
        rollout.begin_step(1)
        method.collect(problems, rollout)
        drawn[name] = rollout.num_samples / len(problems)
    assert drawn == {"grpo": 12, "hpt": 12, "luffy": 11, "sgpo": 12}


def test_rollout_trajectories_carry_prompt_and_completion_apart():
    tokenizer, problems = build_tokenizer(), build_problems(3)
    rollout = build_rollout(build_model())
    rollout.begin_step(1)
    for problem, group in zip(problems, rollout.groups(problems, 4), strict=True):
        assert {t.prompt_ids for t in group} == {SPEC.prompt_ids(tokenizer, problem)}
        assert {type(t) for t in group} == {Trajectory}
        assert {t.problem_id for t in group} == {problem.id}
    reward = rollout.stats["reward"]
    assert 0 < reward < 1 and rollout.num_samples == 12
