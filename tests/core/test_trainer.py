"""The training loop: resuming, data order, learning rate, what it counts, and what stops it."""

import json
import math
import shutil

import pytest
import torch
from tiny import (
    METHODS,
    RESUMED,
    Killed,
    at_step,
    build_model,
    build_problems,
    build_rollout,
    build_trainer,
    dense_logprobs,
    die,
    equal_weights,
    metrics,
    weights_of,
)

from sgpo.core.trainer import Diverged
from sgpo.core.types import LossOutput
from sgpo.core.verifier import Verdict

STEPS = 4
CASES = {
    **{name: (make, {}) for name, make in RESUMED.items()},
    "two-updates": (METHODS["sgpo"], {"updates_per_step": 2}),
    "held-out": (METHODS["sft"], {"held_out_share": 0.25, "learning_rate": 0.05}),
}


def trainer_of(name, run_dir, **changes):
    make, own = CASES[name]
    return build_trainer(make(), run_dir, **{"num_steps": STEPS, **own, **changes})


def finish(name, run_dir, **changes):
    trainer = trainer_of(name, run_dir, **changes)
    trainer.run()
    return trainer


def die_at(step, trainer):
    """Runs until the samples of ``step`` are graded."""
    with pytest.raises(Killed):
        at_step(step, trainer, die).run()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Name -> final weights and metrics of a run that was never interrupted, made when asked."""
    finals, start = {}, weights_of(build_model())

    def run(name):
        if name not in finals:
            run_dir = tmp_path_factory.mktemp(name)
            finals[name] = weights_of(finish(name, run_dir).model), metrics(run_dir)
            assert not equal_weights(finals[name][0], start) and len(finals[name][1]) == STEPS
        return finals[name]

    return run


def assert_same(trainer, expected):
    assert equal_weights(weights_of(trainer.model), expected[0])
    assert metrics(trainer.run_dir) == expected[1]


@pytest.mark.parametrize(
    ("name", "step"), [*((name, 4) for name in CASES), ("sgpo", 1), ("held-out", 1)]
)
def test_killed_and_resumed_equals_uninterrupted(name, step, tmp_path, uninterrupted):
    """Bit for bit, for every method: at the step after a state's next, and before the first."""
    die_at(step, trainer_of(name, tmp_path))
    assert len(metrics(tmp_path)) == step - 1
    assert_same(finish(name, tmp_path), uninterrupted(name))


