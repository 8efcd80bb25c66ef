"""Figure 2 as a measurement: the probability of each plan of a type, before and after training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.analyses import AnalysisTask
from sgpo.core.models import load_model, load_tokenizer
from sgpo.mini.probes import held_out_tasks, plan_mass
from sgpo.mini.world import PLANS, draw_world

PER_LEVEL = 1  # tasks of each type and level
DIGITS = 5


def analyse(
    task: AnalysisTask, directories: dict[str, Path], progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """``methods``: method -> type -> mean over its tasks of ``plans`` (probabilities in the
    order of ``plans`` at the top), ``right`` (the right plan's), ``entropy`` (nats, of each task's
    distribution), ``go_on``, ``off_options``; see ``sgpo.mini.probes``."""
    types, tasks = draw_world(task.seed).types, held_out_tasks(PER_LEVEL)
    found: dict[str, dict] = {}
    for done, (method, directory) in enumerate(directories.items()):
        progress(done, len(directories))
        mass = plan_mass(load_model(directory), load_tokenizer(directory), tasks)
        entropy = -(mass.plans * mass.plans.clamp_min(1e-300).log()).sum(-1)
        found[method] = {}
        for kind in types:
            rows = [i for i, t in enumerate(tasks) if t.kind == kind.name]
            plans = mass.plans[rows].mean(0)
            found[method][kind.name] = {
                "plans": [round(p, DIGITS) for p in plans.tolist()],
                "right": round(float(plans[PLANS.index(kind.plan)]), DIGITS),
                "entropy": round(float(entropy[rows].mean()), DIGITS),
                "go_on": round(float(mass.go_on[rows].mean()), DIGITS),
                "off_options": round(float(mass.off_options[rows].mean()), DIGITS),
            }
    progress(len(directories), len(directories))
    return {
        "plans": [" ".join(plan.choices) for plan in PLANS],
        "right_plan": {kind.name: " ".join(kind.plan.choices) for kind in types},
        "tasks_per_type": len(tasks) // len(types),
        "methods": found,
    }
