"""``sgpo slurm``: one sbatch script a stage of a study, and a submit.sh with their dependencies.

Stages: data, strategies, then a job a cell (base models are evaluated; warm-ups before what starts
from them; every cell evaluates what it trained), then the report. A job that is cut off or
preempted continues when it is submitted again. The scripts hold nothing that the command line
would not do alone; all nodes must see one file system.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.config import Cell, RunConfig
from benchmarks.plan import cost as gpu_cost
from benchmarks.plan.gpu_plan import planned_ranks, shape_of
from benchmarks.profiles import profile_module
from benchmarks.run.launch import planned_study, selected, wants_variants
from sgpo.core.files import write_text
from sgpo.core.models import PATTERNS

FIRST_PORT, NUM_PORTS = 20_000, 12_000  # below 32768, from which on Linux gives ports away
CPUS_PER_GPU = 8
PREPARE_HOURS, REPORT_HOURS = 12, 2
# A cell may take this many times its estimate, and an hour to start.
TIME_FACTOR, START_HOURS = 2.0, 1.0


@dataclass(frozen=True)
class Job:
    """A script: its shell commands, what it takes, and the jobs that it waits for.

    ``gpus`` a node; 0 asks for none. ``even_after_failure``: it also runs when those failed.
    """

    name: str
    commands: tuple[str, ...]
    hours: float
    after: tuple[str, ...] = ()
    nodes: int = 1
    gpus: int = 0
    even_after_failure: bool = False


def write_scripts(options: argparse.Namespace) -> int:
    """Write the scripts of ``options.profile`` to ``options.out`` and say how to submit them."""
    results = options.results or Path("results") / options.profile
    study = planned_study(
        options.profile,
        options.seeds,
        None,
        options.overrides,
        variants=wants_variants(options, results),
        models=options.models,
    )
    cells = selected(study, results, options)
    if cells[0].config.checkpoint is None:
        raise ValueError(
            f"profile {options.profile!r}: trains no published checkpoint; `sgpo study` runs it on "
            "one machine"
        )
    jobs = [*_inputs(options, cells), *_cells(options, cells, results)]
    report = _sgpo("report", "--profile", options.profile, "--out", results)
    jobs.append(
        Job("report", (report,), REPORT_HOURS, tuple(j.name for j in jobs), even_after_failure=True)
    )
    (options.out / "logs").mkdir(parents=True, exist_ok=True)
    for job in jobs:
        write_text(options.out / f"{job.name}.sbatch", _script(job, options))
    write_text(options.out / "submit.sh", _submit(jobs))
    print(f"{len(jobs)} scripts in {options.out}; submit them: bash {options.out / 'submit.sh'}")
    return 0


def _inputs(options: argparse.Namespace, cells: Sequence[Cell]) -> list[Job]:
    """Jobs that bring weights, data and strategies; none where the data are given."""
    if _given_data(options):
        return []
    recipe = profile_module(options.profile).RECIPE
    folder, tokenizer = Path(recipe.data), options.tokenizer or recipe.tokenizer
    fetch = [_download(c) for c in {c.config.checkpoint: c.config for c in cells}.values()]
    prepare = _sgpo(
        "data", "prepare", "--source", options.source, "--tokenizer", tokenizer,
        "--max-tokens", recipe.trace_tokens, "--out", folder,
    )  # fmt: skip
    data = (
        *filter(None, fetch),
        f"[ -e {shlex.quote(str(folder / 'report.json'))} ] || {prepare}",
        _sgpo("data", "check", "--data", folder),
    )
    endpoint = _given(options.endpoint, "SGPO_ENDPOINT")
    model = _given(options.strategy_model, "SGPO_STRATEGY_MODEL")
    ask = f"{_sgpo('strategies', '--data', folder)} --endpoint {endpoint} --model {model}"
    return [
        Job("data", data, PREPARE_HOURS),
        Job("strategies", (ask,), PREPARE_HOURS, ("data",)),
    ]


def _given_data(options: argparse.Namespace) -> bool:
    return any(o.startswith("data.source=") for o in options.overrides)


def _download(config: RunConfig) -> str | None:
    """The command that fetches a checkpoint of the hub; None for a local directory."""
    if Path(config.checkpoint).expanduser().is_dir():
        return None
    revision = ["--revision", config.revision] if config.revision else []
    wanted = [part for pattern in PATTERNS for part in ("--include", pattern)]
    tool = Path(sys.executable).parent / "hf"
    return shlex.join([str(tool), "download", config.checkpoint, *revision, *wanted])


def _given(value: str | None, variable: str) -> str:
    """``value``, or the variable that must be set where the scripts are submitted."""
    return shlex.quote(value) if value else f'"${{{variable}:?set {variable} before submit.sh}}"'


def _cells(options: argparse.Namespace, cells: Sequence[Cell], results: Path) -> list[Job]:
    """A job a cell; it starts after the strategies, which are part of the data's address, and
    after the warm-up that it needs."""
    jobs = []
    for cell in cells:
        config = cell.config
        gpus = options.gpus_per_node or profile_module(options.profile).GPUS_PER_NODE
        nodes = options.nodes or max(1, planned_ranks(config) // gpus)
        command = _study_command(options, cell, results)
        hours = gpu_cost.gpu_hours(shape_of(config), config) / (nodes * gpus)
        after = () if _given_data(options) else ("strategies",)
        jobs.append(
            Job(
                name=_name(cell),
                commands=(_torchrun(nodes, gpus, command),),
                hours=TIME_FACTOR * hours + START_HOURS,
                after=(_name(cell.parent),) if cell.parent else after,
                nodes=nodes,
                gpus=gpus,
            )
        )
    return jobs


def _name(cell: Cell) -> str:
    config = cell.config
    return f"{config.model}-{config.method}-s{config.seed}"


def _study_command(options: argparse.Namespace, cell: Cell, results: Path) -> list[str]:
    config = cell.config
    words = ["study", "--profile", options.profile, "--out", str(results), "--models", config.model]
    words += ["--methods", config.method, "--only-seeds", str(config.seed)]
    words += ["--seeds", str(options.seeds)] if options.seeds else []
    words += ["--all"] if options.all else []
    for override in options.overrides:
        words += ["--set", override]
    return words


def _torchrun(nodes: int, gpus: int, words: Sequence[str]) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)]
    launch += ["--nproc-per-node", str(gpus), "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    return (
        f'srun --cpus-per-task={CPUS_PER_GPU * gpus} {shlex.join(launch)} "$head:$port" '
        f'--rdzv-id "$SLURM_JOB_ID" -m benchmarks.cli {shlex.join(words)}'
    )


def _sgpo(*words: object) -> str:
    return shlex.join([sys.executable, "-m", "benchmarks.cli", *map(str, words)])


def _script(job: Job, options: argparse.Namespace) -> str:
    hours = math.ceil(job.hours) if options.hours is None else options.hours
    settings = {
        "job-name": f"sgpo-{job.name}",
        "output": f"{options.out.absolute()}/logs/%x-%j.log",
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": CPUS_PER_GPU * max(1, job.gpus),
        "time": f"{hours}:00:00",
        "requeue": None,
    }
    if job.gpus and all(c != "device=cpu" for c in options.overrides):
        settings["gpus-per-node"] = job.gpus
    for item in options.option:
        key, separator, value = item.partition("=")
        settings[key] = value if separator else None
    lines = ["#!/usr/bin/env bash"]
    lines += [f"#SBATCH --{k}" + ("" if v is None else f"={v}") for k, v in settings.items()]
    lines += [
        "set -euo pipefail",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f"export OMP_NUM_THREADS={CPUS_PER_GPU if job.gpus else 1} TOKENIZERS_PARALLELISM=false",
    ]
    if job.gpus:
        lines += [
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
            f"port=$(({FIRST_PORT} + SLURM_JOB_ID % {NUM_PORTS}))",
        ]
        if not _given_data(options):
            # Compute nodes often see no network: the data job has fetched everything.
            lines.append("export HF_HUB_OFFLINE=1")
    return "\n".join([*lines, *job.commands]) + "\n"


def _submit(jobs: Sequence[Job]) -> str:
    """Submits every job with the ones it waits for; ids stand in an associative array."""
    lines = [
        "#!/usr/bin/env bash",
        "# Submits all stages. Submit again after a failure: what is finished ends at once.",
        "set -euo pipefail",
        'cd "$(dirname "${BASH_SOURCE[0]}")"',
        "declare -A id",
    ]
    for job in jobs:
        wait = ""
        if job.after:
            kind = "afterany" if job.even_after_failure else "afterok"
            ids = ":".join(f"${{id[{name}]}}" for name in job.after)
            wait = f' --kill-on-invalid-dep=yes --dependency="{kind}:{ids}"'
        lines.append(f'id[{job.name}]=$(sbatch --parsable{wait} "{job.name}.sbatch")')
        lines.append(f'echo "{job.name}: job ${{id[{job.name}]}}"')
    return "\n".join(lines) + "\n"
