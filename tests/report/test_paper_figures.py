"""Figures 2, 3, 5, 6, Table 8 and pass@k on a synthetic study, against counts of its own files."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from synthetic_analyses import CLASSES, KINDS, KL, NLL, NUM_PROBLEMS, RIGHT, STEPS
from synthetic_study import BENCHMARKS, dump, load, run_dir

from benchmarks.report import build as report
from benchmarks.report import measures
from benchmarks.report.figures import fig2, fig5, passk, training
from benchmarks.report.figures.axes import CLASS_LOOKS
from benchmarks.report.measures import smooth
from benchmarks.store.load import load_study
from benchmarks.store.records import StudyError

NAMES = ("fig2", "fig3", "fig5", "fig6", "table8", "passk")
SEEDS = (0, 1, 2)
DECISION_TOKENS = 6 / 30


@pytest.fixture
def stored(variant_study) -> Path:
    return variant_study[0]


def texts(figure) -> str:
    return " ".join(t.get_text() for t in figure.findobj(Text))


def test_each_is_written_by_its_name_and_names_what_it_lacks(variant_copy):
    summary = report.build(variant_copy, only=["table8", "fig6"])
    assert summary.missing == ()
    made = {path.name for path in summary.written}
    assert {"table8.csv", "table8_paper.csv", "fig6.png", "fig6.pdf"} <= made
    (variant_copy / "analyses" / "plans-qwen-m-s1.json").unlink()
    summary = report.build(variant_copy, only=NAMES, figures=False)
    assert [(c.run_id, c.reason, c.artefacts) for c in summary.missing] == [
        ("plans-qwen-m-s1", "not run", ("fig2",))
    ]
    assert summary.commands == ("bash reproduce.sh --profile mini --only fig2",)
    assert "not run" in fig2.caption(load_study(variant_copy))


def test_an_analysis_of_another_run_or_version_is_not_used(variant_copy):
    path = variant_copy / "analyses" / "steps-qwen-m-s0.json"
    good = load(path)
    dump(path, good | {"inputs": {"another run": "x"}})
    assert "not run" in fig5.caption(load_study(variant_copy))
    dump(path, good | {"suite_version": 9})
    with pytest.raises(StudyError, match=r"steps-qwen-m-s0.json has suite version 9"):
        load_study(variant_copy)


# Figure 2 -----------------------------------------------------------------------------------------


def marks(axis) -> list[np.ndarray]:
    """The places of each set of marks of a panel."""
    return [container.lines[0].get_xydata() for container in axis.containers]


def test_fig2_shows_the_right_plan_of_types_from_hard_to_easy_and_paired(stored):
    left, differences = fig2.figure(load_study(stored)).axes
    kinds = ["Borin", "Aldric", "Cedra"]
    assert measures.plan_groups(load_study(stored)) == 3 * [[[kind] for kind in kinds]]
    assert [t.get_text() for t in left.get_yticklabels()] == ["1", "2", "3", fig2.EVERY]
    order = [KINDS.index(k) for k in kinds]

    def expected(method: str) -> np.ndarray:  # seeds add 0, 0.01 and 0.02
        return np.array([*(RIGHT[method][i] for i in order), np.mean(RIGHT[method])]) + 0.01

    for method, found in zip(measures.PLAN_METHODS, marks(left), strict=True):
        assert found[:, 0] == pytest.approx(expected(method))
    for method, found in zip(fig2.OTHERS, marks(differences), strict=True):
        assert found[:, 0] == pytest.approx(expected("sgpo") - expected(method))


def test_plan_scores_name_the_run_of_each_seed(stored):
    score = measures.plan_quantity(load_study(stored), "sgpo_reverse", "right")
    assert score.run_ids == tuple(run_dir(stored, "qwen-m", "sgpo_reverse", s).name for s in SEEDS)
    values = [np.mean(RIGHT["sgpo_reverse"]) + s / 100 for s in SEEDS]
    assert score.mean == pytest.approx(np.mean(values))
    assert score.interval.low < min(values) and max(values) < score.interval.high


# Figures 3 and 6 ----------------------------------------------------------------------------------


def mean_curve(root: Path, method: str, metric: str) -> np.ndarray:
    rows = []
    for seed in SEEDS:
        lines = (run_dir(root, "qwen-m", method, seed) / "metrics.jsonl").read_text().splitlines()
        rows.append(smooth(np.array([json.loads(line)[metric] for line in lines])))
    return np.mean(rows, axis=0)


def test_fig3_has_a_column_for_every_ablation_of_table_2(stored):
    drawn = training.FIG3.draw(load_study(stored))
    removed = [m for m in training.LABELS if m != "sgpo"]
    panels = np.array(drawn.axes).reshape(2, len(removed))
    for (above, below), method in zip(panels.T, removed, strict=True):
        title = above.get_title().replace("\n", " ")
        assert title == training.LABELS[method]
        for axis, metric in ((above, "reward"), (below, "entropy")):
            ours, theirs = axis.lines
            assert ours.get_ydata() == pytest.approx(mean_curve(stored, "sgpo", metric))
            assert theirs.get_ydata() == pytest.approx(mean_curve(stored, method, metric))


def test_curves_below_are_differences_of_the_same_seeds(stored):
    study = load_study(stored)
    drawn = training.CURVES.draw(study)
    below = drawn.axes[4]  # Qwen-M
    others = [m for m in study.rl_methods if m != "sgpo"]
    ours = mean_curve(stored, "sgpo", "reward")
    for method, line in zip(others, below.lines, strict=False):
        assert line.get_ydata() == pytest.approx(ours - mean_curve(stored, method, "reward"))


def test_fig6_says_where_each_reaches_the_lower_final_reward(stored):
    loaded = load_study(stored)
    found = measures.equal_reward(loaded, "qwen-m", *training.FIG6_METHODS)
    ends = [mean_curve(stored, m, "reward")[-1] for m in training.FIG6_METHODS]
    assert found.level == pytest.approx(min(ends), abs=0.05)
    assert found.factor == pytest.approx(found.steps[1] / found.steps[0])
    assert f"after {found.steps[0]:.1f} steps" in training.FIG6.caption(loaded)


def test_the_held_out_loss_of_sft_is_drawn_where_runs_have_it(variant_copy):
    assert texts(training.SFT_LOSS.draw(load_study(variant_copy))).count("held out: not run") == 6
    for seed in SEEDS:
        path = run_dir(variant_copy, "qwen-m", "sft", seed) / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for row in lines[9::10]:
            row["held_out_loss"] = 2.0 + seed - row["step"] / 100
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    drawn = training.SFT_LOSS.draw(load_study(variant_copy))
    assert texts(drawn).count("held out: not run") == 5
    (line,) = [x for x in drawn.axes[1].lines if "held out" in str(x.get_label())]
    assert line.get_xdata().tolist() == [9, 19, 29, 39]
    assert line.get_ydata() == pytest.approx([3.0 - x / 100 for x in (9, 19, 29, 39)])


def test_a_shorter_run_has_no_end_to_compare(variant_copy):
    path = run_dir(variant_copy, "qwen-m", "sgpo_nll", 1) / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:9]))
    assert measures.equal_reward(load_study(variant_copy), "qwen-m", "sgpo", "sgpo_nll") is None
    assert "Steps to equal reward: not run." in training.FIG6.caption(load_study(variant_copy))


# Figure 5 -----------------------------------------------------------------------------------------


def test_fig5_bars_are_means_over_the_tokens_of_a_step(stored):
    drawn = fig5.figure(load_study(stored))
    assert drawn.axes[0].get_ylim() == drawn.axes[1].get_ylim()
    for axis, values in zip(drawn.axes, (KL, NLL), strict=False):
        heights = [patch.get_height() for patch in axis.patches]
        assert heights == pytest.approx([np.mean(values[a:b]) for a, b, _ in STEPS])
        colours = {CLASS_LOOKS[kind][0] for *_, kind in STEPS}
        assert len({patch.get_facecolor() for patch in axis.patches}) == len(colours)
    assert len(CLASSES) == len(KL)
    assert "decisions 20%" in texts(drawn)


def test_shares_are_pooled_over_the_problems_of_each_seed(stored):
    loaded = load_study(stored)
    files = [load(stored / f"analyses/steps-qwen-m-s{seed}.json") for seed in SEEDS]
    kl = [np.array([row["kl"] for row in file["result"]["problems"]]) for file in files]
    assert [len(rows) for rows in kl] == 3 * [NUM_PROBLEMS]
    decided = np.mean([rows[:, :2].sum() / rows.sum() for rows in kl])
    mass = measures.token_share(loaded, "kl", measures.DECISIONS)
    assert mass.mean == pytest.approx(100 * decided)
    assert mass.interval.low < mass.mean < mass.interval.high
    assert mass.num_seeds == 3
    tokens = measures.token_share(loaded, "tokens", measures.DECISIONS)
    assert tokens.mean == pytest.approx(100 * DECISION_TOKENS)


def test_without_a_problem_that_meets_the_rule_it_says_so(variant_copy):
    for seed in SEEDS:
        path = variant_copy / f"analyses/steps-qwen-m-s{seed}.json"
        stored = load(path)
        stored["result"] |= {"example": None, "problems": []}
        dump(path, stored)
    drawn = fig5.figure(load_study(variant_copy))
    assert texts(drawn).count("no problem met the rule") == 3


# Table 8 ------------------------------------------------------------------------------------------


def test_table8_has_shares_of_each_band_and_keeps_the_papers_apart(variant_copy):
    report.build(variant_copy, only=["table8"])
    with (variant_copy / "tables" / "table8.csv").open() as file:
        rows = {r["strategies"]: r for r in csv.DictReader(file)}
    kept = rows["Kept: best of 5"]
    assert [kept[n] for n in ("count", "high", "medium", "low")] == ["500", "450", "40", "10"]
    text = (variant_copy / "tables" / "table8.md").read_text()
    assert "| Kept: best of 5 | 500 | 90.0 | 8.0 | 2.0 | 0.95 |" in text
    assert "on 98.4% of the problems" in text and "39.4" not in text
    printed = (variant_copy / "tables" / "table8_paper.md").read_text()
    assert "| High [0.8, 1.0] | 197 | 39.4 |" in printed
    (variant_copy / "analyses" / "strategies.json").unlink()
    report.build(variant_copy, only=["table8"])
    text = (variant_copy / "tables" / "table8.md").read_text()
    assert "| Kept: best of 5 |" + " not run |" * 9 in text


# pass@k -------------------------------------------------------------------------------------------


def test_passk_curves_are_those_of_the_stored_letters(stored):
    loaded = load_study(stored)
    assert [b.key for b in measures.benchmarks_of(loaded)] == ["harder", "long"]
    assert measures.ks_of(loaded) == [1, 2, 4, 8]
    drawn = passk.figure(loaded)
    top = drawn.axes[1]  # Qwen-M, pass@k
    lines = {line.get_label(): line.get_ydata() for line in top.lines}
    for method, label in (("sgpo", "SGPO"), ("luffy", "LUFFY")):
        expected = []
        for k in (1, 2, 4, 8):
            means = []
            for seed, (key, _, _, n) in itertools.product(SEEDS, BENCHMARKS[1::2]):
                table = load(run_dir(stored, "qwen-m", method, seed) / "scores.json")
                verdicts = table["benchmarks"][key]["verdicts"]
                subsets = list(itertools.combinations(range(n), k))
                means.append(
                    np.mean([any(v[i] == "c" for i in s) for v in verdicts for s in subsets])
                )
            expected.append(100 * np.mean(means))
        assert lines[label] == pytest.approx(expected)
    votes = {line.get_label(): line.get_ydata() for line in drawn.axes[4].lines}
    assert votes["SGPO"][0] == pytest.approx(lines["SGPO"][0])
    assert (votes["SGPO"] <= lines["SGPO"] + 1e-9).all()
    (gaps,) = marks(drawn.axes[7])
    assert gaps[:, 1] == pytest.approx(lines["SGPO"] - lines["SFT+GRPO"])


def test_runs_without_stored_answers_have_pass_but_no_maj(variant_copy):
    path = run_dir(variant_copy, "qwen-m", "grpo", 0) / "scores.json"
    scores = load(path)
    for table in scores["benchmarks"].values():
        del table["answers"]
    dump(path, scores)
    drawn = passk.figure(load_study(variant_copy))
    notes = [[t.get_text() for t in drawn.axes[i].texts] for i in range(6)]
    assert notes == [[], [], [], [], ["SFT+GRPO: not stored"], []]
