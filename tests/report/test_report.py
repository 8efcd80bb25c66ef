"""Tables and builds of synthetic studies: numbers, missing runs, errors, files."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_study import (
    BENCHMARKS,
    METHODS,
    MODELS,
    STEPS,
    average,
    change,
    counted,
    dump,
    load,
    rows_of,
    run_dir,
    write_problems,
)

from benchmarks.report import build as report
from benchmarks.report import estimates, pages
from benchmarks.report.figures.axes import new_figure, points, save
from benchmarks.report.tables import records
from benchmarks.store import stats
from benchmarks.store.load import load_study, stored_hash
from benchmarks.store.records import StudyError
from benchmarks.store.runs import stored_runs

# Tables -------------------------------------------------------------------------------------------


def test_table1_means_are_the_counted_shares_of_correct_samples(plain_study):
    root, summary = plain_study
    rows = rows_of(root, "table1")
    assert len(rows) == len(MODELS) * len(METHODS) * (len(BENCHMARKS) + 1)
    assert summary.missing == () and summary.commands == ()
    for model, method in (("qwen-s", "sgpo"), ("llama-m", "hpt"), ("qwen-m", "base")):
        seeds = [None] if method == "base" else [0, 1, 2]
        ids = " ".join(run_dir(root, model, method, seed).name for seed in seeds)
        for key, table in counted(root, model, method, seeds).items():
            cell = rows[model, method, key]
            assert float(cell["mean"]) == pytest.approx(table.mean(), abs=1e-6)
            assert float(cell["ci_low"]) < table.mean() < float(cell["ci_high"])
            assert (cell["run_ids"], cell["num_seeds"]) == (ids, str(len(seeds)))
        mean = float(rows[model, method, "average"]["mean"])
        assert mean == pytest.approx(average(root, model, method, seeds), abs=1e-6)


VARIANTS = {
    "table2": "sgpo_no_clip",
    "table3": "sgpo_nll",
    "table6": "sgpo_reverse",
    "table7": "sgpo_group_alpha",
    "beyond": "sgpo_meanlogp",
    "kin": "srft",
    "teacher": "sgpo_initial",
    "mask": "sgpo_nll_masked",
    "distil": "distil_own",
}


@pytest.mark.parametrize(("table", "method"), VARIANTS.items())
def test_variants_are_counted_and_their_difference_is_paired(variant_study, table, method):
    root, summary = variant_study
    rows = rows_of(root, table)
    mine, theirs = counted(root, "qwen-m", method), counted(root, "qwen-m", "sgpo")
    for key in mine:
        mean = float(rows["qwen-m", method, key]["mean"])
        assert mean == pytest.approx(mine[key].mean(), abs=1e-6)
    row = rows["qwen-m", method, "difference_to_sgpo"]
    gaps = [mine[key] - theirs[key] for key in mine]  # seed by seed, problem by problem
    apart = stats.Clusters.apart([gap.shape[1] for gap in gaps])
    interval = stats.Mean.over_problems(gaps, apart).interval()
    found = [float(row[name]) for name in ("mean", "ci_low", "ci_high")]
    assert found == pytest.approx([interval.mean, interval.low, interval.high], abs=1e-5)
    ids = [run_dir(root, "qwen-m", m, s).name for m in (method, "sgpo") for s in (0, 1, 2)]
    assert row["run_ids"].split() == ids and summary.missing == ()


def test_the_papers_rows_and_numbers_stay_in_tables_of_their_own(variant_study, plain_study):
    tables = variant_study[0] / "tables"
    for name in ("table2", "table3", "table6", "table7"):
        ours = (tables / f"{name}.md").read_text().splitlines()
        paper = (tables / f"{name}_paper.md").read_text().splitlines()
        labels = [line.split(" | ")[0].strip("| ") for line in ours if line.startswith("| ")]
        printed = [line.split(" | ")[1].strip() for line in paper if line.startswith("| Qwen2.5")]
        assert labels[2:] == printed and not any("Instruct" in line for line in ours)
    paper = (tables / "table1_paper.md").read_text()
    assert "| Qwen2.5-7B-Instruct | SGPO | 82.7 | 55.9 | 50.0 | 19.7 | 52.1 |" in paper
    text = (tables / "table1.md").read_text()
    over = "over 3 seeds of one world and the problems, those of one type together"
    for part in ("n=60, avg@4", "n=15, avg@8", "temperature 0.6, top p 0.95, max tokens 96", over):
        assert part in text
    tex = (tables / "table1.tex").read_text()
    body = tex.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(MODELS) * len(METHODS)
    assert all(line.count("&") == 6 and line.endswith(r"\\") for line in body)
    caption = next(line for line in tex.splitlines() if line.startswith(r"\caption"))
    assert not re.search(r"(?<!\\)[%#_&]", caption) and tex.count("{") == tex.count("}")
    for name in ("table1.md", "table1.csv", "table1.tex"):  # variants change nothing in it
        assert (plain_study[0] / "tables" / name).read_bytes() == (tables / name).read_bytes()


def test_bold_is_above_every_other_rl_method_and_nothing_is_bold_among_ties(study):
    def all_right(scores: dict) -> None:
        for table in scores["benchmarks"].values():
            table["verdicts"] = ["c" * len(word) for word in table["verdicts"]]

    for seed in (0, 1, 2):  # SGPO alone solves all on Qwen-S, and SFT+GRPO does, too, on Qwen-M
        for model, methods in (("qwen-s", ["sgpo"]), ("qwen-m", ["sgpo", "grpo"])):
            for method in methods:
                change(run_dir(study, model, method, seed) / "scores.json", all_right)
    report.build(study, only=["table1"])
    lines = (study / "tables" / "table1.md").read_text().splitlines()
    bold = {tuple(x.split(" | ")[:2]) for x in lines if "**" in x.rpartition(" | ")[2]}
    assert ("| Qwen-S", "SGPO") in bold and not any(model == "| Qwen-M" for model, _ in bold)


def test_problems_of_one_type_are_taken_together(study):
    """As problems.parquet says, without which a miniature has no intervals; the problems of a set
    of the user's own are each by itself, as those of a real model."""
    names = {key: [f"{key}-{i}" for i in range(n)] for key, _, n, _ in BENCHMARKS[:3]}
    write_problems(study, names | {"trained": [f"t{i % 5}" for i in range(60)]})
    change(study / "study.json", lambda s: s["benchmarks"][3].update(file="/mine/long.jsonl"))
    loaded = load_study(study)
    found = estimates.accuracy(loaded, "qwen-m", "grpo", "trained").of.clusters
    assert (found.number, found.sizes) == (5, (60,))
    whole = loaded.clusters(tuple(b.key for b in loaded.benchmarks))
    assert whole.number == 5 + sum(n for _, _, n, _ in BENCHMARKS[1:])
    write_problems(study, names | {"harder": names["harder"][:-1]})
    with pytest.raises(StudyError, match="problems.parquet lacks the types of .*; run sgpo study"):
        load_study(study).clusters(("harder",))


