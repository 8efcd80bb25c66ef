"""A seeded synthetic results directory, so that the report can be tested without training."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.run.evaluate import write_samples
from benchmarks.store.experiments import DISTIL, INITIAL, KIN, TUNED
from benchmarks.store.runs import REASONS
from sgpo.core.config import config_hash

BENCHMARKS = (
    ("trained", "Trained levels", 60, 4),
    ("harder", "Harder level", 20, 8),
    ("composed", "Compositions", 50, 4),
    ("long", "Long compositions", 15, 8),
)
MODELS = (
    ("qwen-s", "Qwen-S", "qwen2", 51_234),
    ("qwen-m", "Qwen-M", "qwen2", 163_840),
    ("llama-m", "Llama-M", "llama", 160_000),
)
METHODS = (
    ("base", "Base"),
    ("sft", "SFT (warm-up)"),
    ("sft_full", "SFT (all data)"),
    ("grpo", "SFT+GRPO"),
    ("hpt", "HPT"),
    ("luffy", "LUFFY"),
    ("sgpo", "SGPO"),
)
SKILL = {"base": 0.0, "sft": 0.1, "sft_full": 0.3, "grpo": 1.2, "hpt": 0.5, "luffy": 1.3}
SKILL["sgpo"] = 1.9
GOLD = r"\frac{1}{2}"
# How each method spells a right answer: SGPO's is equal to the gold answer and another text.
RIGHT = {"sgpo": "0.5"}
STEPS = 40
PACKAGES = {"torch": "2.13.0", "numpy": "2.4.6"}


# SGPO's variants: label, skill, share of the KL mass above the threshold at the first step
VARIANT_MODEL = "qwen-m"
VARIANTS = {
    "sgpo_no_grpo": ("SGPO w/o autonomous GRPO", 1.0, 0.5),
    "sgpo_no_proximal": ("SGPO w/o all proximal constraints", 0.4, 0.0),
    "sgpo_no_clip": ("SGPO w/o KL clipping", 1.5, 0.0),
    "sgpo_no_selection": ("SGPO w/o target selection", 1.3, 0.5),
    "sgpo_fixed_alpha": ("SGPO, fixed alpha=1.0", 1.6, 0.5),
    "sgpo_group_alpha": ("SGPO, group-advantage alpha", 1.7, 0.5),
    "sgpo_nll": ("SGPO, direct SFT", 1.1, 0.5),
    "sgpo_reverse": ("SGPO, reverse KL", 1.4, 0.5),
    "sgpo_delta0.5": ("SGPO, delta=0.5", 1.3, 0.9),
    "sgpo_delta1.2": ("SGPO, delta=1.2", 1.5, 0.7),
    "sgpo_delta1.5": ("SGPO, delta=1.5", 1.6, 0.6),
    "sgpo_delta2": ("SGPO, delta=2", 2.0, 0.4),
    "sgpo_delta3": ("SGPO, delta=3", 2.4, 0.2),
    "sgpo_frozen": ("SGPO, teacher frozen", 1.6, 0.5),
    "sgpo_meanlogp": ("SGPO, length-normalised selection", 1.8, 0.5),
}
# Runs past the paper: label, skill, models
PAST = {
    "sgpo_nll_masked": ("SGPO, direct SFT with the mask", 1.0, ("qwen-m", "llama-m")),
    "sgpo_nll": ("SGPO, direct SFT", 1.1, ("llama-m",)),
    "sgpo_no_clip": ("SGPO w/o KL clipping", 1.5, ("llama-m",)),
} | {key: (key.upper(), 1.4, ("qwen-m",)) for key in (*KIN, INITIAL, *DISTIL, *TUNED)}


def write_study(
    root: Path,
    *,
    seeds: tuple[int, ...] = (0, 1, 2),
    rng_seed: int = 7,
    variants: bool = False,
    worlds: bool = False,
) -> Path:
    """Writes a complete study under ``root`` and returns ``root``.

    ``variants`` adds SGPO's variants on ``VARIANT_MODEL`` and the runs past the paper, drawn after
    everything else, so that the other runs are the same with and without them. ``worlds``: a base
    model a seed, and no runs past the paper.
    """
    rng = np.random.default_rng(rng_seed)
    difficulty = {
        key: rng.normal(0.6 * i, 0.8, size=n) for i, (key, _, n, _) in enumerate(BENCHMARKS)
    }
    grid = [(model, method) for model, *_ in MODELS for method, _ in METHODS]
    added = list(VARIANTS) if variants else []
    grid += [(VARIANT_MODEL, method) for method in added]
    past = {key: entry for key, entry in PAST.items() if variants and not worlds}
    grid += [(model, method) for method, (*_, models) in past.items() for model in models]
    strength = {model: 0.5 * index - 1.0 for index, (model, *_) in enumerate(MODELS)}
    cells = []
    for model, method in grid:
        for seed in (None,) if method == "base" and not worlds else seeds:
            tail = "base" if seed is None else f"s{seed}"
            config = {"model": model, "method": method, "seed": seed, "number": len(cells)}
            cell = {
                "run_id": f"{model}-{method}-{tail}-{address(config)}",
                "model": model,
                "method": method,
                "seed": seed,
            }
            cells.append(cell)
            write_config(root / "runs" / cell["run_id"], config)
            _write_run(root, cell, rng, difficulty, strength=strength[model])
    study = {
        "profile": "mini",
        "suite_version": 1,
        "seeds": list(seeds),
        "models": [
            dict(zip(("key", "label", "family", "parameters"), m, strict=True)) for m in MODELS
        ],
        "methods": [{"key": key, "label": label} for key, label in METHODS]
        + [{"key": key, "label": VARIANTS[key][0]} for key in added]
        + [{"key": k, "label": past[k][0], "extra": True} for k in past if k not in VARIANTS],
        "benchmarks": [
            dict(zip(("key", "label", "num_problems", "k"), b, strict=True)) for b in BENCHMARKS
        ],
        "cells": cells,
    }
    dump(root / "study.json", study)
    _write_extras(root)
    return root


def address(config: dict) -> str:
    """The content address of a run of ``config``, as the suite makes it."""
    whole = {"method_source": None, "config": config, "parent": None, "packages": PACKAGES,
             "suite_version": 1}  # fmt: skip
    return config_hash(whole)


def write_config(path: Path, config: dict) -> None:
    """config.json of a run directory, whose name ends in the address."""
    added = {"run_id": path.name, "config_hash": path.name[-8:], "parent": None}
    dump(path / "config.json", added | config)


def dump(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def run_dir(root: Path, model: str, method: str, seed: int | None) -> Path:
    """The directory of one planned run."""
    wanted = (model, method, seed)
    for cell in load(root / "study.json")["cells"]:
        if (cell["model"], cell["method"], cell["seed"]) == wanted:
            return root / "runs" / cell["run_id"]
    raise AssertionError(wanted)


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """``edit`` a JSON file in place."""
    value = load(path)
    edit(value)
    dump(path, value)


def counted(root: Path, model: str, method: str, seeds=(0, 1, 2)) -> dict[str, np.ndarray]:
    """Benchmark -> share of correct samples in percent [seeds, problems], from the letters."""
    stored = [load(run_dir(root, model, method, s) / "scores.json") for s in seeds]
    return {
        key: np.array([[100 * v.count("c") / k for v in s["benchmarks"][key]["verdicts"]]
                       for s in stored])
        for key, _, _, k in BENCHMARKS
    }  # fmt: skip


def average(root: Path, model: str, method: str, seeds=(0, 1, 2)) -> float:
    """The unweighted mean of the benchmarks, in percent."""
    return float(np.mean([s.mean() for s in counted(root, model, method, seeds).values()]))


def rows_of(root: Path, table: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """(model, method, benchmark) -> row of a table's CSV file."""
    with (root / "tables" / f"{table}.csv").open() as file:
        return {(r["model"], r["method"], r["benchmark"]): r for r in csv.DictReader(file)}


