"""``sgpo evaluate``: a checkpoint directory on the suites, or on problems of the user's own."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.progress import Progress

from benchmarks.cells import load_model, load_tokenizer
from benchmarks.config import EvalConfig
from benchmarks.evaluate import evaluate
from benchmarks.sources import evaluation_problems
from sgpo.core.compact_decoder import CompactSampler
from sgpo.core.config import to_dict
from sgpo.core.data import read_problems
from sgpo.core.files import read_json, sha256_of, write_json
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import TransformersSampler

SAMPLERS = {"compact": CompactSampler, "transformers": TransformersSampler}


def evaluate_directory(options: argparse.Namespace) -> int:
    """Evaluate a checkpoint directory; samples and scores.json go to ``options.out``."""
    if not options.model.is_dir():
        raise ValueError(f"{options.model}: no such model directory")
    if options.prompt not in PROMPT_SPECS:
        known = ", ".join(PROMPT_SPECS)
        raise ValueError(f"unknown prompt spec {options.prompt!r}: must be one of {known}")
    config = EvalConfig(
        suites=tuple(options.suite), max_tokens=options.max_tokens, sample_limit=options.samples
    )
    suites = {key: evaluation_problems(key, config) for key in config.suites}
    for path in options.problems:
        if path.stem in suites:
            raise ValueError(f"two problem sets are called {path.stem!r}: rename {str(path)!r}")
        suites[path.stem] = (read_problems(path), options.samples or 1)
    if not suites:
        raise ValueError("nothing to evaluate on: name --suite or --problems")
    torch.set_num_threads(1)
    tokenizer, model = load_tokenizer(options.model), load_model(options.model)
    spec = PROMPT_SPECS[options.prompt]
    _same_evaluation(
        options.out,
        {
            "weights": {p.name: sha256_of(p) for p in sorted(options.model.glob("*.safetensors"))},
            "problems": {path.name: sha256_of(path) for path in options.problems},
            "prompt": options.prompt,
            "sampler": options.sampler,
            "seed": options.seed,
            "config": to_dict(config),
        },
    )
    with Progress() as bars:
        task = bars.add_task("evaluate", total=None)
        scores = evaluate(
            sampler=SAMPLERS[options.sampler](model, tokenizer, stop_ids=spec.stop_ids(tokenizer)),
            tokenizer=tokenizer,
            prompt_spec=spec,
            config=config,
            seed=options.seed,
            samples_dir=options.out / "samples",
            progress=lambda done, total: bars.update(task, completed=done, total=total),
            suites=suites,
        )
    write_json(options.out / "scores.json", scores)
    print_scores(scores)
    return 0


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


def print_scores(scores: dict) -> None:
    """One line a suite."""
    for key, entry in scores["benchmarks"].items():
        letters = "".join(entry["verdicts"])
        accuracy = 100 * letters.count("c") / len(letters)
        print(
            f"{key:14} avg@{entry['k']:<3} {accuracy:5.1f}%   {len(entry['verdicts'])} problems, "
            f"mean length {entry['mean_length']:.1f} tokens"
        )
