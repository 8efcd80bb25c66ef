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
import torch
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from transformers import logging as transformers_logging

from benchmarks.config import EvalConfig
from benchmarks.data.problems import check_readable, read_problems
from benchmarks.data.sources import evaluation_problems
from benchmarks.data.suites import SUITES
from benchmarks.report.document import Cell, Table, table_markdown
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
from sgpo.core.prompts import NATIVE, prompt_spec
from sgpo.core.sampling import Sampler, make_sampler
from sgpo.core.sharding import DTYPES

MINI_TOKENS = 96
PAPER_TOKENS = 32_768  # paper
PART_SAMPLES = 1024  # two to four times what an engine decodes at once
NOTE = (
    "One checkpoint, one evaluation: intervals are 95% over problems and say nothing "
    "about another training run. Truncated and no-answer samples count as wrong."
)
LOST = {"truncated": "t", "no answer": "n", "judge failed": "oe"}  # share -> verdict letters
HEADER = (
    "Suite", "Problems", "Metric", "Accuracy % [95%]", "pass@k %",
    *(f"{name.capitalize()} %" for name in LOST), "Mean tokens",
)  # fmt: skip


def evaluate_command(options: argparse.Namespace) -> int:
    """Evaluate a checkpoint; its samples, scores.json and table.md go to ``options.out``."""
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    directory, out = model_directory(options.model), options.out
    real = bool(options.problems) or any(key in SUITES for key in options.suite)
    config = EvalConfig(
        suites=tuple(options.suite),
        max_tokens=options.max_tokens or (PAPER_TOKENS if real else MINI_TOKENS),
        problem_limit=options.problem_limit,
        sample_limit=options.samples,
    )
    suites = asked_for(options, config, world_of(directory, options.seed))
    tokenizer = load_tokenizer(directory)
    for problems, _ in suites.values():
        check_readable(problems, tokenizer)
    spec, device = prompt_spec(options.prompt or NATIVE, tokenizer), select_device(options.device)
    prompts = {
        key: [[p.id, p.answer, spec.prompt_ids(tokenizer, p)] for p in problems]
        for key, (problems, _) in suites.items()
    }
    longest = max(len(ids) for rows in prompts.values() for *_, ids in rows)
    config = _fitted(config, longest, directory)
    asked = {
        "weights": {p.name: sha256_of(p) for p in sorted(directory.glob("*.safetensors"))},
        "prompt_ids": {key: _digest(rows) for key, rows in prompts.items()},
        "prompt": spec.name,
        "engine": options.engine,
        "seed": options.seed,
        "device": device.type,
        "dtype": options.dtype,
        "samples_per_part": PART_SAMPLES if real else None,
        "config": to_dict(config),
    }
    _check_same(out, asked)
    sampler = _sampler(options, directory, tokenizer, stop_ids=spec.stop_ids(tokenizer),
                       device=device, max_length=longest + config.max_tokens)  # fmt: skip
    write_json(out / "evaluation.json", asked)
    with _bar(f"{spec.name}, {options.engine}") as progress:
        scores = evaluate(
            sampler=sampler,
            tokenizer=tokenizer,
            prompt_spec=spec,
            config=config,
            seed=options.seed,
            samples_dir=out / "samples",
            progress=progress,
            suites=suites,
            samples_per_part=asked["samples_per_part"],
        )
    write_json(out / "scores.json", scores)
    named = directory.parent if directory.name == "model" else directory  # of a run
    table = score_table(scores, f"{named.name}, prompt spec {spec.name}")
    decoding = ", ".join(f"{name} {getattr(config, name)}" for name in sorted(PROTOCOL))
    text = table_markdown(table)
    write_text(out / "table.md", f"{NOTE}\n\nDecoding: {decoding}.\n\n{text}\n")
    print_table(table)
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


