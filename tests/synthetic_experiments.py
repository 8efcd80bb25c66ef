"""The synthetic study with the experiments past the paper in it: the profile's own plan, with
synthetic runs behind it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import synthetic_study
from synthetic_study import BENCHMARKS, SKILL, VARIANTS, dump, load

from benchmarks.config import SUITE_VERSION, Cell
from benchmarks.profiles.planned import planned_study
from benchmarks.run.study import write_plan
from benchmarks.store import experiments
from sgpo.core.config import to_dict
from sgpo.core.runlog import package_versions

NUM_SEEDS = 6  # more than an experiment's five
CLASS_SHARES = {"choice": 0.5, "commitment": 0.4, "style": 0.0, "routine": 0.1}
PASS_RATES = {"qwen-s": 0.13, "qwen-m": 0.164, "qwen-l": 0.2, "llama-m": 0.17}


def skill(method: str) -> float:
    """Skill of a method by its key's parts: an experiment's run is a little off its origin."""
    if method in VARIANTS:
        return VARIANTS[method][1]
    known = SKILL | dict.fromkeys(experiments.KIN, 1.4) | {"opsd": 1.6, "sgpo_nll_masked": 1.0}
    if method in known:
        return known[method]
    if "_gap" in method:
        origin, gap = method.split("_gap")
        return known[origin] - (float(gap) if origin == "luffy" else 0.0)
    assert method.startswith("sgpo_strategy_"), method
    return 1.0


def write_extended(root: Path) -> Path:
    """A complete extended mini study under ``root``: one quarter of the problems, all its cells."""
    grid = planned_study("mini", NUM_SEEDS, variants=True)
    write_plan(grid, root)
    planned = {cell.run_id: cell for cell in grid.cells()}
    plan = load(root / "study.json")
    plan["benchmarks"] = [
        dict(zip(("key", "label", "num_problems", "k"), b, strict=True)) for b in BENCHMARKS
    ]
    plan["models"] = [m | {"parameters": 1000} for m in plan["models"]]
    dump(root / "study.json", plan)
    rng = np.random.default_rng(11)
    difficulty = {
        key: rng.normal(0.6 * i, 0.8, size=n) for i, (key, _, n, _) in enumerate(BENCHMARKS)
    }
    original = synthetic_study._skill
    synthetic_study._skill = skill
    try:
        for cell in plan["cells"]:
            synthetic_study._write_run(root, cell, rng, difficulty, strength=-0.5)
            _add(root / "runs" / cell["run_id"], cell, rng)
            _identify(root / "runs" / cell["run_id"], planned[cell["run_id"]])
    finally:
        synthetic_study._skill = original
    synthetic_study._write_extras(root)
    return root


def _identify(path: Path, cell: Cell) -> None:
    """The config and packages that the run's name is the address of, and the steps it names."""
    parent = cell.parent.run_id if cell.parent else None
    head = {"run_id": cell.run_id, "config_hash": cell.hash, "parent": parent}
    dump(path / "config.json", head | json.loads(json.dumps(to_dict(cell.config))))
    environment = load(path / "environment.json") | {"packages": package_versions()}
    dump(path / "environment.json", environment)
    steps = cell.config.train.num_steps if cell.config.train else 0
    if steps:  # a variant trains to the budget alone, a method of the main study past it
        rows = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (path / "metrics.jsonl").write_text("".join(rows[:steps]))
    ended = {"suite_version": SUITE_VERSION, "num_steps": steps}
    dump(path / "result.json", load(path / "result.json") | ended)


def _add(path: Path, cell: dict, rng) -> None:
    """What the experiments read beyond the plain synthetic run."""
    if cell["method"] == "base":
        rate = PASS_RATES[cell["model"]]
        dump(path / "regime.json", {"window": {"mean_unguided": rate}})
        return
    lines = []
    for step, text in enumerate((path / "metrics.jsonl").read_text().splitlines(), 1):
        record = json.loads(text) | {"step": step, "sampled_tokens": 6000 * step,
                                     "scored_tokens": 7000 * step}  # fmt: skip
        if cell["method"].split("_")[0] == "sgpo":
            record["guided_reward"] = float(np.clip(0.7 + rng.normal(0, 0.05), 0, 1))
            record["target_length"] = 32.0 + 0.1 * step
            masked = record["kl_masked_share"]
            for name, share in CLASS_SHARES.items():
                record[f"kl_mass_{name}"] = share
                record[f"kl_masked_{name}"] = share * masked
        lines.append(json.dumps(record))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
