"""Tables of SGPO's variants on a synthetic study, against counts of its verdict letters."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from synthetic_study import change, counted, rows_of, run_dir

from benchmarks.report import build as report
from benchmarks.report.figures import delta_classes
from benchmarks.store import stats
from benchmarks.store.load import load_study

SEEDS = (0, 1, 2)
TABLES = ("table2", "table3", "table6", "table7", "beyond")


def test_means_are_counted_and_the_difference_is_paired(variant_study):
    root, summary = variant_study
    assert summary.missing == ()
    for table, method in (
        ("table2", "sgpo_no_clip"),
        ("table2", "grpo"),
        ("table3", "sgpo_nll"),
        ("table6", "sgpo_reverse"),
        ("table7", "sgpo_group_alpha"),
        ("beyond", "sgpo_meanlogp"),
    ):
        rows = rows_of(root, table)
        mine, theirs = counted(root, "qwen-m", method), counted(root, "qwen-m", "sgpo")
        for key in mine:
            assert float(rows["qwen-m", method, key]["mean"]) == pytest.approx(
                mine[key].mean(), abs=1e-6
            )
        row = rows["qwen-m", method, "difference_to_sgpo"]
        gaps = {key: mine[key] - theirs[key] for key in mine}  # seed by seed, problem by problem
        expected = np.mean([gap.mean() for gap in gaps.values()])
        assert float(row["mean"]) == pytest.approx(expected, abs=1e-6)
        apart = stats.Clusters.apart([gap.shape[1] for gap in gaps.values()])
        interval = stats.Mean.over_problems(list(gaps.values()), apart).interval()
        bounds = float(row["ci_low"]), float(row["ci_high"])
        assert bounds == pytest.approx((interval.low, interval.high), abs=1e-5)
        ids = [run_dir(root, "qwen-m", m, s).name for m in (method, "sgpo") for s in SEEDS]
        assert row["run_ids"].split() == ids


def test_rows_are_the_papers_and_its_numbers_stay_apart(variant_study):
    root, _ = variant_study
    for name in ("table2", "table3", "table6", "table7"):
        ours = (root / "tables" / f"{name}.md").read_text().splitlines()
        paper = (root / "tables" / f"{name}_paper.md").read_text().splitlines()
        labels = [line.split(" | ")[0].strip("| ") for line in ours if line.startswith("| ")]
        printed = [line.split(" | ")[1].strip() for line in paper if line.startswith("| Qwen2.5")]
        assert [label for label in labels if label not in ("Variant", "---")] == printed
        assert not any("Instruct" in line for line in ours)
    for line in (
        "| Qwen2.5-7B-Instruct | w/o all proximal constraints | 76.9 | 47.3 | 42.4 | 14.4 | 45.3 |",
        "Table 2 of arXiv 2606.24064 (v1), as printed",
    ):
        assert line in (root / "tables" / "table2_paper.md").read_text()
    assert not (root / "tables" / "beyond_paper.md").exists()
    line = next(x for x in (root / "tables" / "table3.md").read_text().splitlines() if "| KL " in x)
    assert line.endswith("| reference |")


def test_variants_change_nothing_in_table_1(variant_study, plain_study):
    root, _ = variant_study
    without_them, _ = plain_study
    for name in ("tables/table1.md", "tables/table1.csv", "tables/table1.tex"):
        assert (without_them / name).read_bytes() == (root / name).read_bytes(), name


def test_a_study_without_variants_has_no_sections_for_them(plain_study):
    root, summary = plain_study
    written = {path.stem for path in summary.written}
    assert not written & {*TABLES, "delta", *(f"{t}_paper" for t in TABLES)}
    page = (root / "REPORT.md").read_text()
    assert "Table 2" not in page and "removing a component" not in page
    for name in ("table2", "delta"):
        with pytest.raises(report.ReportError, match=f"{name}: this study plans none of the runs"):
            report.build(root, only=[name])


def test_without_sgpo_its_variants_keep_their_scores_and_lose_the_difference(
    variant_study, variant_copy
):
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo", 0))
    report.build(variant_copy, only=["table6"])
    before, after = (rows_of(root, "table6") for root in (variant_study[0], variant_copy))
    own, gap = (("qwen-m", "sgpo_reverse", key) for key in ("average", "difference_to_sgpo"))
    assert after[own] == before[own]
    assert after[gap]["mean"] == after["qwen-m", "sgpo", "average"]["mean"] == "not run"


def test_a_diverged_variant_is_marked(variant_copy):
    path = run_dir(variant_copy, "qwen-m", "sgpo_reverse", 2)
    broken = {"status": "diverged", "diverged_reason": "NaN loss"}
    change(path / "result.json", lambda r: r.update(broken))
    report.build(variant_copy, only=["table6"])
    row = rows_of(variant_copy, "table6")["qwen-m", "sgpo_reverse", "difference_to_sgpo"]
    assert row["status"] == "diverged"
    (path / "scores.json").unlink()
    assert report.build(variant_copy, only=["table6"]).missing == ()
    text = (variant_copy / "tables" / "table6.md").read_text()
    assert "| Reverse KL |" + " diverged† |" * 6 in text


# Figure of delta --------------------------------------------------------------------------------


def test_the_delta_figure_has_every_delta_and_says_what_is_missing(variant_copy):
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo_delta1.2", 2))
    left, right = delta_classes.DELTA.draw(load_study(variant_copy)).axes
    ticks = ["0.5", "1", "1.2", "1.5", "2", "3", "∞"]
    assert [t.get_text() for t in left.get_xticklabels()] == ticks
    for axis in (left, right):
        assert "SGPO, delta=1.2: not run" in [t.get_text() for t in axis.texts]
        assert axis.containers[0].lines[0].get_xdata().tolist() == [0, 1, 3, 4, 5, 6]
    shares = left.containers[0].lines[0].get_ydata()  # of all tokens: no run has a ledger
    assert shares[0] == pytest.approx(100 * np.mean([0.9 * (1 - s / 80) for s in range(40)]))
    assert shares[-1] == 0
