"""``sgpo data prepare``: rows from the hub or a file -> a checked, split training set.

The rules, in the order in which they are applied; every id that one of them removes is listed in
report.json:

1. duplicates: of questions with the same text (spaces aside) the first is kept;
2. special tokens: question or trace spells a special token of the tokenizer;
3. over-long: prompt and expert trace together exceed ``max_tokens``, so no method could learn from
   the whole trace. The problem leaves every split, so all methods train on the same problems;
4. contamination: it overlaps with a test set (``find_overlaps``);
5. unconfirmed traces: the verifier does not judge the trace's own answer correct. A flag keeps
   them; they are counted and listed either way.

A third of what is left becomes the warm-up; which one follows a hash of seed and id and depends on
no order.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.data.hub import fetch_dataset, rows_of
from benchmarks.data.problems import (
    SPLITS,
    check_readable,
    file_hashes,
    problem_of,
    question_id,
    read_problems,
    read_rows,
    write_problems,
)
from benchmarks.data.suites import SUITES, load_suite
from sgpo.core.files import sha256_of, whole_directory, write_json
from sgpo.core.prompts import PromptSpec, special_token_in
from sgpo.core.types import Problem
from sgpo.core.verifier import grade_many

Report = Callable[[str, int, int], None]  # stage, done, total
CHUNK = 256
GRAM = 13  # words
_TYPESETTING = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|textstyle|mathrm|mathbf|mathit|text|textbf|"
    r"textit|operatorname|quad|qquad|limits|begin|end|label|tag)(?![a-zA-Z])"
)
_SPELLINGS = ((re.compile(r"\\[dt]frac"), r"\\frac"), (re.compile(r"\\leqs?lant\b|\\leq"), r"\\le"),
              (re.compile(r"\\geqs?lant\b|\\geq"), r"\\ge"))  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True)
class Preparation:
    """What to prepare. ``source``: a data set on the hub ("owner/name"), or a file or directory
    that ``read_rows`` reads. ``max_tokens``: of prompt and trace together. ``test_sets``: names of
    real benchmarks, or files of problems."""

    source: str
    max_tokens: int
    revision: str | None = None
    subset: str | None = None
    seed: int = 0
    test_sets: tuple[str, ...] = tuple(SUITES)
    keep_unconfirmed: bool = False


def prepare(
    plan: Preparation, tokenizer: Any, spec: PromptSpec, out: Path, report: Report
) -> dict[str, Any]:
    """Write the training set to ``out``, whole or not at all; its report.json.

    Raises:
        ValueError: ``out`` exists, the source cannot be read, its text is not the tokenizer's, or
            no problem is left.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another --out")
    tests = {name: load_test_set(name) for name in plan.test_sets}
    rows, origin = load_rows(plan)
    check_readable(rows, tokenizer)
    problems, removed = _clean(rows, plan, tokenizer, spec, report)
    report("compare with the test sets", 0, 1)
    removed["contamination"] = find_overlaps(problems, tests)
    report("compare with the test sets", 1, 1)
    dirty = {overlap["problem_id"] for overlap in removed["contamination"]}
    problems = [p for p in problems if p.id not in dirty]
    unconfirmed = unconfirmed_traces(problems, report)
    if not plan.keep_unconfirmed:
        removed["unconfirmed_traces"] = unconfirmed
        wrong = {entry["id"] for entry in unconfirmed}
        problems = [p for p in problems if p.id not in wrong]
    if not problems:
        counts = ", ".join(f"{rule} {len(items)}" for rule, items in removed.items() if items)
        raise ValueError(f"{plan.source}: no problem is left of {len(rows)}; removed: {counts}")
    parts = split(problems, plan.seed)
    with whole_directory(out) as folder:
        for name in SPLITS:
            write_problems(folder / f"{name}.jsonl", parts[name])
        summary = {
            "plan": asdict(plan) | {"test_sets": list(plan.test_sets)},
            "origin": origin,
            "prompt_spec": spec.name,
            "tokenizer": str(tokenizer.name_or_path),
            "rows": len(rows),
            "removed": {k: {"count": len(v), "items": v} for k, v in removed.items()},
            "counts": {name: len(part) for name, part in parts.items()},
            "without_trace": sum(not p.expert for p in problems),
            "unconfirmed_traces": {"count": len(unconfirmed), "kept": plan.keep_unconfirmed,
                                   "items": unconfirmed},
            "files": file_hashes(folder),
        }  # fmt: skip
        write_json(folder / "report.json", summary)
    return summary


def load_rows(plan: Preparation) -> tuple[list[Problem], dict[str, Any]]:
    """All problems of the source, and where they come from with the hash of every file."""
    origin: dict[str, Any] = {"source": plan.source, "commit": None}
    path = Path(plan.source).expanduser()
    if path.exists() or path.suffix:
        rows = read_rows(path)
    else:
        path, origin["commit"] = fetch_dataset(plan.source, revision=plan.revision)
        rows = rows_of(path, "train", plan.subset)
    problems: list[Problem] = []
    places: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        problem = problem_of(row, where)
        question = question_id(problem.question)
        first, known = places.setdefault(problem.id, (where, question))
        if known != question:
            raise ValueError(f"{where}: id {problem.id!r} is that of another question ({first})")
        problems.append(problem)
    if not problems:
        raise ValueError(f"{plan.source}: holds no rows")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    origin["files"] = {file.name: sha256_of(file) for file in files}
    return problems, origin


