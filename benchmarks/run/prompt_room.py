"""Whether every prompt of a run leaves room for its completion, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.config import RunConfig
from benchmarks.data.sources import evaluation_problems, training_problems
from sgpo.core.models import context_length, read_config
from sgpo.core.prompts import prompt_spec

SUPERVISED = ("warmup", "all")  # splits whose runs sample nothing while they train


def check_prompts(config: RunConfig, tokenizer: Any, base: Path) -> None:
    """ValueError naming the longest prompt and the setting to lower, unless all of them fit.

    The limit is the context of the checkpoint in ``base``, or of vLLM where that is shorter.
    """
    limit = context_length(read_config(base))
    if config.sampler == "vllm" and config.vllm.max_model_len is not None:
        limit = min(limit, config.vllm.max_model_len)
    for key, name, longest, tokens in _lengths(config, tokenizer):
        if longest + tokens > limit:
            raise ValueError(
                f"{key}={tokens}: the longest prompt of {name} has {longest} tokens, and both must "
                f"fit {limit} positions; lower it to {max(0, limit - longest)} or less"
                + (", or raise vllm.max_model_len" if limit == config.vllm.max_model_len else "")
            )


def _lengths(config: RunConfig, tokenizer: Any) -> Iterator[tuple[str, str, int, int]]:
    """Setting, name of a problem set, tokens of its longest prompt, tokens of a completion."""
    spec = prompt_spec(config.prompt, tokenizer)
    for key in config.evaluation.suites:
        problems, _ = evaluation_problems(key, config.evaluation)
        longest = max(len(spec.prompt_ids(tokenizer, p)) for p in problems)
        yield "evaluation.max_tokens", key, longest, config.evaluation.max_tokens
    if config.train is not None and config.data.split not in SUPERVISED:
        guided = getattr(config.settings, "num_guided", 0) > 0
        problems = training_problems(config.data)
        longest = max(len(spec.prompt_ids(tokenizer, p, guided=guided)) for p in problems)
        yield "rollout.max_tokens", "the training set", longest, config.rollout.max_tokens
