"""The quick study with as little of everything as possible, by the command that a user types."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.config import Cell
from benchmarks.profiles.planned import planned_study

SETTINGS = {
    "pretrain_steps": 2,
    "train.problems_per_step": 4,
    "evaluation.problem_limit": 4,
    "evaluation.sample_limit": 2,
    "rollout.max_tokens": 24,
    "evaluation.max_tokens": 24,
}
NOTEBOOK = Path(__file__).resolve().parents[1] / "benchmarks" / "run" / "first_study.ipynb"
OVERRIDES = [f"{key}={value}" for key, value in SETTINGS.items()]


def study_words(out: Path, *more: object) -> list[str]:
    """What follows ``sgpo`` on the command line."""
    chosen = [word for item in OVERRIDES for word in ("--set", item)]
    fixed = ["study", "--profile", "quick", "--seeds", "1", "--jobs", "2", *chosen]
    # The whole report has tests of its own.
    return [*fixed, "--only", "table1", "--out", str(out), *map(str, more)]


def small_cells() -> dict[str, Cell]:
    """Method -> its planned cell."""
    study = planned_study("quick", 1, overrides=OVERRIDES)
    return {cell.config.method: cell for cell in study.cells()}


def own_method(directory: Path) -> Path:
    """The method file that the notebook writes, in ``directory``."""
    cells = ["".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"]]
    (source,) = (text.split('"""')[1] for text in cells if "centred.py" in text)
    path = directory / "centred.py"
    path.write_text(source)
    return path