def test_worlds_have_problems_of_their_own(study):
    def own(scores: dict) -> None:
        for table in scores["benchmarks"].values():
            table["problem_set_sha256"] += scores["run_id"].split("-s")[-1][0]

    for path in study.glob("runs/*-s[12]-*/scores.json"):
        change(path, own)
    change(study / "study.json",  # an untrained model belongs to its world, too
           lambda s: s.update(cells=[c for c in s["cells"] if c["method"] != "base"]))  # fmt: skip
    loaded = load_study(study)
    found = estimates.gain(loaded, "qwen-m", "sgpo", "grpo")
    ours, theirs = (counted(study, "qwen-m", m) for m in ("sgpo", "grpo"))
    gaps = [(ours[key] - theirs[key]).mean(axis=1) for key in ours]
    expected = stats.Mean.over_units(np.mean(gaps, axis=0))
    assert (found.of.variance, found.of.freedom) == pytest.approx((expected.variance, 2))
    assert estimates.units_text(loaded, 3) == "3 worlds"


def test_methods_with_different_seeds_are_compared_on_the_common_ones(study):
    gone = run_dir(study, "qwen-s", "luffy", 2).name
    ours, theirs = (counted(study, "qwen-s", m, (0, 1))["harder"] for m in ("sgpo", "luffy"))
    change(study / "study.json",
           lambda s: s.update(cells=[c for c in s["cells"] if c["run_id"] != gone]))  # fmt: skip
    found = estimates.gain(load_study(study), "qwen-s", "sgpo", "luffy", "harder")
    assert found.mean == pytest.approx((ours - theirs).mean()) and found.num_seeds == 2


