"""Where the time of the mini study goes: one seed from nothing, then the stages of an RL step.

The study is the command that a user types, in a process of its own, while the busy share of every
core is read once a second. The stages are timed afterwards on the study's own warm-up checkpoint.
Run it on an idle machine: other programs count as busy cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.config import build_method
from benchmarks.perf.common import spread, table, threads
from benchmarks.profiles import mini
from sgpo.core.files import read_json
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.rollout import Rollout
from sgpo.core.trainer import Trainer
from sgpo.core.verifier import grade_many

MODEL = "qwen-m"
METHODS = ("grpo", "hpt", "luffy", "sgpo")
TARGET_SECONDS, TARGET_BUSY = 15 * 60, 0.85  # one seed on two cores; every minute of it
WINDOW = 60.0  # seconds


def run(repeats: int) -> dict[str, Any]:
    """Run the study once and ``repeats`` timed steps a method; print and return the shares."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "study"
        watch = CoreWatch()
        began = time.perf_counter()
        with watch:
            _study(directory)
        wall = time.perf_counter() - began
        cells = cell_stages([read_json(p) for p in sorted(directory.glob("runs/*/result.json"))])
        with threads(1):
            steps = {name: step_stages(directory, name, repeats) for name in METHODS}
    result = {
        "setting": {"profile": "mini", "seeds": 1, "jobs": os.cpu_count(), "model": MODEL},
        "wall_seconds": wall,
        "busy_share_by_minute": watch.shares(WINDOW),
        "core_seconds": cells | {"cores": wall * os.cpu_count()},
        "step_seconds": steps,
        "targets": {"wall_seconds": TARGET_SECONDS, "busy_share": TARGET_BUSY},
    }
    print(_text(result), flush=True)
    return result


class CoreWatch:
    """Reads the kernel's idle counter once a second while its block runs."""

    def __init__(self, read: Callable[[], tuple[float, float]] | None = None) -> None:
        self.read = read or _busy_and_total
        self.readings: list[tuple[float, float]] = []
        self._stop = threading.Event()

    def __enter__(self) -> CoreWatch:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self.readings.append(self.read())
        self.readings.append(self.read())

    def shares(self, window: float) -> list[float]:
        """Busy share in [0, 1] of all cores together, for each ``window`` readings (seconds); a
        last window of less than half the length joins the one before."""
        marks = self.readings[:: int(window)]
        if len(marks) > 1 and len(self.readings) % int(window) < window / 2:
            marks = marks[:-1]
        marks = [*marks, self.readings[-1]]
        pairs = [(a, b) for a, b in zip(marks, marks[1:], strict=False) if b[1] > a[1]]
        return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairs]


def _busy_and_total() -> tuple[float, float]:
    """Clock ticks of all cores since boot: those that were not idle, and all (Linux)."""
    fields = [float(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    total = sum(fields)
    return total - fields[3] - fields[4], total


def _study(directory: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.cli",
        "study",
        "--seeds",
        "1",
        "--out",
        str(directory),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"the study failed: {done.stderr.strip().splitlines()[-1:]}")


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


class Stopwatch:
    """Seconds by stage; ``wrap`` adds the time of every call of a function to one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, stage: str, function: Callable) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - began
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

        return timed


def step_stages(directory: Path, method: str, repeats: int) -> dict[str, Any]:
    """Median seconds of one RL step of ``method`` and its stages: sampling, verification, other
    collection (target selection's scoring), scoring with the loss, backward with the update."""
    from benchmarks.data.sources import training_problems
    from benchmarks.run.policies import make_sampler
    from sgpo.core.models import load_model, load_tokenizer

    config = mini.study(1).entry(method).config(MODEL, 0)
    (source,) = directory.glob(f"runs/{MODEL}-sft-s0-*/model")
    model, tokenizer, watch = load_model(source), load_tokenizer(source), Stopwatch()
    sampler = make_sampler(model, tokenizer, config)
    sampler.sample = watch.wrap("sampling", sampler.sample)
    learner = build_method(config)
    learner.collect = watch.wrap("collect", learner.collect)
    learner.loss = watch.wrap("scoring", learner.loss)
    rollout = Rollout(
        model=model,
        sampler=sampler,
        tokenizer=tokenizer,
        prompt_spec=PROMPT_SPECS[config.prompt],
        config=config.rollout,
        seed=0,
        token_budget=config.train.micro_batch_tokens,
        grader=watch.wrap("verification", grade_many),
    )
    problems = training_problems(config.data)
    trainer = Trainer(
        model=model, method=learner, rollout=rollout, problems=problems, config=config.train,
        seed=0, run_dir=directory / "perf",
    )  # fmt: skip
    rows = []
    for step in range(1, repeats + 3):
        watch.seconds.clear()
        began = time.perf_counter()
        trainer.step(step)
        rows.append(_split(time.perf_counter() - began, watch.seconds))
    rows = rows[2:]  # the first two start worker processes and the allocator
    return {
        "total": spread([row["total"] for row in rows]),
        "stages": {key: statistics.median(row[key] for row in rows) for key in rows[0]},
    }


def _split(total: float, seconds: dict[str, float]) -> dict[str, float]:
    """Nested timings as disjoint stages that add up to ``total``."""
    inner = seconds.get("sampling", 0.0) + seconds.get("verification", 0.0)
    return {
        "total": total,
        "sampling": seconds.get("sampling", 0.0),
        "verification": seconds.get("verification", 0.0),
        "other collection": seconds["collect"] - inner,
        "scoring": seconds["scoring"],
        "backward and update": total - seconds["collect"] - seconds["scoring"],
    }


def _text(result: dict[str, Any]) -> str:
    busy = result["busy_share_by_minute"]
    lines = [
        f"one seed from nothing: {result['wall_seconds']:.0f} s (target {TARGET_SECONDS})",
        "busy share of the cores, minute by minute: "
        + " ".join(f"{share:.0%}" for share in busy)
        + f" (target {TARGET_BUSY:.0%})",
    ]
    cores = result["core_seconds"]["cores"]
    rows = [("stage of the grid", "core-seconds", "share")]
    for name, value in result["core_seconds"].items():
        rows.append((name, f"{value:.0f}", f"{value / cores:.0%}"))
    stages = list(result["step_seconds"][METHODS[0]]["stages"])
    steps = [("one RL step", *(f"{s} ms" for s in stages))]
    for name, step in result["step_seconds"].items():
        steps.append((name, *(f"{step['stages'][s] * 1000:.0f}" for s in stages)))
    return "\n".join([*lines, table(rows), table(steps)])
