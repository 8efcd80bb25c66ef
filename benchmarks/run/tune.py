"""Fair tuning on the development set: the same rates in the same worlds for every method.

A trial is a run up to the budget in a world that no study has, or of ``pocket`` with a seed that
none has. Other settings are the paper's and the authors'. Test sets are not reachable from here:
the only suite that these configs name is the development set.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.config import Cell, Plan, RunConfig, unknown
from benchmarks.data.problems import DEV
from benchmarks.data.sources import DEVELOPMENT, DEVELOPMENT_SAMPLES, file_source
from benchmarks.plan import preflight
from benchmarks.profiles.planned import planned_study
from benchmarks.profiles.published import UNPREPARED
from benchmarks.profiles.variants import VARIANTS, to_budget
from benchmarks.run.launch import check_time, conclude, deadline_of, default_jobs, print_cells
from benchmarks.run.progress import StudyProgress
from benchmarks.run.study import run_study, unfinished
from benchmarks.run.tracking import check_tracker
from benchmarks.store.experiments import TRIALS
from benchmarks.store.locks import locked
from benchmarks.store.records import read_rows
from sgpo.core.files import read_json, write_text

# profile -> whose trials they are by default
MODELS = {"mini": "qwen-m", "quick": "qwen-s", "pocket": "qwen2.5-0.5b"}
LEARNING_RATES = (1e-4, 2e-4, 4e-4, 8e-4)
WORLDS = (1000, 1001, 1002)  # no study has a seed that high
METHODS = (
    "sft_full", "grpo", "hpt", "luffy", "sgpo",
    "opsd", "srft", "dr_grpo", "dapo", "relift", "chord", "sdpo", "sgpo_initial",
    *(key for key, *_ in VARIANTS if key != "sgpo_frozen"),  # which is sgpo_initial at SGPO's rate
    "sgpo_nll_masked", *TRIALS,
)  # fmt: skip
# Ours: rates, seeds (none of a study) and methods of ``pocket``.
POCKET = ((1e-6, 2e-6, 5e-6, 1e-5), (1000,), ("grpo", "hpt", "luffy", "sgpo"))

Trial = tuple[str, float, Cell]  # method, learning rate, run


def trials(
    methods: Sequence[str] | None = None,
    method_files: Sequence[Path] = (),
    overrides: Sequence[str] = (),
    profile: str = "mini",
    model: str | None = None,
) -> list[Trial]:
    """Every tuning run, or those of ``methods``: each rate in each world.

    Raises:
        ValueError: a profile without a grid to tune on, or an unknown method or model.
    """
    if profile not in MODELS:
        raise ValueError(f"--profile {profile}: there are trials of {', '.join(MODELS)}")
    rates, seeds, usual = POCKET if profile == "pocket" else (LEARNING_RATES, WORLDS, METHODS)
    study = planned_study(profile, None, method_files, overrides, variants=True)
    known = {entry.key for entry in study.methods}  # quick lacks one
    tuned = (*(m for m in usual if m in known), *(path.stem for path in method_files))
    for name in methods or ():
        if name not in tuned:
            raise ValueError(unknown("method", name, list(tuned), "`sgpo tune --help`"))
    model, models = model or MODELS[profile], [m.key for m in study.models]
    if model not in models:
        raise ValueError(unknown("model", model, models, "`sgpo list models`"))
    return [
        (method, rate, _trial(study, model, method, rate, seed))
        for method in tuned
        if methods is None or method in methods
        for rate in rates
        for seed in seeds
    ]


def _trial(study: Plan, model: str, method: str, rate: float, seed: int) -> Cell:
    """One run up to the budget, judged on the development set alone, and its warm-up."""

    def judged(config: RunConfig) -> RunConfig:
        if config.checkpoint is None:
            return replace(config, evaluation=replace(config.evaluation, suites=(DEVELOPMENT,)))
        path = Path(config.data.source.rpartition("@")[0]) / f"{DEV}.jsonl"
        own = file_source(path) if path.is_file() else f"{path}@{UNPREPARED}"
        only = {"suites": (DEV,), "files": (own,), "sample_limit": DEVELOPMENT_SAMPLES}
        return replace(config, evaluation=replace(config.evaluation, **only))

    entry = study.entry(method)
    plain = to_budget(judged(entry.config(model, seed)))
    config = replace(plain, train=replace(plain.train, learning_rate=rate))
    if config.init != "warmup":
        return Cell(config)
    return Cell(config, Cell(judged(study.entry(entry.parent).config(model, seed))))


def tune_command(options: argparse.Namespace) -> int:
    """``sgpo tune``: run all trials below ``OUT/tuning``, write ``OUT/tuning.csv`` (of another
    model than the usual one ``OUT/tuning-MODEL.csv``) and print the chosen rates.

    With ``--methods`` or method files only theirs are run, and the rows of the others stay as
    they are.
    """
    check_tracker(options.log)
    files, usual = options.method_file, MODELS.get(options.profile)
    own = [path.stem for path in files]
    methods = [*dict.fromkeys([*(options.methods or ()), *own])] or None
    planned = trials(methods, files, options.overrides, options.profile, options.model)
    directory = options.out / "tuning"
    chain = [task for *_, cell in planned for task in (cell.parent, cell) if task]
    cells = [*{task.run_id: task for task in chain}.values()]
    jobs = options.jobs or default_jobs(cells)
    if options.dry_run:
        print_cells(cells, directory, jobs)
        return 0
    preflight.check(unfinished(cells, directory), directory)
    other = "" if options.model in (None, usual) else f"-{options.model}"
    path = options.out / f"tuning{other}.csv"
    with locked(directory):
        with StudyProgress(cells, runs=directory / "runs") as progress:
            deadline = deadline_of(options, report=0)
            outcome = run_study(cells, directory, jobs, progress, deadline, options.log)
        check_time(outcome, options)
        if not outcome.ok or outcome.left:
            return conclude(outcome)
        kept = read_rows(path) if methods and path.exists() else []
        others = [row for row in kept if row["method"] not in methods]
        write_text(path, table(planned, directory / "runs", others))
    print(f"{len(planned)} trials: {path}")
    print("\n".join(chosen_rates(path, {method for method, *_ in planned})))
    return 0


def chosen_rates(path: Path, methods: Collection[str]) -> list[str]:
    """A line a method: its chosen rate with the mean over worlds, and that of each other rate."""
    trials = pd.read_csv(path)
    lines = []
    for method, found in trials[trials["method"].isin(methods)].groupby("method", sort=False):
        means = 100 * found.groupby("learning_rate")["dev_accuracy"].mean()
        best = found.loc[found["chosen"], "learning_rate"].iloc[0]
        others = ", ".join(f"{r:g} {m:.1f}%" for r, m in means.items() if r != best)
        told = f"train.learning_rate={best:g}, {means[best]:.1f}% (others: {others})"
        if means.nunique() == 1:
            told += "; all rates tie, so the lowest stands and nothing was chosen"
        lines.append(f"{method}: {told}")
    return lines


def table(planned: Sequence[Trial], runs: Path, others: Sequence[dict[str, Any]] = ()) -> str:
    """CSV of all trials; the rate with the highest mean development accuracy over the worlds is
    marked chosen (the lower among equals). ``others``: rows taken over, which come first; trials
    are numbered on from their highest. ``dev_ci_*``: 95% over problems alone, as if independent;
    those of one type are not and a world says nothing of others, so it is too short."""
    rows, first = [], 1 + max((int(row["trial"]) for row in others), default=-1)
    for number, (method, rate, cell) in enumerate(planned, first):
        scores = read_json(runs / cell.run_id / "scores.json")["benchmarks"]
        (entry,) = scores.values()  # the development set
        rates = np.array([v.count("c") / len(v) for v in entry["verdicts"]])
        half = 1.96 * rates.std(ddof=1) / np.sqrt(len(rates))
        rows.append(
            {
                "method": method,
                "trial": number,
                "learning_rate": rate,
                "seed": cell.config.seed,
                "dev_accuracy": round(float(rates.mean()), 5),
                "dev_ci_low": round(float(rates.mean() - half), 5),
                "dev_ci_high": round(float(rates.mean() + half), 5),
                "run_id": cell.run_id,
            }
        )
    found = pd.DataFrame(rows)
    setting = ["method", "learning_rate"]
    means = found.groupby(setting, sort=False)["dev_accuracy"].mean().reset_index()
    # A stable sort: of equal means the lower rate comes first.
    means = means.sort_values(
        ["dev_accuracy", "learning_rate"], ascending=[False, True], kind="stable"
    )
    best = set(means.drop_duplicates("method")[setting].itertuples(index=False, name=None))
    found["chosen"] = [key in best for key in found[setting].itertuples(index=False, name=None)]
    return pd.concat([pd.DataFrame(others), found]).to_csv(index=False, lineterminator="\n")
