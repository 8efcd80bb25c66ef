"""The stored study as records: the planned grid, the runs that exist, their scores and metrics.

``benchmarks.store.load`` makes these records from ``results/<profile>``. Imports no torch.
"""

from __future__ import annotations

import csv
import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.config import SUITE_VERSION, Benchmark, Method, Model, Plan, of_a_world
from benchmarks.store import stats
from benchmarks.store.runs import PROBLEMS_FILE, StoredRun, StudyError, read_object
from sgpo.core.files import write_json

NOT_RUN = "not run"
GRADERS_FILE = "graders.json"  # verdicts under other graders, where texts are kept
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
    "sgpo_delta0.5",
    "sgpo_delta1.2",
    "sgpo_delta1.5",
    "sgpo_delta2",
    "sgpo_delta3",
    "sgpo_frozen",
    "sgpo_meanlogp",
)


@dataclass(frozen=True)
class PlannedRun:
    """A cell of the plan as study.json keeps it. ``seed`` is None for a base model outside of the
    miniature: it is not trained, so it counts for all seeds."""

    run_id: str
    model: str
    method: str
    seed: int | None


@dataclass(frozen=True)
class Run:
    """One run that ended. ``budgets``: budget -> benchmark key -> bool [N, K], verdicts of the
    samples; empty where the run was not evaluated. ``answers``: benchmark key -> int [N, K] at
    budget 1, equal numbers in a row for samples that agree; lacks a key that was scored without
    keeping answers. Times in seconds."""

    cell: PlannedRun
    stored: StoredRun
    status: str
    diverged_reason: str | None
    train_seconds: float
    eval_seconds: float
    num_steps: int
    num_samples: int | None
    sampled_tokens: int
    budgets: Mapping[float, Mapping[str, np.ndarray]]
    answers: Mapping[str, np.ndarray]
    protocols: Mapping[str, Mapping[str, Any]]
    problem_sets: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @property
    def correct(self) -> Mapping[str, np.ndarray]:
        """``budgets`` at budget 1, which tables show."""
        return self.budgets.get(1.0, {})

    @functools.cached_property
    def accuracy(self) -> dict[str, np.ndarray]:
        """Benchmark key -> float [N], a problem's share of correct samples."""
        return {key: correct.mean(axis=1) for key, correct in self.correct.items()}

    def spent(self, budget: float, metric: str) -> float | None:
        """A running total of metrics.jsonl, or the seconds, up to a budget; None where the run
        does not have it."""
        rows = self.stored.metrics()[: round(budget * self.num_steps)]
        if not rows or metric not in rows[-1]:
            return None
        if metric == "seconds":
            return sum(row["seconds"] for row in rows)
        return float(rows[-1][metric])

    @functools.cached_property
    def metrics(self) -> dict[str, np.ndarray]:
        """metrics.jsonl up to budget 1 as columns: name -> float [steps]; absent or null values are
        NaN."""
        rows = pd.DataFrame(self.stored.metrics()[: self.num_steps])
        return {n: pd.to_numeric(rows[n], errors="coerce").to_numpy(np.float64) for n in rows}


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
    """Everything a table or figure needs. ``grid``: what study.json says; ``runs``: ended runs by
    id; ``failures``: the error line of those that failed. ``models`` and ``methods`` are those of
    the main comparison, the extra ones serve experiments of their own."""

    root: Path
    grid: Mapping[str, Any]
    profile: str
    suite_version: int
    seeds: tuple[int, ...]
    models: tuple[Model, ...]
    methods: tuple[Method, ...]
    benchmarks: tuple[Benchmark, ...]
    cells: tuple[PlannedRun, ...]
    runs: Mapping[str, Run] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    analyses: tuple[Analysis, ...] = ()
    extra_models: tuple[Model, ...] = ()
    extra_methods: tuple[Method, ...] = ()

    @classmethod
    def planned(
        cls,
        plan: Plan,
        root: Path = Path(),
        *,
        analyses: Sequence[Any] = (),
        sizes: Mapping[str, int] | None = None,
    ) -> Study:
        """The study of a plan, with no run in it.

        Args:
            root: its results directory.
            analyses: the planned ``benchmarks.analyses`` tasks.
            sizes: model key -> number of weights, as far as known.
        """
        configs = [(cell.run_id, cell.config) for cell in plan.cells()]
        models = [
            replace(m, parameters=(sizes or {}).get(m.key)) for m in plan.models + plan.extra_models
        ]
        grid = {
            "profile": plan.name,
            "suite_version": SUITE_VERSION,
            "seeds": list(plan.seeds),
            "models": [_brief(m) for m in sorted(models, key=lambda m: m.extra)],
            "methods": [
                _brief(Method(m.key, m.label, extra=m.extra, file=m.file))
                for m in sorted(plan.methods, key=lambda m: m.extra)
            ],
            "benchmarks": [_brief(b) for b in plan.benchmarks],
            "cells": [
                {
                    "run_id": run_id,
                    "model": config.model,
                    "method": config.method,
                    # The one run of an untrained model counts for all seeds but worlds.
                    "seed": None
                    if config.method == "base" and not of_a_world(config)
                    else config.seed,
                }
                for run_id, config in configs
            ],
            "analyses": [
                {name: getattr(t, name) for name in ("run_id", "key", "model", "seed")}
                | {"inputs": [c.run_id for c in t.inputs]}
                for t in analyses
            ],
        }
        if plan.overrides:
            grid["set"] = list(plan.overrides)
        return cls._of(root, grid)

    @classmethod
    def read(cls, root: Path) -> Study:
        """The grid of ``root``/study.json, with no run in it.

        Raises:
            StudyError: no file, or one that does not describe a grid.
        """
        try:
            return cls._of(root, read_object(root / "study.json"))
        except (KeyError, TypeError) as error:
            raise StudyError(
                f"{root.name}/study.json does not describe a grid ({error}); "
                "write it again with bash reproduce.sh"
            ) from error

    @classmethod
    def _of(cls, root: Path, grid: dict[str, Any]) -> Study:
        models = [Model(**entry) for entry in grid["models"]]
        methods = [Method(**entry) for entry in grid["methods"]]
        return cls(
            root=root,
            grid=grid,
            profile=grid["profile"],
            suite_version=grid["suite_version"],
            seeds=tuple(grid["seeds"]),
            models=tuple(m for m in models if not m.extra),
            methods=tuple(m for m in methods if not m.extra),
            benchmarks=tuple(Benchmark(**entry) for entry in grid["benchmarks"]),
            cells=tuple(PlannedRun(**entry) for entry in grid["cells"]),
            analyses=tuple(
                Analysis(**entry | {"inputs": tuple(entry["inputs"])})
                for entry in grid.get("analyses", [])  # absent: a grid without analyses
            ),
            extra_models=tuple(m for m in models if m.extra),
            extra_methods=tuple(m for m in methods if m.extra),
        )

    def write(self) -> None:
        """The grid as ``root``/study.json, which :meth:`read` reads."""
        write_json(self.root / "study.json", self.grid)

    @functools.cached_property
    def memo(self) -> dict[Any, Any]:
        """What was worked out of this study already, for whoever asks again."""
        return {}

    @property
    def miniature(self) -> bool:
        """Whether the models live in the mini world and not on real problems."""
        return self.profile not in ("pocket", "single_gpu", "paper")

    @functools.cached_property
    def own_problems(self) -> bool:
        """Whether each seed is a world with problems of its own."""
        sets: dict[str, set[str]] = {}
        for run in self.runs.values():
            for key, found in run.problem_sets.items():
                sets.setdefault(key, set()).add(found)
        return any(len(found) > 1 for found in sets.values())

    @functools.cached_property
    def problems(self) -> pd.DataFrame:
        """problems.parquet, by world (``seed``), benchmark and problem; empty where there is none:
        ``types`` that a problem names, ``prior`` with which writers find their plans, ``fidelity``
        and ``style`` of the world."""
        path, index = self.root / PROBLEMS_FILE, ["seed", "benchmark", "problem"]
        if not path.exists():
            return pd.DataFrame(columns=[*index, "types", "prior"]).set_index(index)
        return pd.read_parquet(path).set_index(index).sort_index()

    def problems_of(self, seed: int, key: str) -> pd.DataFrame:
        """``problems`` of a benchmark in a world, as many as are asked, in their order.

        Raises:
            StudyError: they are not recorded.
        """
        number = next(b.num_problems for b in self.benchmarks if b.key == key)
        known = self.problems.index.droplevel("problem")
        found = self.problems.loc[(seed, key)] if (seed, key) in known else ()
        if len(found) < number:
            raise StudyError(
                f"{self.root.name}/{PROBLEMS_FILE} lacks the types of the problems of {key}, world "
                f"{seed}; run sgpo study again, this is not possible without it"
            )
        return found.iloc[:number]

    def clusters(self, keys: tuple[str, ...], seed: int | None = None) -> stats.Clusters:
        """Which problems of the benchmarks ``keys``, in this order, are of one type, in the world
        ``seed``, by default the first. Taking those of the mini world for independent would make
        every interval too short, so there is no cluster without ``problems``."""
        seed = self.seeds[0] if seed is None else seed
        if ("clusters", keys, seed) not in self.memo:
            known = {b.key: b for b in self.benchmarks}
            named = [self._types(known[key], seed) for key in keys]
            self.memo["clusters", keys, seed] = stats.Clusters.of(
                [types for problems in named for types in problems], [*map(len, named)]
            )
        return self.memo["clusters", keys, seed]

    def _types(self, benchmark: Benchmark, seed: int) -> list[list[str]]:
        """The types that each problem names; one outside the mini world is by itself."""
        key = benchmark.key
        if not self.miniature or benchmark.file:
            return [[f"{key} {i}"] for i in range(benchmark.num_problems)]
        return [types.split() for types in self.problems_of(seed, key)["types"]]

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

    def cells_of(self, model: str, method: str) -> tuple[PlannedRun, ...]:
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

    def runs_so_far(self, model: str, method: str) -> tuple[Run, ...]:
        """The planned runs of a model and method that have ended and are evaluated."""
        cells = self.cells_of(model, method)
        return tuple(self.runs[c.run_id] for c in cells if not self.why_missing(c, scored=True))

    def why_missing(self, cell: PlannedRun, *, scored: bool) -> str | None:
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

    def command(
        self, artefact: str, needs: Sequence[tuple[str, str]] = (), *, out: str = ""
    ) -> str:
        """The command that makes what an artefact lacks, with the seeds and values of the study.

        Args:
            needs: (model, method) of its runs: the seeds are those that all of them have, and the
                models are named where they are not all.
            out: the directory; by default that of the study's name below results.

        The methods are named where the study is cut down: lists some that it plans no run of.
        """
        rows = [self.cells_of(*need) for need in needs]
        seeds = [len(cells) for cells in rows if cells and cells[0].seed is not None]
        words = ["bash", "reproduce.sh", "--profile", self.profile]
        words += ["--seeds", str(min(seeds, default=len(self.seeds)))]
        methods, models = ({getattr(c, name) for c in self.cells} for name in ("method", "model"))
        asked = {model for model, _ in needs} & models or models
        cut = any(m.key not in methods for m in self.methods)
        known = self.methods + self.extra_methods
        words += ["--methods", ",".join(m.key for m in known if m.key in methods)] if cut else []
        given = [word for item in self.grid.get("set", ()) for word in ("--set", item)]
        stands_in = any(word.startswith("checkpoint=") for word in given)
        if cut or stands_in or asked < models:
            keys = [m.key for m in self.models + self.extra_models if m.key in asked]
            # A checkpoint takes the place of one model; another one's needs a command of its own.
            words += ["--models", ",".join(keys[:1] if stands_in else keys)]
        words += ["--only", artefact]
        if not out and self.root.name not in ("", self.profile):
            out = f"results/{self.root.name}"
        words += ["--out", out] if out else []
        return shlex.join([*words, *given])


def _brief(entry: Model | Method | Benchmark) -> dict[str, Any]:
    """Its fields; ``extra`` and ``file`` only where they are."""
    return {k: v for k, v in asdict(entry).items() if k not in ("extra", "file") or v}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
