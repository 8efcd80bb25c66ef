"""A prepared training set: what ``sgpo data prepare`` leaves, and how a run reads it.

A directory with ``warmup.jsonl`` and ``rl.jsonl`` (problems with expert traces, see
``benchmarks.data.problems``), ``report.json`` (what was done), and ``strategies.jsonl``
(id -> strategy) once ``sgpo strategies`` has been run on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.data.problems import read_problems
from sgpo.core.files import sha256_of, write_text
from sgpo.core.types import Problem

SPLITS = ("warmup", "rl")
STRATEGIES = "strategies.jsonl"
HASH_DIGITS = 12


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """``problems`` as JSONL that ``read_problems`` reads back; absent texts are left out."""
    lines = []
    for p in problems:
        row = {"id": p.id, "question": p.question, "answer": p.answer, "strategy": p.strategy,
               "expert": p.expert, "kind": p.kind}  # fmt: skip
        row = {key: value for key, value in row.items() if value}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def prepared_problems(directory: Path, split: str) -> list[Problem]:
    """The problems of one split (``warmup``, ``rl`` or ``all``), strategies attached.

    Once there are strategies, problems without a usable one are left out of ``rl`` for every
    method, so that methods with and without guidance train on the same problems.

    Raises:
        ValueError: no prepared directory, or a damaged file in it.
    """
    if not (directory / "report.json").is_file():
        raise ValueError(_not_prepared(directory))
    strategies = read_strategies(directory)
    problems = []
    for name in SPLITS if split == "all" else (split,):
        for problem in read_problems(directory / f"{name}.jsonl"):
            strategy = strategies.get(problem.id)
            if strategies and name == "rl" and strategy is None:
                continue
            problems.append(replace(problem, strategy=strategy))
    if not problems:
        raise ValueError(f"training data {str(directory)!r}: no problem is left in {split!r}")
    return problems


def read_strategies(directory: Path) -> dict[str, str]:
    """Problem id -> strategy text of a prepared directory; empty before any was extracted."""
    path = directory / STRATEGIES
    if not path.is_file():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            found[row["id"]] = row["strategy"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: needs id and strategy ({error}); delete the file and run "
                "`sgpo strategies` again: it answers from its cache"
            ) from error
    return found


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file that a run reads from a prepared directory, by name."""
    names = [*(f"{name}.jsonl" for name in SPLITS), STRATEGIES]
    return {name: sha256_of(directory / name) for name in names if (directory / name).is_file()}


def data_sha256(directory: Path) -> str:
    """One hash of ``file_hashes``."""
    parts = [f"{name} {value}" for name, value in sorted(file_hashes(directory).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def data_source(directory: Path) -> str:
    """``DIRECTORY@HASH``: what ``DataConfig.source`` names a prepared training set by."""
    if not (directory / "report.json").is_file():
        raise ValueError(_not_prepared(directory))
    return f"{directory}@{data_sha256(directory)[:HASH_DIGITS]}"


def source_problems(source: str, split: str) -> list[Problem]:
    """``prepared_problems`` of a ``DIRECTORY@HASH``.

    Raises:
        ValueError: no hash is named, or the directory's content has another one now.
    """
    name, separator, digits = source.rpartition("@")
    if not separator:
        raise ValueError(
            f"data.source={source!r}: must be mini, or a prepared training set as DIRECTORY@HASH "
            "(`sgpo data check --data DIRECTORY` prints it)"
        )
    problems = prepared_problems(Path(name), split)
    found = data_sha256(Path(name))[:HASH_DIGITS]
    if found != digits:
        raise ValueError(
            f"training data {name!r}: its content has hash {found}, the run asks for {digits}; it "
            "was changed (strategies added?): name the new hash, or restore the files"
        )
    return problems


def _not_prepared(directory: Path) -> str:
    return (
        f"training data {str(directory)!r}: not a prepared directory (report.json is missing); "
        "make it with `sgpo data prepare`"
    )
