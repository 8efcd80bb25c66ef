"""Convergence bands of every method (bands.json), and whether the curves of other code lie within
them (``sgpo check-port``).

A band holds the curve of a further world, as a whole, about W times in W + 1, where W worlds made
it: its half-width is the spread over worlds, times the factor with which each world of ours lies
within the band of the others. Per-step metrics are smoothed as in the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.report import estimates
from benchmarks.report.artefact import WORDS, Made, described, nothing
from benchmarks.report.document import paragraph
from benchmarks.report.measures import smooth
from benchmarks.store import experiments
from benchmarks.store.records import Run, Study
from benchmarks.store.runs import read_object
from sgpo.core.config import canonical_json
from sgpo.core.files import write_text

FILE = "bands.json"
FEWEST = 3  # worlds, below which there is no band
STEPWISE = ("reward", "alpha", "kept_kl")
ACCURACY = "accuracy"
COLUMNS = {
    "reward": "share of the step's own samples that are right, 0 to 1",
    "alpha": "mean of Eq. 6 over the step's problems, 0 without a target",
    "kept_kl": "KL a distilled token, nats, what the mask takes out counted as 0",
    ACCURACY: "average over the test sets, percent, in the rows of the budgets' steps",
}


def band(curves: np.ndarray) -> dict[str, list[float]]:
    """Mean and half-width at each place, from curves [W, T] of W worlds, ``FEWEST`` or more."""
    worlds = len(curves)
    factor = max(
        float(np.max(np.abs(curves[i] - others.mean(axis=0)) / _width(others)))
        for i in range(worlds)
        for others in (np.delete(curves, i, axis=0),)
    )
    return {
        "mean": [float(f"{v:.5g}") for v in curves.mean(axis=0)],
        "half": [float(f"{v:.5g}") for v in factor * _width(curves)],
    }


def _width(curves: np.ndarray) -> np.ndarray:
    """What a further world's curve differs by from the mean of these, with the spread of
    neighbouring steps taken together: of one step alone few worlds say little."""
    variance = smooth(curves.var(axis=0, ddof=1)) if curves.shape[1] > 4 else curves.var(0, ddof=1)
    return np.sqrt(variance * (1 + 1 / len(curves)) + 1e-12)


def curves_of(run: Run) -> dict[str, np.ndarray]:
    """A run's stepwise metrics, smoothed, as far as it was trained; without those it has not."""
    rows = pd.DataFrame(run.stored.metrics())
    found = {"reward": rows.get("reward"), "alpha": rows.get("alpha_mean")}
    if "kl_mean" in rows:
        settings = run.stored.object("config.json").get("settings") or {}
        unused = unused_share(rows, settings)
        found["kept_kl"] = None if unused is None else rows["kl_mean"] * (1 - unused)
    known = {name: v for name, v in found.items() if v is not None and v.notna().any()}
    return {name: smooth(v.to_numpy(dtype=float)) for name, v in known.items()}


def unused_share(rows: pd.DataFrame, settings: Mapping[str, Any]) -> pd.Series | None:
    """Share of the KL of a step that taught nothing, by the rule of ``worlds.kl_by_class``: direct
    SFT masks nothing, and a class that is left out goes whole. None where the class has no
    metric (the first token)."""
    masks, left_out = settings.get("distillation") != "nll", settings.get("leave_out", "nothing")
    if "kl_masked_share" not in rows:  # a method without a mask, of another divergence
        return pd.Series(0.0, rows.index)
    masked = rows["kl_masked_share"].fillna(0.0) * masks
    if left_out == "nothing":
        return masked
    if f"kl_mass_{left_out}" not in rows:
        return None
    mass, of_class = (rows[f"kl_{what}_{left_out}"].fillna(0.0) for what in ("mass", "masked"))
    return masked + mass - of_class * masks


def accuracies(study: Study, model: str, method: str) -> dict[str, Any] | None:
    """The band of the average accuracy at each budget and the steps that these are."""
    steps, columns = [], []
    for budget in experiments.BUDGETS:
        score = estimates.accuracy(study, model, method, estimates.AVERAGE, None, budget)
        if score is not None and score.num_seeds >= FEWEST:
            run = study.runs[score.run_ids[0]]
            steps.append(round(budget * run.num_steps))
            columns.append(score.of.units)
    return {"steps": steps} | band(np.stack(columns, axis=1)) if steps else None


def bands_of(study: Study) -> dict[str, Any]:
    """Model -> method -> worlds and the band of each metric; of methods with enough runs."""
    found: dict[str, Any] = {}
    pairs = dict.fromkeys((c.model, c.method) for c in study.cells if c.method != "base")
    for model, method in pairs:
        runs = [r for r in study.runs_of(model, method, scored=False) if not r.diverged]
        curves = [curves_of(run) for run in runs]
        if len(runs) < FEWEST or not all("reward" in curve for curve in curves):
            continue
        entry: dict[str, Any] = {"worlds": len(runs)}
        for name in STEPWISE:
            whole = [c[name] for c in curves if name in c and np.isfinite(c[name]).all()]
            if len(whole) == len(runs):
                steps = min(map(len, whole))  # a run may have diverged past its budget
                entry[name] = band(np.stack([curve[:steps] for curve in whole]))
        if accuracy := accuracies(study, model, method):
            entry[ACCURACY] = accuracy
        found.setdefault(model, {})[method] = entry
    return found


