"""``sgpo data gsm8k``: GSM8K's problems and worked solutions as a prepared training set with a
development split and a benchmark of its own.

The problems with a strategy become development, warm-up and RL problems; the rest of the warm-up
has none. A strategy comes from a file that names rows of the training split, or later from ``sgpo
strategies``. Every choice follows a hash of seed and id.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.hub import fetch_dataset, go_offline, rows_of
from benchmarks.data.prepare import (
    cleaned,
    in_order,
    load_tests,
    print_set,
    unconfirmed_traces,
    without,
    write_set,
)
from benchmarks.data.problems import DEV, STRATEGIES
from benchmarks.data.suites import SUITES
from sgpo.core.files import jsonl_rows, sha256_of
from sgpo.core.types import Problem

HUB, SUBSET = "openai/gsm8k", "main"
BENCHMARK = "gsm8k"
_MARK = re.compile(r"<<[^<>]*>>")
Row = tuple[str, dict[str, Any]]  # where it stands, columns


@dataclass(frozen=True)
class Gsm8k:
    """What to make. ``source``: a directory with train.jsonl and test.jsonl, or a data set of the
    hub. ``strategies``: JSONL of {"index": row of the training split from 0, "strategy": text}, or
    None. Numbers of problems: ``guided`` that have or will get a strategy where there is no file,
    ``dev`` and ``warmup_guided`` of them, ``warmup`` in all, ``test`` of the test split."""

    source: str = HUB
    strategies: Path | None = None
    seed: int = 0
    guided: int = 718
    dev: int = 78
    warmup_guided: int = 240
    warmup: int = 1200
    test: int = 500
    test_sets: tuple[str, ...] = tuple(SUITES)


def make_gsm8k(plan: Gsm8k, out: Path) -> dict[str, Any]:
    """Write the set to ``out``, whole or not at all; its report.json.

    Raises:
        ValueError: ``out`` exists, a file cannot be read, a strategy is of no row, or too few
            problems are left.
    """
    tests = load_tests(plan.test_sets, out)
    origin, files = _source(plan)
    splits = {name: _problems(name, files(name)) for name in ("train", "test")}
    strategies = _strategies(plan, splits["train"])
    benchmark = in_order(splits["test"], plan.seed, "benchmark")[: plan.test]
    kept, removed = cleaned(splits["train"], tests | {BENCHMARK: benchmark})
    removed["unconfirmed_traces"] = unconfirmed_traces(kept)
    kept = without(kept, {entry["id"] for entry in removed["unconfirmed_traces"]})
    chosen = [p for p in kept if p.id in strategies]
    if plan.strategies is None:
        chosen = in_order(kept, plan.seed, "guided")[: plan.guided]
    guided = sorted(p.id for p in chosen)
    summary = {
        "plan": asdict(plan) | {"strategies": str(plan.strategies or "none")},
        "origin": origin,
        "rows": len(splits["train"]),
        "guided": guided,
    }
    parts = _split(plan, kept, chosen) | {BENCHMARK: benchmark}
    rows = [{"id": name, "strategy": strategies[name]} for name in guided if strategies]
    return write_set(out, parts, removed, summary, {STRATEGIES: rows} if rows else {})


def _source(plan: Gsm8k) -> tuple[dict[str, Any], Any]:
    """Where the rows come from, and the rows of a split by its name."""
    folder = Path(plan.source).expanduser()
    if folder.is_dir() and (folder / "train.jsonl").is_file():
        names = {name: folder / f"{name}.jsonl" for name in ("train", "test")}
        hashes = {path.name: sha256_of(path) for path in names.values() if path.is_file()}
        return {"source": plan.source, "files": hashes}, lambda name: jsonl_rows(names[name])
    if folder.exists() or plan.source.startswith((".", "/", "~")):
        raise ValueError(
            f"--source {plan.source}: must be a directory with train.jsonl and test.jsonl, or a "
            f"data set of the hub such as {HUB}"
        )
    path, commit = fetch_dataset(plan.source)
    return {"source": plan.source, "commit": commit}, lambda name: rows_of(path, name, SUBSET)


def _problems(split: str, rows: Iterator[Row]) -> list[Problem]:
    """The problems of a split in its order; an id is the place there."""
    return [problem_of_row(f"gsm8k/{split}/{i:04d}", *row) for i, row in enumerate(rows)]


def problem_of_row(name: str, where: str, row: dict[str, Any]) -> Problem:
    """The problem ``name`` of a row of GSM8K; its trace is the worked solution without the marks of
    the calculator, closed by the boxed answer. ValueError for a row that is not of that form."""
    question, solution = row.get("question"), row.get("answer")
    texts = isinstance(question, str) and isinstance(solution, str)
    steps, separator, value = solution.rpartition("####") if texts else ("", "", "")
    if not (separator and question.strip() and value.strip()):
        raise ValueError(f"{where}: no row of GSM8K: question and answer, which ends in '#### v'")
    answer = value.strip().replace(",", "")
    lines = [line.strip() for line in _MARK.sub("", steps).strip().splitlines()]
    trace = "\n".join([*filter(None, lines), f"The answer is \\boxed{{{answer}}}."])
    return Problem(name, question.strip(), answer, expert=trace)


def _strategies(plan: Gsm8k, problems: Sequence[Problem]) -> dict[str, str]:
    """Problem id -> strategy of the file that the plan names."""
    found: dict[str, str] = {}
    if plan.strategies is None:
        return found
    if not plan.strategies.is_file():
        raise ValueError(f"--strategies {plan.strategies}: no such file")
    for where, row in jsonl_rows(plan.strategies):
        index, text = row.get("index"), row.get("strategy")
        if type(index) is not int or not isinstance(text, str) or not text.strip():
            raise ValueError(f"{where}: must hold index, a whole number, and strategy, a text")
        if not 0 <= index < len(problems):
            raise ValueError(
                f"{where}: index {index} is no row of the {len(problems)} of the training split; "
                "are these the strategies of another set?"
            )
        if problems[index].id in found:
            raise ValueError(f"{where}: index {index} was there before")
        found[problems[index].id] = text
    return found


def _split(
    plan: Gsm8k, kept: Sequence[Problem], chosen: Sequence[Problem]
) -> dict[str, list[Problem]]:
    """``chosen`` (those with a strategy) as development, warm-up and RL problems, and others that
    fill the warm-up."""
    ordered, start = in_order(chosen, plan.seed, "split"), plan.dev + plan.warmup_guided
    taken = {p.id for p in chosen}
    others = [p for p in kept if p.id not in taken]
    plain = in_order(others, plan.seed, "warm-up")[: plan.warmup - plan.warmup_guided]
    if len(ordered) <= start or len(plain) < plan.warmup - plan.warmup_guided:
        raise ValueError(
            f"{plan.source}: {len(ordered)} problems with a strategy and {len(others)} others are "
            f"left; more than {start} and at least {plan.warmup - plan.warmup_guided} are needed"
        )
    return {
        "warmup": in_order([*ordered[plan.dev : start], *plain], plan.seed, "order"),
        "rl": ordered[start:],
        DEV: ordered[: plan.dev],
    }


def gsm8k_command(options: argparse.Namespace) -> int:
    """``sgpo data gsm8k``: make the set and say what is in it."""
    if options.offline:
        go_offline()
    plan = Gsm8k(options.source, options.strategies, options.seed, test_sets=options.test_sets)
    print_set(make_gsm8k(plan, options.out), options.out)
    if plan.strategies is None:
        print(f"no strategies yet: `sgpo strategies --data {options.out}` asks for them")
    return 0
