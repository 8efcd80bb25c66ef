"""The training loop: resuming, data order, learning rate, and what stops it."""

import json
import math
import shutil

import pytest
import torch
from tiny import (
    METHODS,
    Hooked,
    build_model,
    build_problems,
    build_rollout,
    build_trainer,
    dense_logprobs,
    equal_weights,
    grader,
    weights_of,
)

from sgpo.core.trainer import Diverged

STEPS = 6
RESUMED = {**METHODS, "hooked": Hooked}


class Killed(BaseException):
    """Stands for kill -9: nothing in the trainer may catch it."""


def grader_that_dies(step, trainers):
    """The tiny grader, until the trainer's rollout has reached ``step``."""

    def grade(pairs, *, truncated=None):
        if trainers[0].rollout.step == step:
            raise Killed
        return grader(pairs, truncated=truncated)

    return grade


def metrics(run_dir):
    """The stored records without the clock."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if k != "seconds"} for s in lines]


def finish(name, run_dir, **changes):
    """A trainer run to its end."""
    trainer = build_trainer(RESUMED[name](), run_dir, num_steps=STEPS, **changes)
    trainer.run()
    return trainer


def die_at(name, run_dir, step, **changes):
    trainers = []
    grade = grader_that_dies(step, trainers)
    trainers.append(
        build_trainer(RESUMED[name](), run_dir, grade=grade, num_steps=STEPS, **changes)
    )
    with pytest.raises(Killed):
        trainers[0].run()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Final weights and metrics of every method, never interrupted."""
    finals = {}
    for name in RESUMED:
        run_dir = tmp_path_factory.mktemp(name)
        start = build_model()
        trainer = finish(name, run_dir)
        finals[name] = weights_of(trainer.model), metrics(run_dir)
        assert not equal_weights(finals[name][0], weights_of(start))
        assert len(finals[name][1]) == STEPS
    return finals


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_killed_and_resumed_equals_uninterrupted(name, step, tmp_path, uninterrupted):
    """Bit for bit, for every method: before the first state, between states, at the last step."""
    die_at(name, tmp_path, step)
    assert len(metrics(tmp_path)) == step - 1
    resumed = finish(name, tmp_path)
    weights, records = uninterrupted[name]
    assert equal_weights(weights_of(resumed.model), weights)
    assert metrics(tmp_path) == records


def test_resuming_does_not_start_over(tmp_path):
    die_at("grpo", tmp_path, 6)
    steps = []

    def count(pairs, *, truncated=None):
        steps.append(trainers[0].rollout.step)
        return grader(pairs, truncated=truncated)

    trainers = [build_trainer(METHODS["grpo"](), tmp_path, grade=count, num_steps=STEPS)]
    trainers[0].run()
    assert steps == [5, 6]  # the newest state is that of step 4


def test_killed_twice_with_a_half_written_metrics_line(tmp_path, uninterrupted):
    die_at("sgpo", tmp_path, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')
    die_at("sgpo", tmp_path, 5)
    resumed = finish("sgpo", tmp_path)
    assert equal_weights(weights_of(resumed.model), uninterrupted["sgpo"][0])
    assert metrics(tmp_path) == uninterrupted["sgpo"][1]


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_state_falls_back_to_the_previous_one(tmp_path, uninterrupted, file, capsys):
    die_at("grpo", tmp_path, 6)
    states = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert states == ["step-000002", "step-000004"]
    path = tmp_path / "checkpoints" / "step-000004" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1 if file != "state.json" else 0x80
    path.write_bytes(content)
    resumed = finish("grpo", tmp_path)
    assert "step-000004" in capsys.readouterr().out  # the user is told
    assert equal_weights(weights_of(resumed.model), uninterrupted["grpo"][0])
    assert metrics(tmp_path) == uninterrupted["grpo"][1]


def test_two_updates_a_step_resume_too(tmp_path):
    whole = finish("sgpo", tmp_path / "whole", updates_per_step=2)
    die_at("sgpo", tmp_path / "killed", 4, updates_per_step=2)
    resumed = finish("sgpo", tmp_path / "killed", updates_per_step=2)
    assert equal_weights(weights_of(whole.model), weights_of(resumed.model))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "killed")


