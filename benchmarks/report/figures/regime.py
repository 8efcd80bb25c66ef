"""What every world leaves to learn, type by type: the regime of the miniature as one figure."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from benchmarks.report import worlds
from benchmarks.report.artefact import Artefact, Need
from benchmarks.report.figures.axes import absent, legend, new_figure
from benchmarks.report.tables.accuracy import models
from benchmarks.store.records import Study

# Stage, pass rate, title: what the conditions of `sgpo mini check` are about.
STAGES = (
    ("base", "unguided", "base, alone"),
    ("base", "foreign", "base, foreign strategy"),
    ("sft", "guided", "warm-up, own strategy"),
    ("grpo", "unguided", "SFT+GRPO, alone"),
)
OPEN = (0.15, 0.85)  # as in sgpo.mini.window: a type that can still tell methods apart
GROUPS = (
    ("rarely right, below 0.15", "#0072B2"),
    ("open", "#F0E442"),
    ("mostly right, above 0.85", "#009E73"),
)


def needs(study: Study) -> list[Need]:
    """Where base model, warm-up and SFT+GRPO are run world by world."""
    stages = dict.fromkeys(method for method, *_ in STAGES)
    found = [(m, s) for m in models(study) for s in stages if study.cells_of(m, s)]
    return found if worlds.planned(study) else []


def shares(study: Study, model: str, method: str, rate: str) -> dict[int, np.ndarray]:
    """World -> share of its types in each of ``GROUPS``, float [3]; {} where none was measured."""
    found = {}
    for run in study.runs_of(model, method, scored=False):
        if run.stored.has("regime.json"):
            rates = np.array([t[rate] for t in run.stored.object("regime.json")["types"]])
            low, high = (rates < OPEN[0]).mean(), (rates > OPEN[1]).mean()
            found[run.cell.seed] = np.array([low, 1 - low - high, high])
    return found


def figure(study: Study) -> Figure:
    shown = models(study)
    drawn, axes = new_figure(len(shown), len(STAGES), width=7.2, height=0.9 + 1.35 * len(shown),
                             sharey=True, sharex=True)  # fmt: skip
    for line, model in zip(axes, shown, strict=True):
        line[0].set_ylabel(f"{study.model(model).label}\nshare of types", fontsize=8)
        for axis, (method, rate, title) in zip(line, STAGES, strict=True):
            found = shares(study, model, method, rate)
            places, below = range(len(found)), np.zeros(len(found))
            for group, (name, colour) in enumerate(GROUPS):
                heights = np.array([parts[group] for parts in found.values()])
                axis.bar(places, heights, bottom=below, width=0.92, color=colour, label=name)
                below = below + heights if found else below
            if not found:
                absent(axis)
            axis.grid(visible=False)
            axis.set(ylim=(0, 1), xticks=[])
            if axis in axes[0]:
                axis.set_title(title, fontsize=8.5)
            if axis in axes[-1]:
                axis.set_xlabel("worlds", fontsize=8)
    legend(drawn, [axes[0, 0]], columns=3)
    return drawn


def message(study: Study) -> str:
    """How many types SFT+GRPO leaves open, from the poorest to the richest world."""
    texts = []
    for model in models(study):
        found = [parts[1] for parts in shares(study, model, "grpo", "unguided").values()]
        if found:
            enough = sum(share >= 0.5 for share in found)
            texts.append(
                f"{study.model(model).label} {min(found):.0%} to {max(found):.0%} of the types, at "
                f"least half in {enough} of {len(found)} worlds"
            )
    return f"SFT+GRPO leaves open: {'; '.join(texts)}. " if texts else ""


def caption(study: Study) -> str:
    return (
        f"{message(study)}Each bar is a world with its types by pass rate at temperature 1, in the "
        "order of world seeds: the base model alone, which must find some and not all; guided by "
        "another type's strategy, which must not help; the warm-up guided by its own, which must; "
        "and SFT+GRPO at its budget, which must leave types to tell methods apart by."
    )


REGIME = Artefact(
    "regime_types",
    "What every world leaves to learn, type by type",
    "metrics",
    needs,
    caption,
    draw=figure,
    alt="Share of each world's types that are rarely right, open and mostly right, at four stages, "
    "a row a model",
    miniature=True,
)
