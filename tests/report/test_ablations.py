"""SGPO's variants: their configs, their tables, figure and claims, and where they must not be."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from synthetic_study import BENCHMARKS, VARIANTS, dump, load, run_dir, write_study

from benchmarks.profiles import variants
from benchmarks.profiles.planned import planned_study, user_method
from benchmarks.report import build as report
from benchmarks.report import claims
from benchmarks.report.figures import delta
from benchmarks.report.tables import accuracy
from benchmarks.run.launch import selected, wants_variants
from benchmarks.run.study import write_plan
from benchmarks.store.experiments import BUDGET_METHODS, BUDGETS, budget_method
from benchmarks.store.load import load_study
from benchmarks.store.records import SGPO_VARIANTS

SEEDS = (0, 1, 2)
TABLES = ("table2", "table3", "table6", "table7", "beyond")
POSITIONS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the deltas on the axis; the last is infinity
DELTA_METHODS = ("sgpo_delta0.1", "sgpo_delta0.3", "sgpo", "sgpo_delta3", "sgpo_no_clip")
CHANGES = {  # the paper's ablations and ours, as fields of the run's config
    "sgpo_no_grpo": {"settings.autonomous_term": False},
    "sgpo_no_proximal": {"settings.select_target": False, "settings.kl_threshold": math.inf},
    "sgpo_no_clip": {"settings.kl_threshold": math.inf},
    "sgpo_no_selection": {"settings.select_target": False},
    "sgpo_fixed_alpha": {"settings.alpha_mode": "fixed"},
    "sgpo_group_alpha": {"settings.alpha_mode": "group_advantage"},
    "sgpo_nll": {"settings.distillation": "nll"},
    "sgpo_reverse": {"settings.direction": "reverse"},
    "sgpo_delta0.1": {"settings.kl_threshold": 0.1},
    "sgpo_delta0.3": {"settings.kl_threshold": 0.3},
    "sgpo_delta3": {"settings.kl_threshold": 3.0},
    "sgpo_meanlogp": {"settings.length_normalized_selection": True},
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """A complete study with variants, never written to by a test."""
    return write_study(tmp_path_factory.mktemp("stored") / "mini", variants=True)


@pytest.fixture(scope="module")
def built(stored, tmp_path_factory) -> tuple[Path, report.ReportSummary]:
    root = tmp_path_factory.mktemp("built") / "mini"
    shutil.copytree(stored, root)
    return root, report.build(root)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[Path, report.ReportSummary]:
    """The same study without variants, built."""
    root = write_study(tmp_path_factory.mktemp("plain") / "mini")
    return root, report.build(root)


@pytest.fixture
def study(stored, tmp_path) -> Path:
    """A copy of the complete study that a test may damage."""
    shutil.copytree(stored, tmp_path / "mini")
    return tmp_path / "mini"


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


def flat(config, prefix: str = "") -> dict[str, object]:
    """A dataclass as dotted field -> value."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= flat(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = value
    return found


def options(**given) -> argparse.Namespace:
    plain = {"all": False, "only": None, "methods": None, "models": None}
    return argparse.Namespace(**(plain | given))


def methods_of(cells) -> set[str]:
    return {cell.config.method for cell in cells}


# Grid ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["mini", "quick"])
def test_a_variant_differs_from_sgpo_in_exactly_the_named_fields(profile):
    grid = planned_study(profile, 2, variants=True)
    model = {"mini": "qwen-m", "quick": "qwen-s"}[profile]
    cells = {(c.config.model, c.config.method, c.config.seed): c for c in grid.cells()}
    for seed in (0, 1):
        sgpo = cells[model, "sgpo", seed]
        plain = flat(sgpo.config)
        for key, changes in CHANGES.items():
            cell = cells[model, key, seed]
            mine = flat(cell.config)
            assert mine.keys() == plain.keys()
            found = {name: mine[name] for name in mine if mine[name] != plain[name]}
            assert found == {"method": key, **changes}
            assert cell.parent.run_id == sgpo.parent.run_id
    assert len({c.run_id for c in cells.values()}) == len(cells)


def test_variants_are_planned_on_one_model_and_only_when_asked_for():
    grid = planned_study("mini", 3, variants=True)
    placed = {(c.config.model, c.config.method) for c in grid.cells()}
    main = [model.key for model in grid.models]
    assert {method for model, method in placed if model == "qwen-m"} >= set(CHANGES)
    repeated = {(m, k) for m, k in placed if k in CHANGES and m in main and m != "qwen-m"}
    assert repeated == {("llama-m", k) for k in ("sgpo_nll", "sgpo_no_clip", "sgpo_delta3")}
    plain = planned_study("mini", 3).cells()
    assert not methods_of(plain) & set(CHANGES)
    added = {e.key for e in grid.methods if e.extra} | set(CHANGES)
    kept = [c for c in grid.cells() if c.config.method not in added and c.config.model in main]
    assert [c.run_id for c in kept] == [c.run_id for c in plain]


