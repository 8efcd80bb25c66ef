"""The regime's numbers on completions written by hand, and its verdicts at their limits."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from sgpo.core.types import Completion, FinishReason, Problem
from sgpo.mini import regime
from sgpo.mini.models import MODELS, build_model, build_tokenizer
from sgpo.mini.probes import kl_profile
from sgpo.mini.suites import training_problems


def _completion(text):
    ids = tuple(build_tokenizer()(text)["input_ids"]) + (4,)
    return Completion(ids, text, FinishReason.STOP)


def _problem(kind="Aldric", answer="(8,9)", level=1):
    return Problem(f"{kind}-{answer}", f"Find the {kind} pair: 314", answer, kind=kind, level=level)


RIGHT = "Order Aldric rotated: 143\nCombine sevenfold: 1489310\nFinish decrease \\boxed{(8,9)}"
LUCKY = "Guess \\boxed{(8,9)}"
WRONG = "Guess \\boxed{(1,1)}"


def test_rates_from_written_completions():
    problems = [_problem(), _problem("Borin"), _problem("Borin", level=2)]
    samples = [
        [_completion(t) for t in (RIGHT, LUCKY, WRONG, "Order Aldric")],
        [_completion(t) for t in (WRONG, WRONG, WRONG, WRONG)],
        [_completion(t) for t in (RIGHT, RIGHT, RIGHT, WRONG)],
    ]
    rates = regime.pass_rates(problems, samples)
    assert rates == [0.5, 0.0, 0.75]
    assert regime.rates_by_type(problems, rates) == {"Aldric": 0.5, "Borin": 0.375}
    assert regime.rates_by_level(problems, rates) == {"1": 0.25, "2": 0.75}
    # 7 of 12 completions are guesses, 1 of them is right
    assert regime.guess_rates(problems, samples) == (1 / 12, 1 / 7)


def _verdicts(**changes):
    measured = {
        "blind": 0.005,
        "unguided": [0.0, 0.0, 0.2, 0.4],
        "by_type": {"a": 0.01, "b": 0.5},
        "guided": 0.7,
        "foreign": 0.1,
    }
    conditions = regime.base_conditions(**(measured | changes))
    return {c.name: c.passed for c in conditions}


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        ({}, set()),
        ({"blind": 0.011}, {"1 right by a blind guess"}),
        ({"unguided": [0.0, 0.0, 0.0, 0.1]}, {"2 unguided pass rate"}),
        (
            {"unguided": [0.3, 0.2, 0.1, 0.1]},
            {"2 problems below 1/12, unguided"},
        ),
        ({"by_type": {"a": 0.04, "b": 0.5}}, {"2 hardest type, unguided"}),
        ({"by_type": {"a": 0.01, "b": 0.39}}, {"2 easiest type, unguided"}),
        ({"guided": 0.59}, {"2 guided pass rate"}),
        ({"foreign": 0.36}, {"4 foreign strategy / own strategy"}),
        ({"guided": 0.0}, {"2 guided pass rate", "4 foreign strategy / own strategy"}),
    ],
)
def test_each_condition_fails_on_its_own_number(changes, failing):
    assert {name for name, passed in _verdicts(**changes).items() if not passed} == failing


def test_saturation_window():
    rewards = (0.39, 0.4, 0.8, 0.81)
    assert [regime.saturation_condition(r).passed for r in rewards] == [False, True, True, False]


def test_foreign_strategies_are_of_another_type():
    problems = training_problems("rl", expert_gap=0.0)[:64]
    own = {p.strategy: p.kind for p in problems}
    foreign = regime.with_foreign_strategies(problems)
    for before, after in zip(problems, foreign, strict=True):
        assert after.question == before.question
        assert own[after.strategy] != before.kind


def test_balanced_subset_takes_the_same_number_of_each_type():
    subset = regime.balanced_subset(training_problems("rl", expert_gap=0.0), 3)
    kinds = [p.kind for p in subset]
    assert len(kinds) == 48 and {kinds.count(k) for k in kinds} == {3}


@pytest.fixture(scope="module")
def model():
    return build_model(MODELS["qwen-s"], 0).eval()


def test_kl_profile_agrees_with_plain_softmax(model):
    tokenizer = build_tokenizer()
    strategy = "Type Aldric\nStrategy rotated then sevenfold then decrease"
    problem = Problem("p", "Find the Aldric pair: 314", "(8,9)", strategy=strategy)
    samples = [[_completion(RIGHT), _completion(WRONG)]]

    def distributions(user):
        prompt = tokenizer(f"<|user|>{user}<|end|><|assistant|>")["input_ids"]
        ids = torch.tensor([prompt + list(samples[0][0].token_ids)])
        with torch.no_grad():
            return model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)

    guided = distributions(f"{strategy}\n{problem.question}")
    unguided = distributions(problem.question)
    d = (guided.exp() * (guided - unguided)).sum(-1)
    delta = float(d.sort().values[9:11].mean())  # between two values: ten of them lie below
    profile = kl_profile(model, tokenizer, [problem], samples, delta=delta)
    assert profile.per_token == pytest.approx(float(d.mean()), rel=1e-4)
    assert profile.share_below == pytest.approx(float(d[d <= delta].sum() / d.sum()), rel=1e-3)
    assert profile.share_below_target == profile.share_below  # one right completion: the target
    assert sum(profile.mass.values()) == pytest.approx(1.0)
    assert sum(profile.kept_mass.values()) == pytest.approx(1.0)
    # rotated, sevenfold and decrease are tokens 2, 9 and 20 of the completion
    assert profile.mass["choice"] == pytest.approx(float(d[[2, 9, 20]].sum() / d.sum()), rel=1e-3)


def test_kl_profile_needs_a_right_completion(model):
    problem = Problem("p", "Find the Aldric pair: 314", "(8,9)", strategy="Type Aldric")
    assert kl_profile(model, build_tokenizer(), [problem], [[_completion(WRONG)]]) is None


def test_measure_writes_plain_json_for_a_checkpoint(model, tmp_path):
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    result = regime.measure(tmp_path, per_type=1, unguided_samples=2, guided_samples=2)
    assert json.loads(json.dumps(result)) == result
    assert set(result["conditions"][0]) == {"name", "value", "requirement", "passed"}
    assert result["reported"]["problems"] == 16
    assert not all(c["passed"] for c in result["conditions"])  # an untrained model is no base
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() < 1e5
