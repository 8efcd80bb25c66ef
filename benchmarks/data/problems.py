"""Problems in files: how a user's are read, and the sets that ``sgpo data prepare`` writes.

A row is read in either of two forms, whatever file it stands in (README.md of this room): fields of
its own, or the columns of the LUFFY sets (``prompt``: chat turns, whose last user turn is the
question; ``target``: the expert's turn; ``reward_model.ground_truth``).

A prepared training set is a directory with ``warmup.jsonl`` and ``rl.jsonl`` (first form),
``report.json`` (what was done), and ``strategies.jsonl`` (id -> strategy) once ``sgpo strategies``
has been run on it. GSM8K's (``gsm8k.py``) has ``dev.jsonl`` and a benchmark of its own too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.data.hub import rows_of
from sgpo.core.files import jsonl_rows, read_json, sha256_of, write_text
from sgpo.core.types import Problem

SPLITS = ("warmup", "rl")
DEV = "dev"  # a further file that a set may have: the regime is measured on it
STRATEGIES = "strategies.jsonl"
HASH_DIGITS = 12
# Of a text's characters; above it a tokenizer is another language's. Normalising (accents, spaces)
# changes a few.
LOST_SHARE = 0.1
_TEXTS = ("strategy", "expert", "kind")
_SPACE = re.compile(r"\s+")


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line or row, columns) of a JSONL or parquet file or of a directory of the
    ``datasets`` library.

    Raises:
        ValueError: no such file, another kind of file, or damaged content (JSONL: which line).
    """
    if path.suffix in (".jsonl", ".json") and path.is_file():
        return jsonl_rows(path)
    return rows_of(path, "train")


def read_problems(path: Path) -> list[Problem]:
    """The problems of a file or data set directory, in its order.

    Raises:
        ValueError: naming file and line, for a missing or empty field, a field of the wrong type,
            or an id that was there before; also without any problem.
    """
    problems: dict[str, Problem] = {}
    for where, row in read_rows(path):
        problem = problem_of(row, where)
        if problem.id in problems:
            raise ValueError(f"{where}: id {problem.id!r} was used before")
        problems[problem.id] = problem
    if not problems:
        raise ValueError(
            f"problem file {str(path)!r}: holds no problems; benchmarks/data/README.md shows ten"
        )
    return list(problems.values())


def problem_of(row: dict[str, Any], where: str) -> Problem:
    """The problem of one row in either form; without an id it gets ``question_id``.

    Raises:
        ValueError: naming row and field, for a value that is not what the field must hold.
    """
    if "prompt" in row and "question" not in row:
        return _luffy_problem(row, where)
    question = _text(row, "question" if "question" in row else "problem", where)
    level = row.get("level") or 0
    if not isinstance(level, int):
        raise ValueError(f"{where}: field 'level' must be a whole number, is {level!r}")
    # Tables have every column in every row: what a row does not have is null there.
    extra = {name: _text(row, name, where) for name in _TEXTS if row.get(name) is not None}
    name = question_id(question) if row.get("id") is None else _text(row, "id", where, numbers=True)
    answer = row.get("answer")
    if isinstance(answer, list) and answer and all(isinstance(v, str) for v in answer):
        answer = ", ".join(answer)  # several values, as OlympiadBench has them
    else:
        answer = _text(row, "answer", where, numbers=True)
    return Problem(name, question, answer, level=level, **extra)


def _text(row: dict[str, Any], key: str, where: str, numbers: bool = False) -> str:
    if key not in row:
        raise ValueError(f"{where}: field {key!r} is missing; it has {', '.join(row) or 'none'}")
    value = row[key]
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value) if math.isfinite(value) else value
    if not isinstance(value, str):
        wanted = "a text or a number" if numbers else "a text"
        raise ValueError(f"{where}: field {key!r} must be {wanted}, is {value!r}")
    if not value.strip():
        raise ValueError(f"{where}: field {key!r} is empty")
    return value


def _luffy_problem(row: dict[str, Any], where: str) -> Problem:
    question = _turn(row, "prompt", "user", where)
    trace = _turn(row, "target", "assistant", where)
    reward = row.get("reward_model")
    answer = reward.get("ground_truth") if isinstance(reward, dict) else None
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    answer = _text({"reward_model.ground_truth": answer}, "reward_model.ground_truth", where, True)
    source = row.get("data_source")
    kind = source if isinstance(source, str) else ""
    return Problem(question_id(question), question, answer, expert=trace, kind=kind)


