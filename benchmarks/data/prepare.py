"""``sgpo data prepare``: rows from the hub or a file -> a checked, split training set.

The rules, in the order in which they are applied; every id that one of them removes is listed in
report.json:

1. duplicates: of questions with the same text (spaces aside) the first is kept;
2. special tokens: question or trace spells a special token of the tokenizer;
3. over-long: prompt and expert trace together exceed ``max_tokens``, so no method could learn from
   the whole trace. The problem leaves every split, so all methods train on the same problems;
4. contamination: it overlaps with a test set (``benchmarks.data.decontamination``).

From what is left ``draw`` problems are drawn, and a third of them becomes the warm-up; both follow
a hash of seed and id, so they depend on no order. Traces whose own answer the verifier does not
confirm are counted and listed, and kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.data.decontamination import find_overlaps
from benchmarks.data.hub import fetch_dataset
from benchmarks.data.prepared import SPLITS, file_hashes, write_problems
from benchmarks.data.rows import TRAINING_COLUMNS, question_id, read_rows, training_problem
from benchmarks.data.suites import SUITES, load_suite
from sgpo.core.files import sha256_of, whole_directory, write_json
from sgpo.core.prompts import PromptSpec, special_token_in
from sgpo.core.types import Problem
from sgpo.core.verifier import grade_many

Report = Callable[[str, int, int], None]  # stage, done, total
CHUNK = 256
MIN_SHARED_SUFFIX = 15  # characters


@dataclass(frozen=True)
class Preparation:
    """What to prepare. ``source``: a data set on the hub ("owner/name"), or a .parquet or .jsonl
    file. ``max_tokens``: of prompt and trace together. ``draw``: problems to keep, None for all."""

    source: str
    revision: str | None
    offline: bool
    max_tokens: int
    draw: int | None
    seed: int
    strip_suffix: str = ""


def prepare(
    plan: Preparation, tokenizer: Any, spec: PromptSpec, out: Path, report: Report
) -> dict[str, Any]:
    """Write the training set to ``out``, whole or not at all; its report.json.

    Raises:
        ValueError: ``out`` exists, the source cannot be read, or fewer problems than ``draw`` are
            left.
    """
    if out.exists():
        raise ValueError(f"{out}: exists already; remove it or choose another --out")
    rows, origin = load_rows(plan)
    problems, removed = _clean(rows, plan, tokenizer, spec, report)
    suites = {key: load_suite(key, offline=plan.offline) for key in SUITES}
    report("compare with the test sets", 0, 1)
    overlaps = find_overlaps(problems, suites)
    report("compare with the test sets", 1, 1)
    removed["contamination"] = [asdict(o) for o in overlaps]
    dirty = {o.problem_id for o in overlaps}
    kept = _draw([p for p in problems if p.id not in dirty], plan)
    parts = split(kept, plan.seed)
    unconfirmed = _unconfirmed(kept, report)
    with whole_directory(out) as folder:
        for name in SPLITS:
            write_problems(folder / f"{name}.jsonl", parts[name])
        summary = {
            "plan": asdict(plan),
            "origin": origin,
            "prompt_spec": spec.name,
            "tokenizer": str(tokenizer.name_or_path),
            "rows": len(rows),
            "removed": {k: {"count": len(v), "items": v} for k, v in removed.items()},
            "counts": {name: len(part) for name, part in parts.items()},
            "unconfirmed_traces": {"count": len(unconfirmed), "items": unconfirmed},
            "shared_suffix": shared_suffix([p.question for p in kept]),
            "files": file_hashes(folder),
        }
        write_json(folder / "report.json", summary)
    return summary


def load_rows(plan: Preparation) -> tuple[list[Problem], dict[str, Any]]:
    """All problems of the source, and where they come from with the hash of every file."""
    origin: dict[str, Any] = {"source": plan.source, "commit": None}
    path = Path(plan.source)
    if path.suffix in (".parquet", ".jsonl", ".json"):
        files = [path]
    else:
        files, origin["commit"] = fetch_dataset(
            plan.source, split="train", revision=plan.revision, offline=plan.offline
        )
    problems = []
    for file in files:
        for where, row in read_rows(file, TRAINING_COLUMNS):
            problems.append(training_problem(row, where))
    if not problems:
        raise ValueError(f"{plan.source}: holds no rows")
    origin["files"] = {file.name: sha256_of(file) for file in files}
    return problems, origin


def _clean(
    rows: Sequence[Problem], plan: Preparation, tokenizer: Any, spec: PromptSpec, report: Report
) -> tuple[list[Problem], dict[str, list[Any]]]:
    """Rules 1 to 3: what is left, and the removed ids by rule."""
    removed: dict[str, list[Any]] = {"duplicates": [], "special_tokens": [], "over_long": []}
    kept: dict[str, Problem] = {}
    for number, problem in enumerate(rows, start=1):
        if number % CHUNK == 0 or number == len(rows):
            report("check", number, len(rows))
        if plan.strip_suffix:
            problem = _without_suffix(problem, plan.strip_suffix)
        if problem.id in kept:
            removed["duplicates"].append(problem.id)
            continue
        texts = problem.question, problem.expert or ""
        if any(special_token_in(tokenizer, text) for text in texts):
            removed["special_tokens"].append(problem.id)
            continue
        length = len(spec.prompt_ids(tokenizer, problem))
        length += len(spec.target_ids(tokenizer, problem.expert or ""))
        if length > plan.max_tokens:
            removed["over_long"].append({"id": problem.id, "tokens": length})
            continue
        kept[problem.id] = problem
    return list(kept.values()), removed


def _without_suffix(problem: Problem, suffix: str) -> Problem:
    if not problem.question.endswith(suffix):
        raise ValueError(
            f"--strip-suffix {suffix!r}: question {problem.id} does not end in it but in "
            f"{problem.question[-40:]!r}"
        )
    question = problem.question.removesuffix(suffix).rstrip()
    return replace(problem, id=question_id(question), question=question)


def _order(problem: Problem, *names: str | int) -> str:
    text = "/".join([*map(str, names), problem.id])
    return hashlib.sha256(text.encode()).hexdigest()


def _draw(problems: list[Problem], plan: Preparation) -> list[Problem]:
    if plan.draw is None:
        return problems
    if plan.draw > len(problems):
        raise ValueError(f"--draw {plan.draw}: only {len(problems)} problems are left; draw fewer")
    return sorted(problems, key=lambda p: _order(p, plan.seed, "draw"))[: plan.draw]


def split(problems: Sequence[Problem], seed: int) -> dict[str, list[Problem]]:
    """A third of the problems (rounded down) for the warm-up, the rest for RL."""
    ordered = sorted(problems, key=lambda p: _order(p, seed, "split"))
    third = len(ordered) // 3
    return {"warmup": ordered[:third], "rl": ordered[third:]}


def _unconfirmed(problems: Sequence[Problem], report: Report) -> list[dict[str, str]]:
    """Traces that the verifier does not judge correct, with its reason."""
    found = []
    for start in range(0, len(problems), CHUNK):
        part = problems[start : start + CHUNK]
        verdicts = grade_many([(p.answer, p.expert or "") for p in part])
        found += [
            {"id": p.id, "reason": v.reason}
            for p, v in zip(part, verdicts, strict=True)
            if not v.correct
        ]
        report("judge the traces", min(start + CHUNK, len(problems)), len(problems))
    return found


def shared_suffix(texts: Sequence[str]) -> str:
    """What every text ends in, if that is long enough to be an instruction, else an empty text."""
    if len(texts) < 2:
        return ""
    shortest, longest = min(t[::-1] for t in texts), max(t[::-1] for t in texts)
    size = next((i for i, (a, b) in enumerate(zip(shortest, longest, strict=False)) if a != b),
                min(len(shortest), len(longest)))  # fmt: skip
    return shortest[:size][::-1] if size >= MIN_SHARED_SUFFIX else ""
