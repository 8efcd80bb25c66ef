"""Stored samples of several runs side by side, in the terminal or as one page: ``sgpo compare``.

The first run is the one that is looked at: it *won* a problem where its share of correct samples
is above that of every other run, and *lost* one where it is below every other's. The page needs
no network and no server; mathematics is MathML.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from benchmarks.report.mathml import rich
from benchmarks.store.records import Study
from benchmarks.store.runs import REASONS, SCORES, StoredRun, stored_runs
from sgpo.core.files import write_text
from sgpo.core.types import Problem
from sgpo.core.verifier.explain import explain, printable

ONLY = ("differ", "lost", "won")
SAMPLE_PAGE = "samples.html"  # of a published study
SHOWN_CHARS = 600  # of a text in the terminal, unless one problem is asked for


# (benchmark, world, the user's own problem files) -> its problems in their order; empty where they
# cannot be had.
ProblemsOf = Callable[[str, int, tuple[str, ...]], Sequence[Problem]]


@dataclass(frozen=True)
class Sample:
    """One answer. ``reason``: the stored verdict; ``text``: None where only the verdict was kept,
    then ``answer`` and ``rule`` are None too."""

    reason: str
    text: str | None = None
    num_tokens: int | None = None
    answer: str | None = None
    rule: str | None = None


@dataclass(frozen=True)
class Item:
    """One problem of a benchmark and the samples of every run on it, in the order of the runs."""

    benchmark: str
    problem: Problem
    samples: tuple[tuple[Sample, ...], ...]

    @property
    def shares(self) -> list[float]:
        """Each run's share of correct samples."""
        return [sum(s.reason == "correct" for s in found) / len(found) for found in self.samples]

    def matches(self, only: str | None) -> bool:
        first, *others = self.shares
        return {
            None: True,
            "differ": any(share != first for share in others),
            "won": bool(others) and first > max(others, default=first),
            "lost": bool(others) and first < min(others, default=first),
        }[only]


@dataclass(frozen=True)
class Comparison:
    """``labels``: the runs' ids; ``items``: the problems that were chosen, of ``all_items``;
    ``letters_only``: what to do for each run without texts."""

    labels: tuple[str, ...]
    items: tuple[Item, ...]
    all_items: tuple[Item, ...]
    letters_only: tuple[str, ...]


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
    """The runs ``names`` on the problems that all of them answered, after the filters.

    Raises:
        ValueError: no such run, or nothing is left; the line says what there is.
    """
    runs = [find_run(name, results, "samples", SCORES) for name in names]
    if len({run.run_id for run in runs}) < len(runs):
        raise ValueError(f"a run is named twice: {', '.join(names)}; name different ones")
    by_run = [_verdicts(run, problems_of) for run in runs]
    keys = [key for key in by_run[0] if all(key in found for found in by_run)]
    if not keys:
        have = "; ".join(f"{r.run_id}: {', '.join(f)}" for r, f in zip(runs, by_run, strict=True))
        raise ValueError(f"the runs share no benchmark: {have}")
    if benchmark is not None and benchmark not in keys:
        raise ValueError(f"--benchmark {benchmark!r}: the runs share {', '.join(keys)}")
    items = []
    for key in keys if benchmark is None else [benchmark]:
        known = {p.id: p for p in problems_of(key, *_place(runs[0]))}
        for name, (gold, _) in by_run[0][key].items():
            if problem_id in (None, name) and all(name in found[key] for found in by_run):
                problem = known.get(name) or Problem(name, "", gold or "")
                rows = tuple(tuple(found[key][name][1]) for found in by_run)
                items.append(Item(key, problem, rows))
    if not items and problem_id is not None:
        ids = [name for key in keys for name in by_run[0][key]]
        raise ValueError(f"--id {problem_id!r}: the runs hold {', '.join(ids[:3])}, .. {ids[-1]}")
    if not items:
        worlds = ", ".join(f"{run.run_id}: {_place(run)[0]}" for run in runs)
        raise ValueError(f"the runs share no problem of {', '.join(keys)} (worlds: {worlds})")
    chosen = tuple(item for item in items if item.matches(only))
    without = [_remedy(r) for r in runs if not r.sampled()]
    return Comparison(tuple(r.run_id for r in runs), chosen, tuple(items), tuple(without))


