"""``sgpo evaluate``: a checkpoint directory on the suites, or on problems of the user's own."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from transformers import logging as transformers_logging

from benchmarks.config import EvalConfig
from benchmarks.data.problems import check_readable, read_problems
from benchmarks.data.sources import evaluation_problems
from benchmarks.data.suites import SUITES
from benchmarks.report.document import Cell, Table, csv_text, frame, table_markdown
from benchmarks.run.evaluate import PROTOCOL, Suites, evaluate
from benchmarks.store import stats
from sgpo.core.config import canonical_json, to_dict
from sgpo.core.distributed import select_device
from sgpo.core.files import read_json, sha256_of, write_json, write_text
from sgpo.core.models import (
    cast,
    checkpoint_directory,
    context_length,
    fit_max_tokens,
    load_model,
    load_tokenizer,
    read_config,
)
from sgpo.core.prompts import NATIVE, PromptSpec, prompt_spec
from sgpo.core.sampling import Sampler, make_sampler
from sgpo.core.sampling.vllm import WeightsDiffer
from sgpo.core.sampling.vllm_engine import EngineFailed

MINI_TOKENS = 96
PAPER_TOKENS = 32_768  # paper
PART_SAMPLES = 1024  # two to four times what an engine decodes at once
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NOTE = (
    "One checkpoint, one evaluation: intervals are 95% over problems and say nothing "
    "about another training run. Truncated and no-answer samples count as wrong."
)


def evaluate_command(options: argparse.Namespace) -> int:
    """Evaluate a checkpoint directory; samples, scores.json and table.md go to ``options.out``, or
    to a folder a prompt spec below it where several are asked for."""
    transformers_logging.disable_progress_bar()
    options.model = model_directory(options.model)
    config, suites = _asked_for(options)
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(options.model)
    for problems, _ in suites.values():
        check_readable(problems, tokenizer)
    specs = [prompt_spec(name, tokenizer) for name in dict.fromkeys(options.prompt or [NATIVE])]
    config, longest = _fitted(config, specs, tokenizer, suites, options.model)
    weights = {p.name: sha256_of(p) for p in sorted(options.model.glob("*.safetensors"))}
    with _own_errors():
        device = select_device(options.device)
    part = options.store_every or (PART_SAMPLES if _real(options) else None)
    samplers: dict[tuple[int, ...], Sampler] = {}
    for spec in specs:
        out = options.out / spec.name if len(specs) > 1 else options.out
        asked = {
            "weights": weights,
            "prompt_ids": _prompt_hashes(spec, tokenizer, suites),
            "prompt": spec.name,
            "engine": options.engine,
            "seed": options.seed,
            "device": device.type,
            "dtype": options.dtype,
            "samples_per_part": part,
            "config": to_dict(config),
        }
        _check_same(out, asked)
        with _own_errors(), _bar(f"{spec.name}, {options.engine}") as progress:
            stop_ids = spec.stop_ids(tokenizer)
            if stop_ids not in samplers:  # specs may share one: a second needs its own memory
                length = longest + config.max_tokens
                samplers[stop_ids] = _sampler(options, tokenizer, stop_ids, device, length)
            write_json(out / "evaluation.json", asked)
            scores = evaluate(
                sampler=samplers[stop_ids],
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
        write_text(out / "table.csv", csv_text(frame(score_rows(scores))))
        name = options.model.parent if options.model.name == "model" else options.model  # of a run
        table = table_markdown(score_table(scores, model=name.name, prompt=spec.name))
        decoding = ", ".join(f"{name} {getattr(config, name)}" for name in sorted(PROTOCOL))
        write_text(out / "table.md", f"{NOTE}\n\nDecoding: {decoding}.\n\n{table}\n")
        print(f"{options.model} with prompt spec {spec.name}, engine {options.engine}")
        print_scores(scores)
    return 0


def model_directory(name: str) -> Path:
    """The directory of a model: of a checkpoint, of a run (its model/ is meant), or of a name on
    the hub, which is downloaded.

    Raises:
        ValueError: no such directory or model, or one without config, tokenizer or weights.
    """
    path = Path(name)
    if (path / "model" / "config.json").is_file() and not list(path.glob("*.safetensors")):
        path = path / "model"
    if not path.is_dir() and (path.is_absolute() or len(path.parts) != 2 or path.parent.is_dir()):
        raise ValueError(f"{name}: no such model directory, and no name of the hub (owner/model)")
    return checkpoint_directory(str(path))


def _asked_for(options: argparse.Namespace) -> tuple[EvalConfig, Suites]:
    """The decoding and the problems that the options name."""
    config = EvalConfig(
        suites=tuple(options.suite),
        max_tokens=options.max_tokens or (PAPER_TOKENS if _real(options) else MINI_TOKENS),
        problem_limit=options.problem_limit,
        sample_limit=options.samples,
    )
    world = world_of(options.model, options.seed)
    suites = {key: evaluation_problems(key, config, world) for key in config.suites}
    for path in options.problems:
        if path.stem in suites:
            raise ValueError(f"two problem sets are called {path.stem!r}: rename {str(path)!r}")
        suites[path.stem] = read_problems(path)[: options.problem_limit], options.samples or 1
    if not suites:
        raise ValueError("nothing to evaluate on: name --suite or --problems")
    return config, suites


def world_of(model: Path, seed: int) -> int:
    """The world whose problems the weights are judged on in a mini suite: that of the run in whose
    directory they lie, else ``seed``."""
    path = model.parent / "config.json"
    config = read_json(path) if path.is_file() else {}
    return config["seed"] if config.get("data", {}).get("source") == "mini" else seed


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


def _sampler(
    options: argparse.Namespace,
    tokenizer: Any,
    stop_ids: tuple[int, ...],
    device: torch.device,
    max_length: int,
) -> Sampler:
    model = load_model(options.model)
    if options.engine != "vllm":  # which has weights of its own and compares them with these
        cast(model, device, DTYPES[options.dtype])
    return make_sampler(
        options.engine,
        model,
        tokenizer,
        stop_ids=stop_ids,
        max_length=max_length,
        dtype=options.dtype,
    )


@contextmanager
def _own_errors() -> Iterator[None]:
    """An engine or device that cannot be had as a user's error: one line, with the options that
    this verb has."""
    try:
        yield
    except (EngineFailed, WeightsDiffer, ValueError) as error:
        text = str(error).replace("--set device=", "--device ")
        raise ValueError(text.replace("--set sampler=", "--engine ")) from error


@contextmanager
def _bar(name: str) -> Iterator[Any]:
    columns = (
        *Progress.get_default_columns(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        task = bars.add_task(name, total=None, note="")
        yield lambda done, total, note: bars.update(task, completed=done, total=total, note=note)


def _check_same(out: Path, asked: dict[str, Any]) -> None:
    """Continue only what was begun: ValueError when ``out`` holds another evaluation."""
    path = out / "evaluation.json"
    if not path.exists() and ((out / "samples").exists() or (out / "result.json").exists()):
        raise ValueError(f"{out}: holds results that `evaluate` did not make; choose another --out")
    if path.exists() and read_json(path) != asked:
        raise ValueError(
            f"{out}: holds an evaluation of other weights, problems, seed or settings; choose "
            "another --out"
        )


# What a scores.json says --------------------------------------------------------------------------


LOST = {"truncated": "t", "no_answer": "n", "judge_failed": "oe"}  # share -> verdict letters


def score_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a suite, and their plain mean where there are several: shares in [0, 1].

    ``accuracy`` is avg@k with ``low`` and ``high``; ``pass_at_k`` unbiased for k = all samples;
    those of ``LOST`` are shares of the samples.
    """
    rows, tables = [], []
    for key, entry in scores["benchmarks"].items():
        k, count, letters = entry["k"], len(entry["verdicts"]), "".join(entry["verdicts"])
        correct = stats.correct_matrix(entry["verdicts"], num_problems=count, k=k, where=key)
        tables.append(correct.mean(axis=1)[None, :])
        passed = stats.pass_at_k(correct.sum(axis=1), num_samples=k, k=k)
        row = {"suite": key, "problems": count, "k": k} | _accuracy(tables[-1:])
        row["pass_at_k"] = float(passed.mean())
        row |= {n: sum(map(letters.count, found)) / len(letters) for n, found in LOST.items()}
        rows.append(row | {"mean_tokens": entry["mean_length"]})
    if len(rows) > 1:
        whole = pd.DataFrame(rows)
        total = {"suite": "average", "problems": int(whole["problems"].sum()), "k": ""}
        means = whole[["pass_at_k", *LOST, "mean_tokens"]].mean().to_dict()
        rows.append(total | _accuracy(tables) | means)
    return rows


