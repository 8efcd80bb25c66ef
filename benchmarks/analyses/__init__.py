"""Measurements on the weights that finished runs left: a stage after the cells, one file each.

An analysis needs torch and writes a small JSON file with its provenance; the report draws from that
file without torch. Here stands which a study plans and from which runs each is made, without torch
too; ``run`` runs one, and each other module has ``analyse(task, directories, progress) -> dict`` of
plain JSON types. For ``benchmarks.run``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.config import Cell, Plan

# analysis -> methods whose runs of one seed it reads; () for one that needs no run at all
ANALYSES: dict[str, tuple[str, ...]] = {
    "steps": ("sft",),  # Figure 5
    "plans": ("sft", "grpo", "sgpo", "sgpo_reverse"),  # Figure 2
    "strategies": (),  # Table 8
}
# An analysis belongs to the models that SGPO's variants run on, which this variant marks.
MARKER = "sgpo_reverse"


@dataclass(frozen=True)
class AnalysisTask:
    """One analysis of the runs of one seed. ``seed`` is None and ``model`` empty where it reads
    no run."""

    key: str
    model: str
    seed: int | None
    inputs: tuple[Cell, ...]

    @property
    def run_id(self) -> str:
        """The name of its file below ``analyses``, and of the task in progress and status."""
        return self.key if self.seed is None else f"{self.key}-{self.model}-s{self.seed}"


def analysis_tasks(study: Plan) -> list[AnalysisTask]:
    """Every analysis of a study that plans SGPO's variants on the mini world, whose plans and
    token classes they read, else none, in the order of seeds."""
    cells = {(c.config.model, c.config.method, c.config.seed): c for c in study.cells()}
    if any(cell.config.data.source != "mini" for cell in cells.values()):
        return []
    models = [m.key for m in study.models if (m.key, MARKER, study.seeds[0]) in cells]
    tasks = [AnalysisTask(key, "", None, ()) for key, needs in ANALYSES.items() if not needs]
    tasks += [
        AnalysisTask(key, model, seed, tuple(cells[model, method, seed] for method in methods))
        for seed in study.seeds
        for model in models
        for key, methods in ANALYSES.items()
        if methods and all((model, method, seed) in cells for method in methods)
    ]
    return tasks if models else []


def result_path(study_dir: Path, run_id: str) -> Path:
    """The file of an analysis."""
    return study_dir / "analyses" / f"{run_id}.json"


def failure_path(study_dir: Path, run_id: str) -> Path:
    """Where the reason is kept when an analysis fails."""
    return study_dir / "analyses" / f"{run_id}.failed.json"
