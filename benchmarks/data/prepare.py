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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.data.hub import fetch_dataset, rows_of
from benchmarks.data.problems import (
    check_readable,
    data_source,
    file_hashes,
    problem_of,
    question_id,
    read_problems,
    read_rows,
    write_problems,
    write_rows,
)
from benchmarks.data.suites import SUITES, load_suite
from sgpo.core.files import sha256_of, whole_directory, write_json
from sgpo.core.prompts import PromptSpec, special_token_in
from sgpo.core.types import Problem
from sgpo.core.verifier import grade_many

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


def prepare(plan: Preparation, tokenizer: Any, spec: PromptSpec, out: Path) -> dict[str, Any]:
    """Write the training set to ``out``, whole or not at all; its report.json.

    Raises:
        ValueError: ``out`` exists, the source cannot be read, its text is not the tokenizer's, or
            no problem is left.
    """
    tests = load_tests(plan.test_sets, out)
    rows, origin = load_rows(plan)
    check_readable(rows, tokenizer)

    def fault(problem: Problem) -> tuple[str, Any] | None:
        texts = problem.question, problem.expert or "", problem.strategy or ""
        if any(special_token_in(tokenizer, text) for text in texts):
            return "special_tokens", problem.id
        length = len(spec.prompt_ids(tokenizer, problem))
        length += len(spec.target_ids(tokenizer, problem.expert)) if problem.expert else 0
        if length > plan.max_tokens:
            return "over_long", {"id": problem.id, "tokens": length}
        return None

    problems, removed = cleaned(rows, tests, fault)
    unconfirmed = unconfirmed_traces(problems)
    if not plan.keep_unconfirmed:
        removed["unconfirmed_traces"] = unconfirmed
        problems = without(problems, {entry["id"] for entry in unconfirmed})
    if not problems:
        counts = ", ".join(f"{rule} {len(items)}" for rule, items in removed.items() if items)
        raise ValueError(f"{plan.source}: no problem is left of {len(rows)}; removed: {counts}")
    summary = {
        "plan": asdict(plan) | {"test_sets": list(plan.test_sets)},
        "origin": origin,
        "prompt_spec": spec.name,
        "tokenizer": str(tokenizer.name_or_path),
        "rows": len(rows),
        "without_trace": sum(not p.expert for p in problems),
        "unconfirmed_traces": {"count": len(unconfirmed), "kept": plan.keep_unconfirmed,
                               "items": unconfirmed},
    }  # fmt: skip
    return write_set(out, split(problems, plan.seed), removed, summary)


def write_set(
    out: Path,
    parts: Mapping[str, Sequence[Problem]],
    removed: Mapping[str, Sequence[Any]],
    summary: Mapping[str, Any],
    beside: Mapping[str, Sequence[dict[str, Any]]] | None = None,
) -> dict[str, Any]:
    """Write the splits ``parts``, the JSONL files ``beside`` them and report.json, which is
    returned: ``summary`` with what was removed by rule, counts and hashes."""
    with whole_directory(out) as folder:
        for name, part in parts.items():
            write_problems(folder / f"{name}.jsonl", part)
        for name, rows in (beside or {}).items():
            write_rows(folder / name, rows)
        whole = {
            **summary,
            "removed": {k: {"count": len(v), "items": v} for k, v in removed.items()},
            "counts": {name: len(part) for name, part in parts.items()},
            "files": file_hashes(folder),
        }
        write_json(folder / "report.json", whole)
    return whole


def print_set(summary: Mapping[str, Any], out: Path) -> None:
    """Say what was removed, what is there, and how a run names it."""
    for rule, entry in summary["removed"].items():
        print(f"{rule:18} {entry['count']:6} removed")
    for part, count in summary["counts"].items():
        print(f"{part:18} {count:6} problems")
    print(f"report.json lists every id; a run names this set data.source={data_source(out)}")


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


def load_tests(names: Sequence[str], out: Path) -> dict[str, Sequence[Problem]]:
    """The problems of real benchmarks and of files by name, for a set at ``out``; ValueError if
    that exists."""
    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another --out")
    tests: dict[str, Sequence[Problem]] = {}
    for name in names:
        if name not in SUITES and not Path(name).exists():
            raise ValueError(
                f"test set {name!r}: must be none, one of {', '.join(SUITES)}, or a file of "
                "problems"
            )
        tests[name] = load_suite(name) if name in SUITES else read_problems(Path(name))
    return tests


def cleaned(
    rows: Sequence[Problem],
    tests: Mapping[str, Sequence[Problem]],
    fault: Callable[[Problem], tuple[str, Any] | None] = lambda problem: None,
) -> tuple[list[Problem], dict[str, list[Any]]]:
    """What is left after rules 1 to 4, and what was removed by rule. ``fault``: which of rules 2
    and 3 a problem breaks, and what of it is listed."""
    removed: dict[str, list[Any]] = {"duplicates": []}
    kept: dict[str, Problem] = {}
    for problem in track(rows, "check", transient=True):
        question = question_id(problem.question)
        found = ("duplicates", problem.id) if question in kept else fault(problem)
        if found:
            removed.setdefault(found[0], []).append(found[1])
        else:
            kept[question] = problem
    removed["contamination"] = find_overlaps(kept.values(), tests)
    dirty = {overlap["problem_id"] for overlap in removed["contamination"]}
    return without(kept.values(), dirty), removed


def without(problems: Iterable[Problem], ids: Collection[str]) -> list[Problem]:
    return [problem for problem in problems if problem.id not in ids]


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


def unconfirmed_traces(problems: Sequence[Problem]) -> list[dict[str, str]]:
    """Traces that the verifier does not judge correct, with its reason."""
    traced, found = [p for p in problems if p.expert], []
    for start in track(range(0, len(traced), CHUNK), "judge the traces", transient=True):
        part = traced[start : start + CHUNK]
        verdicts = grade_many([(p.answer, p.expert) for p in part])
        wrong = [(p, v) for p, v in zip(part, verdicts, strict=True) if not v.correct]
        found += [{"id": p.id, "reason": v.reason} for p, v in wrong]
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
