"""The synthetic study as worlds: each seed with problems, ledgers and pass rates of its own, by
rules that a test can compute by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from synthetic_study import BENCHMARKS, dump, load, write_study

from benchmarks.report.figures.mechanism import delta_of
from benchmarks.store.experiments import SWEEP

SEEDS = tuple(range(6))
TYPES = tuple(f"T{i:02d}" for i in range(12))
# KL a token of each place of a type: choices offer more the rarer the type is found.
FLAT = {"opening": 1.4, "style": 0.1, "commitment": 0.2, "routine": 0.05}


def prior(seed: int, kind: str) -> float:
    return 0.5 * 0.7 ** ((TYPES.index(kind) + 5 * seed) % len(TYPES))


def offered(seed: int, kind: str, place: str) -> float:
    """KL of one token of a place."""
    return FLAT[place] if place in FLAT else -0.8 * math.log(prior(seed, kind))


def write_worlds(root: Path, seeds: tuple[int, ...] = SEEDS) -> Path:
    """A complete study of six worlds under ``root``."""
    write_study(root, seeds=seeds, variants=True, worlds=True)
    write_problem_table(root, seeds)
    for cell in load(root / "study.json")["cells"]:
        path, seed = root / "runs" / cell["run_id"], cell["seed"]
        scores = load(path / "scores.json")
        for key, entry in scores["benchmarks"].items():
            entry["problem_set_sha256"] = f"{key}-{seed}"
        dump(path / "scores.json", scores)
        if cell["method"] in SWEEP:
            dump(path / "ledger.json", ledger(seed, delta_of(cell["method"])))
        if cell["method"] in ("base", "sft", "grpo"):
            dump(path / "regime.json", rates(seed, cell["method"]))
    return root


def write_problem_table(root: Path, seeds: tuple[int, ...]) -> None:
    rows = []
    for seed in seeds:
        for key, _, number, _ in BENCHMARKS:
            for i in range(number):
                kinds = {TYPES[i % 12]}
                if key in ("composed", "long"):
                    kinds.add(TYPES[(i + 5) % 12])
                asked = {"seed": seed, "benchmark": key, "problem": i,
                         "types": " ".join(sorted(kinds)),
                         "prior": math.prod(prior(seed, kind) for kind in kinds)}  # fmt: skip
                drawn = {"fidelity": 0.8 + 0.03 * seed, "style": (0.1 + 0.35 * seed) % 0.9}
                rows.append(asked | drawn)
    pd.DataFrame(rows).to_parquet(root / "problems.parquet")


def ledger(seed: int, delta: float) -> dict:
    """Two choice tokens of each kind and one of every other place, all of one KL."""
    found: dict = {}
    for kind in TYPES:
        for place in ("order", "combine", "finish", *FLAT):
            kl, tokens = offered(seed, kind, place), 1.0 if place in FLAT else 2.0
            masked = kl * tokens if kl > delta else 0.0
            sums = {"tokens": tokens, "kl": kl * tokens, "kl_masked": masked}
            found.setdefault(kind, {})[place] = sums
    return found


def rates(seed: int, method: str) -> dict:
    """Pass rates of each type: SFT+GRPO raises those of the types that are found at all."""
    types = []
    for kind in TYPES:
        alone = prior(seed, kind)
        after = min(1.0, 4 * alone) if method == "grpo" else alone
        types.append({"kind": kind, "declared": alone, "unguided": after,
                      "guided": 0.7, "foreign": alone / 2})  # fmt: skip
    found = [t["unguided"] for t in types]
    window = {f"mean_{name}": sum(t[name] for t in types) / 12
              for name in ("unguided", "guided", "foreign")}  # fmt: skip
    return {"types": types, "window": window | {
        "hard": sum(rate < 1 / 12 for rate in found) / 12,
        "easy": sum(rate > 0.85 for rate in found) / 12,
        "open": sum(0.15 <= rate <= 0.85 for rate in found) / 12,
    }}  # fmt: skip
