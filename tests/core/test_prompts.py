"""Prompts as ids: those of Qwen2.5 and Llama 3 computed without a tokenizer, those that follow from
a checkpoint's own template, and one spelling for training, sampling and evaluation."""

import json
from dataclasses import replace
from datetime import date

import pytest
import standin
import tiny
from standin import LLAMA_SPECIALS, QWEN_SPECIALS, byte_ids
from transformers import AutoTokenizer

from sgpo.core.models import load_tokenizer
from sgpo.core.prompts import PROMPT_SPECS, native_spec, prompt_spec
from sgpo.core.types import Problem, Role
from sgpo.core.verifier import grade

PROBLEM = Problem("p", "What is $2+2$?\n é", "4", strategy="Type: sums.\nAdd {them}.", expert="x")
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."
GUIDED = (
    "Here is a strategy for the problem.\nType: sums.\nAdd {them}.\n\n"
    "Solve the problem with its help.\nWhat is $2+2$?\n é"
)
QWEN_SYSTEM = "system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
LLAMA_SYSTEM = "\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


@pytest.fixture(scope="module", params=["qwen2.5", "llama-3"])
def family(request):
    return request.param, standin.build_tokenizer(request.param)


def golden(family: str, user: str, prefill: str = "") -> tuple[int, ...]:
    """The ids that the published chat format gives, special tokens by their published number."""
    if family == "qwen2.5":
        start, end = QWEN_SPECIALS["<|im_start|>"], QWEN_SPECIALS["<|im_end|>"]
        return (
            start, *byte_ids(QWEN_SYSTEM), end, *byte_ids("\n"),
            start, *byte_ids("user\n" + user), end, *byte_ids("\n"),
            start, *byte_ids("assistant\n" + prefill),
        )  # fmt: skip
    head, tail = LLAMA_SPECIALS["<|start_header_id|>"], LLAMA_SPECIALS["<|end_header_id|>"]
    end = LLAMA_SPECIALS["<|eot_id|>"]
    return (
        LLAMA_SPECIALS["<|begin_of_text|>"],
        head, *byte_ids("system"), tail, *byte_ids(LLAMA_SYSTEM), end,
        head, *byte_ids("user"), tail, *byte_ids("\n\n" + user), end,
        head, *byte_ids("assistant"), tail, *byte_ids("\n\n" + prefill),
    )  # fmt: skip


def test_prompts_targets_and_stops_are_the_published_ones(family, tmp_path):
    """The same of a tokenizer that was saved and loaded, which is another class."""
    name, tokenizer = family
    spec, think = (prompt_spec(f"{name}-instruct{kind}") for kind in ("", "-think"))
    assert native_spec(tokenizer) is spec
    assert spec.prompt_ids(tokenizer, PROBLEM) == golden(name, PROBLEM.question + BOXED)
    assert spec.prompt_ids(tokenizer, PROBLEM, guided=True) == golden(name, GUIDED + BOXED)
    opened = golden(name, PROBLEM.question + BOXED, "<think>\n")
    assert think.prompt_ids(tokenizer, PROBLEM) == opened
    bare = prompt_spec(f"{name}-none")
    begin = (LLAMA_SPECIALS["<|begin_of_text|>"],) if name == "llama-3" else ()
    assert bare.prompt_ids(tokenizer, PROBLEM) == (*begin, *byte_ids(PROBLEM.question))
    stops = {"qwen2.5": (151645, 151643), "llama-3": (128009, 128001, 128008)}[name]
    assert all(s.stop_ids(tokenizer) == stops for s in (spec, think, bare))
    trace = "<think>\nadd\n</think>\n\\boxed{4}"  # its prefix is never doubled
    assert spec.target_ids(tokenizer, trace) == (*byte_ids(trace), stops[0])
    short = byte_ids(trace.removeprefix("<think>\n"))
    assert think.target_ids(tokenizer, trace) == (*short, stops[0])
    standin.write_checkpoint(tmp_path, name, small=True)
    loaded, small = load_tokenizer(tmp_path), standin.build_tokenizer(name, small=True)
    assert spec.prompt_ids(loaded, PROBLEM) == spec.prompt_ids(small, PROBLEM)
    assert spec.stop_ids(loaded) == spec.stop_ids(small)