def test_equal_seeds_agree_and_others_do_not(tmp_path, uninterrupted):
    again = finish("grpo", tmp_path / "again")
    other = finish("grpo", tmp_path / "other", seed=8)
    assert equal_weights(weights_of(again.model), uninterrupted["grpo"][0])
    assert not equal_weights(weights_of(other.model), uninterrupted["grpo"][0])


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_change_memory_and_not_the_step(tmp_path, name):
    norms = []
    for budget in (1, 64, 100_000):
        trainer = build_trainer(METHODS[name](), tmp_path / str(budget), micro_batch_tokens=budget)
        record = trainer.step(1)
        norms.append((record["loss"], record["grad_norm"]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-3, abs=1e-5)
    assert norms[2] == pytest.approx(norms[0], rel=1e-3, abs=1e-5)
    assert norms[0][1] > 0


def test_every_epoch_is_a_permutation(tmp_path):
    trainer = build_trainer(METHODS["sft"](), tmp_path, problems=build_problems(13))
    epochs = [[p.id for s in (1, 2, 3) for p in trainer.step_problems(3 * e + s)] for e in range(3)]
    for epoch in epochs:
        assert len(set(epoch)) == 12  # 3 steps of 4; one of the 13 sits this epoch out
    assert epochs[0] != epochs[1] != epochs[2]
    assert len({p for epoch in epochs for p in epoch}) == 13
    again = build_trainer(METHODS["grpo"](), tmp_path, problems=build_problems(13))
    assert [p.id for p in again.step_problems(4)] == epochs[1][:4]  # the same for every method
    other = build_trainer(METHODS["sft"](), tmp_path, problems=build_problems(13), seed=8)
    assert [p.id for s in (1, 2, 3) for p in other.step_problems(s)] != epochs[0]


def test_learning_rate_rises_and_stays(tmp_path):
    trainer = build_trainer(
        METHODS["sft"](), tmp_path, num_steps=10, warmup_share=0.25, learning_rate=3.0
    )
    assert [trainer.learning_rate(s) for s in range(1, 11)] == pytest.approx([1, 2] + [3] * 8)
    flat = build_trainer(METHODS["sft"](), tmp_path, num_steps=10, learning_rate=3.0)
    assert [flat.learning_rate(s) for s in (1, 10)] == [3.0, 3.0]


def test_the_optimiser_gets_the_rate_of_its_step(tmp_path):
    """The first AdamW update moves every weight with a gradient by its rate."""
    trainer = build_trainer(
        METHODS["sft"](), tmp_path, num_steps=10, warmup_share=0.5, learning_rate=1e-2
    )
    before = weights_of(trainer.model)
    record = trainer.step(1)
    moves = torch.cat(
        [(p.detach() - before[n]).abs().flatten() for n, p in trainer.model.named_parameters()]
    )
    assert record["learning_rate"] == pytest.approx(2e-3)
    assert moves.max().item() == pytest.approx(2e-3, rel=1e-2)


def test_a_vanishing_rate_leaves_the_policy_as_it_was(tmp_path):
    """No hidden update: without learning, every step sees the same policy."""
    trainer = build_trainer(METHODS["sgpo"](), tmp_path, learning_rate=1e-30, updates_per_step=2)
    start = weights_of(trainer.model)
    trainer.run()
    for name, parameter in trainer.model.named_parameters():
        assert (parameter - start[name]).abs().max() < 1e-28, name
    assert all(r["clip_share"] == 0 for r in metrics(tmp_path))


def test_gradients_are_clipped_to_the_norm(tmp_path):
    """The first moment after one step is 0.1 times the clipped gradient."""
    trainer = build_trainer(METHODS["sft"](), tmp_path, grad_clip=0.01)
    assert trainer.step(1)["grad_norm"] > 0.01  # the norm before clipping is what is reported
    moments = [state["exp_avg"] for state in trainer.optimizer.state.values()]
    norm = torch.cat([m.flatten() for m in moments]).norm().item()
    assert norm == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_too_few_problems_are_refused(tmp_path):
    with pytest.raises(ValueError, match="problems_per_step=4: only 3 problems"):
        build_trainer(METHODS["sft"](), tmp_path, problems=build_problems(3))


def test_progress_reaches_the_total(tmp_path):
    calls = []
    trainer = build_trainer(METHODS["sft"](), tmp_path)
    trainer.progress = lambda done, total: calls.append((done, total))
    trainer.run()
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sft", {"loss", "grad_norm"}),
        ("grpo", {"loss", "reward", "entropy", "clip_share", "response_length"}),
        ("luffy", {"loss", "reward", "entropy", "truncated_share"}),
        ("hpt", {"loss", "reward", "imitated_share"}),  # a step of imitation alone has no entropy
        ("opsd", {"reward", "kl_mean", "scored_tokens"}),
        ("srft", {"loss", "reward", "entropy", "sft_weight"}),
        ("sgpo", {"reward", "guided_reward", "alpha_mean", "kl_mean", "kl_masked_share"}),
    ],
)
def test_what_figures_need_is_recorded(uninterrupted, name, expected):
    for record in uninterrupted[name][1]:
        assert expected <= record.keys()
        assert all(math.isfinite(v) for v in record.values())
    counted = [r["num_samples"] for r in uninterrupted[name][1]]
    per_step = {"sft": 0, "grpo": 24, "luffy": 20, "hpt": 24, "opsd": 24, "srft": 20, "sgpo": 32}
    per_step = per_step[name]
    assert counted == [per_step * (i + 1) for i in range(STEPS)]