def test_the_report_and_the_profile_name_the_same_variants():
    assert tuple(key for key, *_ in variants.VARIANTS) == SGPO_VARIANTS
    assert set(SGPO_VARIANTS) == set(CHANGES) == set(VARIANTS)
    shown = {m for table in accuracy.VARIANT_TABLES for m, _ in table.rows}
    assert shown == {"sgpo", "grpo", *SGPO_VARIANTS}


def test_an_override_reaches_the_variants_but_not_what_they_stand_for():
    grid = planned_study(
        "mini", 1, overrides=["settings.kl_threshold=2", "train.num_steps=5"], variants=True
    )
    threshold = {
        c.config.method: c.config.settings.kl_threshold
        for c in grid.cells()
        if c.config.method.startswith("sgpo") and c.config.model == "qwen-m"
    }
    assert threshold["sgpo"] == threshold["sgpo_nll"] == 2.0
    assert (threshold["sgpo_delta3"], threshold["sgpo_no_clip"]) == (3.0, math.inf)
    budgets = {budget_method(m, n) for m in BUDGET_METHODS for n in BUDGETS}
    trained = [c.config for c in grid.cells() if c.config.train]
    assert {c.train.num_steps for c in trained if c.method not in budgets} == {5}


def test_a_methods_file_cannot_take_the_name_of_a_variant(tmp_path):
    path = tmp_path / "sgpo_nll.py"
    path.write_text("")
    with pytest.raises(ValueError, match="'sgpo_nll' is a method of this profile already"):
        user_method(planned_study("mini", 1), path)


def test_once_planned_variants_stay_in_the_plan_but_run_only_when_asked_for(tmp_path):
    assert not wants_variants(options(), tmp_path)
    assert wants_variants(options(all=True), tmp_path)
    assert wants_variants(options(only=["table7"]), tmp_path)
    assert wants_variants(options(only=["delta"]), tmp_path)
    assert wants_variants(options(methods=["sgpo_nll"]), tmp_path)
    assert not wants_variants(options(only=["table1"], methods=["sgpo"]), tmp_path)
    write_plan(planned_study("mini", 1), tmp_path)
    assert not wants_variants(options(), tmp_path)
    write_plan(planned_study("mini", 1, variants=True), tmp_path)
    assert wants_variants(options(), tmp_path)

    grid = planned_study("mini", 1, variants=True)
    assert not methods_of(selected(grid, tmp_path, options())) & set(CHANGES)
    assert methods_of(selected(grid, tmp_path, options(all=True))) >= set(CHANGES)
    chosen = selected(grid, tmp_path, options(only=["table7"]))
    assert methods_of(chosen) == {"sft", "sgpo", "sgpo_fixed_alpha", "sgpo_group_alpha"}
    assert {c.config.model for c in chosen} == {"qwen-m"}
    chosen = selected(grid, tmp_path, options(methods=["sgpo_nll"]))
    assert methods_of(chosen) == {"sft", "sgpo_nll"}


# Tables -------------------------------------------------------------------------------------------


def test_means_are_counted_and_the_difference_is_paired(built):
    root, summary = built
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


def test_rows_are_the_papers_and_its_numbers_stay_apart(built):
    root, _ = built
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


def test_variants_change_nothing_in_table_1_the_curves_and_the_headline(built, plain):
    root, _ = built
    without_them, _ = plain
    for name in ("tables/table1.md", "tables/table1.csv", "figures/curves.png", "figures/fig4.png"):
        assert (without_them / name).read_bytes() == (root / name).read_bytes(), name

    def strip(claim):
        return dataclasses.replace(claim, effect=claim.effect.mean)

    with_them = [strip(c) for c in claims.evaluate(load_study(root))]
    without = [strip(c) for c in claims.evaluate(load_study(without_them))]
    added = [c for c in with_them if c not in without]
    assert [c for c in with_them if c in without] == without
    assert {c.key for c in added} == {
        "ablation_hurts", "proximal_hurts_most", "kl_beats_sft", "forward_beats_reverse",
        "delta_three", "faster_adaptive", "faster_kl",
    }  # fmt: skip


def test_a_study_without_variants_has_no_sections_for_them(plain):
    root, summary = plain
    written = {path.stem for path in summary.written}
    assert not written & {*TABLES, "delta", *(f"{t}_paper" for t in TABLES)}
    page = (root / "REPORT.md").read_text()
    assert "Table 2" not in page and "removing a component" not in page
    for name in ("table2", "delta"):
        with pytest.raises(report.ReportError, match=f"{name}: this study plans none of the runs"):
            report.build(root, only=[name])


