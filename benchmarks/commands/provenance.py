"""Verbs that say where a verdict, a run or a table comes from."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.commands import add_profile, results_dir


def add(verbs: argparse._SubParsersAction) -> None:
    """Add explain, diff-configs, audit and publish."""
    explain = verbs.add_parser("explain", help="how a verdict came about, step by step")
    explain.add_argument("samples", nargs="?", type=Path, help="samples file (.jsonl or .jsonl.gz)")
    explain.add_argument("--id", help="problem id in the samples file")
    explain.add_argument("--index", type=int, help="one sample of the problem (default: all)")
    explain.add_argument("--gold", help="the right answer, in place of a samples file")
    explain.add_argument("--text", help="the completion to judge, with --gold")
    explain.set_defaults(run=_explain)

    diff = verbs.add_parser("diff-configs", help="every value that differs between two runs")
    diff.add_argument("a", help="run directory, run id, or method of the profile")
    diff.add_argument("b")
    diff.add_argument("--model", help="of which methods are compared (default: the first)")
    add_profile(diff)
    diff.set_defaults(run=_diff)

    audit = verbs.add_parser("audit", help="recompute everything stored; fail on any mismatch")
    audit.add_argument("results", nargs="?", type=Path, default=Path("results/mini"))
    audit.add_argument("--regrade", action="store_true", help="judge every stored sample anew, too")
    audit.set_defaults(run=_audit)

    publish = verbs.add_parser("publish", help="shrink a study's files for version control")
    publish.add_argument("results", nargs="?", type=Path, default=Path("results/mini"))
    publish.set_defaults(run=_publish)


def _explain(options: argparse.Namespace) -> int:
    from sgpo.core.verifier.explain import explain_sample, explain_text

    if options.gold is not None and options.text is not None and options.samples is None:
        return explain_text(options.gold, options.text)
    if options.samples is None or options.id is None or options.gold or options.text:
        raise ValueError("explain needs a samples file and --id, or --gold and --text")
    return explain_sample(options.samples, options.id, options.index)


def _diff(options: argparse.Namespace) -> int:
    from benchmarks.profiles.fairness import print_differences

    return print_differences(
        options.a, options.b, options.profile, options.model, results_dir(options)
    )


def _audit(options: argparse.Namespace) -> int:
    from benchmarks.report.audit import audit

    return audit(options.results, regrade=options.regrade)


def _publish(options: argparse.Namespace) -> int:
    from benchmarks.store.publish import publish

    print(f"{options.results}: {publish(options.results) / 2**20:.1f} MiB saved")
    return 0