# Problem id -> its gold answer and the samples on it, without their rules.
Answers = dict[str, tuple[str | None, list[Sample]]]


def _verdicts(run: StoredRun, problems_of: ProblemsOf) -> dict[str, Answers]:
    """Benchmark -> what a run answered there."""
    found: dict[str, Answers] = {}
    if run.sampled():
        for key in run.sampled():
            problems = found.setdefault(key, {})
            for row in run.samples(key):
                _, samples = problems.setdefault(row["problem_id"], (row["gold"], []))
                samples.append(Sample(row["reason"], row["text"], row["num_tokens"]))
        return found
    for key, entry in run.object(SCORES)["benchmarks"].items():
        known = [p.id for p in problems_of(key, *_place(run))]
        for i, word in enumerate(entry["verdicts"]):
            name = known[i] if i < len(known) else f"{key}-{i:04d}"
            found.setdefault(key, {})[name] = (None, [Sample(REASONS[c]) for c in word])
    return found


def _place(run: StoredRun) -> tuple[int, tuple[str, ...]]:
    """The world whose problems a run of the miniature answered, its seed, and the user's own files
    of problems."""
    config = run.object("config.json") if run.has("config.json") else {}
    return config.get("seed", 0), tuple(config.get("evaluation", {}).get("files", ()))


def _remedy(run: StoredRun) -> str:
    config = run.object("config.json")
    kept = run.published.samples if run.published else ()
    alike = [name for name in kept if name.startswith(f"{config['model']}-{config['method']}-s")]
    where = f" (those of {', '.join(alike)} are)" if alike else ""
    return (
        f"{run.run_id}: published with verdict letters alone, its texts are not here{where}; "
        f"make them: sgpo train --profile {config.get('profile', 'mini')} "
        f"--model {config['model']} --method {config['method']} --seed {config['seed']} --out DIR"
    )


def _judged(item: Item) -> Item:
    """``item`` with the extracted answer and the rule that decided of every sample with a text."""

    def judged(sample: Sample) -> Sample:
        if sample.text is None or not item.problem.answer:
            return sample
        found = explain(item.problem.answer, sample.text)
        rule = f"{found.extraction}; {found.decided_by}"
        if sample.reason == "truncated":
            rule = "the token limit: a cut completion is never correct"
        return replace(sample, answer=found.verdict.extracted, rule=rule)

    return replace(item, samples=tuple(tuple(map(judged, row)) for row in item.samples))


def terminal(found: Comparison, *, limit: int, whole: bool) -> str:
    """The comparison as text: a line a benchmark and run, then the first ``limit`` problems;
    ``whole``: with their texts uncut."""
    lines = [*found.letters_only, *([""] if found.letters_only else [])]
    lines += [f"{chr(65 + i)}  {label}" for i, label in enumerate(found.labels)]
    for key in dict.fromkeys(item.benchmark for item in found.all_items):
        items = [item for item in found.all_items if item.benchmark == key]
        means = [
            sum(column) / len(items) for column in zip(*(i.shares for i in items), strict=True)
        ]
        scores = "  ".join(f"{chr(65 + i)} {100 * mean:.1f}" for i, mean in enumerate(means))
        won, lost = (sum(item.matches(only) for item in items) for only in ("won", "lost"))
        lines.append(f"{key}: {len(items)} problems, {scores}; "
                     f"A above all others in {won}, below all in {lost}")  # fmt: skip
    for item in found.items[:limit]:
        lines += ["", *_problem_lines(_judged(item), whole)]
    left = len(found.items) - limit
    if left > 0:
        lines += ["", f"{left} more problems: --limit, --benchmark, --id, --only, or --html FILE"]
    return "\n".join(lines)


