"""``python -m benchmarks.perf CASE [...]``: measure, print, and keep results/perf/CASE.json.

results/perf/README.md and GPU.md are written anew from those files; ``--page`` only writes them.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.perf import gpu_step, losses, rl_step, sampling, verifier
from benchmarks.perf.common import Block
from benchmarks.report import document
from sgpo.core.files import read_json, write_json, write_text
from sgpo.core.runlog import environment

# Name -> (run, blocks). ``run(repeats, **options)`` measures and returns JSON values, which
# ``blocks`` shows; its docstring says what is measured (first line) and how (the rest).
CASES: dict[str, tuple[Callable[..., dict[str, Any]], Callable[[dict[str, Any]], list[Block]]]] = {
    "rl_step": (rl_step.run, rl_step.blocks),
    "sampling": (sampling.run, sampling.blocks),
    "verifier": (verifier.run, verifier.blocks),
    "loss_memory": (losses.run, losses.blocks),
    "gpu_loss_memory": (losses.run_gpu, losses.blocks),
    "gpu_step": (gpu_step.run, gpu_step.blocks),
    "gpu_sampling": (sampling.run_gpu, sampling.blocks),
}
OPTIONS = ("shape", "engines", "device")  # of those cases that have a parameter of this name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named cases, then write the page; 0, or 2 after one line on what was asked
    wrongly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.perf", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--page", action="store_true", help="only write the page again")
    parser.add_argument("--repeats", type=int, default=7, help="measured rounds (default 7)")
    parser.add_argument("--out", type=Path, default=Path("results/perf"), help="where JSON goes")
    parser.add_argument("--shape", help="gpu_step: qwen2.5-1.5b (default) or tiny")
    parser.add_argument("--engines", help="gpu_sampling: some of compact,transformers,paged,vllm")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where gpu_step, gpu_sampling and loss_memory run (default: a GPU if there is one)",
    )
    options = parser.parse_args(arguments)
    try:
        if not options.page:
            run_cases(options)
        print(f"kept in {write_page(options.out)}")
    except (ValueError, OSError) as error:
        print(f"benchmarks.perf: error: {error}", file=sys.stderr)
        return 2
    return 0


def run_cases(options: argparse.Namespace) -> None:
    """Measure the cases one after the other; each prints its tables and leaves its JSON.

    Raises:
        ValueError: no case, an unknown one or ``--repeats`` below 1, and nothing has run then; or
            a case that cannot run on this machine.
    """
    allowed = ", ".join(CASES)
    if not options.cases:
        raise ValueError(f"no case named: give one or more of {allowed}, or --page")
    for name in options.cases:
        if name not in CASES:
            raise ValueError(f"unknown case {name!r}: must be one of {allowed}")
    if options.repeats < 1:
        raise ValueError(f"--repeats {options.repeats}: must be at least 1")
    print(_machine(environment()), flush=True)
    for name in options.cases:
        run, _ = CASES[name]
        print(f"\n{name}: {_said(name)[0]}\n", flush=True)
        given = {key: getattr(options, key) for key in OPTIONS if getattr(options, key) is not None}
        for key in given.keys() - inspect.signature(run).parameters:
            raise ValueError(f"--{key}: no option of {name}")
        result = run(options.repeats, **given)
        path, place = options.out / f"{name}.json", environment(result.get("device_name"))
        write_json(path, {"case": name, "environment": place, **result})
        print(f"{document.to_markdown(_blocks(name, result))}\nkept in {path}", flush=True)


def write_page(directory: Path) -> Path:
    """Write ``directory``/README.md from the JSON files beside it, and GPU.md from those of cases
    that need a GPU; the path of the first.

    Raises:
        ValueError: there are none.
    """
    paths = {name: directory / f"{name}.json" for name in CASES}
    results = {name: read_json(path) for name, path in paths.items() if path.exists()}
    if not results:
        raise ValueError(f"{directory}: no measurements here; run a case first")
    on_gpu = [name for name in CASES if name.startswith("gpu_")]
    by_hand = document.Markdown(
        "[benchmarks/perf](../../benchmarks/perf/README.md) has what an H200 gave by hand, with "
        "the functions of these cases, part of it of faster code."
    )
    write_text(directory / "GPU.md", _page("How fast on a GPU", on_gpu, results, by_hand))
    others = [name for name in CASES if name not in on_gpu]
    more = document.paragraph("GPU.md has what was measured on a GPU.")
    return write_text(directory / "README.md", _page("How fast", others, results, more))


def _page(
    title: str, cases: Sequence[str], results: Mapping[str, Any], *more: document.Block
) -> str:
    """The sections of ``cases`` that have results, and where each was measured."""
    blocks: list[document.Block] = [
        document.heading(1, title),
        document.paragraph(
            "Written by python -m benchmarks.perf from the measurements beside this page. Each "
            "CASE.json keeps every round, machine, versions and commit; python -m benchmarks.perf "
            "CASE measures again. A number with two in brackets is a median with the extremes."
        ),
        *more,
    ]
    places = defaultdict(list)
    for name in [name for name in cases if name in results]:
        blocks += [document.heading(2, f"{name}: {_said(name)[0]}"), *_blocks(name, results[name])]
        place = results[name]["environment"]
        changed = " with changes" * bool(place["git_dirty"])
        commit = (place["git_commit"] or "unknown")[:10] + changed
        places[_machine(place)].append(f"{name} at {commit}")
    blocks.append(document.heading(2, "Where"))
    missing = [f"{name}: {_said(name)[0]}" for name in cases if name not in results]
    if missing:
        blocks.append(document.paragraph(f"Not run. {'. '.join(missing)}."))
    for where, measured in places.items():
        blocks.append(document.paragraph(f"{where}: {', '.join(measured)}."))
    return document.to_markdown(blocks)


def _said(name: str) -> tuple[str, str]:
    """What a case measures, and how."""
    what, _, how = (inspect.getdoc(CASES[name][0]) or "").partition("\n\n")
    return what.rstrip(".").replace("`", ""), how


def _blocks(name: str, result: dict[str, Any]) -> list[document.Block]:
    """The blocks of a result; how it was measured stands above its table."""
    found: list[document.Block] = []
    for block in CASES[name][1](result):
        if isinstance(block, str):
            found.append(document.paragraph(block))
            continue
        header, *rows = block
        cells = tuple(document.row(*cells) for cells in rows)
        numeric = frozenset(range(1, len(header)))
        found.append(document.Table(header, cells, caption=_said(name)[1], numeric=numeric))
    return found


def _machine(place: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {place['packages'][name]}" for name in ("torch", "transformers"))
    return f"{place['cpu']}, {place['machine']}, Python {place['python']}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
