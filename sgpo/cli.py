"""The ``sgpo`` command: thin, and quick to start (torch is imported by the verb that needs it)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sgpo.core.judge_pool import VerifierUnavailable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. A user's mistake ends in one line on stderr and code 2."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        message = "stopped; finished cells are kept, run the same command to continue"
        print("\n" + message, file=sys.stderr)
        return 130
    except (ValueError, OSError, VerifierUnavailable) as error:
        print(f"sgpo: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgpo", description=__doc__.split(":")[0])
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _add_runs(verbs)
    _add_results(verbs)
    return parser


def _add_runs(verbs: argparse._SubParsersAction) -> None:
    """The verbs that train or evaluate."""
    study = verbs.add_parser("study", help="run a profile's grid and write its report")
    _add_profile(study)
    study.add_argument("--seeds", type=_positive, help="number of seeds (default: the profile's)")
    study.add_argument("--jobs", type=_positive, default=os.cpu_count(), help="parallel cells")
    study.add_argument("--all", action="store_true", help="with the ablations of SGPO")
    study.add_argument("--only", type=_names, help="just these artefacts and the runs they need")
    study.add_argument("--methods", type=_names, help="just these methods (comma-separated)")
    study.add_argument("--models", type=_names, help="just these models (comma-separated)")
    study.add_argument("--method-file", type=Path, help="add the method of this file to the grid")
    study.add_argument("--dry-run", action="store_true", help="print the grid and its cost")
    _add_overrides(study)
    study.set_defaults(run=_study)

    train = verbs.add_parser("train", help="train and evaluate one method")
    _add_profile(train)
    train.add_argument("--model", required=True)
    train.add_argument("--method", required=True, help="a method key, or a method file (.py)")
    train.add_argument("--seed", type=int, default=0)
    _add_overrides(train)
    train.set_defaults(run=_train)

    evaluate = verbs.add_parser("evaluate", help="evaluate a checkpoint directory")
    add = evaluate.add_argument
    add("--model", required=True, type=Path, help="Hugging Face directory")
    add("--suite", type=_names, default=[], help="e.g. minimath,miniamc")
    add("--problems", type=Path, action="append", default=[], help="JSONL: id, question, answer")
    add("--out", required=True, type=Path, help="where samples and scores go")
    add("--seed", type=int, default=0)
    add("--samples", type=_positive, help="at most this many a problem")
    add("--max-tokens", type=_positive, default=96)
    add("--prompt", default="mini", help="prompt spec, e.g. qwen2.5-instruct")
    add("--sampler", choices=("compact", "transformers"), default="compact")
    evaluate.set_defaults(run=_evaluate)

    tune = verbs.add_parser("tune", help="tuning trials of every method on the development set")
    tune.add_argument("--jobs", type=_positive, default=os.cpu_count())
    tune.add_argument("--out", type=Path)
    tune.set_defaults(run=_tune)

    mini = verbs.add_parser("mini", help="the embedded world")
    mini_verbs = mini.add_subparsers(required=True, metavar="check")
    check = mini_verbs.add_parser("check", help="measure the six conditions of the mini world")
    check.add_argument("--models", type=_names, help="default: the models of Table 1")
    check.add_argument("--jobs", type=_positive, default=os.cpu_count())
    check.add_argument("--out", type=Path)
    check.set_defaults(run=_check)


def _add_results(verbs: argparse._SubParsersAction) -> None:
    """The verbs that only read what runs have left."""
    grade = verbs.add_parser("grade", help="judge stored samples again, without a model")
    grade.add_argument("paths", nargs="+", type=Path, help="samples files or run directories")
    grade.set_defaults(run=_grade)

    report = verbs.add_parser("report", help="rebuild tables, figures and pages from stored runs")
    _add_profile(report)
    report.add_argument("--only", type=_names)
    report.add_argument(
        "--check", action="store_true", help="write nothing; fail unless the tables follow"
    )
    report.set_defaults(run=_report)

    status = verbs.add_parser("status", help="finished, published, failed and missing cells")
    _add_profile(status)
    status.set_defaults(run=_status)

    verbs.add_parser("doctor", help="is this machine ready?").set_defaults(run=_doctor)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value, e.g. train.learning_rate=1e-4",
    )


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="mini", help="mini or quick")
    parser.add_argument("--out", type=Path, help="results directory (default: results/PROFILE)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be at least 1")
    return value


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _results(options: argparse.Namespace, default: str | None = None) -> Path:
    return options.out or Path("results") / (default or options.profile)


def _study(options: argparse.Namespace) -> int:
    from benchmarks.launch import dry_run, launch_study, planned_study, wants_variants

    results = _results(options)
    study = planned_study(
        options.profile,
        options.seeds,
        options.method_file,
        options.overrides,
        variants=wants_variants(options, results),
    )
    if options.dry_run:
        return dry_run(study, results, options)
    return launch_study(study, results, options)


def _train(options: argparse.Namespace) -> int:
    from benchmarks.launch import train_one

    return train_one(options, _results(options))


def _evaluate(options: argparse.Namespace) -> int:
    from benchmarks.checkpoint_eval import evaluate_directory

    return evaluate_directory(options)


def _grade(options: argparse.Namespace) -> int:
    from benchmarks.regrade import regrade_paths

    return regrade_paths(options.paths)


def _report(options: argparse.Namespace) -> int:
    from benchmarks.regrade import check_report
    from benchmarks.report import build

    if options.check:
        return check_report(_results(options))
    summary = build(_results(options), options.only)
    print(summary.text())
    return 0


def _status(options: argparse.Namespace) -> int:
    from benchmarks.launch import print_status

    return print_status(options.profile, _results(options))


def _tune(options: argparse.Namespace) -> int:
    from benchmarks.tune import tune

    return tune(_results(options, "mini"), options.jobs)


def _check(options: argparse.Namespace) -> int:
    from benchmarks.regime import check

    return check(_results(options, "mini"), options.models, options.jobs)


def _doctor(options: argparse.Namespace) -> int:
    from benchmarks.doctor import doctor

    return doctor()


if __name__ == "__main__":
    sys.exit(main())