def test_a_missing_run_is_not_run_exactly_where_it_belongs(built, study):
    root, _ = built
    gone = run_dir(study, "qwen-m", "sgpo_fixed_alpha", 1)
    shutil.rmtree(gone)
    summary = report.build(study)
    assert [c.run_id for c in summary.missing] == [gone.name]
    assert summary.missing[0].artefacts == ("claims", "table2", "table7", "fig3", "budget")
    assert "bash reproduce.sh --profile mini --only table7" in summary.commands
    for table in ("table1", *TABLES):
        if table == "table1":
            before, after = ((r / "tables" / "table1.csv").read_bytes() for r in (root, study))
            assert before == after
            continue
        before, after = rows_of(root, table), rows_of(study, table)
        changed = {key for key in before if before[key] != after[key]}
        affected = table in ("table2", "table7")
        assert {method for method, _ in changed} == ({"sgpo_fixed_alpha"} if affected else set())
        assert len(changed) == (len(BENCHMARKS) + 2) * affected
        for key in changed:
            cells = {after[key][c] for c in ("mean", "ci_low", "ci_high", "status", "run_ids")}
            assert cells == {"not run"}
    by_subject = {(c.key, c.subject): c.verdict for c in claims.evaluate(load_study(study))}
    assert {key for key, verdict in by_subject.items() if verdict == "not run"} == {
        ("ablation_hurts", "w/o adaptive weighting, Qwen-M"),
        ("proximal_hurts_most", "Qwen-M"),
        ("faster_adaptive", "Qwen-M"),
    }


def test_without_sgpo_its_variants_keep_their_scores_and_lose_the_difference(built, study):
    shutil.rmtree(run_dir(study, "qwen-m", "sgpo", 0))
    report.build(study, only=["table6"])
    before, after = rows_of(built[0], "table6"), rows_of(study, "table6")
    assert after["sgpo_reverse", "average"] == before["sgpo_reverse", "average"]
    assert after["sgpo_reverse", "difference_to_sgpo"]["mean"] == "not run"
    assert after["sgpo", "average"]["mean"] == "not run"


def test_a_diverged_variant_is_marked(study):
    path = run_dir(study, "qwen-m", "sgpo_reverse", 2)
    broken = {"status": "diverged", "diverged_reason": "NaN loss"}
    dump(path / "result.json", load(path / "result.json") | broken)
    report.build(study, only=["table6"])
    assert rows_of(study, "table6")["sgpo_reverse", "difference_to_sgpo"]["status"] == "diverged"
    (path / "scores.json").unlink()
    summary = report.build(study, only=["table6"])
    assert summary.missing == ()
    text = (study / "tables" / "table6.md").read_text()
    assert "| Reverse KL |" + " diverged† |" * 6 in text


# Claims -------------------------------------------------------------------------------------------


OF_TABLES = ("ablation_hurts", "proximal_hurts_most", "kl_beats_sft", "forward_beats_reverse")


def test_effects_are_counted_losses_and_the_papers_stand_beside(built):
    root, _ = built
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
    others = [average(root, m) for m in CHANGES if m in dict(accuracy.TABLE2.rows)
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


# Figure -------------------------------------------------------------------------------------------


def test_the_delta_figure_has_every_delta_and_says_what_is_missing(study):
    figures = [delta.figure(load_study(study))]
    means = {x: average(study, m) for x, m in zip(POSITIONS, DELTA_METHODS, strict=True)}
    shutil.rmtree(run_dir(study, "qwen-m", "sgpo_delta0.3", 2))
    figures.append(delta.figure(load_study(study)))
    for figure, missing in zip(figures, ([], ["0.3"]), strict=True):
        left, right = figure.axes
        assert [t.get_text() for t in left.get_xticklabels()] == ["0.1", "0.3", "1", "3", "∞"]
        points = {
            float(box.lines[0].get_xdata()[0]): float(box.lines[0].get_ydata()[0])
            for box in left.containers
        }
        assert points == {
            x: pytest.approx(mean) for x, mean in means.items() if str(x) not in missing
        }
        legend = [t.get_text() for t in right.get_legend().get_texts()]
        labels = [f"δ = {d}" + (" (not run)" if d in missing else "")
                  for d in ("0.1", "0.3", "1", "3", "∞")]  # fmt: skip
        assert legend == labels
        notes = [t.get_text() for t in left.texts]
        assert notes == ([f"not run: δ = {missing[0]}"] if missing else [])
    drawn = {line.get_label(): line.get_ydata() for line in figures[0].axes[1].lines}
    assert drawn["δ = 0.1"][0] == pytest.approx(np.mean([0.9, 0.9 * 79 / 80, 0.9 * 78 / 80]))
    assert not drawn["δ = ∞"].any()