@pytest.mark.parametrize("updates", [1, 2])
def test_scored_tokens_count_every_pass_over_a_completion(tmp_path, updates):
    """The policy's pass, the teacher's, Eq. 4's ranking, and old log-probabilities where the
    policy moves within a step; counted from the trajectories of equal draws."""
    scored = {}
    for name in ("grpo", "opsd", "sgpo"):
        trainer = build_trainer(METHODS[name](), tmp_path / name, updates_per_step=updates)
        scored[name] = trainer.step(1)["scored_tokens"]
        rollout = build_rollout(build_model())
        rollout.begin_step(1)
        problems = trainer.step_problems(1)
        own = rollout.groups(problems, {"grpo": 6, "opsd": 6, "sgpo": 4}[name])
        tokens = sum(len(t.completion_ids) for group in own for t in group)
        expected = tokens * {"grpo": 1, "opsd": 2, "sgpo": 1}[name] + tokens * (updates - 1)
        if name == "sgpo":
            guided = rollout.groups(problems, 4, guided=True)
            correct = [[t for t in group if t.reward == 1.0] for group in guided]
            ranked = [group for group in correct if len(group) > 1]
            expected += sum(len(t.completion_ids) for group in ranked for t in group)
            for group in filter(None, correct):
                best = max(
                    group,
                    key=lambda t: float(
                        dense_logprobs(rollout.model, t.prompt_ids, t.completion_ids).sum().detach()
                    ),
                )
                expected += (1 + updates) * len(best.completion_ids)
        assert scored[name] == expected, name
    assert len(set(scored.values())) == 3


def by_epoch(tmp_path, **changes):
    """SFT on nine of the tiny problems, four a step: two steps an epoch, three held out."""
    return build_trainer(
        METHODS["sft"](), tmp_path, num_steps=STEPS, held_out_share=0.25, **changes
    )


def test_sft_keeps_the_weights_of_the_lowest_loss_on_what_it_holds_out(tmp_path):
    """A rate so large that the loss rises again; the values by dense code on the weights of every
    epoch of a trainer that is stepped by hand."""
    trainer = by_epoch(tmp_path / "run", learning_rate=0.3)
    held = {p.id for p in trainer.held_out}
    assert len(held) == 3 and held.isdisjoint(p.id for p in trainer.problems)
    assert {p.id for p in by_epoch(tmp_path / "s", seed=8).held_out} != held
    trainer.run()
    assert held.isdisjoint(p.id for s in range(1, STEPS + 1) for p in trainer.step_problems(s))
    by_hand, losses, finals = by_epoch(tmp_path / "hand", learning_rate=0.3), [], []
    for step in range(1, STEPS + 1):
        by_hand.step(step)
        if step % 2 == 0:
            rows = [
                dense_logprobs(by_hand.model, t.prompt_ids, t.completion_ids).detach()
                for t in by_hand.rollout.demonstrations(by_hand.held_out)
            ]
            losses.append(-torch.cat(rows).mean().item())
            finals.append(weights_of(by_hand.model))
    stored = [r["held_out_loss"] for r in metrics(tmp_path / "run") if "held_out_loss" in r]
    assert stored == pytest.approx(losses, abs=1e-5)
    best = losses.index(min(losses))
    assert best < len(losses) - 1, "the last epoch must not be the best, else nothing is tested"
    assert equal_weights(weights_of(trainer.model), finals[best])


