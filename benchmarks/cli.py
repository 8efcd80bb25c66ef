"""The ``sgpo`` command: every verb with its options, and the function that does the work.

Only the standard library is imported here, so that the command starts fast: what a verb calls is
named as ``room.module:function`` and imported when it runs.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from benchmarks.profiles import PROFILES, check_profile
from sgpo import __version__

HUB_DEFAULT = "SII-Enigma/OpenR1-Math-R1-8.5k"
REAL_SUITES = ["math500", "olympiadbench", "amc23", "aime24"]
# What a verb calls the settings and options of a study.
OPTION_OF = {
    "evaluate": {"evaluation.": "", "max_tokens=": "--max-tokens ", "seed=": "--seed ",
                 "sample_limit=": "--samples ", "problem_limit=": "--problem-limit ",
                 "suites=": "--suite ", "files=": "--problems ", "prompt=": "--prompt ",
                 "sampler=": "--engine ", "device=": "--device ", "precision=": "--dtype ",
                 "checkpoint=": "--model "},
    "train": {"--models": "--model", "--methods": "--method"},
}  # fmt: skip
UNAVAILABLE = ("VerifierUnavailable", "EngineFailed", "WeightsDiffer")  # said in one line
CONTINUES = ("study", "train", "tune", "mini", "evaluate", "strategies")  # after an interruption

Options = argparse.Namespace
Verbs = argparse._SubParsersAction


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code. A user's mistake ends in one line on stderr and code 2."""
    began = time.time()
    choose_instructions()
    options = _parser().parse_args(arguments)
    try:
        options.words, options.began = list(sys.argv[1:] if arguments is None else arguments), began
        if "out" in options and "profile" in options and options.verb != "slurm":
            _settle(options)
        if "profile" in options:
            check_profile(options.profile)  # before a verb's imports, which take seconds
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
        if isinstance(error, RuntimeError) and type(error).__name__ not in UNAVAILABLE:
            raise
        named = isinstance(error, OSError) and error.filename and error.strerror
        text = f"{error.filename}: {error.strerror}" if named else str(error)
        print(f"sgpo: error: {in_words_of(options.verb, text)}", file=sys.stderr)
        return 2


