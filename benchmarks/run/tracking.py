"""``--log NAME``: a run's metrics, settings and some samples in a tracker, beside metrics.jsonl.

metrics.jsonl stays the record; a tracker is told what appears in it. One that resumes sends the
earlier steps again.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sgpo.core.files import read_json
from sgpo.core.verifier import Verdict, grade_many

NUM_SAMPLES = 4  # of a step
PROJECT = "sgpo"
# name -> the module that it needs
MODULES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


def check_tracker(name: str | None) -> None:
    """ValueError unless the tracker ``name`` is installed."""
    if name is not None and importlib.util.find_spec(MODULES[name]) is None:
        remedy = f".venv/bin/pip install -e '.[{name}]' in the checkout"
        raise ValueError(f"--log {name}: is not installed; {remedy}")


class Tracker:
    """Tells ``name`` (None: nobody) what is appended to the metrics.jsonl of ``run_dir``."""

    def __init__(self, name: str | None, run_dir: Path) -> None:
        self.path, self.told = run_dir / "metrics.jsonl", 0
        self.samples: list[str] = []
        self.write: Callable[[int, dict[str, float], str], None] | None = None
        self.grader = grade_many
        if name is not None:
            open_tracker = _tensorboard if name == "tensorboard" else _project
            self.write, self._close = open_tracker(name, run_dir)
            self.grader = self._grade

    def _grade(self, pairs: Sequence[tuple[str, str]], **options: Any) -> Sequence[Verdict]:
        """``grade_many``; the first few of a step are kept to be shown."""
        verdicts = grade_many(pairs, **options)
        room = max(0, NUM_SAMPLES - len(self.samples))
        self.samples += [
            f"gold {gold!r}, {verdict.reason}\n\n{text}"
            for (gold, text), verdict in zip(pairs[:room], verdicts[:room], strict=True)
        ]
        return verdicts

    def follow(self) -> None:
        """Tell the steps that were written since the last call."""
        if self.write is None or not self.path.exists():
            return
        whole = self.path.read_text().rpartition("\n")[0].splitlines()
        for line in whole[self.told :]:
            row = json.loads(line)
            step = row.pop("step")
            self.write(step, row, "\n\n---\n\n".join(self.samples) if line == whole[-1] else "")
        if len(whole) > self.told:
            self.told, self.samples = len(whole), []

    def close(self, scores: dict[str, Any]) -> None:
        """Tell the accuracy of every benchmark in percent, and end."""
        if self.write is None:
            return
        self.follow()
        found = {
            f"accuracy/{key}": 100 * "".join(s["verdicts"]).count("c") / len("".join(s["verdicts"]))
            for key, s in scores["benchmarks"].items()
        }
        self.write(self.told, found, "")
        self._close()


def _tensorboard(name: str, run_dir: Path) -> tuple[Callable, Callable]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run_dir / name))
    config = json.dumps(read_json(run_dir / "config.json"), indent=1)
    writer.add_text("config", f"```\n{config}\n```")

    def write(step: int, values: dict[str, float], samples: str) -> None:
        for key, value in values.items():
            if value is not None:
                writer.add_scalar(key, value, step)
        if samples:
            writer.add_text("samples", samples, step)
        writer.flush()

    return write, writer.close


def _project(name: str, run_dir: Path) -> tuple[Callable, Callable]:
    """trackio and wandb, which have one interface."""
    tracker = importlib.import_module(name)
    config = read_json(run_dir / "config.json")
    again = {"resume": "allow"} | ({"id": run_dir.name} if name == "wandb" else {})
    tracker.init(project=PROJECT, name=run_dir.name, config=config, **again)

    def write(step: int, values: dict[str, float], samples: str) -> None:
        tracker.log(values | ({"samples": samples} if samples else {}), step=step)

    return write, tracker.finish