def test_pass_at_k_and_the_majority_are_those_of_the_stored_letters(variant_copy):
    change(run_dir(variant_copy, "qwen-m", "grpo", 0) / "scores.json",
           lambda s: [table.pop("answers") for table in s["benchmarks"].values()])  # fmt: skip
    report.build(variant_copy, only=["passk"])
    rows, passed, won = rows_of(variant_copy, "passk"), [], []
    scores = [load(run_dir(variant_copy, "qwen-m", "sgpo", s) / "scores.json") for s in (0, 1, 2)]
    for key in ("harder", "long"):  # the sets with 8 samples a problem
        words = [word for s in scores for word in s["benchmarks"][key]["verdicts"]]
        counts = [(word.count("c"), word.count("w")) for word in words]
        passed.append(np.mean([right > 0 for right, _ in counts]))
        # All wrong answers are one, and those without an answer cast no vote.
        won.append(np.mean([right and (np.sign(right - wrong) + 1) / 2 for right, wrong in counts]))
    for kind, shares in (("pass@k", passed), ("maj@k", won)):
        mean = float(rows["qwen-m", "sgpo", kind]["mean"])
        assert mean == pytest.approx(100 * np.mean(shares), abs=1e-5)
    assert rows["qwen-m", "grpo", "maj@k"]["mean"] == "not run"
    assert rows["qwen-m", "grpo", "pass@k"]["status"] == "finished"


def test_budget_and_tuning_show_what_is_stored(study):
    for seed, tokens in enumerate((100, 200, 600)):
        path = run_dir(study, "qwen-s", "sgpo", seed) / "result.json"
        change(path, lambda r, tokens=tokens: r.update(sampled_tokens=tokens))
    other = (study / "tuning.csv").read_text().replace("0.51", "0.97").replace("qwen-s", "llama-m")
    (study / "tuning-llama-m.csv").write_text(other)
    loaded = load_study(study)
    spent = {(r.model, r.method): r for r in records.budget_rows(loaded).itertuples()}
    assert spent["qwen-s", "sgpo"].sampled_tokens == 300.0
    assert spent["qwen-s", "grpo"].num_samples == STEPS * 192
    tuned = records.TUNING.table(loaded, records.TUNING.rows(loaded)).rows
    assert [[cell.text for cell in line[2:]] for line in tuned] == [
        ["51.0 (51.0)", "41.0 (41.0)"],
        ["97.0 (97.0)", "41.0 (41.0)"],
    ]
    assert [[cell.bold for cell in line[2:]] for line in tuned] == [[True, False]] * 2


# Missing, failed and diverged runs ----------------------------------------------------------------


def written(root: Path) -> dict[str, str]:
    """Each table's numbers, and what the page says of each figure."""
    tables = {path.stem: path.read_text() for path in (root / "tables").glob("*.csv")}
    found = re.findall(r"\(figures/(\w+).png\)\n\n(.*)", (root / "REPORT.md").read_text())
    return tables | dict(found)


def test_the_selection_bias_leaves_each_world_out_of_its_choice(tmp_path):
    dev = {  # rate -> accuracy in each world; without the third world the higher rate is chosen
        ("a", 0.1): (0.2, 0.3, 0.2),
        ("a", 0.2): (0.4, 0.5, 0.0),
        ("b", 0.1): (0.5, 0.5, 0.5),
        ("b", 0.2): (0.1, 0.1, 0.1),
    }
    rows = [
        f"{method},{rate},{world},{accuracy},m-{method}-s{world}"
        for (method, rate), found in dev.items()
        for world, accuracy in enumerate(found)
    ]
    header = "method,learning_rate,seed,dev_accuracy,run_id"
    (tmp_path / "tuning.csv").write_text("\n".join([header, *rows]) + "\n")
    study = SimpleNamespace(root=tmp_path, method_label=str.upper, models=(), extra_models=())
    # a: 0.2 is chosen, mean 30. Without world 0 the means are 25 and 25 (the lower stands, 20 in
    # it), without 1 they are 20 and 20 (30 in it), without 2 25 and 45 (0 in it): 30 - 50 / 3.
    said = records._selection_bias(study)
    assert "does 6.7 points worse" in said
    assert "(most: 13.3, A on m)" in said