def _accuracy(tables: list[np.ndarray]) -> dict[str, float]:
    """Mean over suites [1, N] with its interval over problems."""
    apart = stats.Clusters.apart([table.shape[1] for table in tables])
    found = stats.Mean.over_problems(tables, apart).interval()
    return {"accuracy": found.mean, "low": max(found.low, 0.0), "high": min(found.high, 1.0)}


def score_table(scores: dict[str, Any], *, model: str, prompt: str) -> Table:
    """``score_rows`` in percent."""
    cells = []
    for row in score_rows(scores):
        label = SUITES[row["suite"]].label if row["suite"] in SUITES else row["suite"]
        shares = ("accuracy", "low", "high", "pass_at_k", *LOST)
        accuracy, low, high, *others = (f"{100 * row[name]:.1f}" for name in shares)
        k, interval = f"avg@{row['k']}" if row["k"] else "", f"{accuracy} [{low}, {high}]"
        texts = (label, f"{row['problems']}", k, interval, *others, f"{row['mean_tokens']:.0f}")
        cells.append(tuple(Cell(text) for text in texts))
    header = ("Suite", "Problems", "Metric", "Accuracy % [95%]", "pass@k %", "Truncated %",
              "No answer %", "Judge failed %", "Mean tokens")  # fmt: skip
    caption = f"{model}, prompt spec {prompt}"
    return Table(header, tuple(cells), caption, numeric=frozenset(range(1, len(header))))


def print_scores(scores: dict[str, Any]) -> None:
    """One line a suite."""
    for row in score_rows(scores):
        k = f"avg@{row['k']}" if row["k"] else ""
        print(
            f"{row['suite']:14} {k:7} {100 * row['accuracy']:5.1f}% "
            f"[{100 * row['low']:.1f}, {100 * row['high']:.1f}]   {row['problems']} problems, "
            f"{100 * row['truncated']:.1f}% truncated, {100 * row['no_answer']:.1f}% no answer, "
            f"mean length {row['mean_tokens']:.1f} tokens"
        )
