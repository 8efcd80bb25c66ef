"""Figures 2, 3, 5, 6, Table 8 and budgets on a synthetic study, against counts of its own
files, and the measures behind them by hand."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from synthetic_analyses import KINDS, KL, NLL, RIGHT, STEPS
from synthetic_study import BENCHMARKS, average, change, load, run_dir

from benchmarks.report import build as report
from benchmarks.report import measures
from benchmarks.report.figures import gains, mechanism, training
from benchmarks.report.measures import smooth
from benchmarks.store import experiments
from benchmarks.store.load import load_study
from benchmarks.store.records import StudyError

SEEDS = (0, 1, 2)


@pytest.fixture
def stored(variant_study) -> Path:
    return variant_study[0]


def texts(figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(Text))


def marks(axis) -> list[np.ndarray]:
    """The places of each set of marks of a panel."""
    return [container.lines[0].get_xydata() for container in axis.containers]


def test_an_analysis_that_is_gone_or_of_another_run_or_version_is_not_used(variant_copy):
    (variant_copy / "analyses" / "plans-qwen-m-s1.json").unlink()
    path = variant_copy / "analyses" / "steps-qwen-m-s0.json"
    change(path, lambda a: a.update(inputs={"another run": "x"}))
    names = ("fig2", "fig3", "fig5", "table8")
    summary = report.build(variant_copy, only=names, figures=False)
    assert [(c.run_id, c.reason, c.artefacts) for c in summary.missing] == [
        ("plans-qwen-m-s1", "not run", ("fig2",)),
        ("steps-qwen-m-s0", "made from other runs", ("fig5",)),
    ]
    assert summary.commands == tuple(
        f"bash reproduce.sh --profile mini --seeds 3 --models qwen-m --only {name}"
        for name in ("fig2", "fig5")
    )
    for artefact in (mechanism.FIG2, mechanism.FIG5):
        assert "not run" in artefact.caption(load_study(variant_copy))
    change(path, lambda a: a.update(suite_version=9))
    with pytest.raises(StudyError, match=r"steps-qwen-m-s0.json has suite version 9"):
        load_study(variant_copy)


def test_fig2_shows_the_right_plan_of_types_from_hard_to_easy_and_paired(stored):
    study = load_study(stored)
    left, differences = mechanism.FIG2.draw(study).axes
    kinds = ["Borin", "Aldric", "Cedra"]
    assert measures.plan_groups(study) == 3 * [[[kind] for kind in kinds]]
    assert [t.get_text() for t in left.get_yticklabels()] == ["1", "2", "3", mechanism.EVERY]

    def expected(method: str) -> np.ndarray:  # seeds add 0, 0.01 and 0.02
        right = [RIGHT[method][KINDS.index(kind)] for kind in kinds]
        return np.array([*right, np.mean(right)]) + 0.01

    for method, found in zip(measures.PLAN_METHODS, marks(left), strict=True):
        assert found[:, 0] == pytest.approx(expected(method))
    for method, found in zip(mechanism.OTHERS, marks(differences), strict=True):
        assert found[:, 0] == pytest.approx(expected("sgpo") - expected(method))
    score = measures.plan_quantity(study, "sgpo_reverse", "right")
    assert score.run_ids == tuple(run_dir(stored, "qwen-m", "sgpo_reverse", s).name for s in SEEDS)


# Curves -------------------------------------------------------------------------------------------


def mean_curve(root: Path, method: str, metric: str) -> np.ndarray:
    """Over seeds, of the centred rolling means."""
    rows = []
    for seed in SEEDS:
        path = run_dir(root, "qwen-m", method, seed) / "metrics.jsonl"
        values = pd.read_json(path, lines=True)[metric]
        rows.append(values.rolling(5, center=True, min_periods=1).mean())
    return np.mean(rows, axis=0)


def test_fig3_has_a_column_for_every_ablation_of_table_2(stored):
    drawn = training.FIG3.draw(load_study(stored))
    removed = [m for m in training.LABELS if m != "sgpo"]
    panels = np.array(drawn.axes).reshape(4, len(removed))
    for column, method in zip(panels.T, removed, strict=True):
        assert column[0].get_title().replace("\n", " ") == training.LABELS[method]
        for (axis, below), metric in ((column[:2], "reward"), (column[2:], "entropy")):
            ours, theirs = (line.get_ydata() for line in axis.lines)
            assert ours == pytest.approx(mean_curve(stored, "sgpo", metric))
            assert theirs == pytest.approx(mean_curve(stored, method, metric))
            assert below.lines[0].get_ydata() == pytest.approx(ours - theirs)


def test_a_band_is_the_interval_of_the_mean_and_what_is_not_run_is_no_curve(variant_copy):
    study = load_study(variant_copy)
    panel = training.FIG4.draw(study).axes[0]
    curves = [
        pd.read_json(run_dir(variant_copy, "qwen-m", "grpo", s) / "metrics.jsonl", lines=True)
        for s in SEEDS
    ]
    first = [rows["entropy"][:3].mean() for rows in curves]  # the window at the first step
    half = 4.30265 * np.std(first, ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom
    ends = panel.collections[0].get_paths()[0].vertices
    at_first = ends[ends[:, 0] == panel.lines[0].get_xdata()[0], 1]
    bounds = [np.mean(first) - half, np.mean(first) + half]
    assert [at_first.min(), at_first.max()] == pytest.approx(bounds, rel=1e-4)
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo", 1))
    study = load_study(variant_copy)
    assert len(training.FIG4.draw(study).axes) == 3  # no alpha, no difference
    assert training.FIG4.caption(study).endswith("SGPO: not run.")


def test_the_held_out_loss_of_sft_is_drawn_where_runs_have_it(variant_copy):
    for seed in SEEDS:
        path = run_dir(variant_copy, "qwen-m", "sft", seed) / "metrics.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows[9::10]:
            row["held_out_loss"] = 2.0 + seed - row["step"] / 100
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = training.SFT_LOSS.draw(load_study(variant_copy))
    assert texts(drawn).count("held out: not run") == 5
    (line,) = [x for x in drawn.axes[1].lines if "held out" in str(x.get_label())]
    assert line.get_xdata().tolist() == [9, 19, 29, 39]
    assert line.get_ydata() == pytest.approx([3.0 - x / 100 for x in (9, 19, 29, 39)])


def write_rewards(root: Path, method: str, seed: int, rewards: list[float]) -> None:
    path = run_dir(root, "qwen-m", method, seed) / "metrics.jsonl"
    rows = [{"step": i, "reward": reward} for i, reward in enumerate(rewards)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_speed_is_the_geometric_mean_of_each_seeds_own_factor(variant_copy):
    """Seed s of SGPO rises (2 + s) times as steeply as its variant, without noise."""
    for seed in SEEDS:
        for method, slope in (("sgpo", 0.01 * (2 + seed)), ("sgpo_nll", 0.01)):
            write_rewards(variant_copy, method, seed, [slope * (i + 1) for i in range(20)])
    loaded = load_study(variant_copy)
    found = measures.equal_reward(loaded, "qwen-m", "sgpo", "sgpo_nll")
    assert found.log_factor.num_seeds == 3
    assert found.factor == pytest.approx(found.steps[1] / found.steps[0])
    assert found.factor == pytest.approx(24 ** (1 / 3), rel=0.06)  # the ends are smoothed
    assert found.gain_percent == pytest.approx(200.0)
    assert f"after {found.steps[0]:.1f} steps" in training.FIG6.caption(loaded)
    for seed in SEEDS:  # one lucky step, as high as the very end, is no arrival
        for method in ("sgpo", "sgpo_nll"):
            rewards = [0.02 * (i + 1) for i in range(20)]
            rewards[3] = 0.39 if method == "sgpo" else rewards[3]
            write_rewards(variant_copy, method, seed, rewards)
    lucky = measures.equal_reward(load_study(variant_copy), "qwen-m", "sgpo", "sgpo_nll")
    assert lucky.steps == pytest.approx((20.0, 20.0), abs=0.5)
    write_rewards(variant_copy, "sgpo_nll", 1, [0.1] * 9)  # a shorter run has no end to compare
    loaded = load_study(variant_copy)
    assert measures.equal_reward(loaded, "qwen-m", "sgpo", "sgpo_nll") is None
    assert "Steps to equal reward: not run." in training.FIG6.caption(loaded)


def test_a_level_between_two_steps_is_interpolated_and_the_first_step_counts_as_one():
    ours, theirs = np.array([[0.0, 0.4, 1.0]]), np.array([[0.0, 0.0, 0.6]])
    # 0.6 lies a third of the way from step 2 to step 3.
    assert [s[0] for s in measures.reach_steps(ours, theirs)] == pytest.approx([2 + 1 / 3, 3.0])
    flat = np.full((1, 3), 0.5)
    assert [s[0] for s in measures.reach_steps(flat, flat)] == [1.0, 1.0]
    smoothed = smooth(np.array([1.0, 2.0, np.nan, 4.0, 5.0]))  # five steps, fewer at the ends
    assert smoothed == pytest.approx([3 / 2, 7 / 3, 3.0, 11 / 3, 9 / 2])


# Figure 5 and Table 8 -----------------------------------------------------------------------------


def test_fig5_bars_are_means_over_the_tokens_of_a_step_and_shares_are_pooled(stored):
    study = load_study(stored)
    drawn = mechanism.FIG5.draw(study)
    assert drawn.axes[0].get_ylim() == drawn.axes[1].get_ylim()
    for axis, values in zip(drawn.axes, (KL, NLL), strict=False):
        heights = [patch.get_height() for patch in axis.patches]
        assert heights == pytest.approx([np.mean(values[a:b]) for a, b, _ in STEPS])
        colours = {patch.get_facecolor() for patch in axis.patches}
        assert len(colours) == len({kind for *_, kind in STEPS})
    assert "decisions 20%" in texts(drawn)
    files = [load(stored / f"analyses/steps-qwen-m-s{seed}.json") for seed in SEEDS]
    kl = [np.array([row["kl"] for row in file["result"]["problems"]]) for file in files]
    mass = measures.token_share(study, "kl", measures.DECISIONS)
    assert mass.mean == pytest.approx(100 * np.mean([k[:, :2].sum() / k.sum() for k in kl]))
    assert mass.interval.low < mass.mean < mass.interval.high and mass.num_seeds == 3


def test_table8_has_shares_of_each_band_and_keeps_the_papers_apart(stored, variant_copy):
    tables = stored / "tables"
    with (tables / "table8.csv").open() as file:
        kept = next(r for r in csv.DictReader(file) if r["strategies"] == "Kept: best of 5")
    assert [kept[n] for n in ("count", "high", "medium", "low")] == ["500", "450", "40", "10"]
    text = (tables / "table8.md").read_text()
    assert "| Kept: best of 5 | 500 | 90.0 | 8.0 | 2.0 | 0.95 |" in text
    assert "on 98.4% of the problems" in text and "39.4" not in text
    assert "| High [0.8, 1.0] | 197 | 39.4 |" in (tables / "table8_paper.md").read_text()
    (variant_copy / "analyses" / "strategies.json").unlink()
    report.build(variant_copy, only=["table8"])
    text = (variant_copy / "tables" / "table8.md").read_text()
    assert "| Kept: best of 5 |" + " not run |" * 9 in text


# Budgets and delta --------------------------------------------------------------------------------


def test_budgets_are_those_of_the_same_runs(stored):
    study = load_study(stored)
    assert gains.spent(study).startswith("SFT+GRPO 280 thousand, 60.0 s; ")
    left, right = gains.EQUAL_COST.draw(study).axes
    means = {}
    for method, line in zip(experiments.BUDGET_METHODS, left.lines, strict=True):
        assert line.get_xdata().tolist() == [0.25, 0.5, 1, 2]
        assert line.get_ydata()[2] == pytest.approx(average(stored, "qwen-m", method))
        means[method] = line.get_ydata()
    shares = []
    for seed in SEEDS:
        table = load(run_dir(stored, "qwen-m", "hpt", seed) / "scores.json")["benchmarks"]
        words = ("".join(table[f"{key}@0.25"]["verdicts"]) for key, *_ in BENCHMARKS)
        shares.append(np.mean([word.count("c") / len(word) for word in words]))
    assert means["hpt"][0] == pytest.approx(100 * np.mean(shares))
    for method, gap in zip(("grpo", "hpt", "luffy"), marks(right), strict=True):
        assert gap[:, 1] == pytest.approx(means["sgpo"] - means[method])
    costs = [gains.at_cost(study, "sgpo", budget)[0] for budget in experiments.BUDGETS[:3]]
    assert costs == pytest.approx([7000 * steps for steps in (10, 20, 40)])


def test_without_hpt_and_luffy_the_budgets_are_drawn_of_what_the_study_has(variant_copy):
    change(
        variant_copy / "study.json",
        lambda study: study.update(
            cells=[c for c in study["cells"] if c["method"] not in ("hpt", "luffy")]
        ),
    )
    study = load_study(variant_copy)
    assert gains.budget_methods(study) == ["grpo", "sgpo", "sgpo_initial"]
    left, right = gains.EQUAL_COST.draw(study).axes
    assert len(left.lines) == 3 and len(marks(right)) == 2


def test_the_delta_figure_has_every_delta_and_says_what_is_missing(variant_copy):
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo_delta1.2", 2))
    left, right = mechanism.DELTA.draw(load_study(variant_copy)).axes
    ticks = ["0.5", "1", "1.2", "1.5", "2", "3", "∞"]
    assert [t.get_text() for t in right.get_xticklabels()] == ticks
    for axis in (left, right):
        assert "SGPO, delta=1.2: not run" in [t.get_text() for t in axis.texts]
        assert marks(axis)[0][:, 0].tolist() == [0, 1, 3, 4, 5, 6]
    shares = marks(left)[0][:, 1]  # of all tokens: no run has a ledger
    assert shares[0] == pytest.approx(100 * np.mean([0.9 * (1 - s / 80) for s in range(40)]))
    assert shares[-1] == 0
    methods = [m for m in experiments.SWEEP if m != "sgpo_delta1.2"]
    expected = [average(variant_copy, "qwen-m", m) for m in methods]
    own = average(variant_copy, "qwen-m", "grpo")
    assert marks(right)[0][:, 1] == pytest.approx(np.array(expected) - own)
