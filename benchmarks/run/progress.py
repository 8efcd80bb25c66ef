"""Progress of a whole study: what runs, what is left, and for how long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.analyses import AnalysisTask
from benchmarks.config import Cell, RunConfig
from benchmarks.plan.cost import gpu_hours, shape_of
from sgpo.mini.specs import BASES

Planned = Cell | AnalysisTask
SECONDS_A_LINE = 60.0  # between two lines of a running cell where there is no terminal
SHOWN = {"reward": "reward", "entropy": "entropy", "response_length": "length", "loss": "loss"}
# Rough seconds of a cell on one core, only used to weigh cells against each other.
COST_OF_CELL = 8.0  # to start, read, judge and write, whatever its size
COST_OF_LESSON, LESSON_STEPS = 60.0, 120
COST_OF_FOUNDATION, FOUNDATION_STEPS = 400.0, 1600  # measured: the first world's base minus others
COST_OF_EVALUATION = 6.0  # of one budget
COST_OF_SFT_STEP, COST_OF_RL_STEP = 0.13, 1.0
COST_OF_ANALYSIS = {"steps": 12.0, "plans": 14.0, "strategies": 3.0}
# stage -> where in a cell it starts and how much of it it takes
SPANS = {
    "pretrain": (0.0, 0.7),
    "regime": (0.7, 0.05),
    "train": (0.0, 0.75),
    "evaluate": (0.75, 0.25),
    "analyse": (0.0, 1.0),
}
SCALE = {"qwen-s": 0.7, "qwen-m": 1.0, "llama-m": 1.0, "qwen-l": 4.0, "llama-s": 0.7}


def expected_cost(cell: Planned) -> float:
    """Seconds that ``cell`` takes, roughly: a mini one on one core, another on one GPU."""
    if isinstance(cell, AnalysisTask):
        return COST_OF_ANALYSIS[cell.key]
    config = cell.config
    if config.checkpoint is not None:
        return 3600 * gpu_hours(shape_of(config), config)
    limits = config.evaluation
    share = (limits.problem_limit or 256) / 256 * (limits.sample_limit or 4) / 4
    budgets = 4 if config.train and config.train.budget_steps else 1
    cost = COST_OF_CELL + budgets * COST_OF_EVALUATION * min(1.0, share)
    if config.train is None:
        cost += _lesson(config)
    else:
        whole = COST_OF_RL_STEP * config.train.problems_per_step / 32
        step = whole if config.init == "warmup" else COST_OF_SFT_STEP
        cost += step * config.train.num_steps
    return cost * SCALE.get(config.model, 1.0)


def _come_along(config: RunConfig, part: str) -> bool:
    """Whether the weights of a ``part`` of the run's base came with the suite."""
    return config.pretrain_steps is None and any(BASES.glob(f"{config.model}-{part}-*"))


def _lesson(config: RunConfig) -> float:
    if _come_along(config, f"world-{config.seed}"):
        return 0.0
    return COST_OF_LESSON * min(1.0, (config.pretrain_steps or LESSON_STEPS) / LESSON_STEPS)


def pretraining(left: Sequence[Cell], cache: Path) -> dict[str, float]:
    """Model -> rough seconds to make the mini base models of ``left`` that are not in ``cache``,
    beyond what the cost of their own cells holds: foundations, and worlds without such a cell."""
    found: dict[str, float] = {}
    lessons = {(c.config.model, c.config.seed) for c in left if c.config.train is None}
    for config in (cell.config for cell in left):
        if config.checkpoint is not None:
            continue
        model, seconds = config.model, 0.0
        laid = any(cache.glob(f"{model}-foundation-*")) or _come_along(config, "foundation")
        if model not in found and not laid:
            steps = config.pretrain_steps or FOUNDATION_STEPS
            steps = min(FOUNDATION_STEPS, steps + min(steps, 200))  # the last 200 settle it
            seconds = COST_OF_FOUNDATION * steps / FOUNDATION_STEPS
        made = any(cache.glob(f"{model}-world-{config.seed}-*"))
        if (model, config.seed) not in lessons and not made:
            lessons.add((model, config.seed))
            seconds += _lesson(config)
        if seconds:
            found[model] = found.get(model, 0.0) + seconds * SCALE.get(model, 1.0)
    return found