def _write_run(root: Path, cell: dict, rng, difficulty: dict, strength: float) -> None:
    path = root / "runs" / cell["run_id"]
    skill = strength + _skill(cell["method"]) * (1 + 0.2 * strength) + rng.normal(0, 0.08)
    scores = {}
    for key, _, n, k in BENCHMARKS:
        chance = 1 / (1 + np.exp(difficulty[key] - skill))
        correct = rng.random((n, k)) < chance[:, None]
        letters = np.where(correct, "c", rng.choice(list("wnt"), size=(n, k)))
        scores[key] = {
            "k": k,
            "protocol": {"temperature": 0.6, "top_p": 0.95, "max_tokens": 96},
            "problem_set_sha256": f"sha-{key}",
            "verdicts": ["".join(row) for row in letters],
            "mean_length": 31.2,
        }
    trained = cell["method"] != "base"
    if cell["method"] in ("grpo", "hpt", "luffy", "sgpo"):
        scores |= _other_budgets(scores, path.name)
    dump(
        path / "scores.json",
        {"run_id": cell["run_id"], "suite_version": 1, "benchmarks": scores},
    )
    result = {
        **cell,
        "config_hash": cell["run_id"][-8:],
        "suite_version": 1,
        "status": "finished",
        "diverged_reason": None,
        "started": "2026-01-01T00:00:00+00:00",
        "ended": "2026-01-01T00:10:00+00:00",
        "train_seconds": 60.0 if trained else 0.0,
        "eval_seconds": 5.0,
        "sampled_tokens": 100_000 if trained else 0,
        "num_samples": STEPS * 192 if trained else 0,
        "num_steps": STEPS if trained else 0,
    }
    dump(path / "result.json", result)
    environment = {
        "machine": "test <machine> & co",
        "cpu": "cpu|model",
        "cores": 2,
        "python": "3.11.9",
        "packages": PACKAGES,
        "git_commit": "abc1234",
    }
    dump(path / "environment.json", environment)
    if trained:
        _write_metrics(path, cell["method"], rng)


