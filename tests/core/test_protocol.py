"""The optional hooks of a method: when they are called, with what, and what is refused."""

import json

import pytest
import torch
from tiny import (
    MAX_TOKENS,
    METHODS,
    Hooked,
    build_model,
    build_problems,
    build_rollout,
    build_tokenizer,
    build_trainer,
    dense_logprobs,
    equal_weights,
    weights_of,
)

from sgpo.core.scoring import own_logprobs
from sgpo.core.teacher import Teacher
from sgpo.core.types import Role, Trajectory


class Plain:
    """GRPO's three hooks, to add others to."""

    def __init__(self):
        self.inner, self.order = METHODS["grpo"](), []

    def collect(self, problems, rollout):
        self.order.append("collect")
        return self.inner.collect(problems, rollout)

    def totals(self, trajectories):
        return self.inner.totals(trajectories)

    def loss(self, model, trajectories, totals):
        return self.inner.loss(model, trajectories, totals)


def test_hooks_come_in_order_and_change_nothing_by_themselves(tmp_path):
    class Watching(Plain):
        def begin(self, model, num_steps, rollout_config, tokenizer):
            self.order.append(("begin", num_steps, rollout_config.max_tokens, tokenizer.eos_token))

        def after_update(self, model):
            self.order.append(("updated", model.device.type))

    with_hooks = build_trainer(Watching(), tmp_path / "hooks", num_steps=2, updates_per_step=2)
    with_hooks.run()
    without = build_trainer(METHODS["grpo"](), tmp_path / "none", num_steps=2, updates_per_step=2)
    without.run()
    assert equal_weights(weights_of(with_hooks.model), weights_of(without.model))
    step = ["collect", ("updated", "cpu"), ("updated", "cpu")]
    assert with_hooks.method.order == [("begin", 2, MAX_TOKENS, "<|end|>"), *step, *step]


def test_more_problems_stop_when_none_is_missing_or_the_budget_is_spent(tmp_path):
    def steps(budget, number):
        trainer = build_trainer(Hooked(), tmp_path, samples_per_problem=budget, num_steps=9)
        records = [trainer.step(i + 1) for i in range(number)]
        drawn = [r["num_samples"] for r in records]
        return records, [b - a for a, b in zip([0, *drawn], drawn, strict=False)]

    generous, drawn = steps(100, 6)
    assert any(r["extra_problems"] for r in generous)
    for record, samples in zip(generous, drawn, strict=True):
        assert samples == 4 * (4 + record["extra_problems"])
        assert record["extra_problems"] <= len(build_problems()) - 4
    tight, drawn = steps(5, 6)  # 20 samples a step: 16 for its problems, 4 for one more
    assert {r["extra_problems"] for r in tight} == {0, 1} and max(drawn) == 20
    with pytest.raises(ValueError, match=r"Hooked.collect: drew 16 .*samples_per_problem=3 all"):
        steps(3, 1)
    with pytest.raises(ValueError, match=r"Hooked.more_problems: .*set train.samples_per_problem"):
        steps(None, 1)


def test_a_moving_average_by_hand_and_a_frozen_copy(tmp_path):
    """One step by the formula; the frozen teacher keeps the first weights through a resume."""
    method = Hooked(ema=0.25)
    trainer = build_trainer(method, tmp_path / "moving")
    start = weights_of(trainer.model)
    trainer.step(1)
    for name, value in weights_of(method.teacher.model).items():
        expected = 0.75 * start[name] + 0.25 * weights_of(trainer.model)[name]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    frozen = Hooked(ema=0.0)
    build_trainer(frozen, tmp_path / "frozen", num_steps=3).run()
    resumed = Hooked(ema=0.0)
    trainer = build_trainer(resumed, tmp_path / "frozen", num_steps=3)
    trainer.run()
    assert not equal_weights(weights_of(trainer.model), start)
    for method in (frozen, resumed):
        assert equal_weights(weights_of(method.teacher.model), start)


def test_a_teacher_from_a_checkpoint(tmp_path):
    other, tokenizer = build_model(seed=5), build_tokenizer()
    other.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    teacher = Teacher(str(tmp_path / "other"))
    teacher.place(build_model(), tokenizer)
    assert equal_weights(weights_of(teacher.model), weights_of(other))
    rollout = build_rollout(build_model())
    t = Trajectory("p", Role.AUTONOMOUS, (2, 5, 3), (6, 7, 4), 1.0)
    [values] = rollout.logprobs([t], teacher=teacher)
    torch.testing.assert_close(
        values, dense_logprobs(other, t.prompt_ids, t.completion_ids).detach()
    )
    assert rollout.spent.scored_tokens == 3
    tokenizer.add_tokens(["more"])
    with pytest.raises(ValueError, match="its tokenizer is not the policy's"):
        teacher.place(build_model(), tokenizer)
    build_model(vocab_size=20).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="its head has 20 rows and the policy's 24"):
        teacher.place(build_model(), build_tokenizer())
    for wrong in ({"ema": 1.0}, {"ema": float("nan")}, {"checkpoint": "a/b", "ema": 0.1}):
        with pytest.raises(ValueError, match="ema="):
            Teacher(**wrong)