def at_intervals(tell: Callable[..., None], seconds: float = 0.5) -> Callable[..., None]:
    """A cell's progress that passes on to ``tell`` what comes after ``seconds`` of silence, and the
    end of each stage."""
    last = 0.0

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.monotonic() - last > seconds or done == total:
            last = time.monotonic()
            tell(stage, done, total, note)

    return report


@dataclass
class _Running:
    """A cell that runs: since when, when it was last told of, its stage and a note on it."""

    started: float
    said: float
    stage: str = "starting"
    note: str = ""


class StudyProgress:
    """A live table on a terminal; elsewhere a line per finished cell and, of a running one, a
    line a minute. ``runs``: where the cells' directories are, for the numbers of the last step."""

    def __init__(
        self, cells: Sequence[Planned], console: Console | None = None, runs: Path | None = None
    ) -> None:
        self.console, self.runs = console or Console(), runs
        self.cost = {c.run_id: expected_cost(c) for c in cells}
        self.share = dict.fromkeys(self.cost, 0.0)
        self.running: dict[str, _Running] = {}
        self.began, self.skipped = time.monotonic(), 0.0
        self.live = Live(console=self.console, refresh_per_second=2, transient=True)

    def __enter__(self) -> StudyProgress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *details: object) -> None:
        self.live.stop()

    def skip(self, cell: Planned) -> None:
        """``cell`` was finished before this study started."""
        self.share[cell.run_id] = 1.0
        self.skipped += self.cost[cell.run_id]

    def start(self, cell: Planned) -> None:
        self.running[cell.run_id] = _Running(time.monotonic(), time.monotonic())

    def update(self, cell: Planned, stage: str, done: int, total: int, note: str = "") -> None:
        """A worker reports ``done`` of ``total`` in a stage."""
        offset, width = SPANS[stage]
        self.share[cell.run_id] = offset + width * done / max(1, total)
        running = self.running[cell.run_id]
        running.stage, running.note = f"{stage} {done}/{total}", note

    def conclude(self, cell: Planned, what: str) -> None:
        self.share[cell.run_id] = 1.0
        self.running.pop(cell.run_id, None)
        finished = sum(s >= 1.0 for s in self.share.values())
        place = f"[{finished}/{len(self.share)}] {cell.run_id}"
        elapsed, left, _ = self._times()
        self._say(f"{place}: {what} ({elapsed} elapsed, about {left} left)")

    def refresh(self) -> None:
        if self.live.is_started:
            table = Table(box=None, show_header=False)
            for run_id in self.running:
                table.add_row(run_id, *self.describe(run_id))
            elapsed, left, share = self._times()
            table.add_row("study", f"{share:.0%}, {elapsed} elapsed, {left} left")
            self.live.update(table)
            return
        for run_id, running in self.running.items():
            if time.monotonic() - running.said > SECONDS_A_LINE:
                running.said = time.monotonic()
                self._say(f"{run_id}: {', '.join(filter(None, self.describe(run_id)))}")

    def describe(self, run_id: str) -> tuple[str, str, str]:
        """Of a running cell: its stage, the numbers of its last step or its accuracy so far, and
        the time left."""
        running, share = self.running[run_id], self.share[run_id]
        spent = time.monotonic() - running.started
        left = f"about {clock(spent * (1 - share) / share)} left" if share > 0.02 else ""
        return running.stage, running.note or self._last_step(run_id), left

    def _last_step(self, run_id: str) -> str:
        path = self.runs / run_id / "metrics.jsonl" if self.runs else None
        if path is None or not path.exists() or not self.running[run_id].stage.startswith("train"):
            return ""
        lines = path.read_text().splitlines()
        # The last line may be half written.
        step = json.loads(lines[-1]) if lines and lines[-1].endswith("}") else {}
        return " ".join(f"{label} {step[key]:.3g}" for key, label in SHOWN.items() if key in step)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _times(self) -> tuple[str, str, float]:
        """Time that has passed, time left at the rate of this study so far, and the share done."""
        passed, whole = time.monotonic() - self.began, sum(self.cost.values())
        done = sum(self.cost[run_id] * share for run_id, share in self.share.items())
        made = done - self.skipped
        left = clock((whole - done) / made * passed) if made > 0 else "?"
        return clock(passed), left, done / max(1e-9, whole)


def clock(seconds: float) -> str:
    """``h:mm:ss`` or ``m:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