def choose_instructions() -> None:
    """Let torch, once imported, compute to the same last bits on CPUs with AVX-512 as on those with
    AVX2 alone; what the user chose stands."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    if any(line.startswith("flags") and "avx512" in line for line in lines):
        os.environ.setdefault("ATEN_CPU_CAPABILITY", "avx2")


def in_words_of(verb: str, text: str) -> str:
    """``text``, in which rooms below name settings of a run, with the options of ``verb``."""
    for setting, option in OPTION_OF.get(verb, {}).items():
        end = r"\b" if setting[-1].isalpha() else ""
        text = re.sub(rf"(?<![\w/.-])(--set )?{re.escape(setting)}{end}", option, text)
    return text


def _settle(options: Options) -> None:
    """Set the profile and the results directory where they are not given: the profile is that of
    the study in the directory, or of the one that ``--import`` makes there. ValueError when both
    are given and contradict each other."""
    coming = getattr(options, "import_from", None)
    default = (_profile_in(coming / "export.json") if coming else None) or "mini"
    if options.out is None:
        # reproduce.sh sets SGPO_RESULTS when it is called from another folder.
        folder = Path(os.environ.get("SGPO_RESULTS", "results"))
        options.profile = options.profile or default
        options.out = folder / options.profile
        return
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out}: is a file, must be a directory")
    stated = _profile_in(options.out / "study.json")
    if options.profile and stated not in (None, options.profile):
        raise ValueError(
            f"--profile {options.profile}: {options.out} holds a study of the profile {stated}; "
            "leave --profile out, or choose another --out"
        )
    options.profile = options.profile or stated or default


def _profile_in(path: Path) -> str | None:
    """The profile of a study.json, or of the study in an export.json."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text())
        return found.get("study", found)["profile"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return None  # whoever reads the study says what is wrong with it


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sgpo", description="Train, evaluate and compare SGPO and its baselines.")
    parser.add_argument("--version", action="version", version=f"sgpo {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", dest="verb")
    for add in (_runs, _models, _data, _cluster, _results, _listing, _origins):
        add(verbs)
    return parser


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line with what was probably meant, in place of the whole usage."""

    def parse_known_args(self, args=None, namespace=None):
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            word = rest[0].partition("=")[0]
            what = "unknown option" if word.startswith("-") else "one word too many:"
            self.error(f"{what} {word!r}{_near(word, self._option_string_actions)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        near = _near(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        self.exit(2, f"{self.prog}: error: {message}{near}; `{self.prog} --help` shows all\n")


def _near(word: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {found[0]!r}?" if found else ""


class _NoSetting(argparse.Action):
    """``--set`` of a verb that has options in its place: names the one that is meant."""

    def __call__(self, parser, namespace, values, option_string=None) -> NoReturn:
        meant = in_words_of("evaluate", values)
        names = ", ".join(o.strip() for o in OPTION_OF["evaluate"].values() if o)
        hint = f"use {meant}" if meant.startswith("--") else f"that is not one of {names}"
        parser.error(f"--set {values}: an evaluation is set by options of its own; {hint}")


def _call(target: str, options: Options) -> int:
    module, _, function = target.partition(":")
    return getattr(importlib.import_module(module), function)(options)


def _verb(verbs: Verbs, name: str, target: str, text: str, *shared: str) -> Any:
    """The ``add_argument`` of a new verb that calls ``target`` (a function of this module, or a
    ``room.module:function``) and takes the ``SHARED`` options of these names. The first sentence of
    ``text`` is what ``sgpo --help`` shows of it."""
    parser = verbs.add_parser(name, help=text.split(". ")[0].rstrip("."), description=text)
    own = globals().get(target)
    parser.set_defaults(run=own or functools.partial(_call, f"benchmarks.{target}"))
    for option in shared:
        parser.add_argument(option, **SHARED[option])
    return parser.add_argument


def _group(verbs: Verbs, name: str, text: str) -> Verbs:
    """A verb that only holds inner verbs."""
    parser = verbs.add_parser(name, help=text.rstrip("."), description=text)
    return parser.add_subparsers(required=True, metavar="VERB", dest=f"{name}_verb")


# fmt: off
def _runs(verbs: Verbs) -> None:
    add = _verb(
        verbs, "study", "run.launch:study_command",
        "Run a profile's grid and write its report. A second call continues where the "
        "first one stopped. Example: sgpo study --profile quick --methods sgpo,grpo",
        *PLACE, *SELECTION, "--jobs", "--only", "--problems", "--rank-timeout", "--log", "--set",
        "--dry-run", "--time-limit",
    )
    add("--only-seeds", type=_names, help="just these seeds (comma-separated)")
    add("--method-file", type=Path, action="append", default=[],
        help="add the method of this file to the grid, or to those that --methods must then name "
        "(may be repeated; remembered)")
    add("--export", type=Path, metavar="DIR",
        help="pack all but weights into a few files there, for a machine that will vanish")
    add("--export-weights", metavar="RUN",
        help="with the weights and resume state of this run, or of this method's only one")
    add("--import", type=Path, metavar="DIR", dest="import_from",
        help="run nothing; take an export into this study, or make one of it")
    add = _verb(
        verbs, "train", "run.launch:train_command",
        "Train and evaluate one method on one model, with the warm-up it starts from. "
        "Example: sgpo train --profile quick --model qwen-s --method sgpo",
        *PLACE, "--seed", "--problems", "--rank-timeout", "--log", "--set",
    )
    add("--model", required=True, help="a model key of the profile")
    add("--method", required=True, help="a method key, or a method file (.py)")
    add = _verb(
        verbs, "tune", "run.tune:tune_command",
        "Run the tuning trials of every method on the development set and print the chosen rates. "
        "The same number of trials for each. Example: sgpo tune --profile quick --methods sgpo",
        *PLACE, "--jobs", "--methods", "--log", "--set", "--dry-run", "--time-limit",
    )
    add("--model", help="whose trials (default: qwen-m; of quick: qwen-s, of pocket: qwen2.5-0.5b)")
    add("--method-file", type=Path, action="append", default=[],
        help="tune the method of this file (may be repeated)")
    mini = _group(verbs, "mini", "The embedded world.")
    _verb(
        mini, "check", "run.regime:check_command",
        "Measure the six conditions of the mini world. 1 when one does not hold.",
        *PLACE, "--jobs", "--models",
    )
    add = _verb(
        mini, "show", "run.listing:world_command",
        "Print a world's types, their plans and priors, and three problems with strategy and "
        "solution. Example: sgpo mini show 0",
    )
    add("world", type=_seed, help="its number: the seed of its runs")


def _models(verbs: Verbs) -> None:
    add = _verb(
        verbs, "evaluate", "run.checkpoint:evaluate_command",
        "Evaluate a checkpoint on benchmarks or on problems of your own. "
        "Example: sgpo evaluate --model DIR --problems mine.jsonl --out scores",
        "--seed", "--problems",
    )
    add("--model", required=True, help="a directory, a run's directory, or a name on the hub")
    add("--suite", type=_names, default=[], help="e.g. trained or math500,amc23")
    add("--out", required=True, type=Path, help="where samples, scores and the table go")
    add("--samples", type=_positive, help="at most this many a problem (default: the protocol's)")
    add("--problem-limit", type=_positive, help="only the first problems of each suite")
    add("--max-tokens", type=_positive, help="default: 32768 on real problems, 96 on mini ones")
    add("--prompt", help="prompt spec (default: the tokenizer's own)")
    add("--engine", "--sampler", choices=("compact", "transformers", "vllm"), default="compact")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the engine")
    add("--set", action=_NoSetting, help=argparse.SUPPRESS)

    inner = _group(verbs, "checkpoint", "Checkpoints from other formats.")
    add = _verb(
        inner, "import", "data.gguf:import_command",
        "Make a Hugging Face directory of a GGUF file. Example: sgpo checkpoint import m.gguf "
        "--out DIR",
    )
    add("file", type=Path, help="GGUF file of a Qwen2 or Llama model")
    add("--out", required=True, type=Path, help="directory to make")

    add = _verb(verbs, "grade", "_grade", "Judge stored samples again, without a model.")
    add("paths", nargs="+", type=Path, help="samples files, runs, or a study")
    add("--grader", choices=("ours", "stock", "exact", "all"), default="ours",
        help="who judges: this verifier, plain math-verify, normalised text, or all for a report")


def _data(verbs: Verbs) -> None:
    data = _group(verbs, "data", "Training data and benchmarks.")
    add = _verb(
        data, "prepare", "data.commands:prepare_command",
        "Fetch, check, decontaminate and split a training set.", "--offline", "--source",
    )
    add("--subset", help="configuration of the data set, where it has several")
    add("--revision", help="commit of the hub data set (default: main; the commit is recorded)")
    add("--tokenizer", required=True, help="checkpoint, a directory or of the hub; measures traces")
    add("--prompt", help="prompt spec (default: the tokenizer's own)")
    add("--max-tokens", type=_positive, default=16_384, help="of prompt and trace (%(default)s)")
    add("--seed", type=_seed, default=0, help="of the split")
    add("--test-sets", type=_test_sets, default=tuple(REAL_SUITES), metavar="NAMES",
        help="benchmarks or files that it may not overlap with, or none (default: all four)")
    add("--keep-unconfirmed", action="store_true", help="keep traces that are not judged correct")
    add("--out", required=True, type=Path, help="directory to make")

    add = _verb(
        data, "gsm8k", "data.gsm8k:gsm8k_command",
        "Make the training set, development split and benchmark of the profile pocket.",
        "--offline",
    )
    add("--source", default="openai/gsm8k", metavar="DIR|NAME",
        help="directory with train.jsonl and test.jsonl, or a hub data set (%(default)s)")
    add("--strategies", type=Path, metavar="FILE",
        help='JSONL of {"index": row of the training split, "strategy": text}')
    add("--seed", type=_seed, default=0, help="of the choices (%(default)s)")
    add("--test-sets", type=_test_sets, default=tuple(REAL_SUITES), metavar="NAMES",
        help="benchmarks that it may not overlap with, or none (default: all four)")
    add("--out", type=Path, default=Path("data/pocket"), help="directory to make (%(default)s)")

    add = _verb(
        data, "check", "data.commands:check_command",
        "Count the benchmarks' problems and check their content and gold answers.", "--offline",
    )
    add("--suite", type=_names, help="benchmarks (default: all four; beside --data none)")
    add("--data", type=Path, help="a prepared training set to check")

    add = _verb(
        verbs, "strategies", "data.commands:strategies_command",
        "Ask a strong model for strategies. Example: sgpo strategies --data DIR "
        "--endpoint http://localhost:8000/v1 --model NAME",
    )
    add("--data", required=True, type=Path, help="directory of `sgpo data prepare`")
    add("--endpoint", required=True, help="OpenAI-compatible, e.g. http://localhost:8000/v1")
    add("--model", required=True, help="model that proposes, as the endpoint calls it")
    add("--scorer", help="model that scores (default: the same)")
    add("--key-variable", default="OPENAI_API_KEY", help="variable with the key (%(default)s)")
    add("--candidates", type=_positive, default=5, help="a problem (%(default)s)")
    add("--concurrency", type=_positive, default=16, help="problems at once (%(default)s)")
    add("--timeout", type=float, default=600.0, help="seconds of one request (%(default)s)")
    add("--limit", type=_positive, help="a pilot on the first problems: says what all would take")


def _cluster(verbs: Verbs) -> None:
    add = _verb(
        verbs, "slurm", "run.launch:slurm_command",
        "Write a study's sbatch scripts and a submit.sh. Nothing is submitted.",
        *SELECTION, "--source", "--set",
    )
    add("--profile", default="paper", help="paper or single_gpu (default: %(default)s)")
    add("--out", required=True, type=Path, help="directory of the scripts")
    add("--results", type=Path, help="results directory (default: results/PROFILE)")
    add("--nodes", type=_positive, help="of every cell (default: the profile's, by model)")
    add("--gpus-per-node", type=_positive, help="default: the profile's")
    add("--option", action="append", default=[], metavar="KEY=VALUE",
        help="another #SBATCH line, e.g. partition=gpu or time=24:00:00")
    add("--tokenizer", help="for data prepare (default: the profile's, whatever models are run)")
    verbs.choices["slurm"].set_defaults(only=None, only_seeds=None, method_file=[], problems=[])
    _verb(
        verbs, "doctor", "plan.doctor:doctor_command",
        "Is this machine ready? Each line says what was found and, if need be, the fix.",
    )


def _results(verbs: Verbs) -> None:
    add = _verb(
        verbs, "report", "_report",
        "Rebuild tables, figures and pages from stored runs. Needs no torch.", *PLACE, "--only",
    )
    add("--check", action="store_true", help="write nothing; fail unless the tables follow")
    add = _verb(
        verbs, "power", "_power",
        "Tell how many seeds or worlds a difference takes, from the spread of stored runs. "
        "Example: sgpo power --effect 1.1", *PLACE,
    )
    add("--effect", type=float, required=True, help="true difference in points")
    add = _verb(
        verbs, "explain-gap", "_explain_gap",
        "Tell where the difference between two methods comes from. "
        "Example: sgpo explain-gap sgpo sgpo_nll --figure gap.png", *PLACE,
    )
    add("a", help="a method of the study")
    add("b", help="another, which is taken off")
    add("--model", help="on which model (default: the one with most of their runs)")
    add("--figure", type=Path, metavar="FILE", help="draw it there, too (PNG)")
    add("--types", type=Path, metavar="FILE", help="write it type by type, too (CSV)")
    add = _verb(
        verbs, "check-port", "_check_port",
        "Judge the training curves of other code against our bands. 1 when one is off. "
        "Example: sgpo check-port curves.csv --method sgpo", *PLACE,
    )
    add("curves", type=Path,
        help="CSV with step (from 1) and any of reward (share of the step's own samples that are "
        "right), alpha (mean of Eq. 6 over its problems), kept_kl (nats a distilled token, what is "
        "masked counted as 0), accuracy (percent, in the rows of the budgets' steps)")
    add("--method", required=True, help="the method that it is a port of")
    add("--model", help="on which model (default: the one with most runs)")
    add = _verb(
        verbs, "compare", "_compare",
        "Show what runs wrote, problem by problem, side by side. "
        "Example: sgpo compare RUN_A RUN_B --only won --html page.html",
    )
    add("runs", nargs="+", metavar="RUN", help="directory or id of a run; the first is A")
    add("--benchmark", help="just this one")
    add("--id", help="just this problem, with its texts uncut")
    add("--only", choices=("differ", "lost", "won"), help="problems that A won or lost, or either")
    add("--limit", type=_positive, default=20, help="problems in the terminal (%(default)s)")
    add("--out", type=Path, metavar="DIR", help="the study that holds the ids (default: results/*)")
    add("--html", type=Path, metavar="FILE", help="write one page that needs no network")
    add = _verb(
        verbs, "curves", "_curves",
        "Show reward, entropy, length, KL and loss of running or stored runs over training. "
        "Example: sgpo curves RUN_A RUN_B --out curves.png",
    )
    add("runs", nargs="+", metavar="RUN", help="directory or id of a run")
    add("--out", type=Path, dest="png", metavar="PNG", help="draw them there")
    _verb(
        verbs, "status", "run.status:status_command",
        "Tell the state of every planned cell: finished, published, started, failed or missing.",
        *PLACE,
    )


def _listing(verbs: Verbs) -> None:
    add = _verb(
        verbs, "list", "run.listing:list_command",
        "Show what there is: methods, models, benchmarks, artefacts, profiles or settings. "
        "Example: sgpo list settings sgpo",
        "--set",
    )
    kinds = ("methods", "models", "benchmarks", "artefacts", "profiles", "settings")
    add("what", choices=kinds, metavar="|".join(kinds))
    add("method", nargs="?", help="of settings: a method key, or a method file")
    add("--profile", default="mini", help=f"{', '.join(PROFILES)} (default: %(default)s)")
    add("--model", help="default: the first that the method has")
    add = _verb(
        verbs, "config", "run.listing:settings_command",
        "Print every value that a run of a method would use, as --set takes it.",
        "--set",
    )
    add("method", help="a method key, or a method file (.py)")
    add("--profile", default="mini", help=f"{', '.join(PROFILES)} (default: %(default)s)")
    add("--model", help="default: the first that the method has")


def _origins(verbs: Verbs) -> None:
    add = _verb(verbs, "explain", "_explain", "Show how a verdict came about, step by step.")
    add("samples", nargs="?", type=Path, help="samples file (.jsonl.gz)")
    add("--id", help="problem id in the samples file")
    add("--index", type=int, help="one sample of the problem (default: all)")
    add("--gold", help="the right answer, in place of a samples file")
    add("--text", help="the completion to judge, with --gold")
    add = _verb(
        verbs, "diff-configs", "profiles.fairness:differences_command",
        "Print every value that differs between two runs or methods.", *PLACE,
    )
    add("a", help="run directory, run id, or method of the profile")
    add("b")
    add("--model", help="of which methods are compared (default: the first)")
    add = _verb(verbs, "audit", "_audit", "Recompute everything stored; fail on any mismatch.")
    add("results", nargs="?", type=Path, default=Path("results/mini"))
    add("--regrade", action="store_true", help="judge every stored sample anew, too")
    add = _verb(verbs, "publish", "_publish", "Shrink a study's files for version control.")
    add("results", nargs="?", type=Path, default=Path("results/mini"))
    add("--texts", metavar="MODEL", help="keep what the runs of Table 1 on this model wrote in "
        "the first world, and make samples.html, SGPO beside SFT+GRPO")

# fmt: on


def _grade(options: Options) -> int:
    from benchmarks.run.graders import grade_study, regrade_paths

    if options.grader == "all":
        return max(map(grade_study, options.paths))
    return regrade_paths(options.paths, options.grader)


def _report(options: Options) -> int:
    from benchmarks.report.audit import check_report
    from benchmarks.report.build import build

    if options.check and options.only:
        raise ValueError(
            "--only with --check: --check compares all tables and pages; leave one out"
        )
    if options.check:
        return check_report(options.out)
    print(build(options.out, options.only).text())
    return 0


def _power(options: Options) -> int:
    from benchmarks.report.power import power

    print(power(options.out, options.effect), end="")
    return 0


def _explain_gap(options: Options) -> int:
    from benchmarks.report.explain_gap import explain_gap

    asked = options.a, options.b, options.model, options.figure, options.types
    return explain_gap(options.out, *asked)


def _check_port(options: Options) -> int:
    from benchmarks.report.bands import check_port

    return check_port(options.out, options.curves, options.method, options.model)


def _compare(options: Options) -> int:
    from benchmarks.data.sources import known_problems
    from benchmarks.report.compare import compare_runs

    results = options.out or Path(os.environ.get("SGPO_RESULTS", "results"))
    return compare_runs(options, functools.cache(known_problems), results)


def _curves(options: Options) -> int:
    from benchmarks.report.curves import show_curves

    return show_curves(options.runs, options.png, Path(os.environ.get("SGPO_RESULTS", "results")))


def _explain(options: Options) -> int:
    from benchmarks.report.explain import explain_samples, explain_text
    from benchmarks.store.runs import read_samples

    if options.gold is not None and options.text is not None and options.samples is None:
        explain_text(options.gold, options.text)
        return 0
    if options.samples is None or options.id is None or options.gold or options.text:
        raise ValueError("explain needs a samples file and --id, or --gold and --text")
    return explain_samples(read_samples(options.samples), options.id, options.index)


def _audit(options: Options) -> int:
    from benchmarks.data.sources import problem_table
    from benchmarks.report.audit import audit

    def recomputed(rows: Sequence[dict], k: int) -> dict:
        from benchmarks.run.evaluate import recomputed  # needs torch, and only for samples

        return recomputed(rows, k, anew=options.regrade)

    if not options.regrade:
        return audit(options.results, recomputed, problem_table)
    from benchmarks.run.graders import differing

    return audit(options.results, recomputed, problem_table, lambda rows: differing(rows, {}))


def _publish(options: Options) -> int:
    from benchmarks.store.publish import keep_texts, publish

    if options.texts is not None:  # first: a wrong name leaves the study as it was
        keep_texts(options.results, options.texts)
    moved = publish(options.results)
    print(f"{options.results}: {moved} runs are in the tables now")
    if options.texts is not None:
        from benchmarks.data.sources import known_problems
        from benchmarks.report.compare import write_sample_page

        print(write_sample_page(options.results, options.texts, functools.cache(known_problems)))
    made = moved or options.texts is not None
    if made and (options.results / "REPORT.md").exists():  # its numbers have fewer digits now
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
    number = text[:-1] if text[-1:] in units else text
    asked = "a time above 0 such as 90s, 8m or 2h (left out: none)"
    try:
        return _number(number, float, asked, 1e-9) * units.get(text[-1], 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"{text!r}: must be {asked}") from None


def _test_sets(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(_names(text))


def _names(text: str) -> list[str]:
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r}: names nothing")
    return found


# fmt: off
# Options that several verbs take, by name; in groups for those that are taken together.
PLACE = ("--profile", "--out")
SELECTION = ("--seeds", "--all", "--methods", "--models")
SHARED: dict[str, dict[str, Any]] = {
    "--profile": {"help": f"{', '.join(PROFILES)} (default: mini, or that of the study in --out)"},
    "--out": {"type": Path, "help": "results directory (default: results/PROFILE)"},
    "--seeds": {"type": _positive, "help": "number of seeds (default: the profile's)"},
    "--all": {"action": "store_true", "help": "with the ablations of SGPO"},
    "--methods": {"type": _names, "help": "just these methods (comma-separated)"},
    "--models": {"type": _names, "help": "just these models (comma-separated)"},
    "--only": {"type": _names, "help": "just these artefacts and the runs they need"},
    "--seed": {"type": _seed, "default": 0},
    "--jobs": {"type": _positive, "help": "parallel cells (default: one a core; 1 on a GPU)"},
    "--problems": {"type": Path, "action": "append", "default": [], "metavar": "FILE",
                   "help": "judge on these problems too (JSONL: question, answer)"},
    "--rank-timeout": {"type": _positive, "default": 3600,
                       "help": "under torchrun: seconds to wait for another rank (%(default)s)"},
    "--dry-run": {"action": "store_true", "help": "print the runs and their cost, run nothing"},
    "--time-limit": {"type": _seconds, "metavar": "TIME",
                     "help": "of the whole command but its export, e.g. 8m, 2h, 90s: it stops "
                             "behind the step or benchmark that fits"},
    "--log": {"choices": ("tensorboard", "trackio", "wandb"),
              "help": "send every metric and some samples there too (an extra of the same name)"},
    "--set": {"action": "append", "default": [], "metavar": "KEY=VALUE", "dest": "overrides",
              "help": "override a value, e.g. train.learning_rate=1e-4"},
    "--source": {"default": HUB_DEFAULT, "help": "hub data set, .jsonl, .parquet or directory"},
    "--offline": {"action": "store_true", "help": "open no connection: local files, cache only"},
}
# fmt: on


if __name__ == "__main__":
    sys.exit(main())
