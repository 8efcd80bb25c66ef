"""The report on synthetic studies: numbers, missing cells, errors, determinism, safe pages."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from html_tags import Tags
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

from benchmarks.cli import main
from benchmarks.profiles.planned import planned_study
from benchmarks.report import build as report
from benchmarks.report import claims, estimates, pages
from benchmarks.report.figures.axes import seed_curves
from benchmarks.report.measures import smooth
from benchmarks.report.tables import records
from benchmarks.run.study import write_plan
from benchmarks.store import stats
from benchmarks.store.load import load_study, stored_hash
from benchmarks.store.records import Study, StudyError
from benchmarks.store.runs import stored_runs

# Tables -------------------------------------------------------------------------------------------


def test_table1_means_are_the_counted_shares_of_correct_samples(plain_study):
    root, summary = plain_study
    rows = rows_of(root, "table1")
    assert len(rows) == len(MODELS) * len(METHODS) * (len(BENCHMARKS) + 1)
    assert summary.missing == () and summary.commands == ()
    for model, method in (("qwen-s", "sgpo"), ("llama-m", "hpt"), ("qwen-m", "base")):
        seeds = [None] if method == "base" else [0, 1, 2]
        means = counted(root, model, method, seeds)
        ids = " ".join(run_dir(root, model, method, seed).name for seed in seeds)
        for key, table in means.items():
            cell = rows[model, method, key]
            assert float(cell["mean"]) == pytest.approx(table.mean(), abs=1e-6)
            assert float(cell["ci_low"]) < table.mean() < float(cell["ci_high"])
            assert (cell["run_ids"], cell["num_seeds"]) == (ids, str(len(seeds)))
        mean = float(rows[model, method, "average"]["mean"])
        assert mean == pytest.approx(average(root, model, method, seeds), abs=1e-6)


VARIANTS = (
    ("table2", "sgpo_no_clip"),
    ("table2", "grpo"),
    ("table3", "sgpo_nll"),
    ("table6", "sgpo_reverse"),
    ("table7", "sgpo_group_alpha"),
    ("beyond", "sgpo_meanlogp"),
    ("kin", "srft"),
    ("mask", "sgpo_nll_masked"),
    ("distil", "distil_own"),
)


@pytest.mark.parametrize(("table", "method"), VARIANTS)
def test_variants_are_counted_and_their_difference_is_paired(variant_study, table, method):
    root, summary = variant_study
    assert summary.missing == ()
    rows = rows_of(root, table)
    mine, theirs = counted(root, "qwen-m", method), counted(root, "qwen-m", "sgpo")
    for key in mine:
        cell = rows["qwen-m", method, key]
        assert float(cell["mean"]) == pytest.approx(mine[key].mean(), abs=1e-6)
    row = rows["qwen-m", method, "difference_to_sgpo"]
    gaps = [mine[key] - theirs[key] for key in mine]  # seed by seed, problem by problem
    apart = stats.Clusters.apart([gap.shape[1] for gap in gaps])
    interval = stats.Mean.over_problems(gaps, apart).interval()
    found = [float(row[name]) for name in ("mean", "ci_low", "ci_high")]
    assert found == pytest.approx([interval.mean, interval.low, interval.high], abs=1e-5)
    ids = [run_dir(root, "qwen-m", m, s).name for m in (method, "sgpo") for s in (0, 1, 2)]
    assert row["run_ids"].split() == ids


def test_the_papers_rows_and_numbers_stay_in_tables_of_their_own(variant_study, plain_study):
    tables = variant_study[0] / "tables"
    for name in ("table2", "table3", "table6", "table7"):
        ours = (tables / f"{name}.md").read_text().splitlines()
        paper = (tables / f"{name}_paper.md").read_text().splitlines()
        labels = [line.split(" | ")[0].strip("| ") for line in ours if line.startswith("| ")]
        printed = [line.split(" | ")[1].strip() for line in paper if line.startswith("| Qwen2.5")]
        assert labels[2:] == printed and not any("Instruct" in line for line in ours)
    line = next(x for x in (tables / "table3.md").read_text().splitlines() if "| KL " in x)
    assert line.endswith("| reference |")
    paper = (tables / "table1_paper.md").read_text()
    assert "| Qwen2.5-7B-Instruct | SGPO | 82.7 | 55.9 | 50.0 | 19.7 | 52.1 |" in paper
    text = (tables / "table1.md").read_text()
    over = "over 3 seeds of one world and the problems, those of one type together"
    for part in ("n=60, avg@4", "n=15, avg@8", "temperature 0.6, top p 0.95, max tokens 96", over):
        assert part in text
    for name in ("table1.md", "table1.csv", "table1.tex"):  # variants change nothing in it
        assert (plain_study[0] / "tables" / name).read_bytes() == (tables / name).read_bytes()


def test_a_study_without_variants_has_no_sections_for_them(plain_study):
    root, summary = plain_study
    written = {path.stem for path in summary.written}
    assert not written & {name for name, _ in VARIANTS}
    page = (root / "REPORT.md").read_text()
    assert "Table 2" not in page and "removing a component" not in page
    with pytest.raises(report.ReportError, match="delta: this study plans none of the runs"):
        report.build(root, only=["delta"])


def test_bold_is_above_every_other_rl_method_and_nothing_is_bold_among_ties(study):
    for seed in (0, 1, 2):  # SGPO alone solves all on Qwen-S, and SFT+GRPO does, too, on Qwen-M
        for model, methods in (("qwen-s", ["sgpo"]), ("qwen-m", ["sgpo", "grpo"])):
            for method in methods:
                change(run_dir(study, model, method, seed) / "scores.json", all_right)
    report.build(study, only=["table1"])
    lines = (study / "tables" / "table1.md").read_text().splitlines()
    bold = {tuple(x.split(" | ")[:2]) for x in lines if "**" in x.rpartition(" | ")[2]}
    assert ("| Qwen-S", "SGPO") in bold and not any(model == "| Qwen-M" for model, _ in bold)


def all_right(scores: dict) -> None:
    for table in scores["benchmarks"].values():
        table["verdicts"] = ["c" * len(word) for word in table["verdicts"]]


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
    change(study / "study.json", lambda s: s.update(profile="single_gpu"))
    assert load_study(study).clusters(("harder",)).number == 20


def test_a_plan_brings_the_types_of_its_problems(tmp_path):
    write_plan(planned_study("quick", 1), tmp_path)
    loaded = Study.read(tmp_path)
    number = loaded.clusters(tuple(b.key for b in loaded.benchmarks)).number
    assert number == 50  # of 64, in the first 16 problems of each set


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


def test_tex_rows_have_all_columns_and_no_bare_special_character(plain_study):
    text = (plain_study[0] / "tables" / "table1.tex").read_text()
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(MODELS) * len(METHODS)
    assert all(line.count("&") == 6 and line.endswith(r"\\") for line in body)
    assert r"\textbf{" in text and text.count("{") == text.count("}")
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption"))
    assert not re.search(r"(?<!\\)[%#_&]", caption)


def test_pass_at_k_and_the_majority_are_those_of_the_stored_letters(variant_copy):
    change(run_dir(variant_copy, "qwen-m", "grpo", 0) / "scores.json",
           lambda s: [table.pop("answers") for table in s["benchmarks"].values()])  # fmt: skip
    report.build(variant_copy, only=["passk"])
    rows, words = rows_of(variant_copy, "passk"), {}
    for key in ("harder", "long"):  # the sets with 8 samples a problem
        tables = [
            load(run_dir(variant_copy, "qwen-m", "sgpo", s) / "scores.json") for s in (0, 1, 2)
        ]
        words[key] = [word for t in tables for word in t["benchmarks"][key]["verdicts"]]
    passed = np.mean([np.mean(["c" in word for word in found]) for found in words.values()])
    assert float(rows["qwen-m", "sgpo", "pass@k"]["mean"]) == pytest.approx(100 * passed, abs=1e-5)
    # All wrong answers are one, and those without an answer cast no vote.
    won = np.mean([np.mean([(np.sign(word.count("c") - word.count("w")) + 1) / 2 if "c" in word
                            else 0.0 for word in found]) for found in words.values()])  # fmt: skip
    assert float(rows["qwen-m", "sgpo", "maj@k"]["mean"]) == pytest.approx(100 * won, abs=1e-5)
    assert rows["qwen-m", "grpo", "maj@k"]["mean"] == "not run"
    assert rows["qwen-m", "grpo", "pass@k"]["status"] == "finished"


# Missing, failed and diverged runs ----------------------------------------------------------------


def test_deleting_a_run_turns_exactly_its_cells_into_not_run(plain_study, study):
    before = rows_of(plain_study[0], "table1")
    gone = run_dir(study, "qwen-m", "luffy", 1)
    shutil.rmtree(gone)
    summary = report.build(study, figures=False)
    after = rows_of(study, "table1")
    changed = {key for key in before if before[key] != after[key]}
    keys = [*(key for key, *_ in BENCHMARKS), "average"]
    assert changed == {("qwen-m", "luffy", key) for key in keys}
    for key in changed:
        assert {after[key][c] for c in ("mean", "ci_low", "ci_high", "status")} == {"not run"}
    lines = (study / "tables" / "table1.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| Qwen-M | LUFFY |"))
    assert line.count(" (2 of 3 seeds) |") == 5  # what is finished so far, without an interval
    names = ("claims", "table1", "equal_cost", "curves", "passk", "budget")
    assert [(c.run_id, c.reason, c.artefacts) for c in summary.missing] == [
        (gone.name, "not run", names)
    ]
    page = (study / "REPORT.md").read_text()
    assert gone.name in page and "\nbash reproduce.sh --profile mini --only table1\n" in page
    best = [c for c in claims.evaluate(load_study(study)) if c.key == "best_on_average"]
    assert [c.subject for c in best if c.verdict == "not run"] == ["Qwen-M"]


def test_a_study_without_any_run_is_all_not_run(study):
    shutil.rmtree(study / "runs")
    (study / "regime.json").unlink()
    (study / "tuning.csv").unlink()
    change(study / "study.json", lambda s: [m.update(parameters=None) for m in s["models"]])
    summary = report.build(study, figures=False)
    assert len(summary.missing) == len(MODELS) * (1 + (len(METHODS) - 1) * 3)
    for path in sorted((study / "tables").glob("*.csv")):
        with path.open() as file:
            for record in csv.DictReader(file):
                assert all(value for value in record.values()), (path.name, record)
    assert not re.search(r"\d\.\d \[", (study / "tables" / "table1.md").read_text())


def test_runs_that_failed_or_were_not_evaluated_are_named(study):
    path = run_dir(study, "llama-m", "hpt", 0)
    shutil.rmtree(path)
    dump(path / "failed.json", {"error": "disk full\nTraceback ..."})
    (run_dir(study, "qwen-m", "sgpo", 2) / "scores.json").unlink()
    summary = report.build(study, only=["table1", "fig4"], figures=False)
    found = {(c.model, c.reason, c.artefacts) for c in summary.missing}
    assert found == {
        ("llama-m", "failed: disk full", ("table1",)),
        ("qwen-m", "trained, not evaluated", ("table1",)),
    }
    assert rows_of(study, "table1")["qwen-m", "sgpo", "average"]["mean"] == "not run"


def test_a_diverged_run_is_marked_and_kept(study):
    path = run_dir(study, "qwen-s", "hpt", 1)
    broken = {"status": "diverged", "diverged_reason": "NaN loss at step 7"}
    change(path / "result.json", lambda r: r.update(broken))
    report.build(study, only=["table1"])
    cell = rows_of(study, "table1")["qwen-s", "hpt", "trained"]
    mean = counted(study, "qwen-s", "hpt")["trained"].mean()
    assert float(cell["mean"]) == pytest.approx(mean, abs=1e-6) and cell["status"] == "diverged"
    assert len(re.findall("†", (study / "tables" / "table1.md").read_text())) == 1 + 5
    (path / "scores.json").unlink()
    assert report.build(study, only=["table1"]).missing == ()
    assert rows_of(study, "table1")["qwen-s", "hpt", "trained"]["mean"] == "diverged"
    assert "| diverged† |" in (study / "tables" / "table1.md").read_text()
    assert "NaN loss at step 7" in pages.diverged(load_study(study))


# Errors -------------------------------------------------------------------------------------------


GRPO = ("qwen-m", "grpo", 1)


def other_packages(root: Path) -> None:
    """A whole run of another torch, its address made with it."""
    old = run_dir(root, *GRPO)
    change(old / "environment.json", lambda e: e["packages"].update(torch="2.14.0"))
    tail = stored_hash(stored_runs(root)[old.name], load(old / "result.json"))
    for path in (root / "study.json", *old.glob("*.json")):
        path.write_text(path.read_text().replace(old.name, old.name[:-8] + tail))
    change(old / "result.json", lambda r: r.update(config_hash=tail))
    old.rename(old.with_name(old.name[:-8] + tail))


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("scores", lambda s: s.update(suite_version=2), "has suite version 2, not 1"),
        ("scores", lambda s: s.update(run_id="another"), "has run id another, not qwen-m-grpo"),
        ("scores", lambda s: s["benchmarks"]["harder"].update(answers="aa a"),
         "harder: the stored answers are not"),
        ("scores", lambda s: s["benchmarks"]["harder"].update(problem_set_sha256="x"),
         "harder: runs .* differ in problem_set_sha256"),
        ("scores", lambda s: s["benchmarks"]["long"]["protocol"].update(top_p=1.0),
         "long: runs .* differ in protocol"),
        ("scores", lambda s: s["benchmarks"]["harder"]["verdicts"].__setitem__(3, "ccw"),
         "problem 3 has 3 verdicts, avg@8 needs exactly 8"),
        ("scores", lambda s: s["benchmarks"]["harder"].update(k=4), "k is 4, .* asks for 8"),
        ("scores", lambda s: s["benchmarks"].update(other=s["benchmarks"]["harder"]),
         "benchmark 'other', which is not in study.json"),
        ("result", lambda r: r.update(suite_version=2),
         "result.json has suite version 2, study.json plans 1"),
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


def test_unknown_artefact_names_the_nearest(study, capsys):
    with pytest.raises(report.ReportError, match="did you mean table1?"):
        report.build(study, only=["tabel1"])
    assert main(["report", "--out", str(study), "--only", "table1", "--check"]) == 2
    assert "--check compares all tables and pages; leave one out" in capsys.readouterr().err
    assert main(["report", "--out", str(study), "--only", "tabel1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sgpo: error: unknown artefact 'tabel1'; allowed: claims,")


# Files --------------------------------------------------------------------------------------------


def test_only_writes_what_was_asked_with_the_same_bytes(plain_study, study, monkeypatch, capsys):
    monkeypatch.setattr(report, "SECONDS_A_LINE", -1.0)
    written = []
    for _ in range(2):
        summary = report.build(study, only=["fig4", "table1"])
        written.append({str(p.relative_to(study)): p.read_bytes() for p in summary.written})
    assert written[0] == written[1]
    names = {f"tables/table1{s}.{e}" for s in ("", "_paper") for e in ("md", "csv", "tex")}
    assert {*written[0]} == names | {"figures/fig4.png", "figures/fig4.pdf"}
    for name in names:
        assert written[0][name] == (plain_study[0] / name).read_bytes()
    assert not (study / "REPORT.md").exists()
    told = capsys.readouterr().err.splitlines()[:2]
    assert told == ["report: 1 of 2 made, up to table1", "report: 2 of 2 made, up to fig4"]


# Pages --------------------------------------------------------------------------------------------


def test_html_is_self_contained_and_every_link_has_a_target(variant_study):
    root, summary = variant_study
    text = (root / "report.html").read_text()
    page = Tags(text)
    ids, links, sources = map(page.values, ("id", "href", "src"))
    assert len(ids) == len(set(ids))
    assert links and set(links) <= {f"#{name}" for name in ids}
    assert len(sources) == sum(path.suffix == ".png" for path in summary.written) > 8
    assert {"details", "nav", "figure"} <= page.names() and "color-scheme: light dark" in text
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe"} & page.names()
    assert "url(" not in text and "@import" not in text
    assert 'name="viewport"' in text
    said = page.text
    assert said.index("no evidence about 7B models") < said.index("In three sentences")
    assert "test <machine> & co" in said  # shown as text, so it was escaped


def test_the_page_folds_fits_a_phone_and_has_a_dark_side(variant_study, browser):
    page, grounds = (variant_study[0] / "report.html").as_uri(), set()
    for width, scheme in ((1280, "light"), (400, "dark")):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get(page)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        grounds.add(browser.execute_script("return getComputedStyle(document.body).background"))
    assert len(grounds) == 2
    runs = browser.find_element("id", "runs")
    assert runs.get_attribute("open") is None
    browser.get(f"{page}#runs-qwen-m-sgpo")  # a link into a closed part opens it
    browser.refresh()
    assert browser.find_element("id", "runs").get_attribute("open") is not None


def test_markdown_links_have_targets_and_images_exist(variant_study):
    root, _ = variant_study
    text = (root / "REPORT.md").read_text()
    targets = set(re.findall(r'<a id="([^"]+)">', text))
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links and links <= targets
    of_claims = set(re.findall(r'<a id="([^"]+)">', (root / "CLAIMS.md").read_text()))
    elsewhere = set(re.findall(r"\]\(CLAIMS.md#([^)]+)\)", text))
    assert elsewhere and elsewhere <= of_claims
    for source in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (root / source).exists()
    assert "no evidence about 7B models" in text.splitlines()[2]
    claims_page = (root / "CLAIMS.md").read_text()
    assert set(re.findall(r"\]\(REPORT.md#([^)]+)\)", claims_page)) <= targets
    assert "no evidence about 7B models" in claims_page.splitlines()[2]


def test_the_report_is_in_order_and_short_before_its_appendix(variant_study):
    text = (variant_study[0] / "REPORT.md").read_text()
    sections = re.findall(r"(?m)^## (.*)$", text)
    assert sections == ["In three sentences", "The world", "Table 1: main results", "Claims", "Why",
                        "Where SGPO helps", "What this cannot say", "Appendix"]  # fmt: skip
    main, appendix = text.split("\n## Appendix")
    assert len(re.findall(r"\w[\w.,'+-]*", re.sub(r"\]\([^)]*\)|<[^>]*>", "", main))) <= 2500
    assert "Find the Cedra pair: 314" in main  # the problem that is shown
    for artefact in report.chosen_artefacts(load_study(variant_study[0])):
        if artefact.draw:
            assert text.count(f"(figures/{artefact.name}.png)") == 1
    assert text.count("| SGPO is best") + text.count("| [SGPO is best") == 1
    assert "### Table 2" in appendix and "### Runs" in appendix


# Curves, budgets and the regime -------------------------------------------------------------------


def test_methods_with_different_seeds_are_compared_on_the_common_ones(study):
    gone = run_dir(study, "qwen-s", "luffy", 2)

    def drop(plan):
        plan["cells"] = [c for c in plan["cells"] if c["run_id"] != gone.name]

    ours, theirs = (counted(study, "qwen-s", m, (0, 1))["harder"] for m in ("sgpo", "luffy"))
    change(study / "study.json", drop)
    found = estimates.gain(load_study(study), "qwen-s", "sgpo", "luffy", "harder")
    assert found.mean == pytest.approx((ours - theirs).mean()) and found.num_seeds == 2


def test_curves_are_smoothed_by_seed_and_a_short_run_counts_to_its_end(study):
    path = run_dir(study, "qwen-m", "sgpo", 1) / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:10]))
    runs = load_study(study).runs_of("qwen-m", "sgpo", scored=False)
    found = seed_curves(runs, "reward")
    assert found.index.tolist() == list(range(STEPS))
    for run in runs:
        known = found[run.cell.seed].dropna()
        assert known.to_numpy() == pytest.approx(smooth(run.metrics["reward"]))
    assert found.notna().sum().tolist() == [STEPS, 10, STEPS]
    grpo = load_study(study).runs_of("qwen-m", "grpo", scored=False)
    assert seed_curves(grpo, "alpha_mean").empty


def test_budget_is_the_mean_over_seeds(study):
    for seed, tokens in enumerate((100, 200, 600)):
        path = run_dir(study, "qwen-s", "sgpo", seed) / "result.json"
        change(path, lambda r, tokens=tokens: r.update(sampled_tokens=tokens, num_samples=None))
    spent = {
        (r["model"], r["method"]): r
        for r in records.budget_rows(load_study(study)).to_dict("records")
    }
    assert spent["qwen-s", "sgpo"]["sampled_tokens"] == 300.0
    assert spent["qwen-s", "sgpo"]["num_samples"] == "not recorded"
    assert spent["qwen-s", "grpo"]["num_samples"] == STEPS * 192


def test_regime_shows_conditions_then_what_is_only_reported(study):
    def measure(stored):
        stored["models"]["qwen-s"]["conditions"][1].update(value=0.41234, passed=False)

    change(study / "regime.json", measure)
    loaded = load_study(study)
    table = records.REGIME.table(loaded, records.REGIME.rows(loaded))
    assert [[cell.text for cell in cells][1:] for cells in table.rows[:3]] == [
        ["blind guess", "0.004", "<= 0.01", "passed"],
        ["guided pass rate", "0.412", ">= 0.6", "FAILED"],
        ["base, mean unguided: 0", "0.123", "reported", ""],
    ]
    assert "failed, read the results with care: qwen-s: guided pass rate." in (
        pages.regime_sentence(loaded)
    )
