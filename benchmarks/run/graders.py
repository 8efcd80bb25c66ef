"""Stored samples judged anew, by ours and by other graders: ``sgpo grade``.

Other graders show whether a claim depends on whose grader it is: ``stock`` is plain math-verify on
the completion, as its users call it, in the verifier's killable processes; ``exact`` is equality of
the normalised answer text. Where they differ from a study's stored verdicts (``--grader all``) goes
to its ``graders.json``, which the report reads without judging anew.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks.report.explain import explain
from benchmarks.run.evaluate import Grader, Row, judged
from benchmarks.store.records import GRADERS_FILE, Study
from benchmarks.store.runs import AT, StoredRun, read_samples, stored_runs
from sgpo.core.files import read_json, write_json
from sgpo.core.verifier import ITEM_SECONDS, Verdict, grade_many
from sgpo.core.verifier.extract import extract, unwrap_box
from sgpo.core.verifier.pool import POOL

_SAID_BY_STOCK: dict[tuple[str, str], str] = {}  # runs of one world write the same texts
DECIDED = ("correct", "wrong")
EXAMPLES, ENDING = 3, 100  # of each kind of disagreement, with the last characters of the text
_NOISE = re.compile(r"\\(?:left|right|text|mathrm|mbox|displaystyle)(?![a-zA-Z])|\\[,;:! ]|[\s${}]")


def stock(
    pairs: Sequence[tuple[str, str]], *, truncated: Sequence[bool] | None = None
) -> list[Verdict]:
    """Plain math-verify's verdicts, called as ``verifier.grade_many`` is. It looks for the answer
    by itself; ``extracted`` is the span of our extraction."""
    asked = [pair for pair in dict.fromkeys(pairs) if pair not in _SAID_BY_STOCK]
    tasks = [("benchmarks.run.stock:is_right", *pair) for pair in asked]
    said = dict(zip(asked, POOL.run(tasks, item_seconds=ITEM_SECONDS), strict=True))
    known = _SAID_BY_STOCK | said
    # A time-out is asked about again: it may be the machine's.
    _SAID_BY_STOCK.update({p: reason for p, reason in said.items() if reason in DECIDED})
    return _verdicts(pairs, [known[pair] for pair in pairs], truncated)


def exact(
    pairs: Sequence[tuple[str, str]], *, truncated: Sequence[bool] | None = None
) -> list[Verdict]:
    """Verdicts by normalised text, called as ``verifier.grade_many`` is."""

    def reason(gold: str, completion: str) -> str:
        span = extract(completion).text
        if span is None:
            return "no_answer"
        return "correct" if _normalised(span) == _normalised(unwrap_box(gold)) else "wrong"

    return _verdicts(pairs, [reason(*pair) for pair in pairs], truncated)


GRADERS: dict[str, Grader] = {"ours": grade_many, "stock": stock, "exact": exact}
OTHERS = ("stock", "exact")


def _verdicts(
    pairs: Sequence[tuple[str, str]], reasons: Sequence[str], truncated: Sequence[bool] | None
) -> list[Verdict]:
    cut = truncated or [False] * len(pairs)
    found = ["truncated" if c else reason for c, reason in zip(cut, reasons, strict=True)]
    spans = [extract(completion).text for _, completion in pairs]
    return [Verdict(r == "correct", r, span) for r, span in zip(found, spans, strict=True)]


def _normalised(text: str) -> str:
    """Answer text without spaces, dollars, braces and layout commands, in lower case."""
    return _NOISE.sub("", re.sub(r"\\[dt]frac", r"\\frac", text)).strip(".,").casefold()


def regrade(path: Path, grader: str = "ours") -> tuple[list[Row], int]:
    """The rows of a samples file judged anew, and how many verdicts changed."""
    old = read_samples(path)
    new = judged(old, GRADERS[grader])
    return new, sum(a["reason"] != b["reason"] for a, b in zip(old, new, strict=True))


def regrade_paths(paths: Sequence[Path], grader: str = "ours") -> int:
    """Judge every sample of files or run directories anew; 1 when a verdict of ours changed.

    Another grader's verdicts (stock, exact) are counted beside the stored ones and change nothing.
    """
    files: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or directory")
        files += sorted(path.rglob("*.jsonl.gz")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))}: no samples files (*.jsonl.gz) here")
    total = 0
    for file in files:
        rows, changed = regrade(file, grader)
        correct = sum(row["correct"] for row in rows)
        print(f"{file}: {len(rows)} samples, {correct} correct, {changed} verdicts changed")
        total += changed
    return 1 if total and grader == "ours" else 0


def grade_study(results: Path) -> int:
    """Judge every stored sample of the planned runs of ``results`` by other graders, write its
    ``graders.json`` and say how often they disagree with ours; 0.

    Raises:
        ValueError: no study, or no samples below it.
    """
    if not (results / "study.json").exists():
        raise ValueError(f"{results}: --grader all takes a study's directory")
    planned, stored = Study.read(results), stored_runs(results)
    _keeps(results / GRADERS_FILE, stored)
    present = (cell.run_id for cell in planned.cells if cell.run_id in stored)
    # What a run scored at another budget is in no table.
    suites = [(i, key) for i in present for key in stored[i].sampled() if AT not in key]
    if not suites:
        raise ValueError(f"{results}: no samples below runs/; texts are kept where runs are made")
    runs: dict[str, dict[str, Any]] = {}
    kinds: dict[tuple[str, bool, str], dict[str, Any]] = {}
    for run_id, key in track(suites, "judging suites", console=Console(stderr=True)):
        runs.setdefault(run_id, {})[key] = differing(stored[run_id].samples(key), kinds)
    differ = sorted(kinds.values(), key=lambda kind: -kind["count"])
    write_json(results / GRADERS_FILE, {"runs": runs, "disagreements": differ})
    for grader in OTHERS:
        number = sum(kind["count"] for kind in differ if kind["grader"] == grader)
        print(f"{grader}: {number} verdicts differ from ours")
    print(f"{results / GRADERS_FILE}: {len(runs)} runs; sgpo report shows them")
    return 0


def _keeps(path: Path, stored: Mapping[str, StoredRun]) -> None:
    """ValueError when ``path`` holds grades of texts that are not here: they would be lost."""
    graded = read_json(path)["runs"] if path.exists() else {}
    lost = [run for run in graded if run not in stored or not stored[run].sampled()]
    if lost:
        raise ValueError(
            f"{path}: holds the grades of {len(lost)} runs whose texts are not here; grade where "
            "they were made, or move the file away"
        )


def differing(
    rows: Sequence[Row], kinds: dict[tuple[str, bool, str], dict[str, Any]]
) -> dict[str, Any]:
    """How many samples of a suite there are, and for every other grader those, if any, that it does
    not judge as ``rows`` have it: places in the matrix [problem, sample], which is read row by row.
    They are added to ``kinds``, under the rule by which today's verifier decides them."""
    ids = {key: i for i, key in enumerate(dict.fromkeys(row["problem_id"] for row in rows))}
    k = len(rows) // max(1, len(ids))
    places = [ids[row["problem_id"]] * k + row["sample"] for row in rows]
    if sorted(places) != list(range(len(rows))):
        raise ValueError(
            f"{len(rows)} samples of {len(ids)} problems are not as many of each: delete the "
            "samples file and evaluate again"
        )
    found: dict[str, Any] = {"samples": len(rows)}
    for grader in OTHERS:
        theirs = zip(places, rows, judged(rows, GRADERS[grader]), strict=True)
        others = {place: new for place, old, new in theirs if old["correct"] != new["correct"]}
        if others:
            found[grader] = sorted(others)
        for row in others.values():
            rule, ours = explain(row["gold"], row["text"]).decided_by, not row["correct"]
            entry = kinds.setdefault(
                (grader, ours, rule),
                {"grader": grader, "ours_right": ours, "kind": rule, "count": 0, "examples": []},
            )
            entry["count"] += 1
            example = {
                "gold": row["gold"],
                "answer": row["extracted"] or "",
                "ending": ".." * (len(row["text"]) > ENDING) + row["text"][-ENDING:],
            }
            if len(entry["examples"]) < EXAMPLES and example not in entry["examples"]:
                entry["examples"].append(example)
    return found
