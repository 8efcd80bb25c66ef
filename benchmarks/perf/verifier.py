"""Speed of the verifier beside stock math-verify, in verdicts a second."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.perf.common import ROOT, Block, spread, timed
from sgpo.core import verifier
from sgpo.core.files import read_jsonl
from sgpo.core.verifier.extract import unwrap_box
from sgpo.core.verifier.pool import POOL

STOCK_PAIRS = 400
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
        respelled = gold.replace("\\frac", "\\dfrac").replace("+", " + ")
        other = respelled if i % 2 else rng.choice(golds)
        pairs.append((gold, f"We conclude that it is $\\boxed{{{other}}}$."))
    return pairs


def symbolic_pairs(count: int = 300) -> list[tuple[str, str]]:
    """The LaTeX pairs that the exact rules leave open."""
    found = [p for p in latex_pairs(6000) if _is_open(*p)]
    return list(dict.fromkeys(found))[:count]


def _is_open(gold: str, completion: str) -> bool:
    span = unwrap_box(completion[completion.index("\\boxed") : completion.rindex("}") + 1])
    return verifier.decide(verifier.gold_answer(gold), span) is None


def _benchmark_golds() -> list[str]:
    folder = Path(os.environ.get("SGPO_DATA_DIR", ROOT.parent / "shared" / "data")) / "benchmarks"
    golds = []
    for name in ("math500", "olympiadbench"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            raise ValueError(f"{path.name} is absent; set SGPO_DATA_DIR to the data directory")
        answers = [row["answer"] for row in read_jsonl(path)]
        golds += [a.strip("$") if a.count("$") == 2 else a.replace("$", "") for a in answers]
    return golds


def _start_cold() -> None:
    """Empties every cache here, and the workers' by new workers, warmed on other pairs."""
    rooms = [m for name, m in sys.modules.items() if name.startswith(verifier.__name__)]
    for found in (value for room in rooms for value in vars(room).values()):
        if hasattr(found, "cache_clear"):
            found.cache_clear()
    verifier._known.clear()
    POOL.shutdown()
    verifier.grade_many([(rf"\sqrt{{{n}}}", rf"\boxed{{{n}^{{1/2}}}}") for n in range(2, 12)])


def _ours(pairs: Pairs) -> int:
    return sum(v.correct for v in verifier.grade_many(pairs))


def _stock(pairs: Pairs) -> int:
    from math_verify import parse, verify

    return sum(verify(parse(f"${gold}$"), parse(answer)) for gold, answer in pairs)


def run(repeats: int, *, limit: int | None = None) -> dict[str, Any]:
    """Verdicts a second: ours beside stock math-verify.

    Short exact answers (training rewards), LaTeX golds of MATH-500 and OlympiadBench against
    respelled and foreign golds (evaluation), and the part of those that needs the symbolic judge.
    Every repetition starts with empty caches and new workers. Stock math-verify runs in this one
    process, as its users run it, on the first 400 of the same pairs.
    """
    start_seconds = timed(_start_cold)
    workloads = {"short exact": short_pairs(), "LaTeX": latex_pairs(), "symbolic": symbolic_pairs()}
    found = {
        name: {
            "pairs": len(pairs[:limit]),
            "ours": _rates(_ours, pairs[:limit], min(repeats, 5)),
            "stock": _rates(_stock, pairs[:limit][:STOCK_PAIRS], min(repeats, 2)),
        }
        for name, pairs in workloads.items()
    }
    POOL.shutdown()
    return {"start_seconds": start_seconds, "workloads": found}


def _rates(work: Callable[[Pairs], int], pairs: Pairs, repeats: int) -> dict[str, float]:
    """Verdicts a second: median, lowest and highest over repetitions; answers found correct."""
    rates, correct = [], []
    for _ in range(repeats):
        if work is _ours:
            _start_cold()
        rates.append(len(pairs) / timed(lambda: correct.append(work(pairs))))
    found = spread(rates)
    return {"median": found["median"], "lowest": found["min"], "highest": found["max"],
            "correct": correct[0]}  # fmt: skip


def blocks(result: dict[str, Any]) -> list[Block]:
    rows = [("workload", "pairs", "ours/s", "stock math-verify/s", "times")]
    for name, found in result["workloads"].items():
        ours, stock = found["ours"], found["stock"]
        cells = [f"{r['median']:.0f} ({r['lowest']:.0f}-{r['highest']:.0f})" for r in (ours, stock)]
        rows.append((name, str(found["pairs"]), *cells, f"{ours['median'] / stock['median']:.1f}"))
    return [rows, f"Workers started in {result['start_seconds']:.1f} s."]
