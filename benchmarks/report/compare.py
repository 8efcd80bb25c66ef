"""Stored samples of several runs side by side, in the terminal or as one page: ``sgpo compare``.

The first run is the one that is looked at: it *won* a problem where its share of correct samples
is above that of every other run, and *lost* one where it is below every other's. The page needs
no network and no server; mathematics is MathML.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader

from benchmarks.report.explain import explain, printable
from benchmarks.report.mathml import rich
from benchmarks.store.records import Study
from benchmarks.store.runs import REASONS, SCORES, StoredRun, stored_runs
from sgpo.core.files import write_text
from sgpo.core.types import Problem

SAMPLE_PAGE = "samples.html"  # of a published study
SHOWN_CHARS = 600  # of a text in the terminal, unless one problem is asked for

# (benchmark, world, the user's own problem files) -> its problems in their order; empty where they
# cannot be had.
ProblemsOf = Callable[[str, int, tuple[str, ...]], Sequence[Problem]]
Place = tuple[str, str]  # benchmark, problem id
Sample = dict[str, Any]  # reason and, where texts were kept, text, num_tokens and gold


@dataclass(frozen=True)
class Comparison:
    """``labels``: the runs' ids; ``samples``: of each problem that all runs answered those of each
    run; ``shares``: of each its share of correct ones, a row a problem and a column a run;
    ``chosen``: the problems that were asked for; ``letters_only``: what to do for each run without
    texts."""

    labels: list[str]
    problems: dict[Place, Problem]
    samples: dict[Place, list[list[Sample]]]
    shares: pd.DataFrame
    chosen: list[Place]
    letters_only: list[str]


# --only: which rows of ``shares`` it keeps.
ONLY = {
    "differ": lambda shares: shares.ne(shares[0], axis=0).any(axis=1),
    "lost": lambda shares: shares[0] < shares.drop(columns=0).min(axis=1),
    "won": lambda shares: shares[0] > shares.drop(columns=0).max(axis=1),
}


def find_run(name: str, results: Path, *files: str) -> StoredRun:
    """The run of a directory (of a run or of ``sgpo evaluate``), or of a run id below ``results``,
    a study's directory or what holds several, that has one of ``files``, ended or not.

    Raises:
        ValueError: no such run.
    """
    path = Path(name)
    if any((path / file).exists() for file in files):
        return StoredRun(path)
    roots = [results] if (results / "study.json").is_file() else sorted(results.glob("*"))
    roots = [path.parent.parent] if path.parent.name == "runs" else roots
    for root in roots:
        if any((root / "runs" / path.name / file).exists() for file in files):
            return StoredRun(root / "runs" / path.name)
        if (root / "study.json").is_file() and path.name in (found := stored_runs(root)):
            return found[path.name]
    raise ValueError(
        f"{name}: no run here; name a run's directory (DIR/runs/RUN in a study of --out DIR), that "
        f"of sgpo evaluate, or a run id below {results}/"
    )


def compare(
    names: Sequence[str],
    problems_of: ProblemsOf,
    results: Path,
    *,
    benchmark: str | None = None,
    problem_id: str | None = None,
    only: str | None = None,
) -> Comparison:
    """The named runs on the problems that all of them answered.

    Raises:
        ValueError: no such run, nothing in common, or a filter that names nothing.
    """
    runs = [find_run(name, results, "samples", SCORES) for name in names]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ValueError(f"a run is named twice: {', '.join(names)}; name different ones")
    answers = [_answers(run, problems_of) for run in runs]
    held = [list(dict.fromkeys(key for key, _ in found)) for found in answers]
    keys = [key for key in held[0] if all(key in others for others in held)]
    if not keys:
        have = "; ".join(f"{r.run_id}: {', '.join(k)}" for r, k in zip(runs, held, strict=True))
        raise ValueError(f"the runs share no benchmark: {have}")
    if benchmark not in (None, *keys):
        raise ValueError(f"--benchmark {benchmark!r}: the runs share {', '.join(keys)}")
    asked = keys if benchmark is None else [benchmark]
    samples = {
        (key, name): [found[key, name] for found in answers]
        for key, name in answers[0]
        if key in asked and problem_id in (None, name) and all((key, name) in a for a in answers)
    }
    if not samples and problem_id is not None:
        ids = [name for key, name in answers[0] if key in keys]
        raise ValueError(f"--id {problem_id!r}: the runs hold {', '.join(ids[:3])}, .. {ids[-1]}")
    if not samples:
        worlds = ", ".join(f"{run.run_id}: {_world(run)[0]}" for run in runs)
        raise ValueError(f"the runs share no problem of {', '.join(keys)} (worlds: {worlds})")
    problems = {
        (key, name): Problem(name, "", found[0][0].get("gold") or "")
        for (key, name), found in samples.items()
    } | {(key, p.id): p for key in asked for p in problems_of(key, *_world(runs[0]))}
    shares = pd.DataFrame(
        [[sum(s["reason"] == "correct" for s in of) / len(of) for of in found]
         for found in samples.values()],
        index=pd.MultiIndex.from_tuples(samples),
    )  # fmt: skip
    chosen = list(shares.index[ONLY[only](shares)] if only else shares.index)
    without = [_remedy(run) for run in runs if not run.sampled()]
    return Comparison([r.run_id for r in runs], problems, samples, shares, chosen, without)


def _answers(run: StoredRun, problems_of: ProblemsOf) -> dict[Place, list[Sample]]:
    """What a run answered, problem by problem; of a run without texts the verdicts."""
    found: dict[Place, list[Sample]] = {}
    for key in run.sampled():
        for row in run.samples(key):
            found.setdefault((key, row["problem_id"]), []).append(row)
    if run.sampled():
        return found
    for key, entry in run.object(SCORES)["benchmarks"].items():
        known = [p.id for p in problems_of(key, *_world(run))]
        for i, word in enumerate(entry["verdicts"]):
            name = known[i] if i < len(known) else f"{key}-{i:04d}"
            found[key, name] = [{"reason": REASONS[letter]} for letter in word]
    return found


def _world(run: StoredRun) -> tuple[int, tuple[str, ...]]:
    """The world whose problems a run of the miniature answered, its seed, and the user's own files
    of problems."""
    config = run.object("config.json") if run.has("config.json") else {}
    return config.get("seed", 0), tuple(config.get("evaluation", {}).get("files", ()))


def _remedy(run: StoredRun) -> str:
    config = run.object("config.json")
    kept = run.tables.samples if run.published else ()
    alike = [name for name in kept if name.startswith(f"{config['model']}-{config['method']}-s")]
    where = f" (those of {', '.join(alike)} are)" if alike else ""
    return (
        f"{run.run_id}: published with verdict letters alone, its texts are not here{where}; "
        f"make them: sgpo train --profile {config.get('profile', 'mini')} "
        f"--model {config['model']} --method {config['method']} --seed {config['seed']} --out DIR"
    )


def _judged(sample: Sample, problem: Problem) -> tuple[str | None, str | None]:
    """The extracted answer of a sample with a text, and the rule that decided."""
    if "text" not in sample or not problem.answer:
        return None, None
    found = explain(problem.answer, sample["text"], truncated=sample["reason"] == "truncated")
    return found.verdict.extracted, f"{found.extraction}; {found.decided_by}"


# In the terminal ---------------------------------------------------------------------------------


def terminal(found: Comparison, *, limit: int, whole: bool) -> str:
    """The comparison as text: a line a benchmark and run, then the first ``limit`` problems;
    ``whole``: with their texts uncut."""
    lines = [*found.letters_only, *([""] if found.letters_only else [])]
    lines += [f"{chr(65 + i)}  {label}" for i, label in enumerate(found.labels)]
    for key, shares in found.shares.groupby(level=0, sort=False):
        scores = "  ".join(f"{chr(65 + i)} {100 * m:.1f}" for i, m in shares.mean().items())
        won, lost = (int(ONLY[only](shares).sum()) for only in ("won", "lost"))
        lines.append(f"{key}: {len(shares)} problems, {scores}; "
                     f"A above all others in {won}, below all in {lost}")  # fmt: skip
    for place in found.chosen[:limit]:
        lines += ["", *_problem_lines(found, place, whole)]
    left = len(found.chosen) - limit
    if left > 0:
        lines += ["", f"{left} more problems: --limit, --benchmark, --id, --only, or --html FILE"]
    return "\n".join(lines)


def _problem_lines(found: Comparison, place: Place, whole: bool) -> Iterable[str]:
    p = found.problems[place]
    yield f"=== {place[0]}  {' '.join(filter(None, [p.id, p.kind]))}"
    for name, text in (("problem", p.question), ("strategy", p.strategy), ("gold", p.answer)):
        if text:
            yield textwrap.indent(_shown(text, whole), " " * 10).replace(" " * 10, f"{name:9} ", 1)
    for i, samples in enumerate(found.samples[place]):
        right = sum(s["reason"] == "correct" for s in samples)
        yield f"{chr(65 + i)}: {right} of {len(samples)} right"
        for sample in samples:
            if "text" not in sample:
                yield f"   {sample['reason']}"
                continue
            extracted, rule = _judged(sample, p)
            answer = "no answer" if extracted is None else f"answer {extracted}"
            judged = f"{_shown(answer, whole)} ({rule}; {sample['num_tokens']} tokens)"
            yield f"   {sample['reason']}: {judged}"
            yield textwrap.indent(_shown(sample["text"], whole), " " * 6)


def _shown(text: str, whole: bool) -> str:
    cut = text if whole else text[:SHOWN_CHARS]
    return printable(cut) + (f" .. ({len(text)} characters)" if len(cut) < len(text) else "")


# As a page ---------------------------------------------------------------------------------------


def page(found: Comparison) -> str:
    """The comparison as one self-contained HTML page."""
    items = [
        {
            "benchmark": place[0],
            "id": problem.id,
            "kind": problem.kind,
            "question": rich(problem.question),
            "strategy": rich(problem.strategy or ""),
            "gold": rich(f"${problem.answer}$") if problem.answer else "",
            "search": f"{problem.id} {problem.question} {problem.answer}",
            "runs": [[_sample_record(s, problem) for s in of] for of in found.samples[place]],
        }
        for place, problem in ((place, found.problems[place]) for place in found.chosen)
    ]
    data = {"labels": found.labels, "items": items, "notes": found.letters_only}
    # Inside a script element only "</" and "<!" could end it; escaped they are the same JSON.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    loader = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return loader.get_template("compare.html.jinja").render(data=text, labels=found.labels)


def _sample_record(sample: Sample, problem: Problem) -> Sample:
    if "text" not in sample:
        return {"reason": sample["reason"]}
    answer, rule = _judged(sample, problem)
    return {
        "reason": sample["reason"],
        "text": rich(sample["text"]),
        "plain": sample["text"],
        "answer": "" if answer is None else rich(f"${answer}$"),
        "rule": rule,
        "tokens": sample["num_tokens"],
    }


def write_sample_page(results: Path, model: str, problems_of: ProblemsOf) -> str:
    """Write ``SAMPLE_PAGE`` of ``results``: the problems that SGPO and SFT+GRPO do not solve
    equally often, in the first world of ``model``; a line that says so."""
    study = Study.read(results)
    pair = [study.cells_of(model, method)[0].run_id for method in ("sgpo", "grpo")]
    runs = [str(results / "runs" / run) for run in pair]
    found = compare(runs, problems_of, results.parent, only="differ")
    return _written(results / SAMPLE_PAGE, found)


def _written(path: Path, found: Comparison) -> str:
    write_text(path, page(found))
    return f"{path}: {len(found.chosen)} problems, {path.stat().st_size / 2**20:.1f} MiB"


def compare_runs(options: argparse.Namespace, problems_of: ProblemsOf, results: Path) -> int:
    """``sgpo compare``: print the comparison, or write it to ``--html``; 0. ``results``: where
    runs are looked for by their ids."""
    asked = {"benchmark": options.benchmark, "problem_id": options.id, "only": options.only}
    found = compare(options.runs, problems_of, results, **asked)
    if options.html is None:
        print(terminal(found, limit=options.limit, whole=options.id is not None))
        return 0
    print("\n".join([*found.letters_only, _written(options.html, found)]))
    return 0