def asked_for(options: argparse.Namespace, config: EvalConfig, world: int) -> Suites:
    """The problems that the options name, with samples a problem; those of mini suites are of
    ``world``."""
    suites = {key: evaluation_problems(key, config, world) for key in config.suites}
    for path in options.problems:
        if path.stem in suites:
            raise ValueError(f"two problem sets are called {path.stem!r}: rename {str(path)!r}")
        suites[path.stem] = read_problems(path)[: options.problem_limit], options.samples or 1
    if not suites:
        raise ValueError("nothing to evaluate on: name --suite or --problems")
    return suites


def world_of(model: Path, seed: int) -> int:
    """The world whose problems the weights are judged on in a mini suite: that of the run in whose
    directory they lie, else ``seed``."""
    path = model.parent / "config.json"
    config = read_json(path) if path.is_file() else {}
    return config["seed"] if config.get("data", {}).get("source") == "mini" else seed


def _fitted(config: EvalConfig, longest: int, directory: Path) -> EvalConfig:
    """``config`` with completions that fit the model's context behind the longest prompt."""
    context = context_length(read_config(directory))
    max_tokens, line = fit_max_tokens(context, longest, config.max_tokens)
    if line:
        print(line)
    return replace(config, max_tokens=max_tokens)


def _sampler(
    options: argparse.Namespace, directory: Path, tokenizer: Any, *, device: Any, **how: Any
) -> Sampler:
    model = load_model(directory)
    if options.engine != "vllm":  # which has weights of its own and compares them with these
        cast(model, device, DTYPES[options.dtype])
    return make_sampler(options.engine, model, tokenizer, dtype=options.dtype, **how)


def _digest(prompts: Sequence[Any]) -> str:
    """Hash of a suite's prompts: they follow from template, suffix and questions."""
    return hashlib.sha256(canonical_json(prompts).encode()).hexdigest()


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


def print_table(table: Table) -> None:
    """On the terminal."""
    print(table_markdown(table, links=False).strip())


def score_table(scores: dict[str, Any], caption: str = "") -> Table:
    """What a scores.json says: a row a suite, and their plain mean where there are several.
    ``avg@k`` with its interval, unbiased ``pass@k`` for k = all samples, and the shares of samples
    that are ``LOST``, in percent."""
    rows, problems, tables, shares = [], 0, [], []
    for key, entry in scores["benchmarks"].items():
        k, count, letters = entry["k"], len(entry["verdicts"]), "".join(entry["verdicts"])
        correct = stats.correct_matrix(entry["verdicts"], num_problems=count, k=k, where=key)
        tables.append(correct.mean(axis=1)[None, :])
        passed = stats.pass_at_k(correct.sum(axis=1), num_samples=k, k=k).mean()
        lost = [sum(map(letters.count, found)) / len(letters) for found in LOST.values()]
        shares.append([100 * share for share in (passed, *lost)] + [entry["mean_length"]])
        problems += count
        label = SUITES[key].label if key in SUITES else key
        rows.append((label, f"{count}", f"avg@{k}", _accuracy(tables[-1:]), *_spelled(shares[-1])))
    if len(rows) > 1:
        means = _spelled(np.mean(shares, axis=0))
        rows.append(("average", f"{problems}", "", _accuracy(tables), *means))
    cells = tuple(tuple(map(Cell, row)) for row in rows)
    return Table(HEADER, cells, caption, numeric=frozenset(range(1, len(HEADER))))


def _accuracy(tables: list[np.ndarray]) -> str:
    """Mean over suites [1, N] with its interval over problems, in percent."""
    apart = stats.Clusters.apart([table.shape[1] for table in tables])
    found = stats.Mean.over_problems(tables, apart).interval()
    low, high = 100 * max(found.low, 0.0), 100 * min(found.high, 1.0)
    return f"{100 * found.mean:.1f} [{low:.1f}, {high:.1f}]"


def _spelled(numbers: Sequence[float]) -> list[str]:
    """Percentages and, last, a number of tokens."""
    *percent, tokens = numbers
    return [*(f"{number:.1f}" for number in percent), f"{tokens:.0f}"]