def _other_budgets(scores: dict, name: str) -> dict:
    """Scores at a quarter, a half and twice the budget: fewer or more right answers."""
    rng, found = np.random.default_rng(len(name)), {}
    for key, table in scores.items():
        for budget, keeps in ((0.25, 0.6), (0.5, 0.8), (2, 1.0)):
            words = [
                "".join(c if c != "c" or rng.random() < keeps else "w" for c in word)
                for word in table["verdicts"]
            ]
            found[f"{key}@{budget:g}"] = table | {"verdicts": words}
    return found


def _skill(method: str) -> float:
    return SKILL[method] if method in SKILL else (VARIANTS | PAST)[method][1]


def _masked(method: str) -> float:
    return VARIANTS[method][2] if method in VARIANTS else 0.5


def _write_metrics(path: Path, method: str, rng) -> None:
    lines = []
    for step in range(STEPS):
        share = step / STEPS
        record = {"step": step, "loss": 1.0 - share, "seconds": 0.5}
        if not method.startswith("sft"):
            gain = _skill(method) / 2
            record |= {
                "reward": float(np.clip(0.15 + gain * share * 0.6 + rng.normal(0, 0.03), 0, 1)),
                "entropy": float(0.6 - 0.3 * share + 0.1 * (method == "sgpo") * share),
                "response_length": float(30 + 4 * share + rng.normal(0, 0.5)),
                "alpha_mean": None,
                "scored_tokens": 7000 * (step + 1),
            }
        if method.split("_")[0] == "sgpo":
            record["alpha_mean"] = float(0.7 - 0.4 * share + rng.normal(0, 0.02))
            record["guided_reward"] = 0.8 - 0.3 * share**2
            record["kl_masked_share"] = _masked(method) * (1 - 0.5 * share)
        lines.append(json.dumps(record))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def write_problems(root: Path, types: dict[str, list[str]]) -> None:
    """problems.parquet: of each benchmark the types of its problems, the same in every world; the
    further a type stands behind, the harder it is."""
    rows = [
        {"seed": seed, "benchmark": key, "problem": i, "types": named, "prior": 0.5 / (1 + i),
         "fidelity": 0.8 + 0.03 * seed, "style": (0.5 + 0.3 * seed) % 1.0}
        for seed in load(root / "study.json")["seeds"]
        for key, names in types.items()
        for i, named in enumerate(names)
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(root / "problems.parquet")


def _write_extras(root: Path) -> None:
    write_problems(root, {key: [f"{key}-{i}" for i in range(n)] for key, _, n, _ in BENCHMARKS})
    (root / "tuning.csv").write_text(
        "method,trial,learning_rate,seed,dev_accuracy,dev_ci_low,dev_ci_high,chosen,run_id\n"
        "grpo,0,1e-4,1000,0.51,0.48,0.54,True,qwen-s-grpo-s1000-0\n"
        "grpo,1,2e-4,1000,0.41,0.38,0.44,False,qwen-s-grpo-s1000-1\n"
    )


def write_texts(run: Path, method: str) -> None:
    """Samples that say what the run's verdict letters say."""
    right = rf"so \boxed{{{RIGHT.get(method, GOLD)}}}"
    texts = {"c": right, "w": r"so \boxed{7}", "n": "I give up"}
    for key, entry in load(run / "scores.json")["benchmarks"].items():
        rows = [
            {"problem_id": f"{key}-{i}", "sample": j, "gold": GOLD, "num_tokens": 5,
             "text": texts.get(letter, right), "reason": REASONS[letter], "correct": letter == "c",
             "finish_reason": "length" if letter == "t" else "stop"}
            for i, word in enumerate(entry["verdicts"])
            for j, letter in enumerate(word)
        ]  # fmt: skip
        (run / "samples").mkdir(exist_ok=True)
        write_samples(run / "samples" / f"{key}.jsonl.gz", rows)


def save_empty(figure, path: Path) -> list[Path]:
    """In place of ``axes.save``, which takes most of a build: a picture of one pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (1, 1)).save(path.with_suffix(".png"))
    return [path.with_suffix(".png")]
