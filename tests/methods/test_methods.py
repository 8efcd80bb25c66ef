"""Identities that the methods must keep, whatever their numbers: on a tiny random model."""

import math
from dataclasses import replace

import pytest
import torch
from tiny import (
    MAX_TOKENS,
    METHODS,
    SPEC,
    STRATEGY_WORDS,
    VOCABULARY,
    build_double,
    build_model,
    build_problems,
    build_rollout,
    build_tokenizer,
    build_trainer,
    collected,
    dense_logprobs,
    equal_weights,
    grader,
    gradient,
    weights_of,
)

from baselines.grpo import GRPO, GRPOConfig
from baselines.hpt import HPT, HPTConfig
from baselines.luffy import LUFFY, LUFFYConfig
from baselines.opsd import OPSD, OPSDConfig
from baselines.srft import SRFT, SRFTConfig
from sgpo.core import scoring as batching
from sgpo.core.config import RolloutConfig
from sgpo.core.losses import group_centered
from sgpo.core.types import Role, Sums, Trajectory
from sgpo.core.verifier import Verdict
from sgpo.method import SGPO, SGPOConfig

ENTROPY = 0.05  # an entropy bonus large enough to show in a gradient


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
        records = [trainer.step(step) for step in (1, 2, 3)]
        losses[name] = [(r["loss"], r["entropy"], r["grad_norm"], r["reward"]) for r in records]
        finals[name] = weights_of(trainer.model)
        assert not equal_weights(start, finals[name])
    assert losses["grpo"] == losses["sgpo"]
    assert equal_weights(finals["grpo"], finals["sgpo"])
    assert any(0 < reward < 1 for *_, reward in losses["grpo"])


def test_strategy_never_stands_in_the_prompt_that_is_trained():
    strategy_ids = {VOCABULARY.index(word) for word in STRATEGY_WORDS}
    for name, make in METHODS.items():
        trajectories, _ = collected(make())
        for t in trajectories:
            assert not strategy_ids & set(t.prompt_ids), name
            if t.role is Role.GUIDED:
                assert strategy_ids & set(t.second_prompt_ids)
                assert t.prompt_ids[-3:] == t.second_prompt_ids[-3:]  # only the prefix differs
            elif not name.startswith(
                ("opsd", "sdpo")
            ):  # its teacher reads the solution in a second prompt
                assert t.second_prompt_ids is None
    assert any(t.role is Role.GUIDED for t in trajectories)


def test_luffy_advantages_are_centred_over_samples_and_trace_together():
    trajectories, _ = collected(LUFFY(LUFFYConfig(max_tokens=MAX_TOKENS, num_samples=5)))
    for problem in {t.problem_id for t in trajectories}:
        group = [t for t in trajectories if t.problem_id == problem]
        assert [t.role for t in group].count(Role.DEMO) == 1 and len(group) == 6
        rewards = torch.tensor([t.reward for t in group])
        expected = group_centered(rewards).tolist()
        assert [t.advantage for t in group] == pytest.approx(expected, abs=1e-7)


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


def moved(trajectories):
    """``trajectories`` with old log-probabilities that differ from the current ones."""
    noise = torch.Generator().manual_seed(3)
    return [
        t.with_(old_logprobs=-3.0 + torch.randn(len(t.completion_ids), generator=noise))
        if t.role is Role.AUTONOMOUS
        else t
        for t in trajectories
    ]


def of_one_update(method, trajectories):
    return method.separate(trajectories)[0] if hasattr(method, "separate") else trajectories


@pytest.mark.parametrize("name", [*METHODS, "sgpo_no_selection"])
def test_split_order_and_padding_change_nothing(name):
    method = (METHODS | {"sgpo_no_selection": lambda: SGPO(
        SGPOConfig(num_autonomous=4, num_guided=4, select_target=False)
    )})[name]()  # fmt: skip
    trajectories, model = collected(method, problems=build_problems(6))
    trajectories = moved(of_one_update(method, trajectories))
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
    trajectories = of_one_update(method, trajectories)
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
    updates = trainer.updates(problems, trajectories)
    assert sum(map(len, updates)) == len(trajectories)
    ids = [{t.problem_id for t in update} for update in updates]
    assert ids == [{p.id for p in problems[:4]}, {p.id for p in problems[4:]}]
    for i, update in enumerate(updates):
        sums = Sums()
        for t in update:
            with torch.no_grad():
                expected = dense_logprobs(before, t.prompt_ids, t.completion_ids)
            torch.testing.assert_close(t.old_logprobs, expected, rtol=0, atol=1e-5)
        trainer.update(1, update, sums)
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


