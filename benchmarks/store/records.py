"""The stored study as records: the planned grid, the runs that exist, their scores and metrics.

``benchmarks.store.load`` makes these records from ``results/<profile>``. Imports no torch.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.store import stats

NOT_RUN = "not run"
RL_METHODS = ("grpo", "hpt", "luffy", "sgpo")
STARTING_POINTS = ("base", "sft", "sft_full")
METHOD_ORDER = (*STARTING_POINTS, *RL_METHODS)
# Ablations of SGPO: rows of the ablation tables only. Named one by one, because a user's method
# may be called sgpo_something and belongs in Table 1.
SGPO_VARIANTS = (
    "sgpo_no_grpo",
    "sgpo_no_proximal",
    "sgpo_no_clip",
    "sgpo_no_selection",
    "sgpo_fixed_alpha",
    "sgpo_group_alpha",
    "sgpo_nll",
    "sgpo_reverse",
    "sgpo_delta0.1",
    "sgpo_delta0.3",
    "sgpo_delta3",
    "sgpo_meanlogp",
)


class StudyError(ValueError):
    """A results directory that cannot be reported; one line that names the file and the remedy."""


@dataclass(frozen=True)
class Model:
    """A base model of the study; ``parameters`` is its number of weights, None until
    one of its runs has ended. ``extra``: it serves experiments of its own only."""

    key: str
    label: str
    family: str
    parameters: int | None
    extra: bool = False


@dataclass(frozen=True)
class Method:
    """A method; ``extra``: it serves experiments of its own only."""

    key: str
    label: str
    extra: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A test set of ``num_problems`` problems, ``k`` samples each."""

    key: str
    label: str
    num_problems: int
    k: int


@dataclass(frozen=True)
class Cell:
    """One planned run. ``seed`` is None for a base model: it is not trained, so it counts for all
    seeds."""

    run_id: str
    model: str
    method: str
    seed: int | None


@dataclass(frozen=True)
class Run:
    """One run that ended. ``correct``: benchmark key -> bool [N, K], verdicts of the samples;
    empty where the run was not evaluated. ``answers``: benchmark key -> int [N, K], equal
    numbers in a row for samples that agree; lacks a key that was scored without keeping answers.
    Times in seconds."""

    cell: Cell
    path: Path
    config_hash: str
    status: str
    diverged_reason: str | None
    train_seconds: float
    eval_seconds: float
    num_steps: int
    num_samples: int | None
    sampled_tokens: int
    correct: Mapping[str, np.ndarray]
    answers: Mapping[str, np.ndarray]
    protocols: Mapping[str, Mapping[str, Any]]
    problem_sets: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @functools.cached_property
    def accuracy(self) -> dict[str, np.ndarray]:
        """Benchmark key -> float [N], a problem's share of correct samples."""
        return {key: correct.mean(axis=1) for key, correct in self.correct.items()}

    @functools.cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """metrics.jsonl as columns: name -> float [steps]; absent or null values are NaN."""
        rows = _read_jsonl(self.path / "metrics.jsonl")
        names = {name: None for row in rows for name in row}
        return {
            name: np.array([_number(row.get(name)) for row in rows], dtype=np.float64)
            for name in names
        }


