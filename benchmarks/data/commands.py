"""``sgpo data prepare`` and ``sgpo data check``: what the user sees of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.prepare import Preparation, prepare
from benchmarks.data.prepared import data_source, file_hashes, prepared_problems
from benchmarks.data.suites import SUITES, failed_golds, load_suite, local_file
from sgpo.core.files import read_json, write_json
from sgpo.core.models import checkpoint_directory


def prepare_command(options: argparse.Namespace) -> int:
    """Prepare a training set and print what was removed from it."""
    from sgpo.core.models import load_tokenizer
    from sgpo.core.prompts import native_spec, prompt_spec

    tokenizer = load_tokenizer(_directory(str(options.tokenizer)))
    spec = prompt_spec(options.prompt) if options.prompt else native_spec(tokenizer)
    plan = Preparation(
        source=options.source,
        revision=options.revision,
        offline=options.offline,
        max_tokens=options.max_tokens,
        draw=options.draw,
        seed=options.seed,
        strip_suffix=options.strip_suffix,
    )
    with Progress() as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        summary = prepare(plan, tokenizer, spec, options.out, report)
    for rule, entry in summary["removed"].items():
        print(f"{rule:15} {entry['count']:6} removed")
    print(f"{'traces':15} {summary['unconfirmed_traces']['count']:6} not confirmed, kept")
    for name, count in summary["counts"].items():
        print(f"{name:15} {count:6} problems")
    if summary["shared_suffix"]:
        print(
            f"every question ends in {summary['shared_suffix']!r}; the prompt has its own request: "
            "prepare again with --strip-suffix"
        )
    print(
        f"report.json lists every id; a run names this set data.source={data_source(options.out)}"
    )
    return 0


def _directory(name: str) -> Path:
    """The directory ``name``, or that of the hub's checkpoint of this name, at the revision that
    the profiles pin; a run would fetch it too."""
    if Path(name).is_dir():
        return Path(name)
    known = {c.name: c.revision for c in CHECKPOINTS.values()}
    return checkpoint_directory(name, known.get(name))


def check_command(options: argparse.Namespace) -> int:
    """Check benchmarks (count, content, gold answers) and a prepared set; 1 if one fails."""
    report: dict[str, Any] = {"benchmarks": {}}
    failed = False
    with Progress(transient=True) as bars:
        task = bars.add_task("gold answers", total=len(options.suite))
        for key in options.suite:
            problems = load_suite(key, offline=options.offline)
            known = set(SUITES[key].exceptions)
            golds = failed_golds(problems)
            unknown = [g for g in golds if g[0] not in known]
            failed = failed or bool(unknown)
            report["benchmarks"][key] = {
                "problems": len(problems),
                "sha256": SUITES[key].sha256,
                "local": local_file(key) is not None,
                "gold_exceptions": [{"id": i, "phrasing": t} for i, t in golds],
                "unexpected": [i for i, _ in unknown],
            }
            bars.advance(task)
    for key, entry in report["benchmarks"].items():
        print(
            f"{SUITES[key].label:14} {entry['problems']:4} problems, content as expected, "
            f"{len(entry['gold_exceptions'])} gold answers missed in some phrasing"
            + "".join(f"\n  {e['id']}: {e['phrasing']!r}" for e in entry["gold_exceptions"])
        )
    if options.data is not None:
        report["training"] = _check_training(options.data)
    if options.report is not None:
        write_json(options.report, report)
    return 1 if failed else 0


def _check_training(directory: Path) -> dict[str, Any]:
    counts = {name: len(prepared_problems(directory, name)) for name in ("warmup", "rl")}
    stated, actual = read_json(directory / "report.json")["files"], file_hashes(directory)
    changed = [name for name in stated if stated[name] != actual.get(name)]
    if changed:
        raise ValueError(
            f"{directory / changed[0]}: not the file that report.json is about; prepare it again"
        )
    with_strategies = sum(p.strategy is not None for p in prepared_problems(directory, "all"))
    print(
        f"{counts['warmup']} warm-up, {counts['rl']} RL problems, {with_strategies} with a strategy"
        f"; a run names this set data.source={data_source(directory)}"
    )
    return {"counts": counts, "files": actual, "with_strategies": with_strategies}
