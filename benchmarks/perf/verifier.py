"""Speed of the verifier beside stock math-verify: ``python -m benchmarks.perf.verifier``.

Three workloads: short exact answers (training rewards), LaTeX golds of MATH-500 and OlympiadBench
against respelled and foreign golds (evaluation), and the part of those that needs the symbolic
judge. Verdicts a second, median and range over repetitions; every repetition starts with empty
caches and new workers (started before the clock). Stock math-verify runs in this one process, as
its users run it, on the first 400 of the same pairs.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sgpo.core import verifier
from sgpo.core.verifier import forms as answer_forms
from sgpo.core.verifier import numbers as answer_numbers
from sgpo.core.verifier import spelling as answer_text
from sgpo.core.verifier.extract import unwrap_box
from sgpo.core.verifier.pool import POOL, default_workers

REPETITIONS = 5
Pairs = Sequence[tuple[str, str]]


def short_pairs(count: int = 4000) -> list[tuple[str, str]]:
    """Pairs, numbers and fractions; a quarter of the answers are right."""
    rng = random.Random(0)
    pairs = []
    for _ in range(count):
        a, b = rng.randrange(10), rng.randrange(1, 10)
        wrong = rng.random() < 0.75
        gold, answer = rng.choice(
            [
                (f"({a},{b})", f"({a},{b + wrong})"),
                (f"{a}{b}{a}", f"{a}{b + wrong}{a}"),
                (f"\\frac{{{a}}}{{{b}}}", f"{a + wrong}/{b}"),
            ]
        )
        pairs.append((gold, f"Step by step we get the answer: \\boxed{{{answer}}}."))
    return pairs


def latex_pairs(count: int = 1200) -> list[tuple[str, str]]:
    """LaTeX golds, each against itself respelled (half) or a gold of another problem (half)."""
    rng = random.Random(0)
    golds = [g for g in _benchmark_golds() if not g.lstrip("-").isdigit()]
    pairs = []
    for i in range(count):
        gold = golds[i % len(golds)]
        other = (
            gold.replace("\\frac", "\\dfrac").replace("+", " + ") if i % 2 else rng.choice(golds)
        )
        pairs.append((gold, f"We conclude that it is $\\boxed{{{other}}}$."))
    return pairs


def symbolic_pairs(count: int = 300) -> list[tuple[str, str]]:
    """The LaTeX pairs that the exact rules leave open."""
    found = [p for p in latex_pairs(6000) if _is_open(*p)]
    return list(dict.fromkeys(found))[:count]


def _is_open(gold: str, completion: str) -> bool:
    return "symbolic" in _decided_by(gold, completion)


def _decided_by(gold: str, completion: str) -> str:
    span = unwrap_box(completion[completion.index("\\boxed") : completion.rindex("}") + 1])
    decided = verifier._decide(verifier._gold_text(gold), span)
    return "exact" if decided is not None else "symbolic"


def _benchmark_golds() -> list[str]:
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("SGPO_DATA_DIR", root.parent / "shared" / "data")) / "benchmarks"
    golds = []
    for name in ("math500", "olympiadbench"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            raise SystemExit(f"{path.name} is absent; set SGPO_DATA_DIR to the data directory")
        for line in path.read_text().splitlines():
            answer = json.loads(line)["answer"]
            golds.append(answer.strip("$") if answer.count("$") == 2 else answer.replace("$", ""))
    return golds


def _start_cold() -> None:
    """Empties every cache here, and the workers' by new workers, warmed on other pairs."""
    for cached in (
        answer_text.canonical,
        answer_text.words_key,
        answer_forms.parse_form,
        answer_numbers.exact_value,
        verifier._gold_text,
        verifier._decide,
    ):
        cached.cache_clear()
    verifier._known.clear()
    POOL.shutdown()
    verifier.grade_many([(rf"\sqrt{{{n}}}", rf"\boxed{{{n}^{{1/2}}}}") for n in range(2, 12)])


def _ours(pairs: Pairs) -> int:
    return sum(v.correct for v in verifier.grade_many(pairs))


def _stock(pairs: Pairs) -> int:
    from math_verify import parse, verify

    return sum(verify(parse(f"${gold}$"), parse(answer)) for gold, answer in pairs)


def _nothing() -> None:
    """Stock math-verify keeps no verdicts."""


def _rate(
    work: Callable[[Pairs], int], prepare: Callable[[], None], pairs: Pairs, repetitions: int
) -> dict[str, float]:
    """Verdicts a second: median, lowest and highest over repetitions; answers found correct."""
    rates = []
    for _ in range(repetitions):
        prepare()
        started = time.perf_counter()
        correct = work(pairs)
        rates.append(len(pairs) / (time.perf_counter() - started))
    return {
        "median": statistics.median(rates),
        "lowest": min(rates),
        "highest": max(rates),
        "correct": correct,
    }


def run(repetitions: int = REPETITIONS) -> dict:
    """Measures the three workloads and prints a table.

    Returns:
        ``{"machine": .., "workloads": {name: {"pairs": n, "ours": rates, "stock": rates}}}``,
        rates in verdicts a second. The worker processes are running before the clock starts;
        ``start_seconds`` says what starting them took.
    """
    started = time.perf_counter()
    _start_cold()
    result: dict = {
        "machine": f"{platform.processor() or platform.machine()}, {default_workers()} cores",
        "start_seconds": time.perf_counter() - started,
        "workloads": {},
    }
    workloads = {"short exact": short_pairs(), "LaTeX": latex_pairs(), "symbolic": symbolic_pairs()}
    print(f"{result['machine']}; workers started in {result['start_seconds']:.1f} s", flush=True)
    print(
        f"{'workload':12} {'pairs':>6} {'ours/s (range)':>28} {'stock/s (range)':>28}", flush=True
    )
    for name, pairs in workloads.items():
        stock_pairs = pairs[:400]
        rates = {
            "pairs": len(pairs),
            "ours": _rate(_ours, _start_cold, pairs, repetitions),
            "stock": _rate(_stock, _nothing, stock_pairs, max(1, repetitions // 2)),
        }
        result["workloads"][name] = rates
        cells = [
            f"{r['median']:.0f} ({r['lowest']:.0f}-{r['highest']:.0f})"
            for r in (rates["ours"], rates["stock"])
        ]
        print(f"{name:12} {len(pairs):6} {cells[0]:>28} {cells[1]:>28}", flush=True)
    POOL.shutdown()
    return result


if __name__ == "__main__":
    run()
    sys.exit(0)