@dataclass(frozen=True)
class Analysis:
    """One planned analysis of runs (``inputs``: their ids) and, once it was made, its ``result``
    and the ids that it was made from."""

    run_id: str
    key: str
    model: str
    seed: int | None
    inputs: tuple[str, ...]
    result: Mapping[str, Any] | None = None
    made_from: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """Everything a table or figure needs. ``runs`` holds ended runs by id; ``failures`` the error
    line of those that failed; ``resamples`` the bootstrap draws all artefacts share. ``models`` and
    ``methods`` are those of the main comparison, the extra ones serve experiments of their own."""

    root: Path
    profile: str
    suite_version: int
    seeds: tuple[int, ...]
    models: tuple[Model, ...]
    methods: tuple[Method, ...]
    benchmarks: tuple[Benchmark, ...]
    cells: tuple[Cell, ...]
    runs: Mapping[str, Run]
    failures: Mapping[str, str]
    resamples: stats.Resamples
    analyses: tuple[Analysis, ...] = ()
    extra_models: tuple[Model, ...] = ()
    extra_methods: tuple[Method, ...] = ()

    def model(self, key: str) -> Model:
        return next(model for model in self.models + self.extra_models if model.key == key)

    @property
    def method_order(self) -> tuple[str, ...]:
        """Methods that are compared with each other: the suite's, then those that the user added.

        SGPO's variants are left out: choosing the best of twelve with hindsight would be a
        comparison of another kind, so they have tables of their own.
        """
        known = METHOD_ORDER + SGPO_VARIANTS
        return METHOD_ORDER + tuple(m.key for m in self.methods if m.key not in known)

    @property
    def rl_methods(self) -> tuple[str, ...]:
        """``method_order`` without the starting points."""
        return tuple(m for m in self.method_order if m not in STARTING_POINTS)

    def method_label(self, key: str) -> str:
        known = self.methods + self.extra_methods
        return next((method.label for method in known if method.key == key), key)

    def cells_of(self, model: str, method: str) -> tuple[Cell, ...]:
        """Planned cells of a model and method in the order of their seeds."""
        chosen = [c for c in self.cells if (c.model, c.method) == (model, method)]
        return tuple(sorted(chosen, key=lambda c: -1 if c.seed is None else c.seed))

    def runs_of(self, model: str, method: str, *, scored: bool) -> tuple[Run, ...]:
        """All planned runs of a model and method, or () when one of them is absent.

        All or nothing, so that a row never silently averages over fewer seeds than its neighbour.
        ``scored`` asks for evaluated runs; a diverged run counts as there either way.
        """
        cells = self.cells_of(model, method)
        if any(self.why_missing(cell, scored=scored) for cell in cells):
            return ()
        return tuple(self.runs[cell.run_id] for cell in cells)

    def why_missing(self, cell: Cell, *, scored: bool) -> str | None:
        """None for a run that can be used, else the reason in a few words."""
        run = self.runs.get(cell.run_id)
        if run is None:
            error = self.failures.get(cell.run_id)
            return f"failed: {error}" if error else NOT_RUN
        if scored and not run.accuracy and not run.diverged:
            return "trained, not evaluated"
        return None

    def analyses_of(self, key: str) -> tuple[Analysis, ...]:
        """All planned analyses of a kind in the order of their seeds, or () when one of them
        cannot be used: all or nothing, as with runs."""
        chosen = [a for a in self.analyses if a.key == key]
        usable = not any(self.why_analysis_missing(a) for a in chosen)
        return tuple(chosen) if usable else ()

    def why_analysis_missing(self, analysis: Analysis) -> str | None:
        """None for an analysis that can be used, else the reason in a few words."""
        absent = [run_id for run_id in analysis.inputs if run_id not in self.runs]
        if absent:
            return f"needs {absent[0]}"
        if analysis.result is None:
            error = self.failures.get(analysis.run_id)
            return f"failed: {error}" if error else NOT_RUN
        if set(analysis.made_from) != set(analysis.inputs):
            return "made from other runs"
        return None

    def command(self, artefact: str) -> str:
        """The command that makes what an artefact lacks."""
        return f"bash reproduce.sh --profile {self.profile} --only {artefact}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_atomic(path: Path, content: str | bytes) -> Path:
    """``path`` after its content was replaced as a whole: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or StudyError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StudyError(f"{path} does not exist; run bash reproduce.sh first") from error
    except ValueError as error:
        raise StudyError(f"{path} is not valid JSON ({error}); remove it and repeat") from error
    if not isinstance(value, dict):
        raise StudyError(f"{path} must hold a JSON object; remove it and repeat")
    return value


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    except ValueError as error:
        raise StudyError(f"{path} has a broken line ({error}); repeat the run") from error


def _number(value: Any) -> float:
    return float("nan") if value is None or isinstance(value, str) else float(value)