def test_killed_twice_with_a_half_written_line_and_a_damaged_state(tmp_path, uninterrupted, capsys):
    die_at(2, trainer_of("grpo", tmp_path, checkpoint_every=1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    die_at(4, trainer_of("grpo", tmp_path, checkpoint_every=1))
    states = tmp_path / "checkpoints"
    assert sorted(p.name for p in states.iterdir()) == ["step-000002", "step-000003"]
    file = states / "step-000003" / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    trainer, steps = trainer_of("grpo", tmp_path), []
    for step in range(1, STEPS + 1):
        at_step(step, trainer, lambda: steps.append(trainer.rollout.step))
    trainer.run()
    assert steps == [3, 4] and "step-000003" in capsys.readouterr().out
    assert_same(trainer, uninterrupted("grpo"))
    other = finish("grpo", tmp_path / "other", seed=8)
    assert not equal_weights(weights_of(other.model), uninterrupted("grpo")[0])


def test_every_epoch_is_a_permutation(tmp_path):
    def epoch_of(number, name="sft", **changes):
        trainer = build_trainer(METHODS[name](), tmp_path, problems=build_problems(13), **changes)
        return [p.id for slot in (1, 2, 3) for p in trainer.step_problems(3 * number + slot)]

    epochs = [epoch_of(number) for number in range(3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)  # one of the 13 sits an epoch out
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({p for epoch in epochs for p in epoch}) == 13
    assert epoch_of(1, "grpo") == epochs[1] and epoch_of(0, seed=8) != epochs[0]


def test_the_rate_rises_and_falls_as_asked(tmp_path):
    """Two steps up, four on or down; linear and cosine by their closed forms."""
    down = {
        "constant": [1, 1, 1, 1],
        "linear": [0.8, 0.6, 0.4, 0.2],
        "cosine": [(1 + math.cos(math.pi * i / 5)) / 2 for i in (1, 2, 3, 4)],
    }
    for decay, factors in down.items():
        changes = {"num_steps": 6, "warmup_share": 0.3, "decay": decay}
        trainer = build_trainer(METHODS["sft"](), tmp_path, **changes)
        rates = [trainer.learning_rate(step) for step in range(1, 7)]
        assert rates == pytest.approx([5e-3, 1e-2, *(1e-2 * f for f in factors)])


def test_the_optimiser_gets_the_rate_of_its_step_and_clipped_gradients(tmp_path):
    """The first AdamW update moves every weight with a gradient by its rate, and its first moment
    is 0.1 times the clipped gradient."""
    changes = {"num_steps": 10, "warmup_share": 0.5, "grad_clip": 0.01}
    trainer = build_trainer(METHODS["sft"](), tmp_path, **changes)
    before = weights_of(trainer.model)
    record = trainer.step(1)
    moves = [(value - before[n]).abs().max() for n, value in weights_of(trainer.model).items()]
    assert record["learning_rate"] == pytest.approx(2e-3)
    assert max(moves).item() == pytest.approx(2e-3, rel=1e-2)
    assert record["grad_norm"] > 0.01  # the norm before clipping is what is reported
    moments = [state["exp_avg"].flatten() for state in trainer.optimizer.state.values()]
    assert torch.cat(moments).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "samples", "expected"),
    [
        ("sft", 0, "loss grad_norm"),
        ("grpo", 24, "loss reward entropy clip_share response_length truncated_share"),
        ("hpt", 24, "loss reward imitated_share"),  # imitation alone has no entropy
        ("opsd", 24, "reward kl_mean scored_tokens"),
        ("srft", 20, "loss reward entropy sft_weight"),
        ("sgpo", 32, "reward guided_reward alpha_mean kl_mean kl_masked_share"),
    ],
)
def test_what_figures_need_is_recorded(uninterrupted, name, samples, expected):
    records = uninterrupted(name)[1]
    for record in records:
        assert record.keys() >= set(expected.split())
        assert all(math.isfinite(v) for v in record.values())
    assert [r["num_samples"] for r in records] == [samples * (i + 1) for i in range(STEPS)]


@pytest.mark.parametrize("updates", [1, 2])
def test_scored_tokens_count_every_pass_over_a_completion(tmp_path, updates):
    """The policy's pass, the teacher's, Eq. 4's ranking, and old log-probabilities where the
    policy moves within a step; counted from the trajectories of equal draws."""
    for name, samples, passes in (("grpo", 6, 1), ("opsd", 6, 2), ("sgpo", 4, 1)):
        trainer = build_trainer(METHODS[name](), tmp_path / name, updates_per_step=updates)
        found = trainer.step(1)["scored_tokens"]
        rollout = build_rollout(build_model())
        rollout.begin_step(1)
        problems = trainer.step_problems(1)
        expected = tokens_of(rollout.groups(problems, samples)) * (passes + updates - 1)
        if name == "sgpo":
            guided = rollout.groups(problems, 4, guided=True)
            correct = [[t for t in group if t.reward == 1.0] for group in guided]
            expected += tokens_of(group for group in correct if len(group) > 1)
            best = [
                max(group, key=lambda t: float(dense(rollout.model, t).sum()))
                for group in filter(None, correct)
            ]
            expected += (1 + updates) * tokens_of([best])
        assert found == expected, name


def tokens_of(groups):
    return sum(len(t.completion_ids) for group in groups for t in group)


def dense(model, t):
    return dense_logprobs(model, t.prompt_ids, t.completion_ids).detach()


# --- the weights that a run ends with -----------------------------------------------------------


def test_sft_keeps_the_weights_of_the_lowest_loss_on_what_it_holds_out(tmp_path):
    """A rate so large that the loss rises again; the values by dense code on the weights of every
    epoch (two steps) of a trainer that is stepped by hand."""
    changes = {"learning_rate": 0.3, "num_steps": 6}
    trainer = trainer_of("held-out", tmp_path / "run", **changes)
    held = {p.id for p in trainer.held_out}
    assert len(held) == 3 and held.isdisjoint(p.id for p in trainer.problems)
    assert {p.id for p in trainer_of("held-out", tmp_path, seed=8).held_out} != held
    trainer.run()
    by_hand, losses, finals = trainer_of("held-out", tmp_path, **changes), [], []
    for step in range(1, 7):
        by_hand.step(step)
        if step % 2 == 0:
            demos = by_hand.rollout.demonstrations(by_hand.held_out)
            losses.append(-torch.cat([dense(by_hand.model, t) for t in demos]).mean().item())
            finals.append(weights_of(by_hand.model))
    stored = [r["held_out_loss"] for r in metrics(tmp_path / "run") if "held_out_loss" in r]
    assert stored == pytest.approx(losses, abs=1e-5)
    best = losses.index(min(losses))
    assert best < len(losses) - 1, "the last epoch must not be the best, else nothing is tested"
    assert equal_weights(weights_of(trainer.model), finals[best])


def test_weights_of_a_last_step_are_the_best_ones_without_being_written(tmp_path):
    trainer = finish("held-out", tmp_path, learning_rate=1e-3, num_steps=4)
    assert trainer.best[1] == 4, "the last epoch must be the best, else nothing is tested"
    by_hand = trainer_of("held-out", tmp_path / "other", learning_rate=1e-3, num_steps=4)
    for step in range(1, 5):
        by_hand.step(step)
    assert equal_weights(weights_of(trainer.model), weights_of(by_hand.model))
    written = sorted(p.name for p in (tmp_path / "checkpoints" / "best").glob("step-*"))
    assert "step-000004" not in written and written == ["step-000002"]


def test_a_run_ends_with_the_weights_of_its_budget_whatever_comes_after(tmp_path):
    """Killed past the budget and resumed, it still knows them; ``after_step`` sees every step."""
    plain = build_trainer(METHODS["grpo"](), tmp_path / "plain", num_steps=2)
    plain.run()
    seen, budget = [], {"num_steps": 5, "budget_steps": 2}
    die_at(4, build_trainer(METHODS["grpo"](), tmp_path / "run", **budget))
    trainer = build_trainer(METHODS["grpo"](), tmp_path / "run", **budget)
    trainer.after_step = lambda step: seen.append((step, weights_of(trainer.model)))
    trainer.run()
    assert len(metrics(tmp_path / "run")) == 5
    assert equal_weights(weights_of(trainer.model), weights_of(plain.model))
    assert seen[-1][0] == 5 and not equal_weights(seen[-1][1], weights_of(plain.model))


@pytest.mark.parametrize(
    ("name", "changes", "line"),
    [
        ("sft", {"problems_per_step": 13}, "problems_per_step=13: only 12 problems"),
        (
            "grpo",
            {"held_out_share": 0.25},
            "held_out_share=0.25: serves methods that samp",
        ),
        ("sft", {"budget_steps": 2, "held_out_share": 0.25}, "budget_steps=2: the run ends with"),
        (
            "sft",
            {"budget_steps": 2, "decay": "linear"},
            "decay=linear: falls to 0 at the last",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, name, changes, line):
    with pytest.raises(ValueError, match=line):
        build_trainer(METHODS[name](), tmp_path, **changes).run()


# --- what is skipped, and what ends a run -------------------------------------------------------


def test_an_update_above_the_limit_is_skipped_and_counted(tmp_path):
    """The clip does not hide the norm: what is compared is the norm before it."""
    for limit, moves in ((1e-3, False), (1e3, True)):
        trainer = build_trainer(METHODS["hpt"](), tmp_path, skip_above=limit, grad_clip=1e-4)
        start = weights_of(trainer.model)
        record = trainer.step(1)
        assert 1e-3 < record["grad_norm"] < 1e3
        assert record["skipped_share"] == (0.0 if moves else 1.0)
        assert equal_weights(weights_of(trainer.model), start) is not moves


class Exploding:
    """SFT whose loss is NaN at the given updates."""

    def __init__(self, *updates):
        self.inner, self.updates, self.count = METHODS["sft"](), updates, 0
        self.collect, self.totals = self.inner.collect, self.inner.totals

    def loss(self, model, trajectories, totals):
        output = self.inner.loss(model, trajectories, totals)
        self.count += 1
        return LossOutput(output.loss * (math.nan if self.count in self.updates else 1.0))


def test_a_non_finite_update_is_skipped_until_there_are_too_many_in_a_row(tmp_path):
    def trainer_of(name, *updates, patience):
        changes = {"num_steps": 6, "nonfinite_patience": patience}
        return build_trainer(Exploding(*updates), tmp_path / name, **changes)

    goes_on = trainer_of("goes-on", 2, 3, 5, patience=3)
    goes_on.run()
    assert [r["skipped_share"] for r in metrics(tmp_path / "goes-on")] == [0, 1, 1, 0, 1, 0]
    assert all(p.isfinite().all() for p in goes_on.model.parameters())
    ends, twin = trainer_of("ends", 3, 4, patience=2), trainer_of("twin", patience=2)
    line = "step 4: .*nan.*not finite; lower .*2 updates in a row"
    with pytest.raises(Diverged, match=line) as caught:
        ends.run()
    assert caught.value.fatal and [r["step"] for r in metrics(tmp_path / "ends")] == [1, 2, 3]
    for step in (1, 2):
        twin.step(step)
    assert equal_weights(weights_of(ends.model), weights_of(twin.model))  # no damage was done


def test_what_diverges_past_its_budget_ends_with_the_weights_of_the_budget(tmp_path):
    changes = {"num_steps": 5, "warmup_share": 0.9}
    twin = build_trainer(METHODS["sft"](), tmp_path / "twin", **changes | {"num_steps": 2})
    twin.run()
    trainer = build_trainer(Exploding(4), tmp_path / "run", budget_steps=2, **changes)
    trainer.run()
    assert [r["step"] for r in metrics(tmp_path / "run")] == [1, 2, 3]
    assert equal_weights(weights_of(trainer.model), weights_of(twin.model))
    past = trainer.diverged_past_budget
    assert past.step == 4 and "not finite" in str(past) and twin.diverged_past_budget is None
    with pytest.raises(Diverged):  # before its budget there is nothing to end with
        build_trainer(Exploding(1), tmp_path / "early", budget_steps=2, **changes).run()


def all_wrong(pairs, *, truncated=None):
    return [Verdict(False, "wrong", None) for _ in pairs]


def collapsing(run_dir, **changes):
    """A policy without entropy that is always wrong."""
    model = build_model()
    with torch.no_grad():
        model.model.norm.weight.mul_(1e4)
    settings = {"num_steps": 9, "collapse_patience": 3, "learning_rate": 1e-12} | changes
    return build_trainer(METHODS["grpo"](), run_dir, model=model, grade=all_wrong, **settings)


def test_a_collapsed_run_is_stopped_after_its_patience_also_when_resumed(tmp_path):
    with pytest.raises(Diverged, match="step 3: reward 0 and entropy below") as caught:
        collapsing(tmp_path / "whole").run()
    assert not caught.value.fatal and len(metrics(tmp_path / "whole")) == 3
    die_at(3, collapsing(tmp_path / "killed", checkpoint_every=1))
    with pytest.raises(Diverged, match="step 3"):
        collapsing(tmp_path / "killed", checkpoint_every=1).run()
    for i, changes in enumerate(({"collapse_patience": 10}, {"collapse_entropy": 0.0})):
        collapsing(tmp_path / str(i), **changes).run()
    build_trainer(METHODS["grpo"](), tmp_path, grade=all_wrong, collapse_patience=1).run()
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 3


def test_best_weights_are_those_of_the_step_that_the_run_names(tmp_path):
    """Those of later steps of a run that was killed are dropped at its resumption, and damaged ones
    end the run in one line instead of leaving other weights in their place."""
    changes = {"learning_rate": 0.3, "num_steps": 5}
    trainer = finish("held-out", tmp_path, **changes)
    best = tmp_path / "checkpoints" / "best"
    assert not list(best.rglob("optimizer*"))  # three times the bytes, which nothing would read
    later = best / "step-000012"
    shutil.copytree(best / f"step-{trainer.best[1]:06d}", later)
    finish("held-out", tmp_path, **changes)
    assert not later.exists()
    for file in best.glob("*/model.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"weights of step {trainer.best[1]}, with which"):
        finish("held-out", tmp_path, **changes)
