"""Where the time of the mini study goes: one seed from nothing, the stages of an RL step, and two
commands that a user waits for."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.config import build_method
from benchmarks.data.sources import training_problems
from benchmarks.perf.common import ROOT, Block, in_rounds, shown, spread, threads, timed
from benchmarks.perf.steps import TimedStep
from benchmarks.profiles import mini
from benchmarks.run.cell import make_sampler
from sgpo.core.files import read_json
from sgpo.core.models import load_model, load_tokenizer
from sgpo.core.prompts import prompt_spec
from sgpo.core.rollout import Rollout
from sgpo.core.trainer import Trainer

MODEL = "qwen-m"
METHODS = ("grpo", "hpt", "luffy", "sgpo")
TARGET_SECONDS, TARGET_BUSY = 15 * 60, 0.85  # one seed on two cores; every minute of it
STARTUP_TARGETS = {"sgpo --help": 0.4, "sgpo report": 60.0}  # seconds
RESULTS = ROOT / "results" / "mini"


def run(repeats: int) -> dict[str, Any]:
    """One seed of the mini study: time per stage, busy cores, stages of an RL step.

    The study is the command that a user types, in a process of its own; the stages are timed
    afterwards on its own warm-up checkpoint. Run it on an idle machine: other programs count as
    busy cores.
    """
    cores = os.cpu_count()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "study"
        words = ("study", "--seeds", "1", "--out", str(directory), "--jobs", str(cores))
        began = time.monotonic()
        ticks = _call(*words)
        wall = time.monotonic() - began
        stages = cell_stages([read_json(p) for p in sorted(directory.glob("runs/*/result.json"))])
        with threads(1):
            steps = {name: step_stages(directory, name, repeats) for name in METHODS}
    return {
        "setting": {"profile": "mini", "seeds": 1, "jobs": cores, "model": MODEL},
        "wall_seconds": wall,
        "busy_share_by_minute": busy_shares(ticks),
        "core_seconds": stages | {"cores": wall * cores},
        "step_seconds": steps,
        "targets": {"wall_seconds": TARGET_SECONDS, "busy_share": TARGET_BUSY},
    }


def _call(*arguments: str, every: float = 60.0) -> list[tuple[float, float]]:
    """Run ``sgpo`` with ``arguments``; the core ticks at its start, ``every`` seconds and at its
    end. ValueError if it fails."""
    command, ticks = [sys.executable, "-m", "benchmarks.cli", *arguments], [_busy_and_total()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(every)
            ticks.append(_busy_and_total())
    if process.returncode != 0:
        raise ValueError(f"sgpo {arguments[0]} ended with code {process.returncode}")
    return ticks


def busy_shares(ticks: Sequence[tuple[float, float]]) -> list[float]:
    """Busy share in [0, 1] of all cores together, between one reading and the next."""
    return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(ticks) if b[1] > a[1]]


def _busy_and_total() -> tuple[float, float]:
    """Clock ticks of all cores since boot: those that were not idle, and all (Linux)."""
    fields = [float(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    total = sum(fields)
    return total - fields[3] - fields[4], total


def cell_stages(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Core-seconds of the grid by stage, from the runs' result.json. ``start_up`` is what a run
    took besides training and evaluation: process start, loading and saving weights."""
    stages = dict.fromkeys(("pretrain_and_regime", "train", "evaluate", "start_up"), 0.0)
    for r in results:
        rest = r["wall_seconds"] - r["train_seconds"] - r["eval_seconds"]
        stages["train"] += r["train_seconds"]
        stages["evaluate"] += r["eval_seconds"]
        stages["pretrain_and_regime" if r["method"] == "base" else "start_up"] += rest
    return stages


def step_stages(directory: Path, method: str, repeats: int) -> dict[str, Any]:
    """Median seconds of one RL step of ``method`` and its stages, on the study's own warm-up
    checkpoint."""
    config = mini.study(1).entry(method).config(MODEL, 0)
    (source,) = directory.glob(f"runs/{MODEL}-sft-s0-*/model")
    model, tokenizer = load_model(source), load_tokenizer(source)
    rollout = Rollout(
        model=model,
        sampler=make_sampler(model, tokenizer, config),
        tokenizer=tokenizer,
        prompt_spec=prompt_spec(config.prompt, tokenizer),
        config=config.rollout,
        seed=0,
        token_budget=config.train.micro_batch_tokens,
    )
    step = TimedStep(
        Trainer(
            model=model,
            method=build_method(config),
            rollout=rollout,
            problems=training_problems(config.data, config.seed),
            config=config.train,
            seed=0,
            run_dir=directory / "perf",
        )
    )
    for _ in range(repeats + 2):  # the first two start worker processes and the allocator
        step()
    rows = step.stages[2:]
    return {
        "total": spread([row["total"] for row in rows]),
        "stages": {key: statistics.median(row[key] for row in rows) for key in rows[0]},
    }


def blocks(result: dict[str, Any]) -> list[Block]:
    targets, cores, wall = result["targets"], dict(result["core_seconds"]), result["wall_seconds"]
    all_cores = cores.pop("cores")
    busy = " ".join(f"{share:.0%}" for share in result["busy_share_by_minute"])
    grid = ", ".join(
        f"{name.replace('_', ' ')} {value:.0f} ({value / all_cores:.0%})"
        for name, value in cores.items()
    )
    stages = list(next(iter(result["step_seconds"].values()))["stages"])
    steps = [("one RL step", *(f"{s} ms" for s in stages))]
    for name, step in result["step_seconds"].items():
        steps.append((name, *(f"{step['stages'][s] * 1000:.0f}" for s in stages)))
    return [
        steps,
        f"One seed from nothing: {wall:.0f} s (target {targets['wall_seconds']}). Core-seconds: "
        f"{grid}. Busy share of the cores, minute by minute: {busy} (target "
        f"{targets['busy_share']:.0%}).",
    ]


def run_startup(repeats: int, results: Path = RESULTS) -> dict[str, Any]:
    """Seconds of `sgpo --help` and of rebuilding the report of a copy of ``results``."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "study"
        copy.mkdir()
        made = {"tables", "figures", "CLAIMS.md", "REPORT.md", "report.html"}
        for path in results.iterdir():
            if path.name not in made:
                (copy / path.name).symlink_to(path)
        verbs = {"sgpo --help": ["--help"], "sgpo report": ["report", "--out", str(copy)]}
        variants = {k: partial(timed, partial(_call, *words)) for k, words in verbs.items()}
        seconds = in_rounds(variants, min(repeats, 5), warmup=1)
    return {
        "unit": "seconds",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "targets": STARTUP_TARGETS,
    }


def startup_blocks(result: dict[str, Any]) -> list[Block]:
    targets = result["targets"]
    times = [
        f"{k} {shown(v, '.2f')}, target <= {targets[k]:g}" for k, v in result["seconds"].items()
    ]
    return [f"Seconds: {'; '.join(times)}."]
