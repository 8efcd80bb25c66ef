"""Whether guidance helps a real model, and a warm-up that shows strategies: on stand-ins."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import standin
from scipy.stats import ttest_1samp

from baselines.sft import SFT, SFTConfig
from benchmarks.config import DataConfig
from benchmarks.data.problems import STRATEGIES, data_source, write_problems, write_rows
from benchmarks.data.sources import development_problems
from benchmarks.report.regime import CONDITIONS, MEAN, judged, means
from benchmarks.run.guidance import SAMPLES, measure_guidance
from sgpo.core.config import RolloutConfig
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.rollout import Rollout
from sgpo.core.sampling import CompactSampler
from sgpo.core.types import Completion, FinishReason, Problem

SPEC = PROMPT_SPECS["qwen2.5-instruct"]
TOKENIZER = standin.build_tokenizer(small=True)
PROBLEMS = [
    Problem(
        f"p{i}",
        f"What is {i} + {i}?",
        str(2 * i),
        strategy="Double it." if i % 2 else None,
        expert=f"It is \\boxed{{{2 * i}}}.",
    )
    for i in range(4)
]
UNHELPED = replace(PROBLEMS[2], strategy="Guess.")


def demonstrations(**settings):
    model = standin.build_model(small=True)
    rollout = Rollout(
        model=model,
        sampler=CompactSampler(model, TOKENIZER, stop_ids=SPEC.stop_ids(TOKENIZER)),
        tokenizer=TOKENIZER,
        prompt_spec=SPEC,
        config=RolloutConfig(max_tokens=4),
        seed=0,
    )
    return SFT(SFTConfig(**settings)).collect(PROBLEMS, rollout)


def test_a_warm_up_that_shows_strategies_learns_the_same_trace_under_the_guided_prompt():
    plain, shown = demonstrations(), demonstrations(show_strategies=True)
    assert [t.completion_ids for t in shown] == [t.completion_ids for t in plain]
    for problem, before, after in zip(PROBLEMS, plain, shown, strict=True):
        assert TOKENIZER.decode(after.completion_ids) == problem.expert + "<|im_end|>"
        text = TOKENIZER.decode(after.prompt_ids)
        assert ("Double it." in text) == (problem.strategy is not None) and problem.question in text
        assert (after.prompt_ids == before.prompt_ids) == (problem.strategy is None)
        assert after.second_prompt_ids is None


class Scripted:
    """Right where the prompt doubles and on the first sample; the last sample is cut off, so it is
    wrong whatever it says."""

    def __init__(self):
        self.calls = []

    def sample(self, prompts, n, params):
        self.calls.append(params)
        return [[self.answer(TOKENIZER.decode(p), i, n) for i in range(n)] for p in prompts]

    def answer(self, prompt, i, n):
        value = next(p.answer for p in PROBLEMS if p.question in prompt)
        right = "Double it." in prompt or i == 0
        reason = FinishReason.LENGTH if i == n - 1 else FinishReason.STOP
        return Completion((1,), f"\\boxed{{{value if right else 77}}}", reason)


def test_pass_rates_and_the_interval_of_their_difference_are_over_problems():
    sampler, config = Scripted(), RolloutConfig(max_tokens=9, top_p=0.9)
    guided = [p for p in PROBLEMS if p.strategy]
    found = measure_guidance(sampler, TOKENIZER, SPEC, config, guided, seed=3)
    assert found["unguided"] == {"pass_rate": 1 / SAMPLES, "cut_off": 1 / SAMPLES}
    assert found["guided"] == {"pass_rate": 0.75, "cut_off": 1 / SAMPLES}
    assert found["difference"] == 0.5 and found["interval"] == [None, None]  # equal gains
    mixed = measure_guidance(Scripted(), TOKENIZER, SPEC, config, [guided[0], UNHELPED], seed=3)
    assert mixed["difference"] == 0.25
    assert mixed["interval"] == pytest.approx([*ttest_1samp([0.5, 0], 0).confidence_interval()])


def test_a_training_set_has_a_development_split_or_none(tmp_path):
    for name in ("warmup", "rl", "dev"):
        write_problems(tmp_path / f"{name}.jsonl", PROBLEMS)
    (tmp_path / "report.json").write_text(json.dumps({}))
    write_rows(tmp_path / STRATEGIES, [{"id": "p0", "strategy": "Nothing to do."}])
    config = SimpleNamespace(source=data_source(tmp_path))
    assert [p.strategy for p in development_problems(config)][0] == "Nothing to do."
    (tmp_path / "dev.jsonl").unlink()
    assert development_problems(SimpleNamespace(source=data_source(tmp_path))) == []
    assert development_problems(DataConfig()) == []


# The conditions of the miniature ------------------------------------------------------------------


GOOD = {
    "base": {"hard": 0.5, "mean_unguided": 0.1, "mean_guided": 0.7, "mean_foreign": 0.05},
    "sft": {"mean_unguided": 0.12, "mean_guided": 0.7},
    "grpo": {"open": 0.6, "mean_unguided": 0.5},
}


def windows(stage=None, **changes):
    names = ("hard", "easy", "open", "mean_unguided", "mean_guided", "mean_foreign")
    blank = dict.fromkeys(names, 0.0)
    whole = {s: blank | given | (changes if s == stage else {}) for s, given in GOOD.items()}
    return {s: {7: window, 9: window} for s, window in whole.items()}


@pytest.mark.parametrize(
    ("stage", "changes", "failing"),
    [
        (None, {}, ""),
        ("base", {"hard": 0.2}, "1"),
        ("base", {"mean_unguided": 0.4}, "26"),
        ("sft", {"mean_guided": 0.5}, "3"),
        ("base", {"mean_foreign": 0.4}, "4"),
        ("grpo", {"open": 0.4}, "5"),
        ("sft", {"mean_unguided": 0.2}, "6"),
    ],
)
def test_each_condition_fails_on_its_own_number(stage, changes, failing):
    found = means(judged(windows(stage, **changes)))
    assert "".join(c["condition"][0] for c in found if not c["passed"]) == failing
    assert len(found) == len(CONDITIONS)


def test_a_mean_over_worlds_is_judged_and_every_world_is_told_by_its_seed():
    found = windows()
    found["grpo"] = {world: found["grpo"][7] | {"open": v} for world, v in ((7, 0.3), (9, 0.8))}
    records = judged(found)
    fifth = {r["world"]: r for r in records if r["condition"].startswith("5")}
    assert fifth[MEAN]["value"] == pytest.approx(0.55) and fifth[MEAN]["passed"]
    assert [fifth[world]["passed"] for world in (7, 9)] == [False, True]
    assert [(c["holding"], c["worlds"]) for c in means(records)] == [(2, 2)] * 4 + [(1, 2), (2, 2)]
    reported = {r["world"]: r["value"] for r in records if r["condition"] == "grpo, open"}
    assert reported == {7: 0.3, 9: 0.8}
    assert means(judged(found | {"sft": {}})) == []
