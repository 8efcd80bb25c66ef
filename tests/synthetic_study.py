"""A seeded synthetic results directory, so that the report can be tested without training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

BENCHMARKS = (
    ("minimath", "MiniMATH", 60, 4),
    ("miniamc", "MiniAMC", 20, 8),
    ("miniolympiad", "MiniOlympiad", 50, 4),
    ("miniaime", "MiniAIME", 15, 8),
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
STEPS = 40


def write_study(root: Path, *, seeds: tuple[int, ...] = (0, 1, 2), rng_seed: int = 7) -> Path:
    """Writes a complete study under ``root`` and returns ``root``."""
    rng = np.random.default_rng(rng_seed)
    difficulty = {
        key: rng.normal(0.6 * i, 0.8, size=n) for i, (key, _, n, _) in enumerate(BENCHMARKS)
    }
    cells = []
    for index, (model, *_) in enumerate(MODELS):
        for method, _ in METHODS:
            for seed in (None,) if method == "base" else seeds:
                tail = "base" if seed is None else f"s{seed}"
                cell = {
                    "run_id": f"{model}-{method}-{tail}-{len(cells):08x}",
                    "model": model,
                    "method": method,
                    "seed": seed,
                }
                cells.append(cell)
                _write_run(root, cell, rng, difficulty, strength=0.5 * index - 1.0)
    study = {
        "profile": "mini",
        "suite_version": 1,
        "seeds": list(seeds),
        "models": [
            dict(zip(("key", "label", "family", "parameters"), m, strict=True)) for m in MODELS
        ],
        "methods": [dict(zip(("key", "label"), m, strict=True)) for m in METHODS],
        "benchmarks": [
            dict(zip(("key", "label", "num_problems", "k"), b, strict=True)) for b in BENCHMARKS
        ],
        "cells": cells,
    }
    dump(root / "study.json", study)
    _write_extras(root)
    return root


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


def _write_run(root: Path, cell: dict, rng, difficulty: dict, strength: float) -> None:
    path = root / "runs" / cell["run_id"]
    skill = strength + SKILL[cell["method"]] * (1 + 0.2 * strength) + rng.normal(0, 0.08)
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
    trained = cell["seed"] is not None
    dump(
        path / "scores.json",
        {"run_id": cell["run_id"], "suite_version": 1, "benchmarks": scores},
    )
    result = {
        **cell,
        "config_hash": cell["run_id"][-8:],
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
    dump(path / "config.json", {"method": cell["method"]})
    environment = {
        "machine": "test <machine> & co",
        "cpu": "cpu|model",
        "cores": 2,
        "python": "3.11.9",
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "git_commit": "abc1234",
    }
    dump(path / "environment.json", environment)
    if trained:
        _write_metrics(path, cell["method"], rng)


def _write_metrics(path: Path, method: str, rng) -> None:
    lines = []
    for step in range(STEPS):
        share = step / STEPS
        record = {"step": step, "loss": 1.0 - share, "seconds": 0.5}
        if not method.startswith("sft"):
            gain = SKILL[method] / 2
            record |= {
                "reward": float(np.clip(0.15 + gain * share * 0.6 + rng.normal(0, 0.03), 0, 1)),
                "entropy": float(0.6 - 0.3 * share + 0.1 * (method == "sgpo") * share),
                "response_length": float(30 + 4 * share + rng.normal(0, 0.5)),
                "alpha_mean": None,
            }
        if method == "sgpo":
            record["alpha_mean"] = float(0.7 - 0.4 * share + rng.normal(0, 0.02))
        lines.append(json.dumps(record))
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def _write_extras(root: Path) -> None:
    conditions = [
        {"name": "blind guess", "value": 0.004, "requirement": "<= 0.01", "passed": True},
        {"name": "guided pass rate", "value": 0.88, "requirement": ">= 0.6", "passed": True},
    ]
    dump(root / "regime.json", {"models": {m[0]: {"conditions": conditions} for m in MODELS}})
    (root / "tuning.csv").write_text(
        "method,trial,settings,learning_rate,dev_accuracy,dev_ci_low,dev_ci_high,chosen,run_id\n"
        'grpo,0,"{}",1e-4,0.51,0.48,0.54,true,tune-grpo-0\n'
        'hpt,0,"{""sft_coefficient"": 0.3}",1e-4,0.31,0.28,0.34,false,tune-hpt-0\n'
    )