def some_groups_right(pairs, *, truncated=None):
    """All samples of a gold answer with an even number are right; else about half are."""
    verdicts = []
    for gold, text in pairs:
        right = int(gold[1:]) % 2 == 0 or len(text) % 2 == 0
        verdicts.append(Verdict(right, "correct" if right else "wrong", None))
    return verdicts


@pytest.mark.parametrize("name", ["grpo", "sgpo"])
def test_rows_without_advantage_are_left_out_of_the_graph_alone(name, monkeypatch):
    """Same loss, metrics and gradient as with a graph for every row, in float64."""
    method = METHODS[name]()
    trajectories, _ = collected(method, problems=build_problems(6), grade=some_groups_right)
    own = [t for t in trajectories if t.role is Role.AUTONOMOUS]
    still = [t for t in own if t.advantage == 0]
    assert still and len(still) < len(own)
    model, totals = build_double(), method.totals(trajectories)
    with_graph = []
    stats = batching.token_stats

    def counted(model, batch, **options):
        result = stats(model, batch, **options)
        if result.logprobs.requires_grad:
            with_graph.append(len(result.logprobs))
        return result

    monkeypatch.setattr(batching, "token_stats", counted)
    lean = method.loss(model, trajectories, totals)
    assert with_graph == [len(own) - len(still)]
    _, lean_grad = gradient(method, model, [trajectories], totals)
    monkeypatch.setattr(  # nothing is skipped
        batching,
        "_stats_of_moving",
        lambda model, batch, moving: batching.token_stats(model, batch),
    )
    full = method.loss(model, trajectories, totals)
    assert with_graph[-1] == len(own)
    _, full_grad = gradient(method, model, [trajectories], totals)
    torch.testing.assert_close(lean.loss, full.loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(lean_grad, full_grad, rtol=1e-10, atol=1e-12)
    assert full_grad.abs().max() > 1e-3
    assert lean.sums.keys() == full.sums.keys()
    for key, values in full.sums.items():
        assert lean.sums[key] == pytest.approx(values, rel=1e-10, abs=1e-12), key


def test_a_step_without_gradient_still_moves_by_its_momentum(tmp_path):
    """AdamW after one gradient g and one of zero: the second step is
    lr * (b1 m / (1 - b1^2)) / (sqrt(b2 v / (1 - b2^2)) + eps) with m, v of the first."""
    wrong = []

    def grade(pairs, *, truncated=None):
        return all_wrong(pairs) if wrong else grader(pairs, truncated=truncated)

    trainer = build_trainer(METHODS["grpo"](), tmp_path, grade=grade, num_steps=2)
    trainer.step(1)
    before = weights_of(trainer.model)
    moments = {n: trainer.optimizer.state[p] for n, p in trainer.model.named_parameters()}
    first = {n: (s["exp_avg"].clone(), s["exp_avg_sq"].clone()) for n, s in moments.items()}
    wrong.append(True)
    assert trainer.step(2)["grad_norm"] == 0
    rate = trainer.learning_rate(2)
    for name, parameter in trainer.model.named_parameters():
        m, v = first[name]
        step = (0.9 * m / (1 - 0.9**2)) / ((0.999 * v / (1 - 0.999**2)).sqrt() + 1e-8)
        torch.testing.assert_close(
            parameter.detach(), before[name] - rate * step, rtol=1e-5, atol=1e-7
        )
    assert not equal_weights(before, weights_of(trainer.model))


def test_without_autonomous_term_and_without_targets_nothing_moves(tmp_path):
    method = SGPO(SGPOConfig(num_autonomous=4, num_guided=4, autonomous_term=False))
    trainer = build_trainer(method, tmp_path, grade=all_wrong, collapse_patience=99)
    start = weights_of(trainer.model)
    trainer.run()
    assert equal_weights(start, weights_of(trainer.model))


@pytest.mark.parametrize(
    ("kind", "changes", "line"),
    [
        (SGPOConfig, {"alpha_mode": "bar"}, "alpha_mode='bar': must be 'adaptive' or 'fixed'"),
        (SGPOConfig, {"distillation": "foo"}, "distillation='foo': must be 'kl' or 'nll'"),
        (SGPOConfig, {"clip_low": 2}, r"clip_low=2: must be in \[0, 1\]"),
        (SGPOConfig, {"alpha_smoothing": 0}, "alpha_smoothing=0: must be above 0"),
        (SGPOConfig, {"num_guided": -1}, "num_guided=-1: must be at least 0"),
        (SGPOConfig, {"num_autonomous": 1.5}, "num_autonomous=1.5: must be a whole number"),
        (GRPOConfig, {"clip_high": math.nan}, "clip_high=nan: NaN is not a setting"),
        (GRPOConfig, {"num_samples": "12"}, "num_samples='12': must be a whole number"),
        (OPSDConfig, {"direction": "sideways"}, "direction='sideways': must be 'forward' or"),
        (OPSDConfig, {"beta": 1.0}, "beta=1.0: must be above 0 and below 1"),
        (SRFTConfig, {"entropy_level": "batch"}, "entropy_level='batch': must be 'token' or"),
        (LUFFYConfig, {"max_tokens": 8, "scaling": "sum"}, "scaling='sum': must be 'problems'"),
        (HPTConfig, {"max_tokens": 0}, "max_tokens=0: must be above 0"),
        (RolloutConfig, {"max_tokens": 8, "temperature": 0.6}, "temperature=0.6: must be 1 in tra"),
    ],
)
def test_a_config_is_checked_wherever_it_is_made(kind, changes, line):
    with pytest.raises(ValueError, match=line):
        kind(**changes)


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


@pytest.mark.parametrize("name", ["sft", "luffy", "hpt", "opsd", "srft"])
def test_missing_traces_are_named(name):
    problems = [replace(p, expert=None) if p.id == "p2" else p for p in build_problems(4)]
    with pytest.raises(ValueError, match="problem 'p2' has no expert trace"):
        collected(METHODS[name](), problems=problems)


def test_sgpo_names_the_problem_without_a_strategy():
    problems = [replace(p, strategy=None) if p.id == "p1" else p for p in build_problems(4)]
    with pytest.raises(ValueError, match="problem 'p1' has no strategy"):
        collected(METHODS["sgpo"](), problems=problems)


def test_sample_budget_is_the_papers_for_every_method():
    """12 per problem: what each method draws; LUFFY and SRFT add the expert's trace."""
    problems = build_problems(3)
    defaults = {
        "grpo": GRPO(GRPOConfig()),
        "hpt": HPT(HPTConfig(max_tokens=MAX_TOKENS)),
        "luffy": LUFFY(LUFFYConfig(max_tokens=MAX_TOKENS)),
        "opsd": OPSD(OPSDConfig()),
        "srft": SRFT(SRFTConfig()),
        "sgpo": SGPO(SGPOConfig()),
    }
    drawn = {}
    for name, method in defaults.items():
        rollout = build_rollout(build_model())
        rollout.begin_step(1)
        method.collect(problems, rollout)
        drawn[name] = rollout.spent.num_samples / len(problems)
    assert drawn == {"grpo": 12, "hpt": 12, "luffy": 11, "opsd": 12, "srft": 11, "sgpo": 12}


def test_rollout_trajectories_carry_prompt_and_completion_apart():
    tokenizer, problems = build_tokenizer(), build_problems(3)
    rollout = build_rollout(build_model())
    rollout.begin_step(1)
    for problem, group in zip(problems, rollout.groups(problems, 4), strict=True):
        assert {t.prompt_ids for t in group} == {SPEC.prompt_ids(tokenizer, problem)}
        assert {type(t) for t in group} == {Trajectory}
        assert {t.problem_id for t in group} == {problem.id}
    reward = rollout.sums.means()["reward"]
    assert 0 < reward < 1 and rollout.spent.num_samples == 12