def _turn(row: dict[str, Any], column: str, role: str, where: str) -> str:
    turns = row.get(column)
    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise ValueError(f"{where}: column {column!r} must be a list of chat turns, is {turns!r}")
    texts = [t.get("content") for t in turns if t.get("role") == role]
    if not texts or not isinstance(texts[-1], str) or not texts[-1].strip():
        raise ValueError(f"{where}: column {column!r} holds no {role} turn with text")
    return texts[-1]


def question_id(question: str) -> str:
    """An id that a question has wherever it stands: 12 hex digits over its text without spaces."""
    return "q" + hashlib.sha256(_SPACE.sub("", question).encode()).hexdigest()[:12]


def check_readable(problems: Iterable[Problem], tokenizer: Any) -> None:
    """ValueError naming the first problem of whose question the tokenizer drops more than
    ``LOST_SHARE``, as the mini models' does with words that are not of their world."""
    for problem in problems:
        ids = tokenizer(problem.question, add_special_tokens=False)["input_ids"]
        whole = len(_SPACE.sub("", problem.question))
        kept = len(_SPACE.sub("", tokenizer.decode(ids)))
        if kept < (1 - LOST_SHARE) * whole:
            raise ValueError(
                f"problem {problem.id}: the tokenizer keeps {kept} of its question's {whole} "
                "characters, so the model would not see what is asked; choose a model of this "
                "language (a mini model knows the words of its own world only)"
            )


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """``rows`` as JSONL."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """``problems`` as JSONL that ``read_problems`` reads back; absent texts are left out."""
    names = ("id", "question", "answer", "strategy", "expert", "kind")
    rows = ({name: getattr(p, name) for name in names} for p in problems)
    write_rows(path, ({key: value for key, value in row.items() if value} for row in rows))


def prepared_problems(directory: Path, split: str) -> list[Problem]:
    """The problems of one split (``warmup``, ``rl``, ``all`` or ``dev``), strategies attached.

    Once there are strategies, problems without a usable one are left out of ``rl`` for every
    method, so that methods with and without guidance train on the same problems. A strategy of
    ``strategies.jsonl`` goes before one that came with the row.

    Raises:
        ValueError: no prepared directory, or a damaged file in it.
    """
    _check_prepared(directory)
    extracted = read_strategies(directory)
    problems: list[Problem] = []
    for name in SPLITS if split == "all" else (split,):
        path = directory / f"{name}.jsonl"
        part = read_problems(path) if path.stat().st_size else []
        part = [replace(p, strategy=extracted.get(p.id, p.strategy)) for p in part]
        if name == "rl" and any(p.strategy for p in part):
            part = [p for p in part if p.strategy]
        problems += part
    if not problems:
        raise ValueError(f"training data {str(directory)!r}: no problem is left in {split!r}")
    return problems


def problems_to_guide(directory: Path) -> list[Problem]:
    """The problems that need a strategy: those for RL, and what else report.json calls guided."""
    _check_prepared(directory)
    problems = read_problems(directory / "rl.jsonl")
    named = {*read_json(directory / "report.json").get("guided", ())} - {p.id for p in problems}
    for name in ("warmup", DEV) if named else ():
        problems += [p for p in read_problems(directory / f"{name}.jsonl") if p.id in named]
    return problems


def read_strategies(directory: Path) -> dict[str, str]:
    """Problem id -> strategy text of ``sgpo strategies``; empty before it was run."""
    path = directory / STRATEGIES
    if not path.is_file():
        return {}
    try:
        return {_text(r, "id", at): _text(r, "strategy", at) for at, r in jsonl_rows(path)}
    except ValueError as error:
        raise ValueError(
            f"{error}; delete the file and run `sgpo strategies` again: it answers from its cache"
        ) from error


def file_hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file that a run reads from a prepared directory, by name."""
    names = [*(f"{name}.jsonl" for name in (*SPLITS, DEV)), STRATEGIES]
    return {name: sha256_of(directory / name) for name in names if (directory / name).is_file()}


def data_source(directory: Path) -> str:
    """``DIRECTORY@HASH``: what ``DataConfig.source`` names a prepared training set by."""
    _check_prepared(directory)
    parts = [f"{name} {value}" for name, value in sorted(file_hashes(directory).items())]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return f"{directory}@{digest[:HASH_DIGITS]}"


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
    now = data_source(Path(name))
    if not now.endswith(f"@{digits}"):
        raise ValueError(
            f"data.source={source!r}: the files there are {now} now; they were changed (strategies "
            "added?): name that, or restore them"
        )
    return problems


def _check_prepared(directory: Path) -> None:
    if not (directory / "report.json").is_file():
        raise ValueError(
            f"training data {str(directory)!r}: not a prepared directory (report.json is missing); "
            "make it with `sgpo data prepare`"
        )
