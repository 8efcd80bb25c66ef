"""Convergence bands: what they hold, and what the checker says of curves of other code."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_study import load, run_dir
from synthetic_worlds import SEEDS, write_worlds

from benchmarks.cli import main
from benchmarks.report import bands
from benchmarks.report.build import build
from sgpo.core.files import read_jsonl

STEPS = 40


def test_a_band_is_the_spread_times_the_farthest_world_left_out():
    """By hand: world 4 lies 2.5 from the mean of 1 and 2, whose width is sqrt(0.5 * 1.5)."""
    found = bands.band(np.array([[1.0], [2.0], [4.0]]))
    factor = 2.5 / np.sqrt(0.5 * 1.5)
    assert found["mean"] == pytest.approx([7 / 3], abs=1e-4)
    assert found["half"] == pytest.approx([factor * np.sqrt(7 / 3 * 4 / 3)], rel=1e-4)


def test_a_band_holds_a_further_world_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(3), []
    for _ in range(300):
        curves = rng.normal(size=(9, 1)) + rng.normal(size=(9, 24)).cumsum(axis=1) / 5
        found = bands.band(curves[:8])
        inside.append(np.all(np.abs(curves[8] - found["mean"]) <= found["half"]))
    assert 8 / 9 - 0.06 < np.mean(inside) < 8 / 9 + 0.08


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (None, [1.5, 0.2]),
        ({"distillation": "nll_masked"}, [1.5, 0.2]),
        ({"distillation": "nll"}, [2.0, 0.4]),
        ({"leave_out": "choice"}, [0.9, 0.1]),
        ({"distillation": "nll", "leave_out": "choice"}, [1.2, 0.3]),
        ({"leave_out": "first"}, None),
    ],
)
def test_the_kept_kl_is_what_taught(settings, kept):
    """By hand: of 2.0 nats a quarter is masked, of which 0.1 are choices; choices have 0.8 nats.
    Of 0.4 nats half, none of it choices, which have 0.1."""
    metrics = {
        "kl_mean": [2.0, 0.4],
        "kl_masked_share": [0.25, 0.5],
        "kl_mass_choice": [0.4, 0.25],
        "kl_masked_choice": [0.1, 0.0],
    }
    stored = SimpleNamespace(metrics=lambda: metrics, object=lambda name: {"settings": settings})
    found = bands.curves_of(SimpleNamespace(stored=stored))
    assert ("kept_kl" in found) == (kept is not None)
    if kept:
        assert found["kept_kl"] == pytest.approx(bands.smooth(np.array(kept)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = write_worlds(tmp_path_factory.mktemp("worlds") / "mini")
    build(root, only=["bands"])
    return root


def curves(root, seed: int) -> pd.DataFrame:
    path = run_dir(root, "qwen-m", "sgpo", seed) / "metrics.jsonl"
    rows = pd.DataFrame(read_jsonl(path))
    return pd.DataFrame({"step": rows.step + 1, "reward": rows.reward, "alpha": rows.alpha_mean})


def test_the_file_has_every_method_and_our_own_world_lies_within(root, tmp_path, capsys):
    found = load(root / "bands.json")
    entry = found["qwen-m"]["sgpo"]
    assert entry["worlds"] == len(SEEDS) and entry["accuracy"]["steps"] == [10, 20, 40, 80]
    assert {"reward", "alpha", "accuracy"} <= entry.keys()
    assert "alpha" not in found["qwen-s"]["grpo"]
    means = [bands.smooth(curves(root, s).reward.to_numpy()) for s in SEEDS]
    assert entry["reward"]["mean"] == pytest.approx(np.mean(means, axis=0), rel=1e-4)
    path = tmp_path / "curves.csv"
    curves(root, 4).to_csv(path, index=False)
    words = ["check-port", str(path), "--method", "sgpo", "--out", str(root)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "reward: within the band, steps 1 to 40" in out and "alpha: within" in out
    rows = curves(root, 4)
    rows.loc[rows.step > 30, "reward"] = 0.0  # a mean over five steps sees it two steps before
    rows.to_csv(path, index=False)
    assert main(words) == 1
    off = re.search(r"reward: off from step (\d+) .*; outside in (\d+) of", capsys.readouterr().out)
    assert 29 <= int(off[1]) <= 31 and int(off[2]) == STEPS + 1 - int(off[1])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("step,loss\n1,2\n", "needs a column step and values of one or more of reward, alpha"),
        ("step,reward\n1,\n2,\n", "needs a column step and values of one or more of reward"),
        ("step,reward\n1,2\n1,3\n", "step 1 twice"),
        ("step,reward\n0,0.1\n1,0.2\n", "step 0: steps count from 1"),
        ("step,reward\n1,high\n", "column reward must hold numbers"),
        ("", "is no CSV file"),
    ],
)
def test_a_mistake_in_the_curves_is_one_line(root, tmp_path, refused, text, complaint):
    path = tmp_path / "curves.csv"
    path.write_text(text)
    refused(f"check-port {path} --method sgpo --out {root}", complaint)
    path.write_text("step,reward\n1,0.5\n")
    refused(f"check-port {path} --method nobody --out {root}", "unknown method 'nobody'")
