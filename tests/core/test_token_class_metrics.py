"""KL by token class: the tensor lookup against the world's ground truth, and the metrics."""

import math
import random

import pytest
import torch
from tiny import build_model, build_problems, build_trainer, collected, equal_weights, weights_of

from sgpo.core.logprobs import kl_divergence
from sgpo.core.types import Role
from sgpo.method import SGPO, SGPOConfig
from sgpo.mini.models import END, build_tokenizer
from sgpo.mini.probes import MiniTokenClassifier
from sgpo.mini.sets import random_task
from sgpo.mini.world import draw_world
from sgpo.mini.writing import STYLE_LINE, TOKEN_CLASSES, token_classes, writer_text


def test_lookup_equals_the_ground_truth_on_the_world_s_texts():
    tokenizer, rng = build_tokenizer(), random.Random(5)
    classifier = MiniTokenClassifier(tokenizer)
    seen = set()
    texts = []
    for i in range(200):
        task = random_task(rng, 1 + i % 6, "train")
        texts.append(writer_text(draw_world(0), task, i % 2 == 0, rng)[1])
    width = max(map(len, texts)) + 1
    ids = torch.full((len(texts), width), tokenizer.pad_token_id)
    for row, pieces in enumerate(texts):
        ids[row, : len(pieces) + 1] = torch.tensor(tokenizer.convert_tokens_to_ids([*pieces, END]))
    classes = classifier(ids)
    for row, pieces in enumerate(texts):
        names = [classifier.names[i] for i in classes[row].tolist()]
        assert names[: len(pieces)] == token_classes(pieces)
        assert set(names[len(pieces) :]) == {"routine"}
        seen |= set(names)
    assert seen == set(TOKEN_CLASSES)


def test_style_words_count_as_style_only_where_a_completion_opens_with_them():
    tokenizer = build_tokenizer()
    style = tokenizer.convert_tokens_to_ids(STYLE_LINE)
    other = tokenizer.convert_tokens_to_ids(["Order"])
    rows = torch.tensor([[*style, *other], [*other, *style]])
    names = MiniTokenClassifier(tokenizer).names
    first, second = [[names[i] for i in row] for row in MiniTokenClassifier(tokenizer)(rows)]
    assert first == ["style"] * 4 + ["commitment"]
    assert second == ["commitment"] + ["routine"] * 4
    short = torch.tensor([style[:2]])
    assert [names[i] for i in MiniTokenClassifier(tokenizer)(short)[0]] == ["routine"] * 2


class ThirdsClassifier:
    """Any world will do: a token's class is its id modulo 3."""

    names = ("zero", "one", "two")

    def __call__(self, token_ids):
        return token_ids % 3


def test_metrics_by_class_add_up_and_are_right_token_by_token():
    config = SGPOConfig(num_autonomous=4, num_guided=4, kl_threshold=0.7)
    method = SGPO(config, ThirdsClassifier())
    trajectories, model = collected(method, problems=build_problems(6))
    sums = method.loss(model, trajectories, method.totals(trajectories)).sums
    mass, masked = [0.0] * 3, [0.0] * 3
    for t in (t for t in trajectories if t.role is Role.GUIDED):
        logits = [
            model(torch.tensor([prompt + t.completion_ids])).logits[0, len(prompt) - 1 : -1]
            for prompt in (t.second_prompt_ids, t.prompt_ids)
        ]
        values = kl_divergence(logits[0], logits[1], direction="forward").tolist()
        for token, value in zip(t.completion_ids, values, strict=True):
            mass[token % 3] += value
            masked[token % 3] += value if value > 0.7 else 0.0
    assert 0 < sum(masked) < sum(mass)
    for i, name in enumerate(ThirdsClassifier.names):
        assert sums[f"kl_mass_{name}"] == pytest.approx((mass[i], sum(mass)), rel=1e-4)
        assert sums[f"kl_masked_{name}"] == pytest.approx((masked[i], sum(mass)), rel=1e-4)
    parts = [sums[f"kl_masked_{name}"][0] for name in ThirdsClassifier.names]
    assert sum(parts) == pytest.approx(sums["kl_masked_share"][0], rel=1e-5)


@pytest.mark.parametrize("threshold", [1.0, math.inf])
def test_the_classifier_changes_no_number_of_the_training(tmp_path, threshold):
    config = SGPOConfig(num_autonomous=4, num_guided=4, kl_threshold=threshold)
    finals, records = [], []
    for name, method in (("plain", SGPO(config)), ("sorted", SGPO(config, ThirdsClassifier()))):
        trainer = build_trainer(method, tmp_path / name, model=build_model())
        steps = [trainer.step(step) for step in (1, 2)]
        extra = {k for k in steps[0] if k.startswith(("kl_mass_", "kl_masked_"))}
        extra -= {"kl_masked_share", "kl_masked_token_share"}
        assert len(extra) == (6 if name == "sorted" else 0)
        records.append([{k: v for k, v in s.items() if k not in extra} for s in steps])
        finals.append(weights_of(trainer.model))
    assert equal_weights(*finals) and records[0] == records[1]


def by_hand(model, teacher, trajectories, problems, *, sharpness=1.0, leaves=lambda t, i: False):
    """alpha times the mean KL of each target, without the tokens that are left out."""
    total = 0.0
    for t in (t for t in trajectories if t.role is Role.GUIDED):
        taught, own = (
            m(torch.tensor([prompt + t.completion_ids])).logits[0, len(prompt) - 1 : -1]
            for m, prompt in ((teacher, t.second_prompt_ids), (model, t.prompt_ids))
        )
        values = kl_divergence(sharpness * taught, own, direction="forward").tolist()
        kept = [v for i, v in enumerate(values) if not leaves(t.completion_ids[i], i)]
        total += t.weight * sum(kept) / len(values)
    return total / problems


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"leave_out": "first"}, {"leaves": lambda token, place: place == 0}),
        ({"leave_out": "choice"}, {"leaves": lambda token, place: token % 2 == 1}),
        ({"sharpness": 2.0}, {"sharpness": 2.0}),
        ({"teacher": "initial"}, {}),
    ],
)
def test_one_factor_of_the_distillation_is_changed_and_nothing_else(changes, how):
    class Choices(ThirdsClassifier):
        names = ("routine", "choice")

        def __call__(self, token_ids):
            return token_ids % 2

    config = SGPOConfig(num_guided=4, kl_threshold=math.inf, autonomous_term=False, **changes)
    method, model = SGPO(config, Choices()), build_model(seed=1)
    trajectories, _ = collected(method, model, problems=build_problems(6))
    teacher = model
    if config.teacher == "initial":
        teacher = method.teacher.model
        with torch.no_grad():  # the policy has moved since
            model.get_input_embeddings().weight.mul_(1.3)
    loss = method.loss(model, trajectories, method.totals(trajectories)).loss
    expected = by_hand(model, teacher, trajectories, 6, **how)
    assert loss.item() == pytest.approx(expected, rel=1e-4) and expected > 0


def test_unverified_targets_are_wrong_ones_too():
    def targets(**changes):
        method = SGPO(SGPOConfig(select_target=False, **changes))
        return [t.reward for t in collected(method)[0] if t.role is Role.GUIDED]

    assert set(targets()) == {1.0} and set(targets(verified=False)) == {0.0, 1.0}
    with pytest.raises(ValueError, match="leave_out=style: only the miniature knows"):
        SGPO(SGPOConfig(leave_out="style"))
