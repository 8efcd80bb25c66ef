"""Is the miniature informative? What every world of a study leaves to learn, by stage.

The base model, the warm-up and SFT+GRPO at its budget are measured type by type when their runs end
(``sgpo.mini.window``). The conditions are judged on the means over the worlds that have all three,
and in each of them; no world is chosen by what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.store.records import Study
from benchmarks.store.runs import StoredRun

STAGES = ("base", "sft", "grpo")
MEAN = "mean"  # in place of a world
REPORTED = "reported"  # a number without a requirement
Window = Mapping[str, float]
Windows = Mapping[str, Mapping[int, Window]]  # stage -> world -> what was measured there


def _mean(windows: Sequence[Window], name: str) -> float:
    return mean(window[name] for window in windows)


# name, value from the windows of each stage, lowest and highest allowed
CONDITIONS: tuple[tuple[str, Callable[[Mapping[str, Sequence[Window]]], float], float, float], ...]
CONDITIONS = (
    ("1 base, share of types below 1/12 unguided", lambda w: _mean(w["base"], "hard"), 0.25, 1.0),
    ("2 base, pass rate unguided", lambda w: _mean(w["base"], "mean_unguided"), 0.05, 0.3),
    ("3 warm-up, pass rate guided", lambda w: _mean(w["sft"], "mean_guided"), 0.6, 1.0),
    (
        "4 base, foreign over own strategy",
        lambda w: _mean(w["base"], "mean_foreign") / max(_mean(w["base"], "mean_guided"), 1e-9),
        0.0,
        0.5,
    ),
    ("5 SFT+GRPO, share of types between .15 and .85", lambda w: _mean(w["grpo"], "open"), 0.5, 1),
    (
        "6 warm-up minus base, pass rate unguided",
        lambda w: _mean(w["sft"], "mean_unguided") - _mean(w["base"], "mean_unguided"),
        -0.05,
        0.05,
    ),
)


def windows_of(runs: Iterable[tuple[str, int, StoredRun]]) -> Windows:
    """What was measured of runs, each given with its stage and world."""
    found: dict[str, dict[int, Window]] = {stage: {} for stage in STAGES}
    for stage, world, run in runs:
        if stage in found and run.has("regime.json"):
            found[stage][world] = run.object("regime.json")["window"]
    return found


def judged(windows: Windows) -> list[dict[str, Any]]:
    """Every condition on the mean over worlds and in each world, then the numbers of every world
    and stage; no condition where a stage is not measured in any of the worlds."""
    worlds = [w for w in windows["base"] if all(w in windows[stage] for stage in STAGES)]
    groups = [(MEAN, worlds), *((w, [w]) for w in worlds)] if worlds else []
    found = []
    for name, value_of, low, high in CONDITIONS:
        for place, chosen in groups:
            value = value_of({s: [windows[s][w] for w in chosen] for s in STAGES})
            found.append((place, name, value, f"{low:g} to {high:g}", low <= value <= high))
    for stage in STAGES:
        for name in ("mean_unguided", "mean_guided", "open", "hard", "easy"):
            words = f"{stage}, {name.replace('_', ' ')}"
            found += [(w, words, r[name], REPORTED, REPORTED) for w, r in windows[stage].items()]
    columns = ("world", "condition", "value", "requirement", "passed")
    return [dict(zip(columns, values, strict=True)) for values in found]


def means(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The conditions on the means over worlds, each with the number of ``worlds`` and in how many
    it is ``holding``."""
    found = []
    for r in (r for r in records if r["world"] == MEAN):
        same = [e for e in records if all(e.get(k) == r.get(k) for k in ("model", "condition"))]
        each = [e["passed"] for e in same if e is not r]
        found.append({**r, "holding": sum(each), "worlds": len(each)})
    return found


def holds(condition: Mapping[str, Any]) -> str:
    """In how many worlds one of :func:`means` holds."""
    return f"holds in {condition['holding']} of {condition['worlds']} worlds"


def of_study(study: Study) -> list[dict[str, Any]]:
    """:func:`judged` of each model of a study of the mini world, from its own runs; [] of others,
    and where nothing was measured."""
    found = []
    for model in [m.key for m in study.models] if study.miniature else []:
        runs = [r for r in study.runs.values() if r.cell.model == model]
        windows = windows_of((r.cell.method, r.cell.seed, r.stored) for r in runs)
        found += [{"model": model} | record for record in judged(windows)]
    return found