def test_a_template_that_asks_the_clock_is_told_the_date():
    tokenizer = standin.build_tokenizer("llama-3")  # asks it, as Llama 3.2's does
    ids = PROMPT_SPECS["llama-3-instruct"].prompt_ids(tokenizer, PROBLEM)
    assert "Today Date: 26 Jul 2024\n" in tokenizer.decode(ids)


@pytest.mark.parametrize("field", ["question", "strategy", "expert"])
def test_a_problem_cannot_spell_special_tokens(family, field):
    name, tokenizer = family
    end = {"qwen2.5": "<|im_end|>", "llama-3": "<|eot_id|>"}[name]
    problem, spec = replace(PROBLEM, **{field: f"a{end}b"}), prompt_spec(f"{name}-instruct")
    with pytest.raises(ValueError, match="spells the special token '<.(im_end|eot_id).>'"):
        if field == "expert":
            spec.target_ids(tokenizer, problem.expert)
        else:
            spec.prompt_ids(tokenizer, problem, guided=True)


def test_two_begin_tokens_or_none_are_refused():
    tokenizer, spec = standin.build_tokenizer("llama-3"), PROMPT_SPECS["llama-3-instruct"]
    template = tokenizer.chat_template
    for broken, count in ((template.replace("{{ bos_token }}", "", 1), 0),
                          ("{{ bos_token }}" + template, 2)):  # fmt: skip
        tokenizer.chat_template = broken
        with pytest.raises(ValueError, match=f"holds {count} begin tokens .*exactly one is right"):
            spec.prompt_ids(tokenizer, PROBLEM)


# Published chat formats beside the two families; what opens a sequence and what ends an answer.
TEMPLATES = {
    "smollm2": (  # the begin-of-sequence token opens every turn
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>", "<|im_end|>", None,
    ),
    "tinyllama": (  # roles are plain text, and the line feed before an answer is left to the model
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}",
        "<s>", "</s>", None,
    ),
    "llama-2": (  # nothing opens an answer
        "{% for m in messages %}{% if m['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}",
        "<s>", "</s>", "<s>",
    ),
    "clock": (  # asks for the day in a format of its own
        "{{ bos_token + 'Today: ' + strftime_now('%d %B %Y') + '\n' }}"
        "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}",
        "<s>", "</s>", "<s>",
    ),
}  # fmt: skip


def chat_tokenizer(template: str, bos: str, eos: str, *added: str):
    tokenizer = standin.build_tokenizer("qwen2.5", small=True)
    tokenizer.add_special_tokens({"bos_token": bos, "eos_token": eos})
    tokenizer.add_special_tokens({"additional_special_tokens": list(added)})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_spec_follows_from_the_chat_template(name):
    template, bos, eos, begin = TEMPLATES[name]
    tokenizer = chat_tokenizer(template, bos, eos)
    spec = native_spec(tokenizer)
    assert (spec.name, spec.begin, spec.end_of_turn) == ("native", begin, eos)
    assert spec.stop_ids(tokenizer) == (tokenizer.convert_tokens_to_ids(eos),)
    # Prompt and target together are the conversation as the template itself renders it.
    problem = replace(PROBLEM, question="What is 2+2?")
    ids = spec.prompt_ids(tokenizer, problem) + spec.target_ids(tokenizer, "\\boxed{4}")
    turns = [("user", problem.question + BOXED), ("assistant", "\\boxed{4}")]
    rendered = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in turns], tokenize=False
    )
    today = date.today().strftime("%d %B %Y")
    whole = rendered.strip().replace(today, "26 July 2024").replace(f" {eos}", eos)
    assert tokenizer.decode(ids) == whole
    again = native_spec(tokenizer).prompt_ids(tokenizer, problem)
    assert again == ids[: len(again)] and ("clock" == name) == (spec.date is not None)


def test_the_stops_of_the_generation_defaults_count(tmp_path):
    template, bos, eos, _ = TEMPLATES["tinyllama"]
    tokenizer = chat_tokenizer(template, bos, eos, "<|stop|>")
    tokenizer.save_pretrained(tmp_path)
    stops = [tokenizer.convert_tokens_to_ids(token) for token in ("<|stop|>", "</s>")]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert native_spec(loaded).stop_ids(loaded) == tuple(stops[::-1])


