"""``sgpo strategies``: strategies for a prepared training set."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from benchmarks.data.prepared import STRATEGIES, data_source
from benchmarks.data.problems import read_problems
from sgpo.core.files import write_json, write_text
from sgpo.core.types import Problem
from sgpo.strategies.ask import ExtractionSettings, Outcome, extract
from sgpo.strategies.endpoint import Endpoint, EndpointSettings, ReplyCache
from sgpo.strategies.text import EXTRACTION_PROMPT, SCORING_PROMPT, quality_bands


def strategies_command(options: argparse.Namespace) -> int:
    """Extract, and write strategies.jsonl when every problem has been decided; else 1."""
    problems = read_problems(options.data / "rl.jsonl")
    without = [p.id for p in problems if not p.expert]
    if without:
        raise ValueError(f"{options.data / 'rl.jsonl'}: problem {without[0]} has no expert trace")
    asked = problems[: options.limit]
    settings = ExtractionSettings(
        candidates=options.candidates, max_tokens=options.max_tokens, budget=options.budget
    )
    proposing = EndpointSettings(
        base_url=options.endpoint,
        model=options.model,
        key_variable=options.key_variable,
        concurrency=options.concurrency,
        timeout_seconds=options.timeout,
        price_in=options.price_in,
        price_out=options.price_out,
    )
    scoring = replace(proposing, model=options.scorer or options.model)
    cache = options.data / "strategy_replies.jsonl"
    outcomes, costs = asyncio.run(_run(asked, proposing, scoring, settings, cache))
    report = _report(outcomes, proposing, scoring, settings) | costs
    _print(report, len(asked))
    if len(asked) < len(problems):
        share = len(problems) / len(asked)
        print(
            f"a pilot: nothing written; all {len(problems)} problems would take about "
            f"{costs['total']['money'] * share:.2f} (so far {costs['total']['money']:.2f})"
        )
        return 0
    write_json(options.data / "strategies_report.json", report)
    undecided = [o for o in outcomes if not o.final]
    if undecided:
        print(
            f"{len(undecided)} problems got no reply ({undecided[0].why}); {STRATEGIES} is written "
            "when every problem is decided: repeat the command"
        )
        return 1
    if not any(o.strategy for o in outcomes):
        raise ValueError("no problem got a usable strategy; see strategies_report.json for why")
    write_text(options.data / STRATEGIES, "".join(map(_row, filter(_usable, outcomes))))
    print(f"{STRATEGIES} is written; a run names this set data.source={data_source(options.data)}")
    return 0


async def _run(
    problems: Sequence[Problem],
    proposing: EndpointSettings,
    scoring: EndpointSettings,
    settings: ExtractionSettings,
    cache_path: Path,
) -> tuple[list[Outcome], dict[str, Any]]:
    cache = ReplyCache(cache_path)
    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()
    ) as bars:
        task = bars.add_task("strategies", total=len(problems))
        async with Endpoint(proposing, cache) as proposer, Endpoint(scoring, cache) as scorer:
            outcomes = await extract(
                problems,
                proposer,
                scorer,
                settings,
                lambda done, total: bars.update(task, completed=done, total=total),
            )
    return outcomes, {
        name: {
            "requests": sum(getattr(e, name).requests for e in (proposer, scorer)),
            "prompt_tokens": sum(getattr(e, name).prompt_tokens for e in (proposer, scorer)),
            "completion_tokens": sum(
                getattr(e, name).completion_tokens for e in (proposer, scorer)
            ),
            "money": sum(getattr(e, name).cost(e.settings) for e in (proposer, scorer)),
        }
        for name in ("spent", "total")
    }


def _usable(outcome: Outcome) -> bool:
    return outcome.strategy is not None


def _row(outcome: Outcome) -> str:
    assert outcome.strategy is not None
    row = {
        "id": outcome.problem_id,
        "strategy": outcome.strategy.text,
        "score": round(outcome.strategy.mean, 6),
        "scores": outcome.strategy.scores,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _report(
    outcomes: Sequence[Outcome],
    proposing: EndpointSettings,
    scoring: EndpointSettings,
    settings: ExtractionSettings,
) -> dict[str, Any]:
    """What strategies_report.json holds besides the cost."""
    kept = [o.strategy.mean for o in outcomes if o.strategy]
    prompts = hashlib.sha256((EXTRACTION_PROMPT + SCORING_PROMPT).encode()).hexdigest()
    return {
        "proposer": proposing.model,
        "scorer": scoring.model,
        "endpoint": proposing.base_url,
        "prices_per_million": [proposing.price_in, proposing.price_out],
        "settings": asdict(settings),
        "prompts_sha256": prompts,
        "problems": len(outcomes),
        "with_strategy": len(kept),
        "mean_score": sum(kept) / len(kept) if kept else None,
        "bands": quality_bands(kept),
        "candidates": sum(o.num_candidates for o in outcomes),
        "leaking_candidates": sum(len(o.leaking) for o in outcomes),
        "without": [
            {"id": o.problem_id, "why": o.why, "final": o.final} for o in outcomes if not o.strategy
        ],
    }


def _print(report: dict[str, Any], count: int) -> None:
    print(f"{report['with_strategy']} of {count} problems have a strategy")
    if report["mean_score"] is not None:
        bands = ", ".join(f"{number} in {band}" for band, number in report["bands"].items())
        print(f"mean score {report['mean_score']:.3f}: {bands}")
    print(
        f"{report['leaking_candidates']} of {report['candidates']} candidates leaked and were "
        "left out"
    )
    for why, number in Counter(e["why"] for e in report["without"]).most_common(5):
        print(f"{number} without a strategy: {why}")
    for name, when in (("spent", "this run"), ("total", "with the cache")):
        cost = report[name]
        print(
            f"{when}: {cost['requests']} requests, {cost['prompt_tokens']} prompt and "
            f"{cost['completion_tokens']} completion tokens, {cost['money']:.2f}"
        )
