"""``python -m benchmarks.perf CASE [...]``: measure, print, and keep results/perf/CASE.json.

results/perf/README.md is written anew from those files each time; ``--page`` only writes it.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.perf import gpu_sampling, gpu_step, losses, sampling, steps, study, verifier
from benchmarks.perf.common import Block, Case, keep, show
from benchmarks.report import document
from sgpo.core.files import read_json, write_text
from sgpo.core.runlog import environment

CASES: dict[str, Case] = {
    "rl_step": steps.RL_STEP,
    "sampling": sampling.SAMPLING,
    "verifier": verifier.VERIFIER,
    "study": study.STUDY,
    "startup": study.STARTUP,
    "scaling": steps.SCALING,
    "loss_memory": losses.LOSS_MEMORY,
    "gpu_step": gpu_step.GPU_STEP,
    "gpu_sampling": gpu_sampling.GPU_SAMPLING,
    "roofline": steps.ROOFLINE,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named cases, then write the page; 0, or 2 after one line on what was asked
    wrongly."""
    options = _parser().parse_args(arguments)
    if options.list:
        for name, case in CASES.items():
            print(f"{name:11} {case.what}")
        return 0
    more = {
        "sampling": {"vllm_python": options.vllm_python},
        "gpu_step": {"shape": options.shape, "device": options.device},
        "gpu_sampling": {"device": options.device},
        "loss_memory": {"device": options.device},
    }
    try:
        if not options.page:
            run_cases(options.cases, options.repeats, options.out, more)
        print(f"kept in {write_page(options.out)}")
    except (ValueError, OSError) as error:
        print(f"benchmarks.perf: error: {error}", file=sys.stderr)
        return 2
    return 0


def run_cases(
    names: Sequence[str],
    repeats: int,
    directory: Path,
    more: Mapping[str, Mapping[str, str | None]],
) -> None:
    """Measure ``names`` one after the other; each prints its tables and leaves its JSON.
    ``more``: case -> further keyword arguments of its ``run``, None for its own default.

    Raises:
        ValueError: no case, an unknown case, ``repeats`` below 1, or a case that cannot run on
            this machine; nothing has run then.
    """
    allowed = ", ".join(CASES)
    if not names:
        raise ValueError(f"no case named: give one or more of {allowed}, or --page")
    unknown = next((name for name in names if name not in CASES), None)
    if unknown is not None:
        raise ValueError(f"unknown case {unknown!r}: must be one of {allowed}")
    if repeats < 1:
        raise ValueError(f"--repeats {repeats}: must be at least 1")
    given = {
        name: {key: value for key, value in more.get(name, {}).items() if value is not None}
        for name in names
    }
    for name in names:
        CASES[name].check(**given[name])
    print(_machine(environment()), flush=True)
    for name in names:
        print(f"\n{name}: {CASES[name].what}", flush=True)
        result = CASES[name].run(repeats, **given[name])
        print(show(CASES[name].blocks(result)))
        print(f"kept in {keep(name, result, directory)}", flush=True)


def write_page(directory: Path) -> Path:
    """Write ``directory``/README.md from the JSON files beside it; its path.

    Raises:
        ValueError: there are none.
    """
    results = {name: directory / f"{name}.json" for name in CASES}
    if not any(path.exists() for path in results.values()):
        raise ValueError(f"{directory}: no measurements here; run a case first")
    blocks: list[document.Block] = [
        document.Heading(1, "How fast"),
        document.Paragraph(
            "Written by python -m benchmarks.perf from the measurements beside this page. "
            "CASE.json keeps every round, the machine, versions and commit; python -m "
            "benchmarks.perf CASE measures again."
        ),
    ]
    for name, path in results.items():
        blocks.append(document.Heading(2, name))
        if path.exists():
            result = read_json(path)
            blocks += [_block(b, CASES[name].what) for b in CASES[name].blocks(result)]
            blocks += _how(CASES[name])
            blocks.append(document.Paragraph(_machine(result["environment"])))
        else:
            blocks.append(document.Paragraph(f"{CASES[name].what}: not run."))
    page = directory / "README.md"
    write_text(page, document.to_markdown(blocks))
    return page


def _block(block: Block, caption: str) -> document.Block:
    if isinstance(block, str):
        return document.Paragraph(block)
    header, *rows = block
    return document.Table(
        header=header,
        rows=tuple(document.row(*cells) for cells in rows),
        caption=caption[0].upper() + caption[1:],
        numeric=frozenset(range(1, len(header))),
    )


def _how(case: Case) -> list[document.Block]:
    """How a case measures: what the file that holds it says of itself."""
    text = inspect.getdoc(inspect.getmodule(case.run)) or ""
    return [document.Paragraph(part.replace("``", "")) for part in text.split("\n\n")[1:]]


def _machine(place: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {place['packages'][name]}" for name in ("torch", "transformers"))
    commit = (place["git_commit"] or "unknown")[:10] + " with changes" * bool(place["git_dirty"])
    machine = f"{place['cpu']}, {place['machine']}"
    return f"Machine: {machine}; Python {place['python']}, {versions}; commit {commit}."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--list", action="store_true", help="name the cases and what they measure")
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds (default 7)")
    parser.add_argument("--out", type=Path, default=Path("results/perf"), help="where JSON goes")
    parser.add_argument("--vllm-python", help="sampling: a Python that has vLLM (default: this)")
    parser.add_argument("--shape", help="gpu_step: qwen2.5-1.5b (default) or tiny")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where gpu_step, gpu_sampling and loss_memory run (default: a GPU if there is one)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
