"""Verbs that only read what runs have left."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.commands import add_profile, names, results_dir


def add(verbs: argparse._SubParsersAction) -> None:
    """Add grade, report, status and doctor."""
    grade = verbs.add_parser("grade", help="judge stored samples again, without a model")
    grade.add_argument("paths", nargs="+", type=Path, help="samples files or run directories")
    grade.set_defaults(run=_grade)

    report = verbs.add_parser("report", help="rebuild tables, figures and pages from stored runs")
    add_profile(report)
    report.add_argument("--only", type=names)
    report.add_argument(
        "--check", action="store_true", help="write nothing; fail unless the tables follow"
    )
    report.set_defaults(run=_report)

    status = verbs.add_parser("status", help="finished, published, failed and missing cells")
    add_profile(status)
    status.set_defaults(run=_status)

    verbs.add_parser("doctor", help="is this machine ready?").set_defaults(run=_doctor)


def _grade(options: argparse.Namespace) -> int:
    from benchmarks.report.regrade import regrade_paths

    return regrade_paths(options.paths)


def _report(options: argparse.Namespace) -> int:
    from benchmarks.report.build import build
    from benchmarks.report.regrade import check_report

    if options.check:
        return check_report(results_dir(options))
    summary = build(results_dir(options), options.only)
    print(summary.text())
    return 0


def _status(options: argparse.Namespace) -> int:
    from benchmarks.run.status import print_status

    return print_status(options.profile, results_dir(options))


def _doctor(options: argparse.Namespace) -> int:
    from benchmarks.plan.doctor import doctor

    return doctor()
