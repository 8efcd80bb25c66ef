"""Prompts as ids: one spelling for training, sampling and evaluation."""

from dataclasses import replace

import pytest
from tiny import END, SPEC, VOCABULARY, build_model, build_problems, build_rollout, build_tokenizer
from tokenizers import processors

from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Role
from sgpo.core.verifier import grade

TOKENIZER = build_tokenizer()
PROBLEM = build_problems(3)[2]
USER, ASSISTANT = VOCABULARY.index("<|user|>"), VOCABULARY.index("<|assistant|>")


def ids(text: str) -> tuple[int, ...]:
    return tuple(VOCABULARY.index(word) for word in text.split())


def test_prompt_ids_are_the_templates():
    expected = (USER, *ids(PROBLEM.question), END, ASSISTANT)
    assert SPEC.prompt_ids(TOKENIZER, PROBLEM) == expected


def test_the_strategy_stands_before_the_problem():
    expected = (USER, *ids(PROBLEM.strategy), *ids(PROBLEM.question), END, ASSISTANT)
    assert SPEC.prompt_ids(TOKENIZER, PROBLEM, guided=True) == expected
    # Strategies are data, never templates.
    braces = replace(PROBLEM, strategy="s1 {question} {0} }{ s2", question="w1 {strategy}")
    got = SPEC.prompt_ids(TOKENIZER, braces, guided=True)
    assert got.count(VOCABULARY.index("w1")) == 1 and got.count(VOCABULARY.index("s1")) == 1


def test_suffix_prefill_and_system_turn():
    spec = replace(SPEC, suffix=" w7 w8", prefill=" w9", system="w10 w11")
    system = TOKENIZER.convert_tokens_to_ids("<|unk|>")  # the tiny vocabulary has no system role
    expected = (
        system, *ids("w10 w11"), END, USER, *ids(PROBLEM.question), *ids("w7 w8"), END, ASSISTANT,
        *ids("w9"),
    )  # fmt: skip
    assert spec.prompt_ids(TOKENIZER, PROBLEM) == expected
    guided = spec.prompt_ids(TOKENIZER, PROBLEM, guided=True)
    assert guided[-4:] == expected[-4:] and len(guided) == len(expected) + len(
        PROBLEM.strategy.split()
    )


def test_sft_ids_are_rollout_prompt_ids_and_target_ids():
    rollout = build_rollout(build_model())
    rollout.begin_step(1)
    problems = build_problems(3)
    sampled = rollout.groups(problems, 2)
    for problem, demo, group in zip(
        problems, rollout.demonstrations(problems), sampled, strict=True
    ):
        assert demo.role is Role.DEMO and demo.reward == 1.0
        assert demo.prompt_ids == group[0].prompt_ids == SPEC.prompt_ids(TOKENIZER, problem)
        assert demo.completion_ids == (*ids(problem.expert), END)
        assert END not in demo.completion_ids[:-1]


def test_a_trace_that_repeats_the_prefill_loses_the_repetition():
    spec = replace(SPEC, prefill="w3 w4")
    assert spec.target_ids(TOKENIZER, "w3 w4 w5") == (*ids("w5"), END)
    assert spec.target_ids(TOKENIZER, "w5 w3 w4") == (*ids("w5 w3 w4"), END)


def test_no_second_begin_of_sequence_token():
    """A template that writes it and a tokenizer that adds it must not both act."""
    tokenizer, begin = build_tokenizer(), VOCABULARY.index("w13")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="w13 $A", special_tokens=[("w13", begin)]
    )
    assert tokenizer("w1")["input_ids"] == [begin, *ids("w1")]  # what must not happen below
    tokenizer.chat_template = "{{ 'w13 ' }}" + tokenizer.chat_template
    prompt = SPEC.prompt_ids(tokenizer, replace(PROBLEM, question="w1 w2"))
    assert prompt.count(begin) == 1
    assert begin not in SPEC.target_ids(tokenizer, "w1 w2")


def test_stop_ids_are_end_of_turn_then_eos():
    assert SPEC.stop_ids(TOKENIZER) == (END,)
    tokenizer = build_tokenizer()
    tokenizer.eos_token = "<|pad|>"  # a base checkpoint's eos differs from the end of turn
    assert SPEC.stop_ids(tokenizer) == (END, 0)
    tokenizer.eos_token = None
    assert SPEC.stop_ids(tokenizer) == (END,)


def test_a_tokenizer_of_another_family_is_refused():
    with pytest.raises(ValueError, match="does not know '<.im_end.>'.*'qwen2.5-instruct'"):
        PROMPT_SPECS["qwen2.5-instruct"].stop_ids(TOKENIZER)


def test_missing_strategy_and_missing_template_are_named():
    for strategy in (None, ""):
        with pytest.raises(ValueError, match="problem 'p2' has no strategy"):
            SPEC.prompt_ids(TOKENIZER, replace(PROBLEM, strategy=strategy), guided=True)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        SPEC.prompt_ids(tokenizer, PROBLEM)


def test_every_spec_is_complete():
    for name, spec in PROMPT_SPECS.items():
        assert spec.name == name and spec.end_of_turn
        shown = spec.guided.format(strategy="STRATEGY", question="QUESTION")
        assert shown.index("STRATEGY") < shown.index("QUESTION")  # Section 3 of the paper


@pytest.mark.parametrize(
    ("name", "completion", "verdict"),
    [
        ("qwen2.5-instruct-think", "so \\boxed{7}", "no_answer"),  # the thought was never closed
        ("qwen2.5-instruct-think", "so</think> \\boxed{7}", "correct"),
        ("qwen2.5-instruct", "so \\boxed{7}", "correct"),
        ("qwen2.5-none", "It is 8.\n\nQuestion: next\nso \\boxed{7}", "not correct"),
        ("qwen2.5-none", "\\boxed{7}\n\n### Problem 2: next\nso \\boxed{9}", "correct"),
        ("llama-3-none", "\\boxed{7}\nHuman: and now?\n\\boxed{9}", "correct"),
        ("qwen2.5-none", "The problem: 7 of them.\n\\boxed{7}", "correct"),
        ("qwen2.5-instruct", "It is\nQuestion: sure?\n\\boxed{7}", "correct"),
    ],
)
def test_what_is_graded_of_a_completion(name, completion, verdict):
    text, cut = PROMPT_SPECS[name].graded_text(completion)
    found = grade("7", text)
    assert found.correct if verdict == "correct" else not found.correct
    assert verdict != "no_answer" or found.reason == verdict
    assert cut == ("next" in completion or "Human" in completion)
