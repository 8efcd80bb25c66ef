"""What stops a training run: a loss that is no number, a collapse, and nothing else."""

import json
import math

import pytest
import torch
from tiny import (
    METHODS,
    build_model,
    build_trainer,
    equal_weights,
    weights_of,
)

from sgpo.core.trainer import Diverged
from sgpo.core.types import LossOutput
from sgpo.core.verifier import Verdict


class Killed(BaseException):
    """Stands for kill -9: nothing in the trainer may catch it."""


def metrics(run_dir):
    """The stored records without the clock."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if k != "seconds"} for s in lines]


class NotANumber:
    """A method that follows SFT and then breaks."""

    def __init__(self, after):
        self.inner, self.calls, self.after = METHODS["sft"](), 0, after
        self.collect, self.totals = self.inner.collect, self.inner.totals

    def loss(self, model, trajectories, totals):
        self.calls += 1
        output = self.inner.loss(model, trajectories, totals)
        factor = math.nan if self.calls > self.after else 1.0
        return LossOutput(output.loss * factor, output.sums)


def test_a_loss_that_is_no_number_stops_before_it_does_damage(tmp_path):
    trainer = build_trainer(NotANumber(after=2), tmp_path, micro_batch_tokens=100_000)
    twin = build_trainer(
        METHODS["sft"](), tmp_path / "twin", num_steps=2, micro_batch_tokens=100_000
    )
    with pytest.raises(Diverged, match="step 3.*nan.*learning_rate") as caught:
        trainer.run()
    assert caught.value.fatal
    twin.run()
    assert equal_weights(weights_of(trainer.model), weights_of(twin.model))
    assert [r["step"] for r in metrics(tmp_path)] == [1, 2]


def test_an_exploding_run_is_marked_and_not_crashed(tmp_path):
    trainer = build_trainer(METHODS["grpo"](), tmp_path, learning_rate=1e20, num_steps=4)
    with pytest.raises(Diverged) as caught:
        trainer.run()
    assert caught.value.fatal


def all_wrong(pairs, *, truncated=None):
    return [Verdict(False, "wrong", None) for _ in pairs]


def collapsing(tmp_path, **changes):
    """A policy without entropy that is always wrong."""
    model = build_model()
    with torch.no_grad():
        model.model.norm.weight.mul_(1e4)
    settings = {"num_steps": 9, "collapse_patience": 3, "learning_rate": 1e-12} | changes
    return build_trainer(METHODS["grpo"](), tmp_path, model=model, grade=all_wrong, **settings)


def test_a_collapsed_run_is_stopped_after_its_patience(tmp_path):
    with pytest.raises(Diverged, match="step 3: reward 0 and entropy below") as caught:
        collapsing(tmp_path).run()
    assert not caught.value.fatal
    assert len(metrics(tmp_path)) == 3


def test_patience_is_not_renewed_by_resuming(tmp_path):
    with pytest.raises(Diverged):
        collapsing(tmp_path / "whole", checkpoint_every=1).run()
    trainer = collapsing(tmp_path / "killed", checkpoint_every=1)
    step = trainer.step

    def dying(number):
        if number == 3:
            raise Killed
        return step(number)

    trainer.step = dying
    with pytest.raises(Killed):
        trainer.run()
    with pytest.raises(Diverged, match="step 3"):
        collapsing(tmp_path / "killed", checkpoint_every=1).run()


@pytest.mark.parametrize("changes", [{"collapse_patience": 10}, {"collapse_entropy": 0.0}])
def test_no_collapse_without_its_conditions(tmp_path, changes):
    collapsing(tmp_path, **changes).run()
    assert len(metrics(tmp_path)) == 9


def test_being_wrong_with_entropy_is_no_collapse(tmp_path):
    build_trainer(METHODS["grpo"](), tmp_path, grade=all_wrong, collapse_patience=1).run()
    assert len(metrics(tmp_path)) == 3