def test_deleting_things_changes_what_needs_them_and_nothing_else(variant_study, variant_copy):
    base, analysis = run_dir(variant_copy, "llama-m", "base", None), "steps-qwen-m-s2"
    luffy = run_dir(variant_copy, "qwen-m", "luffy", 1)
    for run in (base, luffy):
        shutil.rmtree(run)
    (variant_copy / "analyses" / f"{analysis}.json").unlink()
    summary = report.build(variant_copy, figures=False)
    assert {m.run_id: (m.reason, m.artefacts) for m in summary.missing} == {
        base.name: ("not run", ("claims", "table1", "passk")),
        luffy.name: (
            "not run",
            ("claims", "table1", "equal_cost", "passk", "kin", "teacher", "budget"),
        ),
        analysis: ("not run", ("claims", "fig5")),
    }
    before, after = written(variant_study[0]), written(variant_copy)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {
        "claims", "table1", "passk", "equal_cost", "kin", "teacher", "budget", "fig5",
    }  # fmt: skip
    for name in changed - {"equal_cost"}:  # which draws it
        assert after[name].count("not run") > before[name].count("not run"), name
    ours, lost = (rows_of(root, "table1") for root in (variant_study[0], variant_copy))
    keys = [*(key for key, *_ in BENCHMARKS), "average"]
    assert {key for key in ours if ours[key] != lost[key]} == {
        (*place, key) for place in (("qwen-m", "luffy"), ("llama-m", "base")) for key in keys
    }
    page = (variant_copy / "REPORT.md").read_text()
    assert luffy.name in page and "--profile mini --seeds 3 --only table1\n" in page
    assert "not run: " in summary.text() and summary.command in summary.text()


def test_runs_that_failed_diverged_or_were_not_evaluated_are_named(study):
    path = run_dir(study, "llama-m", "hpt", 0)
    shutil.rmtree(path)
    dump(path / "failed.json", {"error": "disk full\nTraceback ..."})
    (run_dir(study, "qwen-m", "sgpo", 2) / "scores.json").unlink()
    path = run_dir(study, "qwen-s", "hpt", 1)
    broken = {"status": "diverged", "diverged_reason": "NaN loss at step 7"}
    change(path / "result.json", lambda r: r.update(broken))
    summary = report.build(study, only=["table1", "fig4"], figures=False)
    assert {(c.model, c.reason, c.artefacts) for c in summary.missing} == {
        ("llama-m", "failed: disk full", ("table1",)),
        ("qwen-m", "trained, not evaluated", ("table1",)),
    }
    rows = rows_of(study, "table1")
    assert rows["qwen-m", "sgpo", "average"]["mean"] == "not run"
    cell, mean = rows["qwen-s", "hpt", "trained"], counted(study, "qwen-s", "hpt")["trained"].mean()
    assert float(cell["mean"]) == pytest.approx(mean, abs=1e-6) and cell["status"] == "diverged"
    assert len(re.findall("†", (study / "tables" / "table1.md").read_text())) == 1 + 5
    (path / "scores.json").unlink()
    report.build(study, only=["table1"])
    assert rows_of(study, "table1")["qwen-s", "hpt", "trained"]["mean"] == "diverged"
    assert "| diverged† |" in (study / "tables" / "table1.md").read_text()
    assert "NaN loss at step 7" in pages.diverged(load_study(study))


# Errors -------------------------------------------------------------------------------------------

GRPO = ("qwen-m", "grpo", 1)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("scores", lambda s: s.update(suite_version=2), "has suite version 2, not 1"),
        ("scores", lambda s: s["benchmarks"]["harder"].update(answers="aa a"),
         "harder: the stored answers are not"),
        ("scores", lambda s: s["benchmarks"]["harder"].update(problem_set_sha256="x"),
         "harder: runs .* differ in problem_set_sha256"),
        ("scores", lambda s: s["benchmarks"]["long"]["protocol"].update(top_p=1.0),
         "long: runs .* differ in protocol"),
        ("scores", lambda s: s["benchmarks"]["harder"]["verdicts"].__setitem__(3, "ccw"),
         "problem 3 has 3 verdicts, avg@8 needs exactly 8"),
        ("scores", lambda s: s["benchmarks"]["harder"]["verdicts"].__setitem__(3, "ccwwccwx"),
         "verdict letter 'x' is unknown"),
        ("config", lambda c: c.update(seed=7),
         "qwen-m-grpo-s1-.*: its config.json and packages give the hash"),
        ("result", lambda r: r.update(config_hash="00000000"),
         "result.json has 00000000, its name"),
    ],
)  # fmt: skip
def test_what_cannot_share_a_table_is_one_clear_line(study, file, edit, message):
    change(run_dir(study, *GRPO) / f"{file}.json", edit)
    with pytest.raises((StudyError, stats.StatsError), match=message) as caught:
        load_study(study)
    assert "\n" not in str(caught.value)


