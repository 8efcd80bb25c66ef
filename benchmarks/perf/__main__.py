"""``python -m benchmarks.perf CASE [...]``: measure, print, and keep results/perf/CASE.json."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
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
    "gpu_step": (
        "benchmarks.perf.gpu_step",
        "one SGPO update at the shape of Qwen2.5-1.5B: memory and MFU (needs a GPU)",
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
        more = {
            "sampling": {"vllm_python": options.vllm_python},
            "gpu_step": {"shape": options.shape, "device": options.device},
            "loss_memory": {"device": options.device},
        }
        run_cases(options.cases, options.repeats, options.out, more)
    except (ValueError, OSError) as error:
        print(f"benchmarks.perf: error: {error}", file=sys.stderr)
        return 2
    return 0


def run_cases(
    cases: Sequence[str],
    repeats: int,
    directory: Path,
    more: Mapping[str, Mapping[str, str | None]] | None = None,
) -> None:
    """Measure ``cases`` one after the other; each prints its table and leaves its JSON.
    ``more``: case -> further keyword arguments of its ``run``, None for its own default.

    Raises:
        ValueError: no case, an unknown case, ``repeats`` below 1, or a case that cannot run on
            this machine; nothing has run then.
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

    given = {
        name: {k: v for k, v in (more or {}).get(name, {}).items() if v is not None}
        for name in cases
    }
    modules = {name: importlib.import_module(CASES[name][0]) for name in cases}
    for name, module in modules.items():
        if hasattr(module, "check"):
            module.check(**given[name])
    print(machine_line(), flush=True)
    for name, module in modules.items():
        print(f"\n{name}: {CASES[name][1]}", flush=True)
        result = module.run(repeats, **given[name])
        print(f"kept in {keep(name, result, directory)}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true", help="name the cases and what they measure")
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds (default 7)")
    parser.add_argument("--out", type=Path, default=Path("results/perf"), help="where JSON goes")
    parser.add_argument("--vllm-python", help="sampling: a Python that has vLLM (default: this)")
    parser.add_argument("--shape", help="gpu_step: qwen2.5-1.5b (default) or tiny")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="gpu_step, loss_memory: where to compute (default: a GPU where there is one)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