def load_test_set(name: str) -> list[Problem]:
    """The problems of a real benchmark, or of a file."""
    if name in SUITES:
        return load_suite(name)
    if not Path(name).exists():
        raise ValueError(
            f"test set {name!r}: must be none, one of {', '.join(SUITES)}, or a file of problems"
        )
    return read_problems(Path(name))


def _clean(
    rows: Sequence[Problem], plan: Preparation, tokenizer: Any, spec: PromptSpec, report: Report
) -> tuple[list[Problem], dict[str, list[Any]]]:
    """Rules 1 to 3: what is left, and the removed ids by rule."""
    removed: dict[str, list[Any]] = {"duplicates": [], "special_tokens": [], "over_long": []}
    kept: dict[str, Problem] = {}
    for number, problem in enumerate(rows, start=1):
        if number % CHUNK == 0 or number == len(rows):
            report("check", number, len(rows))
        question = question_id(problem.question)
        texts = problem.question, problem.expert or "", problem.strategy or ""
        if question in kept:
            removed["duplicates"].append(problem.id)
            continue
        if any(special_token_in(tokenizer, text) for text in texts):
            removed["special_tokens"].append(problem.id)
            continue
        length = len(spec.prompt_ids(tokenizer, problem))
        length += len(spec.target_ids(tokenizer, problem.expert)) if problem.expert else 0
        if length > plan.max_tokens:
            removed["over_long"].append({"id": problem.id, "tokens": length})
            continue
        kept[question] = problem
    return list(kept.values()), removed


def in_order(problems: Iterable[Problem], seed: int, purpose: str) -> list[Problem]:
    """In the order of a hash of seed, purpose and id."""

    def place(problem: Problem) -> str:
        return hashlib.sha256(f"{seed}/{purpose}/{problem.id}".encode()).hexdigest()

    return sorted(problems, key=place)


def split(problems: Sequence[Problem], seed: int) -> dict[str, list[Problem]]:
    """A third of the problems (rounded down) for the warm-up, which takes those with a trace alone;
    the rest for RL."""
    ordered = in_order(problems, seed, "split")
    warmup = [p for p in ordered if p.expert][: len(ordered) // 3]
    taken = {p.id for p in warmup}
    return {"warmup": warmup, "rl": [p for p in ordered if p.id not in taken]}


def unconfirmed_traces(
    problems: Sequence[Problem], report: Report = lambda *_: None
) -> list[dict[str, str]]:
    """Traces that the verifier does not judge correct, with its reason."""
    traced, found = [p for p in problems if p.expert], []
    for start in range(0, len(traced), CHUNK):
        part = traced[start : start + CHUNK]
        verdicts = grade_many([(p.answer, p.expert) for p in part])
        wrong = [(p, v) for p, v in zip(part, verdicts, strict=True) if not v.correct]
        found += [{"id": p.id, "reason": v.reason} for p, v in wrong]
        report("judge the traces", start + len(part), len(traced))
    return found


def find_overlaps(
    problems: Iterable[Problem], benchmarks: Mapping[str, Sequence[Problem]]
) -> list[dict[str, str]]:
    """The first overlap of every training problem that has one, in the order of ``problems``, with
    the ``words`` that it shares with ``test_id`` of ``benchmark`` by ``rule``.

    Two rules: *same text*, when question and test question have the same words; and *13-gram*, when
    they share 13 words in a row. The first alone applies to questions of fewer than 13 words.
    Rephrased questions are not found by either rule.
    """
    same: dict[tuple[str, ...], tuple[str, str]] = {}
    grams: dict[tuple[str, ...], tuple[str, str]] = {}
    for key, tests in benchmarks.items():
        for test in tests:
            words = words_of(test.question)
            same.setdefault(words, (key, test.id))
            for gram in _grams(words):
                grams.setdefault(gram, (key, test.id))
    found = []
    for problem in problems:
        words = words_of(problem.question)
        shared = next((gram for gram in _grams(words) if gram in grams), ())
        if words in same:
            (benchmark, test), rule, shared = same[words], "same text", words[:GRAM]
        elif shared:
            (benchmark, test), rule = grams[shared], f"{GRAM}-gram"
        else:
            continue
        found.append(
            {
                "problem_id": problem.id,
                "benchmark": benchmark,
                "test_id": test,
                "rule": rule,
                "words": " ".join(shared),
            }
        )
    return found


def words_of(text: str) -> tuple[str, ...]:
    """Runs of letters or of digits in lower case, without LaTeX commands that only set the type."""
    text = _TYPESETTING.sub(" ", unicodedata.normalize("NFKC", text))
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return tuple(_WORD.findall(text.lower()))


def _grams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))
