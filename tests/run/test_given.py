"""What a cell is given is checked before anything is trained."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import standin
import torch

from baselines.sdpo import SDPOConfig
from benchmarks.profiles.planned import planned_study
from benchmarks.run.cell import longest_trace
from benchmarks.run.given import Given, check_prompts
from sgpo.core.config import apply_overrides
from sgpo.core.models import load_tokenizer
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Problem

CONFIG = {c.config.method: c.config for c in planned_study("single_gpu", None).cells()}


def test_prompts_that_leave_no_room_stop_a_run_before_it_trains(tmp_path):
    path = standin.write_checkpoint(tmp_path / "m", small=True)
    tokenizer = load_tokenizer(path)
    asked = Problem("e", "What is it?" + "?" * 100, "1")
    taught = [Problem(str(i), f"{i}+1?", "1", "Add.", expert="x") for i in range(9)]

    def check(method, *settings, own=None):
        config = apply_overrides(CONFIG[method], [f"checkpoint={path}", *settings])
        config = config if own is None else replace(config, settings=own)
        problems = taught if config.train else []
        suites = {"math500": ([asked], 1)}
        device = torch.device("cpu")
        check_prompts(Given(config, device, path, path, tokenizer, problems, suites))

    for method in ("base", "sft", "grpo", "sgpo"):
        check(method)
    spec = PROMPT_SPECS["qwen2.5-instruct"]
    longest = len(spec.prompt_ids(tokenizer, asked))
    fits = 1000 - longest
    room = "vllm.max_model_len=1000"
    check("base", room, f"evaluation.max_tokens={fits}")
    message = (
        f"evaluation.max_tokens={fits + 1}: the longest prompt of math500 has {longest} tokens, "
        f"and both must fit 1000 positions; lower it to {fits} or less, or raise vllm.max_model_len"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        check("base", room, f"evaluation.max_tokens={fits + 1}")
    # The strategy stands in SGPO's prompts and not in GRPO's.
    plain = max(len(spec.prompt_ids(tokenizer, replace(p, strategy=None))) for p in taught)
    room = f"rollout.max_tokens={32_768 - plain}"
    settings = ("evaluation.max_tokens=9", "sampler=transformers", room)
    check("grpo", *settings)
    with pytest.raises(ValueError, match="the longest prompt of the training set has"):
        check("sgpo", *settings)
    settings = ("evaluation.max_tokens=9", "sampler=transformers", "rollout.max_tokens=20000")
    with pytest.raises(ValueError, match="and it and two completions, one shown in it, must fit"):
        check("grpo", *settings, own=SDPOConfig())


def test_the_longest_trace_counts_its_prompt_and_end_of_turn(tmp_path):
    tokenizer = load_tokenizer(standin.write_checkpoint(tmp_path / "m", small=True))
    taught = [Problem(str(i), "1+1?", "1", expert="y" * (i % 50)) for i in range(1, 100)]
    device = torch.device("cpu")
    given = Given(CONFIG["sft"], device, tmp_path, tmp_path, tokenizer, taught, {})
    turns = [{"role": "user", "content": "1+1?" + given.prompt_spec.suffix}]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    whole = tokenizer(prompt + "y" * 49 + "<|im_end|>", add_special_tokens=False)["input_ids"]
    assert longest_trace(given) == len(whole)
    assert longest_trace(replace(given, problems=[Problem("0", "1+1?", "2")])) == 0
