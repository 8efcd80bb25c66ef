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

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.config import Cell, RunConfig
from benchmarks.plan.cost import gpu_hours, planned_ranks, shape_of
from benchmarks.profiles import profile_module
from benchmarks.profiles.published import TOKENIZER
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


def write_scripts(options: argparse.Namespace, cells: Sequence[Cell], results: Path) -> int:
    """Write the scripts of ``cells`` to ``options.out`` and say how to submit them; 0."""
    if cells[0].config.checkpoint is None:
        raise ValueError(
            f"profile {options.profile!r}: trains no published checkpoint; `sgpo study` runs it on "
            "one machine"
        )
    given_data = any(o.startswith("data.source=") for o in options.overrides)
    jobs = [] if given_data else _inputs(options, cells)
    start = (jobs[-1].name,) if jobs else ()  # strategies are part of the data's address
    jobs += [_cell_job(options, cell, results, start) for cell in cells]
    report = _sgpo("report", "--profile", options.profile, "--out", results)
    after = tuple(job.name for job in jobs)
    jobs.append(Job("report", (report,), REPORT_HOURS, after, even_after_failure=True))
    (options.out / "logs").mkdir(parents=True, exist_ok=True)
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["quote"] = shlex.quote
    script = templates.get_template("job.sbatch.jinja")
    for job in jobs:
        text = script.render(
            job=job,
            settings=_settings(job, options),
            directory=str(Path.cwd()),
            threads=CPUS_PER_GPU if job.gpus else 1,
            first_port=FIRST_PORT,
            num_ports=NUM_PORTS,
            # Compute nodes often see no network: the data job has fetched everything.
            offline=not given_data,
        )
        write_text(options.out / f"{job.name}.sbatch", text)
    submit = templates.get_template("submit.sh.jinja").render(jobs=jobs)
    write_text(options.out / "submit.sh", submit)
    command = shlex.join(["bash", str(options.out / "submit.sh")])
    print(f"{len(jobs)} scripts in {options.out}; submit them: {command}")
    return 0


def _inputs(options: argparse.Namespace, cells: Sequence[Cell]) -> list[Job]:
    """Jobs that bring weights, data and strategies."""
    recipe = profile_module(options.profile).RECIPE
    verb, folder, tokenizer = recipe.data_verb, Path(recipe.data), options.tokenizer or TOKENIZER
    fetch = [_download(c) for c in {c.config.checkpoint: c.config for c in cells}.values()]
    cut = ("--source", options.source, "--tokenizer", tokenizer, "--max-tokens",
           recipe.trace_tokens)  # fmt: skip
    prepare = _sgpo("data", verb, *(cut if verb == "prepare" else ()), "--out", folder)
    data = (
        *filter(None, fetch),
        f"[ -e {shlex.quote(str(folder / 'report.json'))} ] || {prepare}",
        _sgpo("data", "check", "--data", folder),
    )
    endpoint, model = (
        f'"${{{name}:?set {name} before submit.sh}}"'
        for name in ("SGPO_ENDPOINT", "SGPO_STRATEGY_MODEL")
    )
    ask = f"{_sgpo('strategies', '--data', folder)} --endpoint {endpoint} --model {model}"
    return [
        Job("data", data, PREPARE_HOURS),
        Job("strategies", (ask,), PREPARE_HOURS, ("data",)),
    ]


def _download(config: RunConfig) -> str | None:
    """The command that fetches a checkpoint of the hub; None for a local directory."""
    if Path(config.checkpoint).expanduser().is_dir():
        return None
    revision = ["--revision", config.revision] if config.revision else []
    wanted = [part for pattern in PATTERNS for part in ("--include", pattern)]
    tool = Path(sys.executable).parent / "hf"
    return shlex.join([str(tool), "download", config.checkpoint, *revision, *wanted])


def _cell_job(
    options: argparse.Namespace, cell: Cell, results: Path, start: tuple[str, ...]
) -> Job:
    """The job of a cell; it waits for the warm-up that it needs, or for ``start``."""
    config = cell.config
    gpus = options.gpus_per_node or profile_module(options.profile).RECIPE.gpus_per_node
    nodes = options.nodes or max(1, planned_ranks(config) // gpus)
    words = ["study", "--profile", options.profile, "--out", str(results), "--models", config.model]
    words += ["--methods", config.method, "--only-seeds", str(config.seed)]
    words += ["--seeds", str(options.seeds)] if options.seeds else []
    words += ["--all"] if options.all else []
    words += [word for override in options.overrides for word in ("--set", override)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes)]
    launch += ["--nproc-per-node", str(gpus), "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    command = (
        f'srun --cpus-per-task={CPUS_PER_GPU * gpus} {shlex.join(launch)} "$head:$port" '
        f'--rdzv-id "$SLURM_JOB_ID" -m benchmarks.cli {shlex.join(words)}'
    )
    hours = gpu_hours(shape_of(config), config) / (nodes * gpus)
    return Job(
        name=_name(cell),
        commands=(command,),
        hours=TIME_FACTOR * hours + START_HOURS,
        after=(_name(cell.parent),) if cell.parent else start,
        nodes=nodes,
        gpus=gpus,
    )


def _name(cell: Cell) -> str:
    return f"{cell.config.model}-{cell.config.method}-s{cell.config.seed}"


def _sgpo(*words: object) -> str:
    return shlex.join([sys.executable, "-m", "benchmarks.cli", *map(str, words)])


def _settings(job: Job, options: argparse.Namespace) -> dict[str, object]:
    """The #SBATCH lines of a job; None for those without a value."""
    log = f"{options.out.absolute()}/logs/%x-%j.log"
    settings: dict[str, object] = {
        "job-name": f"sgpo-{job.name}",
        "output": f'"{log}"' if " " in log else log,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": CPUS_PER_GPU * max(1, job.gpus),
        "time": f"{math.ceil(job.hours)}:00:00",
        "requeue": None,
    }
    if job.gpus and "device=cpu" not in options.overrides:
        settings["gpus-per-node"] = job.gpus
    for item in options.option:
        key, separator, value = item.partition("=")
        settings[key] = value if separator else None
    return settings
