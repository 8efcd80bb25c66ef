"""Claims on SGPO's variants: effects are counted losses, and the paper's stand beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_study import BENCHMARKS, load, run_dir

from benchmarks.report import claims
from benchmarks.report.tables import accuracy
from benchmarks.store.load import load_study

SEEDS = (0, 1, 2)
OF_TABLES = ("ablation_hurts", "proximal_hurts_most", "kl_beats_sft", "forward_beats_reverse")


def counted(root: Path, method: str) -> dict[str, np.ndarray]:
    """Benchmark -> share of correct samples in percent [seeds, problems], from the letters."""
    stored = [load(run_dir(root, "qwen-m", method, s) / "scores.json") for s in SEEDS]
    return {
        key: np.array([[100 * v.count("c") / k for v in s["benchmarks"][key]["verdicts"]]
                       for s in stored])
        for key, _, _, k in BENCHMARKS
    }  # fmt: skip


def average(root: Path, method: str) -> float:
    return float(np.mean([scores.mean() for scores in counted(root, method).values()]))


def test_effects_are_counted_losses_and_the_papers_stand_beside(variant_study):
    root, _ = variant_study
    rows = [c for c in claims.evaluate(load_study(root)) if c.key in OF_TABLES]
    sgpo = average(root, "sgpo")
    hurts = [c for c in rows if c.key == "ablation_hurts"]
    expected = {  # method, the paper's 52.1 minus its row
        "w/o strategy distillation, Qwen-M": ("grpo", "+2.2 points"),
        "w/o autonomous GRPO, Qwen-M": ("sgpo_no_grpo", "+3.5 points"),
        "w/o all proximal constraints, Qwen-M": ("sgpo_no_proximal", "+6.8 points"),
        "w/o KL clipping, Qwen-M": ("sgpo_no_clip", "+3.4 points"),
        "w/o target selection, Qwen-M": ("sgpo_no_selection", "+4.0 points"),
        "w/o adaptive weighting, Qwen-M": ("sgpo_fixed_alpha", "+1.2 points"),
    }
    assert [c.subject for c in hurts] == list(expected)
    for claim in hurts:
        method, paper = expected[claim.subject]
        assert claim.effect.mean == pytest.approx(sgpo - average(root, method), abs=1e-6)
        assert (claim.paper, claim.unit) == (paper, "points")
    rest = {c.key: c for c in rows if c.key != "ablation_hurts"}
    others = [average(root, m) for m in dict(accuracy.TABLE2.rows) if m.startswith("sgpo_")
              and m != "sgpo_no_proximal"] + [average(root, "grpo")]  # fmt: skip
    margins = {
        "proximal_hurts_most": (min(others) - average(root, "sgpo_no_proximal"), "+2.8 points"),
        "kl_beats_sft": (sgpo - average(root, "sgpo_nll"), "+2.8 points"),
        "forward_beats_reverse": (sgpo - average(root, "sgpo_reverse"), "+1.2 points"),
    }
    assert list(rest) == list(margins)
    for key, (effect, paper) in margins.items():
        assert rest[key].effect.mean == pytest.approx(effect, abs=1e-6)
        assert rest[key].paper == paper
        low, high = rest[key].effect.interval.low, rest[key].effect.interval.high
        verdict = "holds" if low > 0 else ("does not hold" if high < 0 else "undecided")
        assert rest[key].verdict == verdict
    most = rest["proximal_hurts_most"]
    assert most.probability <= float((most.effect.draws > 0).mean())