# Judging a port ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One metric: the steps that could be judged, and those outside of the band with value and
    bounds."""

    metric: str
    judged: tuple[int, ...]
    outside: tuple[tuple[int, float, float, float], ...]

    def text(self) -> str:
        if not self.judged:
            return f"{self.metric}: no step of the band"
        if not self.outside:
            return f"{self.metric}: within the band, steps {self.judged[0]} to {self.judged[-1]}"
        step, value, low, high = self.outside[0]
        return (
            f"{self.metric}: off from step {step} ({value:.4g}, band {low:.4g} to {high:.4g}); "
            f"outside in {len(self.outside)} of {len(self.judged)} steps"
        )


def judge(curves: pd.DataFrame, entry: Mapping[str, Any]) -> list[Finding]:
    """Each metric of ``curves`` (by step) that the band ``entry`` of a method has."""
    found = []
    for metric in COLUMNS:
        if metric not in curves or metric not in entry:
            continue
        values, limits = curves[metric].dropna(), entry[metric]
        steps = limits.get("steps") or range(1, len(limits["mean"]) + 1)
        values = _smoothed(values) if metric in STEPWISE else values
        judged, outside = [], []
        for step, mean, half in zip(steps, limits["mean"], limits["half"], strict=True):
            if step in values.index:
                judged.append(step)
                if abs(values[step] - mean) > half:
                    outside.append((step, float(values[step]), mean - half, mean + half))
        found.append(Finding(metric, tuple(judged), tuple(outside)))
    return found


def _smoothed(values: pd.Series) -> pd.Series:
    """``values`` by step as the bands are smoothed; a step that is left out counts in no mean."""
    steps = np.arange(values.index.min(), values.index.max() + 1)
    whole = smooth(values.reindex(steps).to_numpy(dtype=float))
    return pd.Series(whole, index=steps)[values.index]


def read_curves(path: Path) -> pd.DataFrame:
    """CURVES.csv by step.

    Raises:
        ValueError: no ``step``, a step twice, no column of ``COLUMNS``, or text for a number.
    """
    try:
        rows = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no CSV file ({error})") from error
    named = [name for name in COLUMNS if name in rows and rows[name].notna().any()]
    if "step" not in rows or not named:
        allowed = ", ".join(COLUMNS)
        raise ValueError(f"{path}: needs a column step and values of one or more of {allowed}")
    if rows["step"].duplicated().any():
        raise ValueError(f"{path}: step {rows['step'][rows['step'].duplicated()].iloc[0]} twice")
    wrong = [n for n in ("step", *named) if not pd.api.types.is_numeric_dtype(rows[n])]
    if wrong:
        raise ValueError(f"{path}: column {wrong[0]} must hold numbers")
    if rows["step"].min() < 1:
        raise ValueError(f"{path}: step {rows['step'].min()}: steps count from 1")
    return rows.set_index("step").sort_index()[named]


def check_port(results: Path, path: Path, method: str, model: str | None) -> int:
    """Print for each metric of ``path`` whether it lies within the band of ``method``; 1 where one
    does not."""
    found = read_object(results / FILE)
    having = [name for name, methods in found.items() if method in methods]
    model = model or (experiments.BUDGET_MODEL if experiments.BUDGET_MODEL in having else None)
    model = model or next(iter(having), None)
    if model not in having:
        if model and method in {m for methods in found.values() for m in methods}:
            raise ValueError(f"{method} on {model}: no band; there are of {', '.join(having)}")
        known = sorted({m for methods in found.values() for m in methods})
        if not known:
            raise ValueError(f"{results / FILE}: has no bands; they take runs in several worlds")
        raise ValueError(f"unknown method {method!r}: must be one of {', '.join(known)}")
    curves, entry = read_curves(path), found[model][method]
    findings = judge(curves, entry)
    print(f"{path}: {method} on {model}, bands of {entry['worlds']} worlds")
    for finding in findings:
        print(finding.text())
    if not findings:
        raise ValueError(f"{path}: {method} has no band of {', '.join(curves.columns)}")
    missing = [name for name in COLUMNS if name in entry and name not in curves]
    if missing:
        print(f"not judged, no such column: {', '.join(missing)}; other methods may share the rest")
    return int(any(finding.outside or not finding.judged for finding in findings))


# The file ----------------------------------------------------------------------------------------


def _made(study: Study, out: Path) -> Made:
    found = bands_of(study)
    path = write_text(out / FILE, f"{canonical_json(found)}\n")
    number = sum(map(len, found.values()))
    columns = "; ".join(f"{name} ({words})" for name, words in COLUMNS.items())
    how = WORDS["bands"]["how"].format(file=FILE, number=number, columns=columns)
    return Made([path], [paragraph(how)])


BANDS = described("bands", nothing, own=_made)
