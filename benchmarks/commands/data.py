"""Verbs that bring data: training sets, benchmarks, strategies."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.commands import names, positive

HUB_DEFAULT = "SII-Enigma/OpenR1-Math-R1-8.5k"
REAL_SUITES = ["math500", "olympiadbench", "amc23", "aime24"]


def test_sets(text: str) -> tuple[str, ...]:
    """Argument type: comma-separated names, or none."""
    return () if text == "none" else tuple(names(text))


def add(verbs: argparse._SubParsersAction) -> None:
    """Add data prepare, data check and strategies."""
    data = verbs.add_parser("data", help="training data and benchmarks")
    data_verbs = data.add_subparsers(required=True, metavar="prepare|check")

    prepare = data_verbs.add_parser("prepare", help="fetch, check, decontaminate and split")
    add = prepare.add_argument
    add("--source", default=HUB_DEFAULT, help="hub data set, .jsonl, .parquet or directory")
    add("--revision", help="commit of the hub data set (default: main; the commit is recorded)")
    add("--subset", help="configuration of the data set, where it has several")
    add("--tokenizer", required=True, help="checkpoint, a directory or of the hub; measures traces")
    add("--prompt", help="prompt spec (default: the tokenizer's own)")
    add("--max-tokens", type=positive, default=16_384, help="of prompt and trace (%(default)s)")
    add("--draw", type=positive, help="draw this many problems, e.g. 8500 of the 46k set")
    add("--seed", type=int, default=0, help="of the draw and the split")
    add("--strip-suffix", default="", help="an instruction at the end of every question")
    add(
        "--test-sets",
        type=test_sets,
        default=tuple(REAL_SUITES),
        metavar="NAMES",
        help="benchmarks or files that it may not overlap with, or none (default: all four)",
    )
    add("--keep-unconfirmed", action="store_true", help="keep traces that are not judged correct")
    add("--out", required=True, type=Path, help="directory to make")
    add("--offline", action="store_true", help="open no connection: local files and cache only")
    prepare.set_defaults(run=_prepare)

    check = data_verbs.add_parser("check", help="benchmarks: count, content, gold answers")
    add = check.add_argument
    add("--suite", type=names, default=REAL_SUITES, help="benchmarks (default: all four)")
    add("--data", type=Path, help="a prepared training set to check as well")
    add("--report", type=Path, help="write what was found as JSON")
    add("--offline", action="store_true", help="open no connection: local files and cache only")
    check.set_defaults(run=_check)
    _add_strategies(verbs)


def _add_strategies(verbs: argparse._SubParsersAction) -> None:
    strategies = verbs.add_parser("strategies", help="ask a strong model for strategies")
    add = strategies.add_argument
    add("--data", required=True, type=Path, help="directory of `sgpo data prepare`")
    add("--endpoint", required=True, help="OpenAI-compatible, e.g. http://localhost:8000/v1")
    add("--model", required=True, help="model that proposes, as the endpoint calls it")
    add("--scorer", help="model that scores (default: the same)")
    add("--key-variable", default="OPENAI_API_KEY", help="variable with the key (%(default)s)")
    add("--candidates", type=positive, default=5, help="a problem (%(default)s)")
    add("--max-tokens", type=positive, default=8192, help="of a reply (%(default)s)")
    add("--concurrency", type=positive, default=16, help="problems at once (%(default)s)")
    add("--timeout", type=float, default=600.0, help="seconds of one request (%(default)s)")
    add("--price-in", type=float, default=0.0, help="of a million prompt tokens")
    add("--price-out", type=float, default=0.0, help="of a million completion tokens")
    add("--budget", type=float, help="stop when this run has spent so much")
    add("--limit", type=positive, help="a pilot on the first problems: prints the cost of all")
    strategies.set_defaults(run=_strategies)


def _prepare(options: argparse.Namespace) -> int:
    from benchmarks.data.commands import prepare_command

    return prepare_command(options)


def _check(options: argparse.Namespace) -> int:
    from benchmarks.data.commands import check_command

    return check_command(options)


def _strategies(options: argparse.Namespace) -> int:
    from benchmarks.data.commands import strategies_command

    return strategies_command(options)