def other_packages(root: Path) -> None:
    """A whole run of another torch, its address made with it."""
    old = run_dir(root, *GRPO)
    change(old / "environment.json", lambda e: e["packages"].update(torch="2.14.0"))
    tail = stored_hash(stored_runs(root)[old.name], load(old / "result.json"))
    for path in (root / "study.json", *old.glob("*.json")):
        path.write_text(path.read_text().replace(old.name, old.name[:-8] + tail))
    change(old / "result.json", lambda r: r.update(config_hash=tail))
    old.rename(old.with_name(old.name[:-8] + tail))


def test_a_damaged_file_another_torch_or_no_study_is_one_clear_line(study):
    path = run_dir(study, *GRPO) / "result.json"
    whole = path.read_text()
    path.write_text(whole[:20])
    with pytest.raises(StudyError, match="result.json is not valid JSON"):
        load_study(study)
    path.write_text(whole)
    other_packages(study)
    with pytest.raises(StudyError, match="were made with torch 2.13.0 and 2.14.0 and cannot share"):
        load_study(study)
    change(study / "study.json", lambda s: s.pop("cells"))
    with pytest.raises(StudyError, match="does not describe a grid"):
        load_study(study)
    (study / "study.json").unlink()
    with pytest.raises(StudyError, match="study.json does not exist"):
        load_study(study)


def test_what_cannot_be_built_is_one_line(plain_study, refused):
    root, summary = plain_study
    assert not {path.stem for path in summary.written} & VARIANTS.keys()
    assert "Table 2" not in (root / "REPORT.md").read_text()
    for words, said in (
        (["--only", "delta"], "delta: this study plans none of the runs"),
        (["--only", "tabel1"], "did you mean table1?"),
        (["--only", "table1", "--check"], "--check compares all tables and pages; leave one out"),
    ):
        refused(["report", "--out", str(root), *words], said)


# Files --------------------------------------------------------------------------------------------


def test_only_writes_what_was_asked_with_the_same_bytes(plain_study, study, monkeypatch, capsys):
    monkeypatch.setattr(report, "SECONDS_A_LINE", -1.0)
    summary = report.build(study, only=["budget", "table1"])
    found = {str(p.relative_to(study)): p.read_bytes() for p in summary.written}
    stems = ("table1", "table1_paper", "budget")
    assert {*found} == {f"tables/{s}.{end}" for s in stems for end in ("md", "csv", "tex")}
    assert all((plain_study[0] / name).read_bytes() == found[name] for name in found)
    assert not (study / "REPORT.md").exists()
    told = capsys.readouterr().err.splitlines()
    assert told == ["report: 1 of 2 made, up to table1", "report: 2 of 2 made, up to budget"]


def test_equal_figures_are_equal_bytes(tmp_path):
    found = []
    for name in ("a", "b"):
        figure, axes = new_figure(1, 1, width=1.0, height=1.0)
        points(axes[0, 0], [stats.Estimate(1.0, 0.5, 1.5)], [1.0])
        paths = save(figure, tmp_path / name)
        assert [path.suffix for path in paths] == [".png", ".pdf"]
        found.append([path.read_bytes() for path in paths])
    assert found[0] == found[1]


def test_a_study_without_any_run_is_all_not_run(study):
    shutil.rmtree(study / "runs")
    change(study / "study.json", lambda s: [m.update(parameters=None) for m in s["models"]])
    summary = report.build(study, figures=False)
    assert len(summary.missing) == len(MODELS) * (1 + (len(METHODS) - 1) * 3)
    for path in sorted((study / "tables").glob("*.csv")):
        with path.open() as file:
            for record in csv.DictReader(file):
                assert all(value for value in record.values()), (path.name, record)
    assert not re.search(r"\d\.\d \[", (study / "tables" / "table1.md").read_text())
