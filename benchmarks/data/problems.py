"""Problems from a local JSONL file, checked line by line before anything is run on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sgpo.core.types import Problem

# Name in the file -> field of Problem; "problem" is what the public benchmarks call the question.
_TEXT_FIELDS = {"strategy": "strategy", "expert": "expert", "kind": "kind"}


def read_problems(path: Path) -> list[Problem]:
    """The problems of a JSONL file, in its order.

    Each line is an object with ``id``, ``question`` (or ``problem``) and ``answer``, and may have
    ``strategy``, ``expert``, ``kind`` (texts) and ``level`` (a number).

    Raises:
        ValueError: naming file and line, for a line that is no JSON object, a missing or empty
            field, a field of the wrong type, or an id that was there before; also for a file
            without problems.
    """
    if not path.is_file():
        raise ValueError(f"problem file {str(path)!r}: no such file")
    problems: dict[str, Problem] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            problem = _problem(line, f"{path}, line {number}")
            if problem.id in problems:
                raise ValueError(f"{path}, line {number}: id {problem.id!r} was used before")
            problems[problem.id] = problem
    if not problems:
        raise ValueError(f"problem file {str(path)!r}: holds no problems")
    return list(problems.values())


def _problem(line: str, where: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: must be a JSON object, is {type(row).__name__}")
    question = "question" if "question" in row else "problem"
    optional = {name: _text(row, key, where) for key, name in _TEXT_FIELDS.items() if key in row}
    level = row.get("level", 0)
    if not isinstance(level, int):
        raise ValueError(f"{where}: field 'level' must be a whole number, is {level!r}")
    return Problem(
        id=_text(row, "id", where),
        question=_text(row, question, where),
        answer=_text(row, "answer", where),
        level=level,
        **optional,
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    if key not in row:
        raise ValueError(f"{where}: field {key!r} is missing")
    if not isinstance(row[key], str):
        raise ValueError(f"{where}: field {key!r} must be a text, is {row[key]!r}")
    if not row[key].strip():
        raise ValueError(f"{where}: field {key!r} is empty")
    return row[key]
