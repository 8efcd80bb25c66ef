"""Tables and figures of the experiments past the paper, on a synthetic extended study."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
from synthetic_experiments import PASS_RATES
from synthetic_study import BENCHMARKS, load, rows_of, run_dir

from benchmarks.report import build as report
from benchmarks.report import estimates
from benchmarks.report.figures import delta_classes, equal_cost, maps
from benchmarks.report.tables import accuracy
from benchmarks.store import experiments
from benchmarks.store.load import load_study

FIGURES = ("delta", "map_size", "equal_cost", "degraded")
NAMES = ("kin", "mask", *FIGURES)
FIRST = tuple(range(experiments.SEEDS))


@pytest.fixture(scope="module")
def built(extended_study, tmp_path_factory):
    """The study with the artefacts of the experiments; never changed by a test."""
    root = shutil.copytree(extended_study, tmp_path_factory.mktemp("built") / "mini")
    return root, report.build(root, only=[*NAMES, "budget"])


@pytest.fixture
def extended_copy(extended_study, tmp_path):
    return shutil.copytree(extended_study, tmp_path / "mini")


def counted(root, model, method, seeds=None, budget=1.0) -> np.ndarray:
    """Seeds x benchmarks: share of correct samples, straight from the verdict letters."""
    rows, at = [], "" if budget == 1 else f"@{budget:g}"
    for cell in load(root / "study.json")["cells"]:
        if (cell["model"], cell["method"]) != (model, method):
            continue
        if seeds is not None and cell["seed"] not in seeds:
            continue
        scores = load(root / "runs" / cell["run_id"] / "scores.json")["benchmarks"]
        rows.append([_share(scores[key + at]["verdicts"]) for key, *_ in BENCHMARKS])
    return 100 * np.array(rows)


def _share(verdicts) -> float:
    letters = "".join(verdicts)
    return letters.count("c") / len(letters)


def test_nothing_is_missing_and_every_artefact_is_written(built):
    root, summary = built
    assert summary.missing == ()
    stems = {path.stem for path in summary.written}
    assert stems == {*NAMES, "budget"}
    with (root / "tables" / "budget.csv").open() as file:
        models = {row["model"] for row in csv.DictReader(file)}
    assert models >= {"qwen-m", *experiments.extra_models()}
    for name in FIGURES:
        assert (root / "figures" / f"{name}.png").stat().st_size > 20_000


def test_extra_models_and_methods_stay_out_of_the_main_comparison(built):
    root, _ = built
    loaded = load_study(root)
    assert accuracy.models(loaded) == ["qwen-s", "qwen-m", "llama-m"]
    assert not set(loaded.method_order) & set(experiments.methods())
    assert {m.key for m in loaded.models} == {"qwen-s", "qwen-m", "llama-m"}
    assert loaded.model("qwen-l").label == "mini-Qwen2-L"
    assert loaded.method_label("srft") == "SRFT"


@pytest.mark.parametrize("model", experiments.SIZE_MODELS)
@pytest.mark.parametrize("gap", experiments.GAPS)
def test_a_cell_of_a_map_is_the_paired_gain_over_the_better_baseline(built, model, gap):
    root, _ = built
    cell = maps.map_cell(load_study(root), model, gap)
    ours, *theirs = (
        counted(root, model, experiments.gap_method(m, gap), seeds=FIRST).mean()
        for m in ("sgpo", *experiments.MAP_BASELINES)
    )
    assert cell.gain.mean == pytest.approx(ours - max(theirs), abs=1e-6)
    assert cell.baseline == experiments.MAP_BASELINES[int(np.argmax(theirs))]
    assert cell.gain.num_seeds == experiments.SEEDS
    interval = cell.gain.interval
    assert interval.low < cell.gain.mean < interval.high


def test_a_map_carries_the_pass_rate_that_the_base_runs_measured(extended_copy):
    loaded = load_study(extended_copy)
    for model in experiments.SIZE_MODELS:
        assert maps.pass_rate(loaded, model) == pytest.approx(PASS_RATES[model])
    (run_dir(extended_copy, "qwen-l", "base", 3) / "regime.json").unlink()
    assert maps.pass_rate(loaded, "qwen-l") is None


def test_a_missing_run_empties_its_cell_of_the_map_and_no_other(extended_copy):
    gone = run_dir(extended_copy, "qwen-l", "luffy_gap0.3", 2)
    shutil.rmtree(gone)
    loaded = load_study(extended_copy)
    empty = {
        (model, gap)
        for model in experiments.SIZE_MODELS
        for gap in experiments.GAPS
        if maps.map_cell(loaded, model, gap) is None
    }
    assert empty == {("qwen-l", 0.3)}
    summary = report.build(extended_copy, only=["map_size", "kin"])
    assert [c.run_id for c in summary.missing] == [gone.name]
    assert summary.missing[0].artefacts == ("map_size",)
    assert summary.commands == ("bash reproduce.sh --profile mini --only map_size",)


def test_budgets_are_those_of_the_same_runs(built):
    root, _ = built
    loaded = load_study(root)
    assert equal_cost.spent(loaded).startswith("SFT+GRPO 84 thousand, 6.0 s; ")
    left, right = equal_cost.figure(loaded).axes
    means = {}
    for method, line in zip(experiments.BUDGET_METHODS, left.lines, strict=True):
        assert line.get_xdata().tolist() == [0.25, 0.5, 1, 2]
        means[method] = [
            counted(root, "qwen-m", method, budget=budget).mean() for budget in experiments.BUDGETS
        ]
        assert line.get_ydata() == pytest.approx(means[method])
    gaps = [container.lines[0].get_ydata() for container in right.containers]
    for method, gap in zip(("grpo", "hpt", "luffy"), gaps, strict=True):
        assert gap == pytest.approx(np.subtract(means["sgpo"], means[method]))
    costs = [equal_cost.at_cost(loaded, "sgpo", budget)[0] for budget in experiments.BUDGETS]
    assert costs == pytest.approx([7000 * steps for steps in (3, 6, 12, 24)])


def test_tokens_that_were_not_counted_are_not_claimed(extended_copy):
    path = run_dir(extended_copy, "qwen-m", "sgpo", 1) / "metrics.jsonl"
    path.write_text(path.read_text().replace("scored_tokens", "unknown"))
    text = equal_cost.spent(load_study(extended_copy))
    assert "LUFFY" in text and "SGPO" not in text


def test_the_gain_at_each_delta_is_over_sft_grpo(built):
    root, _ = built
    _, right = delta_classes.figure(load_study(root)).axes[:2]
    places = right.containers[0].lines[0].get_xydata()
    own = counted(root, "qwen-m", "grpo").mean()
    assert places[:, 0].tolist() == list(range(7))
    assert places[:, 1] == pytest.approx(
        [counted(root, "qwen-m", m).mean() - own for m in delta_classes.SWEEP]
    )


def kin(study):
    table = accuracy.KIN.artefact()
    return table.table(study, table.rows(study))


def test_kin_and_mask_tables_count_right_and_pair_the_difference(built):
    root, _ = built
    loaded = load_study(root)
    for table, model, method in (
        ("kin", "llama-m", "srft"), ("kin", "qwen-s", "opsd"), ("mask", "llama-m", "sgpo_nll"),
        ("mask", "qwen-m", "sgpo_nll_masked"),
    ):  # fmt: skip
        rows = rows_of(root, table)
        mine, theirs = counted(root, model, method), counted(root, model, "sgpo")
        theirs = theirs[: len(mine)]  # seeds in common
        average = rows[model, method, "average"]
        assert float(average["mean"]) == pytest.approx(mine.mean(), abs=1e-6)
        gap = rows[model, method, "difference_to_sgpo"]
        assert float(gap["mean"]) == pytest.approx(mine.mean() - theirs.mean(), abs=1e-6)
        assert int(gap["num_seeds"]) == len(mine)
        score = estimates.gain(loaded, model, method, "sgpo")
        assert float(gap["ci_low"]) == pytest.approx(score.interval.low, abs=1e-6)
    row = rows_of(root, "mask")["llama-m", "sgpo", "average"]  # SGPO has more than the others
    assert int(row["num_seeds"]) == experiments.SEEDS
    few = counted(root, "llama-m", "sgpo", seeds=FIRST).mean()
    assert float(row["mean"]) == pytest.approx(few, abs=1e-6)
    models = {model for model, *_ in rows_of(root, "mask")}
    assert models == {"qwen-m", "llama-m"}
    assert len(kin(loaded).rows) == 3 * len(accuracy.KIN.rows)


def test_a_missing_run_of_the_kin_is_not_run_in_its_row_only(extended_copy):
    shutil.rmtree(run_dir(extended_copy, "qwen-s", "opsd", 0))
    table = kin(load_study(extended_copy))
    marked = [row for row in table.rows if any(cell.text == "not run" for cell in row)]
    assert [(row[0].text, row[1].text[:9]) for row in marked] == [("mini-Qwen2-S", "On-policy")]


def test_a_plain_study_has_no_sections_for_experiments(plain_study):
    _, summary = plain_study
    assert not {path.stem for path in summary.written} & set(NAMES)