def _problem_lines(item: Item, whole: bool) -> Iterable[str]:
    p = item.problem
    yield f"=== {item.benchmark}  {' '.join(filter(None, [p.id, p.kind]))}"
    for name, text in (("problem", p.question), ("strategy", p.strategy), ("gold", p.answer)):
        if text:
            yield textwrap.indent(_shown(text, whole), " " * 10).replace(" " * 10, f"{name:9} ", 1)
    for i, samples in enumerate(item.samples):
        right = sum(s.reason == "correct" for s in samples)
        yield f"{chr(65 + i)}: {right} of {len(samples)} right"
        for sample in samples:
            if sample.text is None:
                yield f"   {sample.reason}"
                continue
            answer = "no answer" if sample.answer is None else f"answer {sample.answer}"
            judged = f"{_shown(answer, whole)} ({sample.rule}; {sample.num_tokens} tokens)"
            yield f"   {sample.reason}: {judged}"
            yield textwrap.indent(_shown(sample.text, whole), " " * 6)


def _shown(text: str, whole: bool) -> str:
    cut = text if whole else text[:SHOWN_CHARS]
    return printable(cut) + (f" .. ({len(text)} characters)" if len(cut) < len(text) else "")


def page(found: Comparison) -> str:
    """The comparison as one self-contained HTML page."""
    items = [
        {
            "benchmark": item.benchmark,
            "id": item.problem.id,
            "kind": item.problem.kind,
            "question": rich(item.problem.question),
            "strategy": rich(item.problem.strategy or ""),
            "gold": rich(f"${item.problem.answer}$") if item.problem.answer else "",
            "search": f"{item.problem.id} {item.problem.question} {item.problem.answer}",
            "runs": [[_sample_record(s) for s in samples] for samples in item.samples],
        }
        for item in map(_judged, found.items)
    ]
    data = {"labels": found.labels, "items": items, "notes": found.letters_only}
    # Inside a script element only "</" and "<!" could end it; escaped they are the same JSON.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    loader = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return loader.get_template("compare.html.jinja").render(data=text, labels=found.labels)


def write_sample_page(results: Path, model: str, problems_of: ProblemsOf) -> str:
    """Write ``SAMPLE_PAGE`` of ``results``: the problems that SGPO and SFT+GRPO do not solve
    equally often, in the first world of ``model``; a line that says so."""
    study = Study.read(results)
    pair = [study.cells_of(model, method)[0].run_id for method in ("sgpo", "grpo")]
    found = compare([str(results / "runs" / run) for run in pair], problems_of, results.parent,
                    only="differ")  # fmt: skip
    return _written(results / SAMPLE_PAGE, found)


def _written(path: Path, found: Comparison) -> str:
    write_text(path, page(found))
    return f"{path}: {len(found.items)} problems, {path.stat().st_size / 2**20:.1f} MiB"


def _sample_record(sample: Sample) -> Mapping[str, Any]:
    if sample.text is None:
        return {"reason": sample.reason}
    return {
        "reason": sample.reason,
        "text": rich(sample.text),
        "plain": sample.text,
        "answer": "" if sample.answer is None else rich(f"${sample.answer}$"),
        "rule": sample.rule,
        "tokens": sample.num_tokens,
    }


def compare_runs(options: argparse.Namespace, problems_of: ProblemsOf, results: Path) -> int:
    """``sgpo compare``: print the comparison, or write it to ``--html``; 0. ``results``: where
    runs are looked for by their ids."""
    found = compare(
        options.runs,
        problems_of,
        results,
        benchmark=options.benchmark,
        problem_id=options.id,
        only=options.only,
    )
    if options.html is None:
        print(terminal(found, limit=options.limit, whole=options.id is not None))
        return 0
    print("\n".join([*found.letters_only, _written(options.html, found)]))
    return 0