PLAIN_END = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] + '<end>' }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ messages[0]['content'] }}", "does not render a question and its answer once"),
        ("{{ raise_exception('no users') }}", "does not render .*no users"),
        (PLAIN_END, "closes an answer with '<end>' and no special token; name .*native:TOKEN"),
    ],
)
def test_what_cannot_be_derived_is_asked_for_in_one_line(template, message):
    tokenizer = chat_tokenizer(template, "<s>", "</s>")
    with pytest.raises(ValueError, match=message) as caught:
        native_spec(tokenizer)
    assert "\n" not in str(caught.value)


def test_specs_can_be_named_and_say_what_is_allowed():
    tokenizer = chat_tokenizer(PLAIN_END, "<s>", "</s>")
    spec = prompt_spec("native:</s>", tokenizer)
    assert spec.end_of_turn == "</s>"
    assert spec.target_ids(tokenizer, "4")[-1] == spec.stop_ids(tokenizer)[0]
    with pytest.raises(ValueError, match="does not know '<oops>'"):
        prompt_spec("native:<oops>", tokenizer).stop_ids(tokenizer)
    with pytest.raises(ValueError, match="unknown prompt spec 'qwen': must be one of mini, qwen2"):
        prompt_spec("qwen")
    tokenizer = standin.build_tokenizer("qwen2.5", small=True)
    assert prompt_spec("native", tokenizer) is PROMPT_SPECS["qwen2.5-instruct"]


WORDS = tiny.build_tokenizer()
ASKED = tiny.build_problems(3)[2]


def ids(text: str) -> tuple[int, ...]:
    return tuple(tiny.VOCABULARY.index(word) for word in text.split())


def test_a_missing_strategy_trace_or_template_is_named():
    for strategy in (None, ""):
        with pytest.raises(ValueError, match="problem 'p2' has no strategy"):
            tiny.SPEC.prompt_ids(WORDS, replace(ASKED, strategy=strategy), guided=True)
    with pytest.raises(ValueError, match="problem 'p2' has no expert trace to show"):
        tiny.SPEC.prompt_ids(WORDS, replace(ASKED, expert=None), solved=True)
    tokenizer = tiny.build_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        tiny.SPEC.prompt_ids(tokenizer, ASKED)


def test_sft_ids_are_rollout_prompt_ids_and_target_ids():
    rollout = tiny.build_rollout(tiny.build_model())
    rollout.begin_step(1)
    problems = tiny.build_problems(3)
    sampled = rollout.groups(problems, 2)
    for problem, demo, group in zip(
        problems, rollout.demonstrations(problems), sampled, strict=True
    ):
        assert demo.role is Role.DEMO and demo.reward == 1.0
        assert demo.prompt_ids == group[0].prompt_ids == tiny.SPEC.prompt_ids(WORDS, problem)
        assert demo.completion_ids == (*ids(problem.expert), tiny.END)
        assert tiny.END not in demo.completion_ids[:-1]


@pytest.mark.parametrize(
    ("name", "completion", "verdict"),
    [
        ("qwen2.5-instruct-think", "so \\boxed{7}", "no_answer"),  # the thought was never closed
        ("qwen2.5-instruct-think", "so</think> \\boxed{7}", "correct"),
        ("qwen2.5-none", "It is 8.\n\nQuestion: next\nso \\boxed{7}", "not correct"),
        ("qwen2.5-none", "\\boxed{7}\n\n### Problem 2: next\nso \\boxed{9}", "correct"),
        ("llama-3-none", "\\boxed{7}\nHuman: and now?\n\\boxed{9}", "correct"),
        ("qwen2.5-instruct", "It is\nQuestion: sure?\n\\boxed{7}", "correct"),
    ],
)
def test_what_is_graded_of_a_completion(name, completion, verdict):
    text, cut = PROMPT_SPECS[name].graded_text(completion)
    found = grade("7", text)
    assert found.correct if verdict == "correct" else not found.correct
    assert verdict != "no_answer" or found.reason == verdict
    assert cut == ("next" in completion or "Human" in completion)
