"""The KL of SGPO by classes of tokens, and its one-factor interventions, token by token by hand."""

import math

import pytest
import torch
from tiny import build_model, build_problems, build_trainer, collected, equal_weights, weights_of

from sgpo.core.logprobs import kl_divergence
from sgpo.core.types import Role
from sgpo.method import SGPO, SGPOConfig


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
