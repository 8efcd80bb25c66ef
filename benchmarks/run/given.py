"""Everything that a cell reads from outside, read once and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.config import Cell, RunConfig, build_method, weights_record
from benchmarks.data.problems import check_readable
from benchmarks.data.sources import (
    development_problems,
    evaluation_problems,
    training_problems,
)
from benchmarks.run.evaluate import Suites
from sgpo.core.distributed import select_device
from sgpo.core.files import read_json
from sgpo.core.method import shown_in_prompts
from sgpo.core.models import checkpoint_directory, context_length, load_tokenizer, read_config
from sgpo.core.prompts import PromptSpec, prompt_spec
from sgpo.core.types import Problem
from sgpo.mini.foundation import ensure_world_model
from sgpo.mini.models import build_tokenizer

Progress = Callable[..., None]  # stage, done, total, and perhaps a note
SUPERVISED = ("warmup", "all")  # splits whose runs sample nothing while they train


@dataclass(frozen=True)
class Given:
    """What a cell starts from. ``base``: directory of the untrained model; ``weights``: of those
    that the run starts from; ``problems``: to train on, [] where nothing is trained;
    ``development``: what guidance is measured on, [] where the training set has none."""

    config: RunConfig
    device: torch.device
    base: Path
    weights: Path
    tokenizer: Any
    problems: list[Problem]
    suites: Suites
    development: list[Problem] = field(default_factory=list)

    @property
    def prompt_spec(self) -> PromptSpec:
        return prompt_spec(self.config.prompt, self.tokenizer)


def gather(cell: Cell, study_dir: Path, progress: Progress) -> Given:
    """What ``cell`` reads; its base model is made or downloaded if it is absent.

    Raises:
        ValueError: an input that is missing, damaged or does not fit the model.
    """
    config = cell.config
    base = base_model(config, study_dir / "cache", lambda d, t: progress("pretrain", d, t))
    weights = base
    if cell.parent:
        check_weights(study_dir / "runs" / cell.parent.run_id)
        weights = study_dir / "runs" / cell.parent.run_id / "model"
    given = Given(
        config=config,
        device=select_device(config.device),
        base=base,
        weights=weights,
        tokenizer=load_tokenizer(base),
        problems=training_problems(config.data, config.seed) if config.train else [],
        suites={
            k: evaluation_problems(k, config.evaluation, config.seed)
            for k in config.evaluation.suites
        },
        development=development_problems(config.data),
    )
    if config.checkpoint is not None:
        check_prompts(given)
    return given


def check_own_problems(configs: Sequence[RunConfig]) -> None:
    """ValueError naming a file of the user's own with a question that a model cannot read. To be
    asked before a study is planned, which remembers its files."""
    for config in {c.model: c for c in configs if c.evaluation.files}.values():
        if config.checkpoint is None:
            tokenizer = build_tokenizer()
        else:
            tokenizer = load_tokenizer(checkpoint_directory(config.checkpoint, config.revision))
        for own in config.evaluation.files:
            path = Path(own.rpartition("@")[0])
            try:
                check_readable(evaluation_problems(path.stem, config.evaluation)[0], tokenizer)
            except ValueError as error:
                raise ValueError(f"--problems {path}, {config.model}: {error}") from error


def base_model(
    config: RunConfig, cache: Path, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Directory of the run's base model; a mini one, of the world of the run's seed, is made and
    cached below ``cache``, one from the hub is downloaded, if it is absent.

    Raises:
        ValueError: the checkpoint is no complete directory, or cannot be had from the hub.
    """
    if config.checkpoint is not None:
        return checkpoint_directory(config.checkpoint, config.revision)
    report = (lambda step, steps, loss: progress(step, steps)) if progress else None
    device = select_device(config.device)
    return ensure_world_model(
        config.model, config.seed, cache, report, num_steps=config.pretrain_steps, device=device
    )


def check_prompts(given: Given) -> None:
    """ValueError naming the longest prompt and the setting to lower, unless all of them leave room
    for a completion in the context of the base model, or of vLLM where that is shorter."""
    config = given.config
    limit = context_length(read_config(given.base))
    if config.sampler == "vllm" and config.vllm.max_model_len is not None:
        limit = min(limit, config.vllm.max_model_len)
    for key, name, longest, tokens, completions in _lengths(given):
        if longest + completions * tokens > limit:
            both = "both" if completions == 1 else "it and two completions, one shown in it,"
            raise ValueError(
                f"{key}={tokens}: the longest prompt of {name} has {longest} tokens, and {both} "
                f"must fit {limit} positions; lower it to "
                f"{max(0, (limit - longest) // completions)} or less"
                + (", or raise vllm.max_model_len" if limit == config.vllm.max_model_len else "")
            )


def _lengths(given: Given) -> Iterator[tuple[str, str, int, int, int]]:
    """Setting, name of a problem set, tokens of its longest prompt, tokens of a completion, and how
    many completions must fit behind that prompt."""
    config, spec = given.config, given.prompt_spec

    def longest(problems: list[Problem], **shown: bool) -> int:
        return max(len(spec.prompt_ids(given.tokenizer, p, **shown)) for p in problems)

    for key, (problems, _) in given.suites.items():
        yield "evaluation.max_tokens", key, longest(problems), config.evaluation.max_tokens, 1
    if config.train is None or config.data.split in SUPERVISED:
        return
    start, tokens = ("rollout.max_tokens", "the training set"), config.rollout.max_tokens
    yield *start, longest(given.problems), tokens, 1
    shows = shown_in_prompts(build_method(config))
    if "strategy" in shows:
        yield *start, longest(given.problems, guided=True), tokens, 1
    if "solution" in shows:
        yield *start, longest(given.problems, solved=True), tokens, 1
    if "sample" in shows:
        bare = [replace(p, expert="\n") for p in given.problems]
        yield *start, longest(bare, solved=True), tokens, 2


def check_weights(run_dir: Path) -> None:
    """ValueError unless the weights of a finished run are those that it ended with."""
    stored = read_json(run_dir / "result.json").get("sha256", {})
    for name, digest in weights_record(run_dir / "model").items():
        if stored.get(f"model/{name}", digest) != digest:
            raise ValueError(
                f"{run_dir / 'model' / name}: was damaged after the run ended (its checksum is "
                f"another one); delete {run_dir} to run it again"
            )