def test_a_killed_run_still_knows_its_lowest_loss(tmp_path):
    whole = by_epoch(tmp_path / "whole", learning_rate=0.05)
    whole.run()
    trainers = []

    def dies(pairs, *, truncated=None):
        if trainers[0].rollout.step == 5:
            raise Killed
        return grader(pairs, truncated=truncated)

    trainers.append(by_epoch(tmp_path / "killed", learning_rate=0.05, grade=dies))
    with pytest.raises(Killed):
        trainers[0].run()
    resumed = by_epoch(tmp_path / "killed", learning_rate=0.05)
    resumed.run()
    assert equal_weights(weights_of(resumed.model), weights_of(whole.model))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    sampling = build_trainer(METHODS["grpo"](), tmp_path / "grpo", held_out_share=0.25)
    with pytest.raises(ValueError, match="held_out_share=0.25: serves methods that sample nothing"):
        sampling.run()


def test_an_update_above_the_limit_is_skipped_and_counted(tmp_path):
    """The clip does not hide the norm: what is compared is the norm before it."""
    for limit, moves in ((1e-3, False), (1e3, True)):
        trainer = build_trainer(
            METHODS["hpt"](), tmp_path / str(moves), skip_above=limit, grad_clip=1e-4
        )
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
        if self.count in self.updates:
            return type(output)(output.loss * math.nan, output.sums)
        return output


def test_a_non_finite_update_is_skipped_until_there_are_too_many_in_a_row(tmp_path):
    trainer = build_trainer(
        Exploding(2, 3, 5), tmp_path / "goes-on", num_steps=STEPS, nonfinite_patience=3
    )
    trainer.run()
    shares = [r["skipped_share"] for r in metrics(tmp_path / "goes-on")]
    assert shares == [0, 1, 1, 0, 1, 0]
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    ends = build_trainer(Exploding(2, 3), tmp_path / "ends", num_steps=STEPS, nonfinite_patience=2)
    with pytest.raises(Diverged, match="step 3: .*not finite; .*2 updates in a row") as caught:
        ends.run()
    assert caught.value.fatal and len(metrics(tmp_path / "ends")) == 2


def test_the_rate_falls_as_asked(tmp_path):
    """Two steps up, four down; linear and cosine by their closed forms."""
    down = {
        "constant": [1, 1, 1, 1],
        "linear": [0.8, 0.6, 0.4, 0.2],
        "cosine": [(1 + math.cos(math.pi * i / 5)) / 2 for i in (1, 2, 3, 4)],
    }
    for decay, factors in down.items():
        trainer = build_trainer(
            METHODS["sft"](), tmp_path, num_steps=6, warmup_share=1 / 3, decay=decay
        )
        rates = [trainer.learning_rate(step) for step in range(1, 7)]
        assert rates == pytest.approx([5e-3, 1e-2, *(1e-2 * f for f in factors)])


def test_best_weights_are_those_of_the_step_that_the_run_names(tmp_path):
    """Those of later steps of a run that was killed are dropped at its resumption, and damaged ones
    end the run in one line instead of leaving other weights in their place."""
    trainer = by_epoch(tmp_path, learning_rate=0.3)
    trainer.run()
    best = tmp_path / "checkpoints" / "best"
    named = f"step-{trainer.best[1]:06d}"
    later = best / f"step-{STEPS + 7:06d}"
    shutil.copytree(best / named, later)
    by_epoch(tmp_path, learning_rate=0.3).run()
    assert not later.exists()
    for file in best.glob("*/model.safetensors"):
        file.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=f"weights of step {trainer.best[1]}, with the"):
        by_epoch(tmp_path, learning_rate=0.3).run()
