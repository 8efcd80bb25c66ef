"""Rows of data files, and training examples made from them.

A training row has the columns of the LUFFY sets on the hub: ``prompt`` (chat turns, of which the
last user turn is the question; a system turn is passed over, because prompts are built by
``prompts.py`` alone), ``target`` (one assistant turn, the expert's trace) and ``reward_model`` with
``ground_truth``. Other columns are not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sgpo.core.types import Problem

SUFFIXES = (".parquet", ".jsonl", ".json")
TRAINING_COLUMNS = ("prompt", "target", "reward_model")
_NOT_WORD = re.compile(r"\s+")


def read_rows(path: Path, columns: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a parquet or JSONL file as (where, row); ``where`` names file and row.

    Args:
        columns: must be in every row; what else is there comes back as well.

    Raises:
        ValueError: no such file, another kind of file, damaged content, a missing column, or
            pyarrow is absent and the file is parquet.
    """
    if not path.is_file():
        raise ValueError(f"data file {str(path)!r}: no such file")
    if path.suffix not in SUFFIXES:
        raise ValueError(f"data file {str(path)!r}: must end in {' or '.join(SUFFIXES)}")
    rows = _parquet_rows(path, columns) if path.suffix == ".parquet" else _json_rows(path)
    for number, row in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        missing = [c for c in columns if c not in row]
        if missing:
            raise ValueError(f"{where}: column {missing[0]!r} is missing; it has {', '.join(row)}")
        yield where, row


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise ValueError(f"{path}, line {number}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: must be a JSON object")
            yield row


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"{path}: reading parquet needs pyarrow; install the extra: pip install 'sgpo[data]'"
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [c for c in columns if c not in file.schema_arrow.names]
            if missing:
                raise ValueError(
                    f"{path}: column {missing[0]!r} is missing; it has "
                    f"{', '.join(file.schema_arrow.names)}"
                )
            for batch in file.iter_batches(batch_size=1024):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        line = str(error).splitlines()[0]
        raise ValueError(f"{path}: damaged parquet file ({line}); fetch it again") from error


def training_problem(row: dict[str, Any], where: str) -> Problem:
    """The problem of one training row, with the expert's trace; ``id`` is made from the question.

    Raises:
        ValueError: naming row and column, for a value that is not what the column must hold.
    """
    question = _turn(row, "prompt", "user", where)
    trace = _turn(row, "target", "assistant", where)
    reward = row["reward_model"]
    answer = reward.get("ground_truth") if isinstance(reward, dict) else None
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, str) or not answer.strip():
        raise ValueError(f"{where}: reward_model.ground_truth must be a text, is {answer!r}")
    return Problem(question_id(question), question, answer, expert=trace, kind=_source(row))


def question_id(question: str) -> str:
    """An id that a question has wherever it stands: 12 hex digits over its text without spaces."""
    text = _NOT_WORD.sub("", question)
    return "q" + hashlib.sha256(text.encode()).hexdigest()[:12]


def _source(row: dict[str, Any]) -> str:
    source = row.get("data_source")
    return source if isinstance(source, str) else ""


def _turn(row: dict[str, Any], column: str, role: str, where: str) -> str:
    turns = row[column]
    if not isinstance(turns, list) or not all(isinstance(t, dict) for t in turns):
        raise ValueError(f"{where}: column {column!r} must be a list of chat turns")
    texts = [t.get("content") for t in turns if t.get("role") == role]
    if not texts or not isinstance(texts[-1], str) or not texts[-1].strip():
        raise ValueError(f"{where}: column {column!r} holds no {role} turn with text")
    return texts[-1]
