"""Verbs that train or evaluate."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.commands import add_overrides, add_profile, names, positive, results_dir


def add(verbs: argparse._SubParsersAction) -> None:
    """Add study, train, evaluate, tune and mini check."""
    study = verbs.add_parser("study", help="run a profile's grid and write its report")
    add_profile(study)
    study.add_argument("--seeds", type=positive, help="number of seeds (default: the profile's)")
    study.add_argument(
        "--jobs", type=positive, help="parallel cells (default: one a core; 1 where a GPU is used)"
    )
    study.add_argument("--all", action="store_true", help="with the ablations of SGPO")
    study.add_argument("--only", type=names, help="just these artefacts and the runs they need")
    study.add_argument("--methods", type=names, help="just these methods (comma-separated)")
    study.add_argument("--models", type=names, help="just these models (comma-separated)")
    study.add_argument("--only-seeds", type=names, help="just these seeds (comma-separated)")
    study.add_argument("--method-file", type=Path, help="add the method of this file to the grid")
    study.add_argument("--dry-run", action="store_true", help="print the grid and its cost")
    _add_rank_timeout(study)
    add_overrides(study)
    study.set_defaults(run=_study)

    train = verbs.add_parser("train", help="train and evaluate one method")
    add_profile(train)
    train.add_argument("--model", required=True)
    train.add_argument("--method", required=True, help="a method key, or a method file (.py)")
    train.add_argument("--seed", type=int, default=0)
    _add_rank_timeout(train)
    add_overrides(train)
    train.set_defaults(run=_train)

    evaluate = verbs.add_parser("evaluate", help="evaluate a checkpoint directory")
    add = evaluate.add_argument
    add("--model", required=True, type=Path, help="Hugging Face directory")
    add("--suite", type=names, default=[], help="e.g. minimath or math500,amc23")
    add("--problems", type=Path, action="append", default=[], help="JSONL: id, question, answer")
    add("--out", required=True, type=Path, help="where samples, scores and the table go")
    add("--seed", type=int, default=0)
    add("--samples", type=positive, help="at most this many a problem (default: the protocol's)")
    add("--problem-limit", type=positive, help="only the first problems of each suite")
    add("--max-tokens", type=positive, help="default: 32768 on real problems, 96 on mini ones")
    add("--prompt", type=names, default=[], help="prompt specs (default: the tokenizer's own)")
    add("--engine", "--sampler", choices=("compact", "transformers", "vllm"), default="compact")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the engine")
    add("--store-every", type=positive, help="samples (default: 1024; on mini suites: a suite)")
    evaluate.set_defaults(run=_evaluate)

    tune = verbs.add_parser("tune", help="tuning trials of every method on the development set")
    tune.add_argument("--jobs", type=positive, default=os.cpu_count())
    tune.add_argument("--methods", type=names, help="just these (comma-separated)")
    tune.add_argument("--out", type=Path)
    tune.set_defaults(run=_tune)

    mini = verbs.add_parser("mini", help="the embedded world")
    mini_verbs = mini.add_subparsers(required=True, metavar="check")
    check = mini_verbs.add_parser("check", help="measure the six conditions of the mini world")
    check.add_argument("--models", type=names, help="default: the models of Table 1")
    check.add_argument("--jobs", type=positive, default=os.cpu_count())
    check.add_argument("--out", type=Path)
    check.set_defaults(run=_check)


def _add_rank_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rank-timeout",
        type=positive,
        default=3600,
        help="under torchrun: seconds to wait for another rank (%(default)s)",
    )


def _study(options: argparse.Namespace) -> int:
    from benchmarks.run.launch import (
        default_jobs,
        dry_run,
        launch_study,
        planned_study,
        wants_variants,
    )

    results = results_dir(options)
    study = planned_study(
        options.profile,
        options.seeds,
        options.method_file,
        options.overrides,
        variants=wants_variants(options, results),
        models=options.models,
    )
    options.jobs = options.jobs or default_jobs(study)
    if options.dry_run:
        return dry_run(study, results, options)
    return launch_study(study, results, options)


def _train(options: argparse.Namespace) -> int:
    from benchmarks.run.single import train_one

    return train_one(options, results_dir(options))


def _evaluate(options: argparse.Namespace) -> int:
    from benchmarks.run.checkpoint import evaluate_directory

    return evaluate_directory(options)


def _tune(options: argparse.Namespace) -> int:
    from benchmarks.run.tune import tune

    return tune(results_dir(options, "mini"), options.jobs, options.methods)


def _check(options: argparse.Namespace) -> int:
    from benchmarks.run.regime import check

    return check(results_dir(options, "mini"), options.models, options.jobs)
