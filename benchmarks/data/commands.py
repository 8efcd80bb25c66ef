"""``sgpo data prepare``, ``sgpo data check``, ``sgpo strategies``: what the user sees of them."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.hub import go_offline
from benchmarks.data.prepare import Preparation, prepare, print_set
from benchmarks.data.problems import (
    STRATEGIES,
    data_source,
    file_hashes,
    prepared_problems,
    problems_to_guide,
    write_rows,
)
from benchmarks.data.suites import SUITES, failed_golds, load_suite
from sgpo.core.files import read_json, write_json
from sgpo.core.models import checkpoint_directory, load_tokenizer
from sgpo.core.prompts import NATIVE, prompt_spec
from sgpo.strategies.ask import Asking, Outcome, ReplyCache, extract
from sgpo.strategies.text import EXTRACTION_PROMPT, SCORING_PROMPT, quality_bands

STEP = 64  # problems of a step in the real profiles
REPORT = "strategies_report.json"


def prepare_command(options: argparse.Namespace) -> int:
    """Prepare a training set and print what was removed from it."""
    if options.offline:
        go_offline()
    # A checkpoint of the hub at the revision that the profiles pin; a run would fetch it too.
    revisions = {c.name: c.revision for c in CHECKPOINTS.values()}
    name = str(options.tokenizer)
    directory = Path(name)
    if not directory.is_dir():
        directory = checkpoint_directory(name, revisions.get(name))
    tokenizer = load_tokenizer(directory)
    spec = prompt_spec(options.prompt or NATIVE, tokenizer)
    plan = Preparation(**{f.name: getattr(options, f.name) for f in fields(Preparation)})
    summary = prepare(plan, tokenizer, spec, options.out)
    print_set(summary, options.out)
    if plan.keep_unconfirmed:
        print(f"{summary['unconfirmed_traces']['count']} unconfirmed traces are kept")
    if summary["without_trace"]:
        print(
            f"{summary['without_trace']} problems have no expert trace: the SFT warm-up, LUFFY, "
            "HPT and SRFT cannot learn from them"
        )
    smallest = min(summary["counts"].values())
    if 0 < smallest < STEP:
        print(f"the set is small: a step of a run takes at most its {smallest} problems")
    return 0


def check_command(options: argparse.Namespace) -> int:
    """Check benchmarks (count, content, gold answers) and a prepared set; 1 if one fails."""
    if options.offline:
        go_offline()
    if options.data is not None and not options.data.is_dir():
        raise ValueError(f"--data {options.data}: no such directory; `sgpo data prepare` makes one")
    unexpected = 0
    for key in options.suite or (() if options.data else SUITES):
        problems = load_suite(key)  # names what there is if there is no such key
        golds = failed_golds(problems)
        unexpected += sum(name not in SUITES[key].exceptions for name, _ in golds)
        print(
            f"{SUITES[key].label:14} {len(problems):4} problems, content as expected, {len(golds)} "
            "gold answers missed in some phrasing" + "".join(f"\n  {i}: {t!r}" for i, t in golds)
        )
    if options.data is not None:
        _check_training(options.data)
    return int(unexpected > 0)


def _check_training(directory: Path) -> None:
    problems, rl = (prepared_problems(directory, split) for split in ("all", "rl"))
    stated, actual = read_json(directory / "report.json")["files"], file_hashes(directory)
    changed = [name for name in stated if stated[name] != actual.get(name)]
    if changed:
        raise ValueError(
            f"{directory / changed[0]}: not the file that report.json is about; prepare it again"
        )
    guided = sum(p.strategy is not None for p in problems)
    print(
        f"{len(problems) - len(rl)} warm-up, {len(rl)} RL problems, {guided} with a strategy"
        f"; a run names this set data.source={data_source(directory)}"
    )


def strategies_command(options: argparse.Namespace) -> int:
    """Extract, and write strategies.jsonl when every problem has been decided; else 1."""
    problems = problems_to_guide(options.data)
    without = [p.id for p in problems if not p.expert]
    if without:
        raise ValueError(f"--data {options.data}: problem {without[0]} has no expert trace")
    asked = problems[: options.limit]
    asking = Asking(
        base_url=options.endpoint,
        model=options.model,
        scorer=options.scorer or options.model,
        key_variable=options.key_variable,
        candidates=options.candidates,
        concurrency=options.concurrency,
        timeout_seconds=options.timeout,
    )
    cache = ReplyCache(options.data / "strategy_replies.jsonl")
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bars:
        task = bars.add_task("strategies", total=len(asked))
        outcomes = asyncio.run(extract(asked, asking, cache, lambda: bars.advance(task)))
    report = _report(outcomes, asking, cache)
    _print(report)
    undecided = [o for o in outcomes if not o.final]
    if len(asked) < len(problems):
        return _pilot(report["total"], len(problems), len(asked), undecided)
    write_json(options.data / REPORT, report)
    if undecided:
        print(
            f"{len(undecided)} problems got no reply ({undecided[0].why}); {STRATEGIES} is written "
            "when every problem is decided: repeat the command"
        )
        return 1
    rows = [
        {
            "id": outcome.problem_id,
            "strategy": outcome.strategy.text,
            "score": round(outcome.strategy.mean, 6),
            "scores": outcome.strategy.scores,
        }
        for outcome in outcomes
        if outcome.strategy is not None
    ]
    if not rows:
        raise ValueError(f"no problem got a usable strategy; see {REPORT} for why")
    write_rows(options.data / STRATEGIES, rows)
    print(f"{STRATEGIES} is written; a run names this set data.source={data_source(options.data)}")
    return 0


def _pilot(taken: dict[str, int], total: int, asked: int, undecided: Sequence[Outcome]) -> int:
    """What all would take, from the problems that were decided; 1 if none was."""
    decided = asked - len(undecided)
    if not decided:
        print(f"a pilot: none of {asked} problems got a reply ({undecided[0].why}); nothing known")
        return 1
    print(
        f"a pilot: nothing written; all {total} problems would take about "
        f"{_tokens({name: round(count * total / decided) for name, count in taken.items()})}"
    )
    return 0


def _tokens(taken: dict[str, int]) -> str:
    return (
        f"{taken['requests']} requests, {taken['prompt_tokens']} prompt and "
        f"{taken['completion_tokens']} completion tokens"
    )


def _report(outcomes: Sequence[Outcome], asking: Asking, cache: ReplyCache) -> dict[str, Any]:
    """What strategies_report.json holds. ``spent`` is what this run asked for, ``total`` with the
    replies of earlier ones."""
    kept = [o.strategy.mean for o in outcomes if o.strategy]
    return {
        "settings": asdict(asking),
        "prompts_sha256": hashlib.sha256((EXTRACTION_PROMPT + SCORING_PROMPT).encode()).hexdigest(),
        "problems": len(outcomes),
        "with_strategy": len(kept),
        "mean_score": sum(kept) / len(kept) if kept else None,
        "bands": quality_bands(kept),
        "candidates": sum(o.num_candidates for o in outcomes),
        "leaking_candidates": sum(o.num_leaking for o in outcomes),
        "without": [
            {"id": o.problem_id, "why": o.why, "final": o.final} for o in outcomes if not o.strategy
        ],
        "spent": dict(cache.spent),
        "total": dict(cache.total),
    }


def _print(report: dict[str, Any]) -> None:
    print(f"{report['with_strategy']} of {report['problems']} problems have a strategy")
    if report["mean_score"] is not None:
        bands = ", ".join(f"{number} in {band}" for band, number in report["bands"].items())
        print(f"mean score {report['mean_score']:.3f}: {bands}")
    leaking, candidates = report["leaking_candidates"], report["candidates"]
    print(f"{leaking} of {candidates} candidates leaked and were left out")
    for why, number in Counter(e["why"] for e in report["without"]).most_common(5):
        print(f"{number} without a strategy: {why}")
    print(f"this run: {_tokens(report['spent'])}\nwith the cache: {_tokens(report['total'])}")
