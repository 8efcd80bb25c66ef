"""Synthetic results of the analyses, for a synthetic study with SGPO's variants."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from synthetic_study import VARIANT_MODEL, dump, load

KINDS = ("Aldric", "Borin", "Cedra")
# Probability of the right plan after each method, by type; a seed adds a hundredth of its number.
RIGHT = {
    "sft": (0.30, 0.10, 0.50),
    "grpo": (0.60, 0.20, 0.90),
    "sgpo": (0.80, 0.50, 0.90),
    "sgpo_reverse": (0.60, 0.10, 0.95),
}
NUM_PROBLEMS = 12
PIECES = ("Order", " Cedra", " swapped", ": ", "3", "\n", "Finish", " square", ": ", "\\boxed{9}")
CLASSES = ("commitment", "routine", "choice", "routine", "routine", "routine", "commitment",
           "choice", "routine", "routine")  # fmt: skip
KL = (0.5, 0.0, 2.0, 0.1, 0.1, 0.1, 0.3, 1.2, 0.0, 0.0)
NLL = (0.2, 0.0, 3.0, 0.2, 0.2, 0.2, 0.1, 1.5, 0.1, 0.1)
STEPS = ((0, 1, "commitment"), (1, 2, "routine"), (2, 3, "choice"), (3, 6, "routine"),
         (6, 7, "commitment"), (7, 8, "choice"), (8, 10, "routine"))  # fmt: skip


def write_analyses(root: Path) -> Path:
    """Plans the analyses of the study under ``root`` where it does not, and makes all of them."""
    plan = load(root / "study.json")
    plan.setdefault("analyses", planned(plan))
    dump(root / "study.json", plan)
    for entry in plan["analyses"]:
        make = {"steps": steps, "plans": plans, "strategies": lambda seed: strategies()}
        stored = {
            "run_id": entry["run_id"],
            "suite_version": plan["suite_version"],
            "inputs": dict.fromkeys(entry["inputs"], "sha256 of the weights"),
            "result": make[entry["key"]](entry["seed"]),
        }
        dump(root / "analyses" / f"{entry['run_id']}.json", stored)
    return root


def planned(plan: dict) -> list[dict]:
    runs = {(c["model"], c["method"], c["seed"]): c["run_id"] for c in plan["cells"]}
    found = [{"run_id": "strategies", "key": "strategies", "model": "", "seed": None, "inputs": []}]
    for seed in plan["seeds"]:
        for key, methods in (("steps", ("sft",)), ("plans", tuple(RIGHT))):
            found.append(
                {
                    "run_id": f"{key}-{VARIANT_MODEL}-s{seed}",
                    "key": key,
                    "model": VARIANT_MODEL,
                    "seed": seed,
                    "inputs": [runs[VARIANT_MODEL, method, seed] for method in methods],
                }
            )
    return found


def steps(seed: int) -> dict:
    """Twelve problems of 30 tokens, 6 of them decisions; columns as in ``step_shares.CLASSES``."""
    rng = np.random.default_rng(seed)
    problems = [
        {
            "problem_id": f"p{i}",
            "kind": KINDS[i % 3],
            "tokens": [3, 3, 0, 24],
            "kl": [*rng.uniform(2, 4, size=2).round(5), 0.5, 1.0],
            "kl_kept": [1.0, 1.0, 0.0, 0.5],
            "nll": [4.0, 1.0, 1.0, 2.0],
        }
        for i in range(NUM_PROBLEMS)
    ]
    example = {
        "problem_id": "p0",
        "question": "Find the Cedra pair: 314",
        "answer": "(8,9)",
        "strategy": "Type Cedra\nSteps order then combine then finish",
        "guided_right": 2,
        "pieces": list(PIECES),
        "classes": list(CLASSES),
        "kl": list(KL),
        "nll": list(NLL),
        "steps": [{"kind": kind, "start": a, "stop": b} for a, b, kind in STEPS],
    }
    return {"example": example, "problems": problems, "looked_at": 40, "delta": 1.0,
            "num_autonomous": 8, "num_guided": 4}  # fmt: skip


def plans(seed: int) -> dict:
    methods = {}
    for method, shares in RIGHT.items():
        methods[method] = {}
        for kind, share in zip(KINDS, shares, strict=True):
            right = share + seed / 100
            rest = np.full(64, (1 - right) / 63)
            rest[KINDS.index(kind)] = right
            entropy = -float((rest * np.log(rest)).sum())
            methods[method][kind] = {"plans": rest.tolist(), "right": right, "entropy": entropy,
                                     "go_on": 0.9, "off_options": 0.01}  # fmt: skip
    return {"plans": [f"plan {i}" for i in range(64)], "right_plan": dict.fromkeys(KINDS, "plan 0"),
            "tasks_per_type": 4, "methods": methods}  # fmt: skip


def strategies() -> dict:
    criteria = ("type", "strategy", "steps", "no_leak")

    def summary(high: int, medium: int, low: int, mean: float) -> dict:
        return {
            "count": high + medium + low,
            "bands": {"High": high, "Medium": medium, "Low": low},
            "mean": mean,
            "by_criterion": dict.fromkeys(criteria, mean),
        }

    return {
        "criteria": list(criteria),
        "chosen": summary(450, 40, 10, 0.95),
        "candidates": summary(1200, 1100, 200, 0.8),
        "best_kept": 0.984,
        "by_flaw": {"sound": summary(700, 0, 0, 1.0), "leak": summary(0, 300, 0, 0.75)},
    }
