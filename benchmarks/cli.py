"""The ``sgpo`` command: every verb with its options, and the function that does the work.

Only the standard library is imported here, so that the command starts fast: what a verb calls is
named as ``room.module:function`` and imported when it runs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

HUB_DEFAULT = "SII-Enigma/OpenR1-Math-R1-8.5k"
REAL_SUITES = ["math500", "olympiadbench", "amc23", "aime24"]
PROFILES = "mini, quick, lab, single_gpu or paper"
CONTINUES = ("study", "train", "tune", "mini", "evaluate", "strategies")  # after an interruption

Options = argparse.Namespace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. A user's mistake ends in one line on stderr and code 2."""
    options = _parser().parse_args(arguments)
    if getattr(options, "out", "") is None:
        # reproduce.sh sets SGPO_RESULTS when it is called from another folder.
        options.out = Path(os.environ.get("SGPO_RESULTS", "results")) / options.profile
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        kept = "; what is finished is kept, run the same command to continue"
        print("\nstopped" + (kept if options.verb in CONTINUES else ""), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough, as in `sgpo status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _unavailable(error):
            raise
        print(f"sgpo: error: {error}", file=sys.stderr)
        return 2


def _unavailable(error: RuntimeError) -> bool:
    from sgpo.core.verifier import VerifierUnavailable

    return isinstance(error, VerifierUnavailable)


def _call(target: str, options: Options) -> int:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(f"benchmarks.{module}"), function)(options)


class _Version(argparse.Action):
    def __call__(self, parser, *_) -> None:
        from sgpo import __version__

        print(f"sgpo {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sgpo", description="Train, evaluate and compare SGPO and its baselines."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for add in (_runs, _models, _data, _cluster, _results, _listing, _origins):
        add(verbs)
    return parser


def _verb(
    verbs: argparse._SubParsersAction, name: str, run: str | Callable[[Options], int], text: str
) -> argparse.ArgumentParser:
    """A verb; the first sentence of ``text`` is what ``sgpo --help`` shows of it."""
    parser = verbs.add_parser(name, help=text.split(". ")[0].rstrip("."), description=text)
    parser.set_defaults(run=functools.partial(_call, run) if isinstance(run, str) else run)
    return parser


def _profile(parser: argparse.ArgumentParser, default: str = "mini") -> None:
    parser.add_argument("--profile", default=default, help=f"{PROFILES} (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="results directory (default: results/PROFILE)")


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value, e.g. train.learning_rate=1e-4",
    )


def _selection(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--seeds", type=_positive, help="number of seeds (default: the profile's)")
    add("--all", action="store_true", help="with the ablations of SGPO")
    add("--methods", type=_names, help="just these methods (comma-separated)")
    add("--models", type=_names, help="just these models (comma-separated)")


def _problems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--problems",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="judge on these problems too (JSONL: question, answer)",
    )


def _rank_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rank-timeout",
        type=_positive,
        default=3600,
        help="under torchrun: seconds to wait for another rank (%(default)s)",
    )


def _runs(verbs: argparse._SubParsersAction) -> None:
    study = _verb(
        verbs,
        "study",
        "run.launch:study_command",
        "Run a profile's grid and write its report. A second call continues where the "
        "first one stopped. Example: sgpo study --profile quick --methods sgpo,grpo",
    )
    _profile(study)
    _selection(study)
    add = study.add_argument
    add("--jobs", type=_positive, help="parallel cells (default: one a core; 1 on a GPU)")
    add("--only", type=_names, help="just these artefacts and the runs they need")
    add("--only-seeds", type=_names, help="just these seeds (comma-separated)")
    add(
        "--method-file",
        type=Path,
        action="append",
        default=[],
        help="add the method of this file to the grid (may be repeated; remembered)",
    )
    _problems(study)
    add("--dry-run", action="store_true", help="print the grid and its cost")
    add(
        "--time-limit",
        type=_seconds,
        metavar="TIME",
        help="stop behind the step or benchmark that fits, e.g. 8m, 2h, 90s",
    )
    _rank_timeout(study)
    _overrides(study)

    train = _verb(
        verbs,
        "train",
        "run.launch:train_command",
        "Train and evaluate one method on one model, with the warm-up it starts from. "
        "Example: sgpo train --profile quick --model qwen-s --method sgpo",
    )
    _profile(train)
    add = train.add_argument
    add("--model", required=True, help="a model key of the profile")
    add("--method", required=True, help="a method key, or a method file (.py)")
    add("--seed", type=_seed, default=0)
    _problems(train)
    _rank_timeout(train)
    _overrides(train)

    tune = _verb(
        verbs,
        "tune",
        "run.tune:tune_command",
        "Run the tuning trials of every method on the development set. The same number "
        "of trials for each.",
    )
    tune.add_argument("--jobs", type=_positive, default=os.cpu_count())
    tune.add_argument("--methods", type=_names, help="just these (comma-separated)")
    _profile(tune)

    mini = _verb(verbs, "mini", _no_verb, "The embedded world.")
    check = _verb(
        mini.add_subparsers(required=True, metavar="VERB", dest="mini_verb"),
        "check",
        "run.regime:check_command",
        "Measure the six conditions of the mini world. 1 when one does not hold.",
    )
    check.add_argument("--models", type=_names, help="default: the models of Table 1")
    check.add_argument("--jobs", type=_positive, default=os.cpu_count())
    _profile(check)


def _models(verbs: argparse._SubParsersAction) -> None:
    evaluate = _verb(
        verbs,
        "evaluate",
        "run.checkpoint:evaluate_command",
        "Evaluate a checkpoint on benchmarks or on problems of your own. "
        "Example: sgpo evaluate --model DIR --problems mine.jsonl --out scores",
    )
    add = evaluate.add_argument
    add("--model", required=True, help="a directory, a run's directory, or a name on the hub")
    add("--suite", type=_names, default=[], help="e.g. minimath or math500,amc23")
    add("--problems", type=Path, action="append", default=[], help="JSONL: id, question, answer")
    add("--out", required=True, type=Path, help="where samples, scores and the table go")
    add("--seed", type=_seed, default=0)
    add("--samples", type=_positive, help="at most this many a problem (default: the protocol's)")
    add("--problem-limit", type=_positive, help="only the first problems of each suite")
    add("--max-tokens", type=_positive, help="default: 32768 on real problems, 96 on mini ones")
    add("--prompt", type=_names, default=[], help="prompt specs (default: the tokenizer's own)")
    add("--engine", "--sampler", choices=("compact", "transformers", "vllm"), default="compact")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the engine")
    add("--store-every", type=_positive, help="samples (default: 1024; on mini suites: a suite)")

    checkpoint = _verb(verbs, "checkpoint", _no_verb, "Checkpoints from other formats.")
    inner = checkpoint.add_subparsers(required=True, metavar="VERB", dest="checkpoint_verb")
    brought = _verb(
        inner,
        "import",
        "data.gguf:import_command",
        "Make a Hugging Face directory of a GGUF file. Example: sgpo checkpoint import m.gguf "
        "--out DIR",
    )
    brought.add_argument("file", type=Path, help="GGUF file of a Qwen2 or Llama model")
    brought.add_argument("--out", required=True, type=Path, help="directory to make")

    grade = _verb(verbs, "grade", _grade, "Judge stored samples again, without a model.")
    grade.add_argument("paths", nargs="+", type=Path, help="samples files or run directories")
    graders = {"ours": "this verifier", "stock": "plain math-verify", "exact": "normalised text"}
    named = ", ".join(f"{name} ({what})" for name, what in graders.items())
    grade.add_argument(
        "--grader", choices=list(graders), default="ours", help=f"who judges: {named}"
    )


def _data(verbs: argparse._SubParsersAction) -> None:
    data = _verb(verbs, "data", _no_verb, "Training data and benchmarks.")
    inner = data.add_subparsers(required=True, metavar="VERB", dest="data_verb")
    prepare = _verb(
        inner,
        "prepare",
        "data.commands:prepare_command",
        "Fetch, check, decontaminate and split a training set.",
    )
    add = prepare.add_argument
    add("--source", default=HUB_DEFAULT, help="hub data set, .jsonl, .parquet or directory")
    add("--subset", help="configuration of the data set, where it has several")
    add("--revision", help="commit of the hub data set (default: main; the commit is recorded)")
    add("--tokenizer", required=True, help="checkpoint, a directory or of the hub; measures traces")
    add("--prompt", help="prompt spec (default: the tokenizer's own)")
    add("--max-tokens", type=_positive, default=16_384, help="of prompt and trace (%(default)s)")
    add("--draw", type=_positive, help="draw this many problems, e.g. 8500 of the 46k set")
    add("--seed", type=_seed, default=0, help="of the draw and the split")
    add("--strip-suffix", default="", help="an instruction at the end of every question")
    add(
        "--test-sets",
        type=_test_sets,
        default=tuple(REAL_SUITES),
        metavar="NAMES",
        help="benchmarks or files that it may not overlap with, or none (default: all four)",
    )
    add("--keep-unconfirmed", action="store_true", help="keep traces that are not judged correct")
    add("--out", required=True, type=Path, help="directory to make")
    add("--offline", action="store_true", help="open no connection: local files and cache only")

    check = _verb(
        inner,
        "check",
        "data.commands:check_command",
        "Count the benchmarks' problems and check their content and gold answers.",
    )
    add = check.add_argument
    add("--suite", type=_names, default=REAL_SUITES, help="benchmarks (default: all four)")
    add("--data", type=Path, help="a prepared training set to check as well")
    add("--report", type=Path, help="write what was found as JSON")
    add("--offline", action="store_true", help="open no connection: local files and cache only")

    strategies = _verb(
        verbs,
        "strategies",
        "data.commands:strategies_command",
        "Ask a strong model for strategies. Example: sgpo strategies --data DIR "
        "--endpoint http://localhost:8000/v1 --model NAME",
    )
    add = strategies.add_argument
    add("--data", required=True, type=Path, help="directory of `sgpo data prepare`")
    add("--endpoint", required=True, help="OpenAI-compatible, e.g. http://localhost:8000/v1")
    add("--model", required=True, help="model that proposes, as the endpoint calls it")
    add("--scorer", help="model that scores (default: the same)")
    add("--key-variable", default="OPENAI_API_KEY", help="variable with the key (%(default)s)")
    add("--candidates", type=_positive, default=5, help="a problem (%(default)s)")
    add("--max-tokens", type=_positive, default=8192, help="of a reply (%(default)s)")
    add("--concurrency", type=_positive, default=16, help="problems at once (%(default)s)")
    add("--timeout", type=float, default=600.0, help="seconds of one request (%(default)s)")
    add("--price-in", type=_price, default=0.0, help="of a million prompt tokens")
    add("--price-out", type=_price, default=0.0, help="of a million completion tokens")
    add("--budget", type=_price, help="stop when this run has spent so much")
    add("--limit", type=_positive, help="a pilot on the first problems: prints the cost of all")


def _cluster(verbs: argparse._SubParsersAction) -> None:
    slurm = _verb(
        verbs,
        "slurm",
        "run.launch:slurm_command",
        "Write a study's sbatch scripts and a submit.sh. Nothing is submitted.",
    )
    add = slurm.add_argument
    add("--profile", default="paper", help="paper or single_gpu (default: %(default)s)")
    add("--out", required=True, type=Path, help="directory of the scripts")
    add("--results", type=Path, help="results directory (default: results/PROFILE)")
    _selection(slurm)
    add("--nodes", type=_positive, help="of every cell (default: the profile's, by model)")
    add("--gpus-per-node", type=_positive, help="default: the profile's")
    add("--hours", type=_positive, help="time limit of every job (default: from the estimate)")
    add(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a further #SBATCH line, e.g. partition=gpu",
    )
    add("--source", default=HUB_DEFAULT, help="training set for data prepare (%(default)s)")
    add("--tokenizer", help="for data prepare (default: the profile's, whatever models are run)")
    add("--endpoint", help="for strategies (default: $SGPO_ENDPOINT when submitted)")
    add("--strategy-model", help="its model (default: $SGPO_STRATEGY_MODEL when submitted)")
    _overrides(slurm)
    slurm.set_defaults(only=None, only_seeds=None, method_file=[], problems=[])

    _verb(
        verbs,
        "doctor",
        "plan.doctor:doctor_command",
        "Is this machine ready? Each line says what was found and, if need be, the fix.",
    )


def _results(verbs: argparse._SubParsersAction) -> None:
    report = _verb(
        verbs,
        "report",
        _report,
        "Rebuild tables, figures and pages from stored runs. Needs no torch.",
    )
    _profile(report)
    report.add_argument("--only", type=_names, help="just these artefacts")
    report.add_argument(
        "--check", action="store_true", help="write nothing; fail unless the tables follow"
    )

    compare = _verb(
        verbs,
        "compare",
        _compare,
        "Show what runs wrote, problem by problem, side by side. "
        "Example: sgpo compare RUN_A RUN_B --only won --html page.html",
    )
    add = compare.add_argument
    add("runs", nargs="+", metavar="RUN", help="directory or id of a run; the first is A")
    add("--benchmark", help="just this one")
    add("--id", help="just this problem, with its texts uncut")
    add("--only", choices=("differ", "lost", "won"), help="problems that A won or lost, or either")
    add("--limit", type=_positive, default=20, help="problems in the terminal (%(default)s)")
    add("--html", type=Path, metavar="FILE", help="write one page that needs no network")

    curves = _verb(
        verbs,
        "curves",
        _curves,
        "Show reward, entropy, length, KL and loss of running or stored runs over training. "
        "Example: sgpo curves RUN_A RUN_B --out curves.png",
    )
    curves.add_argument("runs", nargs="+", metavar="RUN", help="directory or id of a run")
    curves.add_argument("--out", type=Path, dest="png", metavar="PNG", help="draw them there")

    status = _verb(
        verbs,
        "status",
        "run.listing:status_command",
        "Tell the state of every planned cell: finished, published, started, failed or missing.",
    )
    _profile(status)


def _listing(verbs: argparse._SubParsersAction) -> None:
    show = _verb(
        verbs,
        "list",
        "run.listing:list_command",
        "Show what there is: methods, models, benchmarks, artefacts, profiles or settings. "
        "Example: sgpo list settings sgpo",
    )
    kinds = ("methods", "models", "benchmarks", "artefacts", "profiles", "settings")
    show.add_argument("what", choices=kinds)
    show.add_argument("method", nargs="?", help="of settings: a method key, or a method file")
    config = _verb(
        verbs,
        "config",
        "run.listing:list_command",
        "Print every value that a run of a method would use, as --set takes it.",
    )
    config.add_argument("method", help="a method key, or a method file (.py)")
    config.set_defaults(what="settings")
    for parser in (show, config):
        parser.add_argument("--profile", default="mini", help=f"{PROFILES} (default: %(default)s)")
        parser.add_argument("--model", help="default: the first that the method has")
        _overrides(parser)


def _origins(verbs: argparse._SubParsersAction) -> None:
    explain = _verb(verbs, "explain", _explain, "Show how a verdict came about, step by step.")
    add = explain.add_argument
    add("samples", nargs="?", type=Path, help="samples file (.jsonl or .jsonl.gz)")
    add("--id", help="problem id in the samples file")
    add("--index", type=int, help="one sample of the problem (default: all)")
    add("--gold", help="the right answer, in place of a samples file")
    add("--text", help="the completion to judge, with --gold")

    diff = _verb(
        verbs,
        "diff-configs",
        "profiles.fairness:differences_command",
        "Print every value that differs between two runs or methods.",
    )
    diff.add_argument("a", help="run directory, run id, or method of the profile")
    diff.add_argument("b")
    diff.add_argument("--model", help="of which methods are compared (default: the first)")
    _profile(diff)

    audit = _verb(verbs, "audit", _audit, "Recompute everything stored; fail on any mismatch.")
    audit.add_argument("results", nargs="?", type=Path, default=Path("results/mini"))
    audit.add_argument("--regrade", action="store_true", help="judge every stored sample anew, too")

    publish = _verb(verbs, "publish", _publish, "Shrink a study's files for version control.")
    publish.add_argument("results", nargs="?", type=Path, default=Path("results/mini"))


def _no_verb(options: Options) -> int:
    raise AssertionError("argparse asks for the inner verb")


def _grade(options: Options) -> int:
    from benchmarks.run.evaluate import regrade_paths

    return regrade_paths(options.paths, options.grader)


def _report(options: Options) -> int:
    from benchmarks.report.audit import check_report
    from benchmarks.report.build import build

    if options.check:
        return check_report(options.out)
    print(build(options.out, options.only).text())
    return 0


def _compare(options: Options) -> int:
    from benchmarks.data.sources import known_problems
    from benchmarks.report.compare import compare_runs

    results = Path(os.environ.get("SGPO_RESULTS", "results"))
    return compare_runs(options, functools.cache(known_problems), results)


def _curves(options: Options) -> int:
    from benchmarks.report.curves import show_curves

    return show_curves(options.runs, options.png, Path(os.environ.get("SGPO_RESULTS", "results")))


def _explain(options: Options) -> int:
    from sgpo.core.verifier.explain import explain_sample, explain_text

    if options.gold is not None and options.text is not None and options.samples is None:
        return explain_text(options.gold, options.text)
    if options.samples is None or options.id is None or options.gold or options.text:
        raise ValueError("explain needs a samples file and --id, or --gold and --text")
    return explain_sample(options.samples, options.id, options.index)


def _audit(options: Options) -> int:
    from benchmarks.report.audit import audit

    def recomputed(path: Path, k: int) -> dict:
        from benchmarks.run.evaluate import recomputed  # needs torch, and only for samples

        return recomputed(path, k, anew=options.regrade)

    return audit(options.results, recomputed)


def _publish(options: Options) -> int:
    from benchmarks.store.publish import publish

    saved = publish(options.results)
    print(f"{options.results}: {saved / 2**20:.1f} MiB saved")
    if saved and (options.results / "REPORT.md").exists():  # its numbers have fewer digits now
        from benchmarks.report.build import build

        print(build(options.results).text())
    return 0


def _number(text: str, kind: type, what: str, low: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be {what}") from None
    if not value >= low:
        raise argparse.ArgumentTypeError(f"{text}: must be {what}")
    return value


def _positive(text: str) -> int:
    return _number(text, int, "a whole number of at least 1", 1)


def _seed(text: str) -> int:
    return _number(text, int, "a whole number of at least 0", 0)


def _seconds(text: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    value = _number(text.rstrip("smh"), float, "a time such as 90s, 8m or 2h", 1e-9)
    return value * units.get(text[-1], 1)


def _price(text: str) -> float:
    return _number(text, float, "a number of at least 0", 0)


def _test_sets(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(_names(text))


def _names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: names nothing")
    return found


if __name__ == "__main__":
    sys.exit(main())