def test_old_logprobs_of_a_method_survive_and_missing_ones_are_filled(tmp_path):
    """A replay of another problem included: every role has the values of the policy before the
    first of three updates, except where the method brought its own."""
    method = METHODS["luffy"]()
    trainer = build_trainer(method, tmp_path, problems_per_step=6, updates_per_step=3)
    trainer.rollout.begin_step(1)
    problems = trainer.step_problems(1)
    collected = method.collect(problems, trainer.rollout)
    own = torch.full((len(collected[0].completion_ids),), -0.5)
    replay = collected[-1].with_(problem_id="of another step")
    given = [collected[0].with_(old_logprobs=own), *collected[1:], replay]
    expected = own_logprobs(trainer.model, given, 10_000)
    updates = trainer.updates(problems, given)
    assert [len({t.problem_id for t in u}) for u in updates] == [3, 2, 2]
    flat = {(t.problem_id, t.role, t.completion_ids): t.old_logprobs for u in updates for t in u}
    for t, values in zip(given, expected, strict=True):
        known = flat[t.problem_id, t.role, t.completion_ids]
        torch.testing.assert_close(known, own if t.old_logprobs is not None else values)


def test_an_update_apart_knows_the_policy_before_the_first(tmp_path):
    """Samples that follow in an update of their own are off-policy by then, and are scored so."""
    seen = []

    class Apart(Plain):
        def separate(self, trajectories):
            later = trajectories[0].problem_id
            return (
                [t for t in trajectories if t.problem_id != later],
                [t for t in trajectories if t.problem_id == later],
            )

        def loss(self, model, trajectories, totals):
            seen.append([t for t in trajectories if t.old_logprobs is not None])
            return super().loss(model, trajectories, totals)

    trainer = build_trainer(Apart(), tmp_path, micro_batch_tokens=10_000)
    twin = build_model()
    trainer.step(1)
    first, apart = seen
    assert not first and len(apart) == 6
    assert not equal_weights(weights_of(trainer.model), weights_of(twin))
    expected = own_logprobs(twin, apart, 10_000)
    for t, values in zip(apart, expected, strict=True):
        torch.testing.assert_close(t.old_logprobs, values)


def no_completion(self, problems, rollout):
    return [t.with_(completion_ids=()) for t in self.inner.collect(problems, rollout)]


def gathering(self, problems, rollout):
    return rollout.gather(self.inner.collect(problems, rollout))


@pytest.mark.parametrize(
    ("hooks", "line"),
    [
        ({"loss": None}, r"Broken: has no loss; a method needs collect, totals, loss"),
        ({"state": lambda self: {}}, r"Broken: has state without load_state; define both"),
        ({"load_state": lambda self, s: None}, r"Broken: has load_state without state"),
        ({"collect": lambda *_: None}, r"Broken.collect: returned a NoneType"),
        ({"collect": no_completion}, r"Broken.collect: .*'p\d+' has no completion; leave it out"),
        (
            {"collect": gathering, "more_problems": lambda *_: 0},
            r"rollout.gather: not for a method with more_problems",
        ),
        (
            {"state": lambda self: {1j}, "load_state": lambda self, s: None},
            r"Broken.state: .*it may hold lists, dicts with text keys, text, finite numbers",
        ),
    ],
)
def test_a_broken_hook_is_one_line(hooks, line, tmp_path):
    broken = type("Broken", (Plain,), hooks)
    with pytest.raises(ValueError, match=line) as caught:
        build_trainer(broken(), tmp_path).run()
    assert "\n" not in str(caught.value)


def test_a_state_that_does_not_load_is_one_line(tmp_path):
    class Old(Plain):
        state = lambda self: {"count": 1}  # noqa: E731
        load_state = lambda self, state: None  # noqa: E731

    class New(Old):
        def load_state(self, state):
            self.seen = state["counted"]

    build_trainer(Old(), tmp_path).run()
    saved = tmp_path / "checkpoints" / "step-000002" / "state.json"
    assert json.loads(saved.read_text())["extra"]["method"] == [{"count": 1}]
    with pytest.raises(ValueError, match=r"New.load_state: .*KeyError: 'counted'.*delete the run"):
        build_trainer(New(), tmp_path).run()
