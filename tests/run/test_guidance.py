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
from benchmarks.report.measures import guidance_text
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
    first, second = sampler.calls
    assert first.seed != second.seed and (first.max_tokens, first.top_p) == (9, 0.9)
    again = Scripted()
    measure_guidance(again, TOKENIZER, SPEC, config, guided, seed=3)
    assert again.calls == sampler.calls


def test_the_line_says_what_the_interval_allows():
    rate = {"pass_rate": 0.12, "cut_off": 0.413}
    found = {"problems": 8, "unguided": rate, "guided": rate, "difference": 0.1}
    for interval, words in (
        ([0.01, 0.2], "guidance helps: +0.10 [0.01, 0.20] over 8 problems, one run"),
        ([-0.1, 0.3], "no gain is shown: +0.10 [-0.10, 0.30]"),
        ([None, None], "no gain is shown: +0.10 over 8 problems"),
        ([-0.3, -0.1], "guidance harms: "),
    ):
        text = guidance_text(found | {"interval": interval})
        assert text.startswith("unguided 0.12 (41% cut off), guided 0.12 (41% cut off), ")
        assert words in text


def test_a_training_set_has_a_development_split_or_none(tmp_path):
    for name in ("warmup", "rl", "dev"):
        write_problems(tmp_path / f"{name}.jsonl", PROBLEMS)
    (tmp_path / "report.json").write_text(json.dumps({}))
    write_rows(tmp_path / STRATEGIES, [{"id": "p0", "strategy": "Nothing to do."}])
    config = SimpleNamespace(source=data_source(tmp_path))
    assert [p.strategy for p in development_problems(config)][0] == "Nothing to do."
    write_problems(tmp_path / "dev.jsonl", PROBLEMS[:2])
    with pytest.raises(ValueError, match="they were changed"):
        development_problems(config)
    (tmp_path / "dev.jsonl").unlink()
    assert development_problems(SimpleNamespace(source=data_source(tmp_path))) == []
    assert development_problems(DataConfig()) == []
