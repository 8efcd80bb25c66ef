"""Tables of SGPO's variants on a synthetic study, against counts of its verdict letters."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import BENCHMARKS, dump, load, run_dir

from benchmarks.report import build as report
from benchmarks.report.figures import delta_classes
from benchmarks.store.load import load_study

SEEDS = (0, 1, 2)
TABLES = ("table2", "table3", "table6", "table7", "beyond")
DELTA_METHODS = ("sgpo_delta0.1", "sgpo_delta0.3", "sgpo", "sgpo_delta3", "sgpo_no_clip")


def rows_of(root: Path, table: str) -> dict[tuple[str, str], dict[str, str]]:
    with (root / "tables" / f"{table}.csv").open() as file:
        return {(r["method"], r["benchmark"]): r for r in csv.DictReader(file)}


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


def test_means_are_counted_and_the_difference_is_paired(variant_study):
    root, summary = variant_study
    assert summary.missing == ()
    resamples = load_study(root).resamples
    seed_weights = resamples.seed_weights(3)
    for table, method in (
        ("table2", "sgpo_no_clip"),
        ("table2", "grpo"),
        ("table3", "sgpo_nll"),
        ("table6", "sgpo_reverse"),
        ("table7", "sgpo_group_alpha"),
        ("beyond", "sgpo_meanlogp"),
    ):
        rows, mine, theirs = rows_of(root, table), counted(root, method), counted(root, "sgpo")
        for key in mine:
            assert float(rows[method, key]["mean"]) == pytest.approx(mine[key].mean(), abs=1e-6)
        row = rows[method, "difference_to_sgpo"]
        gaps = {key: mine[key] - theirs[key] for key in mine}  # seed by seed, problem by problem
        expected = np.mean([gap.mean() for gap in gaps.values()])
        assert float(row["mean"]) == pytest.approx(expected, abs=1e-6)
        draws = [
            np.einsum("ds,sn,dn->d", seed_weights, gap, resamples.problem_weights[key])
            for key, gap in gaps.items()
        ]
        low, high = np.quantile(np.mean(draws, axis=0), [0.025, 0.975])
        assert float(row["ci_low"]) == pytest.approx(low, abs=1e-6)
        assert float(row["ci_high"]) == pytest.approx(high, abs=1e-6)
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


def test_a_missing_run_is_not_run_exactly_where_it_belongs(variant_study, variant_copy):
    root, _ = variant_study
    gone = run_dir(variant_copy, "qwen-m", "sgpo_fixed_alpha", 1)
    shutil.rmtree(gone)
    summary = report.build(variant_copy, figures=False)
    assert [c.run_id for c in summary.missing] == [gone.name]
    assert summary.missing[0].artefacts == ("claims", "table2", "table7", "fig3", "budget")
    assert "bash reproduce.sh --profile mini --only table7" in summary.commands
    for table in ("table1", *TABLES):
        if table == "table1":
            before, after = (
                (r / "tables" / "table1.csv").read_bytes() for r in (root, variant_copy)
            )
            assert before == after
            continue
        before, after = rows_of(root, table), rows_of(variant_copy, table)
        changed = {key for key in before if before[key] != after[key]}
        affected = table in ("table2", "table7")
        assert {method for method, _ in changed} == ({"sgpo_fixed_alpha"} if affected else set())
        assert len(changed) == (len(BENCHMARKS) + 2) * affected
        for key in changed:
            cells = {after[key][c] for c in ("mean", "ci_low", "ci_high", "status", "run_ids")}
            assert cells == {"not run"}


def test_without_sgpo_its_variants_keep_their_scores_and_lose_the_difference(
    variant_study, variant_copy
):
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo", 0))
    report.build(variant_copy, only=["table6"])
    before, after = rows_of(variant_study[0], "table6"), rows_of(variant_copy, "table6")
    assert after["sgpo_reverse", "average"] == before["sgpo_reverse", "average"]
    assert after["sgpo_reverse", "difference_to_sgpo"]["mean"] == "not run"
    assert after["sgpo", "average"]["mean"] == "not run"


def test_a_diverged_variant_is_marked(variant_copy):
    path = run_dir(variant_copy, "qwen-m", "sgpo_reverse", 2)
    broken = {"status": "diverged", "diverged_reason": "NaN loss"}
    dump(path / "result.json", load(path / "result.json") | broken)
    report.build(variant_copy, only=["table6"])
    assert (
        rows_of(variant_copy, "table6")["sgpo_reverse", "difference_to_sgpo"]["status"]
        == "diverged"
    )
    (path / "scores.json").unlink()
    summary = report.build(variant_copy, only=["table6"])
    assert summary.missing == ()
    text = (variant_copy / "tables" / "table6.md").read_text()
    assert "| Reverse KL |" + " diverged† |" * 6 in text


# Figure of delta --------------------------------------------------------------------------------


def test_the_delta_figure_has_every_delta_and_says_what_is_missing(variant_copy):
    means = [average(variant_copy, m) for m in DELTA_METHODS if m != "sgpo"]
    shutil.rmtree(run_dir(variant_copy, "qwen-m", "sgpo_delta0.3", 2))
    above, below = delta_classes.DELTA.draw(load_study(variant_copy)).axes
    assert [t.get_text() for t in below.get_xticklabels()] == ["0.1", "0.3", "1", "3", "∞"]
    places = above.containers[0].lines[0].get_xydata()
    own = average(variant_copy, "sgpo")
    assert places[:, 0].tolist() == [0, 3, 4]
    assert places[:, 1] == pytest.approx([means[i] - own for i in (0, 2, 3)])
    assert "SGPO, delta=0.3: not run" in [t.get_text() for t in above.texts]
    bars = {round(p.get_x() + p.get_width() / 2): p.get_height() for p in below.patches}
    assert bars[0] == pytest.approx(np.mean([0.9 * (1 - s / 80) for s in range(40)]))
    assert 1 not in bars and bars[4] == 0
