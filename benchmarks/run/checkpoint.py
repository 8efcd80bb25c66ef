"""``sgpo evaluate``: a checkpoint directory on the suites, or on problems of the user's own."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress, TimeElapsedColumn

from benchmarks.config import EvalConfig
from benchmarks.data.problems import read_problems
from benchmarks.data.sources import evaluation_problems
from benchmarks.data.suites import SUITES
from benchmarks.run.evaluate import evaluate
from benchmarks.run.score_table import print_scores, write_scores
from sgpo.core.config import canonical_json, to_dict
from sgpo.core.distributed import select_device
from sgpo.core.files import read_json, sha256_of, write_json
from sgpo.core.models import context_length, fit_max_tokens, load_model, load_tokenizer, read_config
from sgpo.core.prompts import NATIVE, PromptSpec, prompt_spec
from sgpo.core.sampling import Sampler, make_sampler
from sgpo.core.sampling.vllm import WeightsDiffer
from sgpo.core.sampling.vllm_engine import EngineFailed
from sgpo.core.types import Problem

Suites = dict[str, tuple[list[Problem], int]]
MINI_TOKENS = 96
PAPER_TOKENS = 32_768  # paper
PART_SAMPLES = 1024  # two to four times what an engine decodes at once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def evaluate_directory(options: argparse.Namespace) -> int:
    """Evaluate a checkpoint directory; samples, scores.json and table.md go to ``options.out``, or
    to a folder a prompt spec below it where several are asked for."""
    if not options.model.is_dir():
        raise ValueError(f"{options.model}: no such model directory")
    config, suites = _asked_for(options)
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(options.model)
    specs = [prompt_spec(name, tokenizer) for name in dict.fromkeys(options.prompt or [NATIVE])]
    config, longest = _fitted(config, specs, tokenizer, suites, options.model)
    weights = {p.name: sha256_of(p) for p in sorted(options.model.glob("*.safetensors"))}
    device = select_device(options.device)
    part = options.store_every or (PART_SAMPLES if _real(options) else None)
    engines = _Engines(options, tokenizer, device, longest + config.max_tokens)
    for spec in specs:
        out = options.out / spec.name if len(specs) > 1 else options.out
        _same_evaluation(
            out,
            {
                "weights": weights,
                "prompt_ids": _prompt_hashes(spec, tokenizer, suites),
                "prompt": spec.name,
                "engine": options.engine,
                "seed": options.seed,
                "device": device.type,
                "dtype": options.dtype,
                "samples_per_part": part,
                "config": to_dict(config),
            },
        )
        with _engine_errors(), _bar(f"{spec.name}, {options.engine}") as progress:
            scores = evaluate(
                sampler=engines.engine(spec),
                tokenizer=tokenizer,
                prompt_spec=spec,
                config=config,
                seed=options.seed,
                samples_dir=out / "samples",
                progress=progress,
                suites=suites,
                samples_per_part=part,
            )
        write_json(out / "scores.json", scores)
        write_scores(out, scores, model=options.model.name, prompt=spec.name)
        print(f"{options.model} with prompt spec {spec.name}, engine {options.engine}")
        print_scores(scores)
    return 0


def _asked_for(options: argparse.Namespace) -> tuple[EvalConfig, Suites]:
    """The decoding and the problems that the options name."""
    tokens = options.max_tokens
    if tokens is None:
        tokens = PAPER_TOKENS if _real(options) else MINI_TOKENS
    config = EvalConfig(
        suites=tuple(options.suite),
        max_tokens=tokens,
        problem_limit=options.problem_limit,
        sample_limit=options.samples,
    )
    suites = {key: evaluation_problems(key, config) for key in config.suites}
    for path in options.problems:
        if path.stem in suites:
            raise ValueError(f"two problem sets are called {path.stem!r}: rename {str(path)!r}")
        suites[path.stem] = (
            read_problems(path)[: options.problem_limit],
            options.samples or 1,
        )
    if not suites:
        raise ValueError("nothing to evaluate on: name --suite or --problems")
    return config, suites


def _real(options: argparse.Namespace) -> bool:
    return bool(options.problems) or any(key in SUITES for key in options.suite)


def _fitted(
    config: EvalConfig,
    specs: Sequence[PromptSpec],
    tokenizer: Any,
    suites: Suites,
    directory: Path,
) -> tuple[EvalConfig, int]:
    """``config`` with completions that fit the context after the longest prompt, and its length."""
    longest = max(
        len(spec.prompt_ids(tokenizer, problem))
        for spec in specs
        for problems, _ in suites.values()
        for problem in problems
    )
    context = context_length(read_config(directory))
    max_tokens, line = fit_max_tokens(context, longest, config.max_tokens)
    if line:
        print(line)
    return replace(config, max_tokens=max_tokens), longest


def _prompt_hashes(spec: PromptSpec, tokenizer: Any, suites: Suites) -> dict[str, str]:
    """Suite -> hash of all its prompt ids: they follow from template, suffix and questions."""
    hashes = {}
    for key, (problems, _) in suites.items():
        ids = [[p.id, p.answer, spec.prompt_ids(tokenizer, p)] for p in problems]
        hashes[key] = hashlib.sha256(canonical_json(ids).encode()).hexdigest()
    return hashes


class _Engines:
    """One engine for all prompt specs that share their stop ids: a second would need its own
    memory."""

    def __init__(
        self, options: argparse.Namespace, tokenizer: Any, device: torch.device, max_length: int
    ) -> None:
        self.options, self.tokenizer = options, tokenizer
        self.device, self.max_length = device, max_length
        self.made: dict[tuple[int, ...], Sampler] = {}

    def engine(self, spec: PromptSpec) -> Sampler:
        """The engine for ``spec``; its weights are loaded."""
        stop_ids, name = spec.stop_ids(self.tokenizer), self.options.engine
        if stop_ids not in self.made:
            model = load_model(self.options.model)
            if name != "vllm":  # which has weights of its own and compares them with these
                model = model.to(self.device, DTYPES[self.options.dtype])
            self.made[stop_ids] = make_sampler(
                name,
                model,
                self.tokenizer,
                stop_ids=stop_ids,
                max_length=self.max_length,
                dtype=self.options.dtype,
            )
        return self.made[stop_ids]


@contextmanager
def _engine_errors() -> Iterator[None]:
    """An engine that does not start, dies or disagrees, as a user's error: one line."""
    try:
        yield
    except (EngineFailed, WeightsDiffer) as error:
        raise ValueError(str(error)) from error


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn()) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _same_evaluation(out: Path, what: dict) -> None:
    """Continue only what was begun: ValueError when ``out`` holds another evaluation."""
    path = out / "evaluation.json"
    if not path.exists() and ((out / "samples").exists() or (out / "result.json").exists()):
        raise ValueError(f"{out}: holds results that `evaluate` did not make; choose another --out")
    if path.exists() and read_json(path) != what:
        raise ValueError(
            f"{out}: holds an evaluation of other weights, problems, seed or settings; choose "
            "another --out"
        )
    write_json(path, what)
