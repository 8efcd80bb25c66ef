"""``python -m benchmarks.perf CASE [...]``: measure, print, and keep results/perf/CASE.json."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

# case -> (module with ``run(repeats) -> dict``, what it measures)
CASES: dict[str, tuple[str, str]] = {
    "rl_step": (
        "benchmarks.perf.rl_step",
        "one RL step on the CPU: our GRPO and SGPO beside TRL's GRPOTrainer",
    ),
    "sampling": (
        "benchmarks.perf.sampling",
        "sampling on the CPU: our compact decoder beside transformers' generate and vLLM",
    ),
    "verifier": (
        "benchmarks.perf.verifier",
        "verdicts a second: ours beside stock math-verify",
    ),
    "study": (
        "benchmarks.perf.study",
        "one seed of the mini study: time per stage, busy cores, stages of an RL step",
    ),
    "startup": (
        "benchmarks.perf.startup",
        "seconds of `sgpo --help` and of rebuilding the report",
    ),
    "scaling": (
        "benchmarks.perf.scaling",
        "cost of an RL step against problems, samples, length and vocabulary",
    ),
    "loss_memory": (
        "benchmarks.perf.loss_memory",
        "peak memory and time of the losses over 151,936 tokens: chunked, dense, Liger's",
    ),
    "roofline": (
        "benchmarks.perf.roofline",
        "FLOPs of an RL step against the machine's matmul peak",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named cases; the exit code: 0, or 2 after one line on what was asked wrongly."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name, (_, what) in CASES.items():
            print(f"{name:11} {what}")
        return 0
    try:
        run_cases(options.cases, options.repeats, options.out, options.vllm_python)
    except (ValueError, OSError) as error:
        print(f"benchmarks.perf: error: {error}", file=sys.stderr)
        return 2
    return 0


def run_cases(
    cases: Sequence[str], repeats: int, directory: Path, vllm_python: str | None = None
) -> None:
    """Measure ``cases`` one after the other; each prints its table and leaves its JSON.
    ``vllm_python``: the interpreter that the sampling case finds vLLM in.

    Raises:
        ValueError: no case, an unknown case, or ``repeats`` below 1; nothing has run then.
    """
    allowed = ", ".join(CASES)
    if not cases:
        raise ValueError(f"no case named: give one or more of {allowed}")
    unknown = next((name for name in cases if name not in CASES), None)
    if unknown is not None:
        raise ValueError(f"unknown case {unknown!r}: must be one of {allowed}")
    if repeats < 1:
        raise ValueError(f"--repeats {repeats}: must be at least 1")
    from benchmarks.perf.common import keep, machine_line

    print(machine_line(), flush=True)
    for name in cases:
        module, what = CASES[name]
        print(f"\n{name}: {what}", flush=True)
        more = {"vllm_python": vllm_python} if name == "sampling" and vllm_python else {}
        result = importlib.import_module(module).run(repeats, **more)
        print(f"kept in {keep(name, result, directory)}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true", help="name the cases and what they measure")
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds (default 7)")
    parser.add_argument("--out", type=Path, default=Path("results/perf"), help="where JSON goes")
    parser.add_argument("--vllm-python", help="sampling: a Python that has vLLM (default: this)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
