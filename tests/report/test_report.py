"""The report on synthetic studies: numbers, missing cells, errors, determinism, safe pages."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from html_tags import Tags
from synthetic_study import (
    BENCHMARKS,
    METHODS,
    MODELS,
    STEPS,
    change,
    change_problems,
    counted,
    dump,
    load,
    rows_of,
    run_dir,
    write_problems,
    write_study,
)

from benchmarks.cli import main
from benchmarks.profiles.planned import planned_study
from benchmarks.report import build as report
from benchmarks.report import claims, estimates, pages
from benchmarks.report.figures import scaling, training
from benchmarks.report.figures.axes import seed_curves
from benchmarks.report.measures import smooth
from benchmarks.report.tables import records
from benchmarks.run.study import write_plan
from benchmarks.store import stats
from benchmarks.store.load import load_study, stored_hash
from benchmarks.store.records import RL_METHODS, Study, StudyError
from benchmarks.store.runs import stored_runs

TREE = Path(__file__).resolve().parents[2]


def share_correct(path: Path, benchmark: str) -> float:
    letters = "".join(load(path / "scores.json")["benchmarks"][benchmark]["verdicts"])
    return 100 * letters.count("c") / len(letters)


# Table 1 ------------------------------------------------------------------------------------------


def test_table1_means_are_the_counted_shares_of_correct_samples(plain_study):
    root, summary = plain_study
    rows = rows_of(root, "table1")
    assert len(rows) == len(MODELS) * len(METHODS) * (len(BENCHMARKS) + 1)
    assert summary.missing == () and summary.commands == ()
    for model, method in (("qwen-s", "sgpo"), ("llama-m", "hpt"), ("qwen-m", "base")):
        seeds = [None] if method == "base" else [0, 1, 2]
        paths = [run_dir(root, model, method, seed) for seed in seeds]
        means = []
        for key, *_ in BENCHMARKS:
            means.append(np.mean([share_correct(path, key) for path in paths]))
            cell = rows[model, method, key]
            assert float(cell["mean"]) == pytest.approx(means[-1], abs=1e-6)
            assert float(cell["ci_low"]) < means[-1] < float(cell["ci_high"])
            assert cell["run_ids"] == " ".join(path.name for path in paths)
            assert cell["num_seeds"] == str(len(seeds))
        average = rows[model, method, "average"]
        assert float(average["mean"]) == pytest.approx(np.mean(means), abs=1e-6)


def test_table1_intervals_are_over_seeds_and_problems(plain_study):
    root, _ = plain_study
    tables = [*counted(root, "qwen-m", "grpo").values()]
    for key, found in (("trained", tables[:1]), ("average", tables)):
        cell = rows_of(root, "table1")["qwen-m", "grpo", key]
        apart = stats.Clusters.apart([table.shape[1] for table in found])
        interval = stats.Mean.over_problems(found, apart).interval()
        bounds = float(cell["ci_low"]), float(cell["ci_high"])
        assert bounds == pytest.approx((interval.low, interval.high), abs=1e-5)


def test_problems_of_one_type_are_taken_together(study):
    """As problems.parquet says; the problems of a set of the user's own are each by itself."""
    names = {key: [f"{key}-{i}" for i in range(n)] for key, _, n, _ in BENCHMARKS[:3]}
    write_problems(study, names | {"trained": [f"t{i % 5}" for i in range(60)]})
    change(study / "study.json", lambda s: s["benchmarks"][3].update(file="/mine/long.jsonl"))
    loaded = load_study(study)
    found = estimates.accuracy(loaded, "qwen-m", "grpo", "trained").of.clusters
    assert (found.number, found.sizes) == (5, (60,))
    whole = loaded.clusters(tuple(b.key for b in loaded.benchmarks))
    assert whole.number == 5 + sum(n for _, _, n, _ in BENCHMARKS[1:])


@pytest.mark.parametrize("left", [None, 0, 19])
def test_a_miniature_without_types_of_problems_has_no_intervals(study, left):
    if left is None:
        (study / "problems.parquet").unlink()
    else:
        change_problems(study, lambda p: p[(p.benchmark != "harder") | (p.problem < left)])
    loaded = load_study(study)
    lacks = "problems.parquet lacks the types of .*; run sgpo study again"
    with pytest.raises(StudyError, match=lacks):
        loaded.clusters(("harder",))
    change(study / "study.json", lambda s: s.update(profile="single_gpu"))
    assert load_study(study).clusters(("harder",)).number == 20


def test_a_plan_brings_the_types_of_its_problems(tmp_path):
    write_plan(planned_study("quick", 1), tmp_path)
    loaded = Study.read(tmp_path)
    number = loaded.clusters(tuple(b.key for b in loaded.benchmarks)).number
    assert number == 50  # of 64, in the first 16 problems of each set


def test_worlds_have_problems_of_their_own(study):
    for path in study.glob("runs/*-s[12]-*/scores.json"):
        world = path.parent.name.split("-s")[-1][0]

        def own(scores, world=world):
            for table in scores["benchmarks"].values():
                table["problem_set_sha256"] += world

        change(path, own)
    for model, *_ in MODELS:  # an untrained model belongs to its world, too
        shutil.rmtree(run_dir(study, model, "base", None))
    change(study / "study.json",
           lambda s: s.update(cells=[c for c in s["cells"] if c["method"] != "base"]))  # fmt: skip
    loaded = load_study(study)
    found = estimates.gain(loaded, "qwen-m", "sgpo", "grpo")
    ours, theirs = (counted(study, "qwen-m", m) for m in ("sgpo", "grpo"))
    gaps = [(ours[key] - theirs[key]).mean(axis=1) for key in ours]
    expected = stats.Mean.over_units(np.mean(gaps, axis=0))
    assert (found.of.variance, found.of.freedom) == pytest.approx((expected.variance, 2))
    assert estimates.units_text(loaded, 3) == "3 worlds"


def test_bold_is_above_every_other_rl_method_and_nothing_is_bold_among_ties(plain_study, study):
    root, _ = plain_study
    loaded = load_study(root)
    lines = (root / "tables" / "table1.md").read_text().splitlines()
    for model, label, *_ in MODELS:
        mine = [line.split("|") for line in lines if line.startswith(f"| {label} ")]
        bold = [cells[2].strip() for cells in mine if "**" in cells[7]]
        gains = [estimates.gain(loaded, model, "sgpo", m) for m in RL_METHODS if m != "sgpo"]
        assert bold == (["SGPO"] if all(g.interval.low > 0 for g in gains) else [])
    exchange_scores(study, "qwen-m", "sgpo", "grpo", copy=True)
    report.build(study, only=["table1"])
    lines = (study / "tables" / "table1.md").read_text().splitlines()
    assert not [x for x in lines if x.startswith("| Qwen-M ") and "**" in x.split("|")[7]]


def test_caption_names_what_the_numbers_rest_on(plain_study):
    text = (plain_study[0] / "tables" / "table1.md").read_text()
    for part in (
        "n=60, avg@4",
        "n=15, avg@8",
        "over 3 seeds of one world and the problems, those of one type together",
        "temperature 0.6, top p 0.95, max tokens 96",
        "no evidence about 7B models",
    ):
        assert part in text


def test_paper_numbers_stay_in_their_own_table(plain_study):
    root, _ = plain_study
    paper = (root / "tables" / "table1_paper.md").read_text()
    assert "| Qwen2.5-7B-Instruct | SGPO | 82.7 | 55.9 | 50.0 | 19.7 | 52.1 |" in paper
    for suffix in (".md", ".csv", ".tex"):
        assert "Instruct" not in (root / "tables" / f"table1{suffix}").read_text()


def test_tex_rows_have_all_columns_and_no_bare_special_character(plain_study):
    text = (plain_study[0] / "tables" / "table1.tex").read_text()
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(MODELS) * len(METHODS)
    assert all(line.count("&") == 6 and line.endswith(r"\\") for line in body)
    assert r"\textbf{" in text and text.count("{") == text.count("}")
    caption = next(line for line in text.splitlines() if line.startswith(r"\caption"))
    assert not re.search(r"(?<!\\)[%#_&]", caption)


# Missing, failed and diverged runs ----------------------------------------------------------------


def test_deleting_a_run_turns_exactly_its_cells_into_not_run(plain_study, study):
    root, _ = plain_study
    before = rows_of(root, "table1")
    gone = run_dir(study, "qwen-m", "luffy", 1)
    shutil.rmtree(gone)
    summary = report.build(study, figures=False)
    after = rows_of(study, "table1")
    changed = {key for key in before if before[key] != after[key]}
    keys = [key for key, *_ in BENCHMARKS] + ["average"]
    assert changed == {("qwen-m", "luffy", key) for key in keys}
    for key in changed:
        assert {after[key][c] for c in ("mean", "ci_low", "ci_high", "status")} == {"not run"}
    line = next(
        line
        for line in (study / "tables" / "table1.md").read_text().splitlines()
        if line.startswith("| Qwen-M | LUFFY |")
    )
    assert line.count(" (2 of 3 seeds) |") == 5  # what is finished so far, without an interval
    assert [(c.run_id, c.reason) for c in summary.missing] == [(gone.name, "not run")]
    names = ("claims", "table1", "equal_cost", "curves", "passk", "budget")
    assert summary.missing[0].artefacts == names
    assert "bash reproduce.sh --profile mini --only table1" in summary.commands
    page = (study / "REPORT.md").read_text()
    assert gone.name in page and "\nbash reproduce.sh --profile mini --only table1\n" in page
    best = [c for c in claims.evaluate(load_study(study)) if c.key == "best_on_average"]
    assert [(c.subject, c.verdict == "not run") for c in best] == [
        ("Qwen-S", False),
        ("Qwen-M", True),
        ("Llama-M", False),
    ]


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


def test_a_failed_run_is_named_with_its_error(study):
    path = run_dir(study, "llama-m", "hpt", 0)
    shutil.rmtree(path)
    dump(path / "failed.json", {"error": "disk full\nTraceback ..."})
    summary = report.build(study, only=["table1"])
    assert [(c.run_id, c.reason) for c in summary.missing] == [(path.name, "failed: disk full")]


def test_a_trained_run_without_scores_is_not_in_the_table_but_in_the_curves(study):
    (run_dir(study, "qwen-m", "sgpo", 2) / "scores.json").unlink()
    summary = report.build(study, only=["table1", "fig4"])
    assert [c.reason for c in summary.missing] == ["trained, not evaluated"]
    assert summary.missing[0].artefacts == ("table1",)
    assert rows_of(study, "table1")["qwen-m", "sgpo", "average"]["mean"] == "not run"


def test_a_diverged_run_is_marked_and_kept(study):
    path = run_dir(study, "qwen-s", "hpt", 1)
    broken = {"status": "diverged", "diverged_reason": "NaN loss at step 7"}
    change(path / "result.json", lambda r: r.update(broken))
    before = share_correct(path, "trained")
    report.build(study, only=["table1"])
    cell = rows_of(study, "table1")["qwen-s", "hpt", "trained"]
    others = [share_correct(run_dir(study, "qwen-s", "hpt", s), "trained") for s in (0, 2)]
    assert float(cell["mean"]) == pytest.approx((before + sum(others)) / 3, abs=1e-6)
    assert cell["status"] == "diverged"
    assert len(re.findall("†", (study / "tables" / "table1.md").read_text())) == 1 + 5
    (path / "scores.json").unlink()
    assert report.build(study, only=["table1"]).missing == ()
    assert rows_of(study, "table1")["qwen-s", "hpt", "trained"]["mean"] == "diverged"
    assert "| diverged† |" in (study / "tables" / "table1.md").read_text()
    assert "NaN loss at step 7" in pages.diverged(load_study(study))


# Errors -------------------------------------------------------------------------------------------


def scores_edit(edit):
    def apply(root: Path) -> None:
        change(run_dir(root, "qwen-m", "grpo", 1) / "scores.json", edit)

    return apply


def half_a_file(root: Path) -> None:
    (run_dir(root, "qwen-m", "grpo", 1) / "result.json").write_text('{"run_id": "qwen')


def result_edit(edit):
    return lambda root: change(run_dir(root, "qwen-m", "grpo", 1) / "result.json", edit)


def renamed(root: Path) -> None:
    """A run under the address of another one, its files and the plan edited to fit."""
    old = run_dir(root, "qwen-m", "grpo", 1)
    new = old.with_name(old.name[:-8] + 8 * "0")
    for path in (root / "study.json", *old.glob("*.json")):
        path.write_text(path.read_text().replace(old.name, new.name))
    change(old / "result.json", lambda r: r.update(config_hash=8 * "0"))
    old.rename(new)


def other_packages(root: Path) -> None:
    """A whole run of another torch, its address made with it."""
    old = run_dir(root, "qwen-m", "grpo", 1)
    change(old / "environment.json", lambda e: e["packages"].update(torch="2.14.0"))
    tail = stored_hash(stored_runs(root)[old.name], load(old / "result.json"))
    for path in (root / "study.json", *old.glob("*.json")):
        path.write_text(path.read_text().replace(old.name, old.name[:-8] + tail))
    change(old / "result.json", lambda r: r.update(config_hash=tail))
    old.rename(old.with_name(old.name[:-8] + tail))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (scores_edit(lambda s: s.update(suite_version=2)), "has suite version 2, not 1"),
        (
            scores_edit(lambda s: s["benchmarks"]["harder"].update(problem_set_sha256="x")),
            "harder: runs .* differ in problem_set_sha256",
        ),
        (
            scores_edit(lambda s: s["benchmarks"]["long"]["protocol"].update(top_p=1.0)),
            "long: runs .* differ in protocol",
        ),
        (
            scores_edit(lambda s: s["benchmarks"]["harder"]["verdicts"].__setitem__(3, "ccw")),
            "problem 3 has 3 verdicts, avg@8 needs exactly 8",
        ),
        (scores_edit(lambda s: s["benchmarks"]["harder"].update(k=4)), "k is 4, .* asks for 8"),
        (
            scores_edit(lambda s: s["benchmarks"].update(other=s["benchmarks"]["harder"])),
            "benchmark 'other', which is not in study.json",
        ),
        (half_a_file, "result.json is not valid JSON"),
        (result_edit(lambda r: r.update(seed=2)), "has seed 2, study.json plans 1"),
        (
            result_edit(lambda r: r.update(suite_version=2)),
            "result.json has suite version 2, study.json plans 1",
        ),
        (
            lambda root: change(
                run_dir(root, "qwen-m", "grpo", 1) / "config.json", lambda c: c.update(seed=7)
            ),
            "qwen-m-grpo-s1-.*: its config.json and packages give the hash",
        ),
        (renamed, "qwen-m-grpo-s1-00000000: its config.json and packages give the hash"),
        (
            result_edit(lambda r: r.update(config_hash="00000000")),
            "result.json has 00000000, its name",
        ),
        (other_packages, "runs .* were made with torch 2.13.0 and 2.14.0 and cannot share a table"),
        (lambda root: (root / "study.json").unlink(), "study.json does not exist"),
        (
            lambda root: change(root / "study.json", lambda s: s.pop("cells")),
            "does not describe a grid",
        ),
        (
            lambda root: change(root / "study.json", lambda s: s["cells"].append(s["cells"][0])),
            "twice",
        ),
    ],
)
def test_what_cannot_share_a_table_is_one_clear_line(study, damage, message):
    damage(study)
    with pytest.raises(ValueError, match=message) as caught:
        report.build(study, only=["table1"])
    assert isinstance(caught.value, StudyError | stats.StatsError)
    assert "\n" not in str(caught.value)


def test_a_run_outside_the_grid_changes_no_table(study):
    report.build(study, only=["table1"])
    before = (study / "tables" / "table1.csv").read_bytes()
    stray = study / "runs" / "qwen-m-grpo-s1-ffffffff"
    shutil.copytree(run_dir(study, "qwen-m", "grpo", 1), stray)
    change(stray / "scores.json", lambda s: s["benchmarks"]["harder"].update(k=4))
    report.build(study, only=["table1"])
    assert (study / "tables" / "table1.csv").read_bytes() == before


def test_unknown_artefact_names_the_nearest(study, capsys):
    with pytest.raises(report.ReportError, match="did you mean table1?"):
        report.build(study, only=["tabel1"])
    assert main(["report", "--out", str(study), "--only", "table1", "--check"]) == 2
    assert "--check compares all tables and pages; leave one out" in capsys.readouterr().err
    assert main(["report", "--out", str(study), "--only", "tabel1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sgpo: error: unknown artefact 'tabel1'; allowed: claims,")


def test_tuning_accuracy_must_be_a_share(study):
    text = (study / "tuning.csv").read_text().replace("0.51,", "51.0,")
    (study / "tuning.csv").write_text(text)
    with pytest.raises(StudyError, match="dev_accuracy 51.0 must be a share"):
        records.trials(load_study(study))


# Files --------------------------------------------------------------------------------------------


def test_a_rebuild_is_byte_identical(plain_study, study):
    root, summary = plain_study
    again = report.build(study, figures=False)
    names = [path.relative_to(root) for path in summary.written]
    assert names == [path.relative_to(study) for path in again.written]
    assert {".md", ".csv", ".tex", ".json"} == {name.suffix for name in names}
    for name in names:
        assert (root / name).read_bytes() == (study / name).read_bytes(), name


def test_only_writes_what_was_asked_with_the_same_bytes(variant_study, study):
    summary = report.build(study, only=["fig4", "table1"])
    names = {str(path.relative_to(study)) for path in summary.written}
    tables = {f"tables/table1{s}.{e}" for s in ("", "_paper") for e in ("md", "csv", "tex")}
    assert names == tables | {"figures/fig4.png", "figures/fig4.pdf"}
    for name in names:
        assert (study / name).read_bytes() == (variant_study[0] / name).read_bytes()
    assert not (study / "REPORT.md").exists()


def test_a_slow_build_says_how_far_it_is(study, monkeypatch, capsys):
    report.build(study, only=["table1", "budget"])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(report, "SECONDS_A_LINE", -1.0)
    report.build(study, only=["table1", "budget"])
    assert capsys.readouterr().err.splitlines() == [
        "report: 1 of 2 made, up to table1",
        "report: 2 of 2 made, up to budget",
    ]


def test_the_report_needs_no_torch():
    code = (
        "import sys, benchmarks.report.build as r; "
        "bad = {'torch', 'transformers'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=TREE, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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


# Claims and figures -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def five(tmp_path_factory) -> Path:
    """As many seeds as a verdict takes."""
    root = write_study(tmp_path_factory.mktemp("five") / "mini", seeds=(0, 1, 2, 3, 4))
    report.build(root, only=["table1"])
    return root


@pytest.fixture
def five_copy(five, tmp_path) -> Path:
    return Path(shutil.copytree(five, tmp_path / "mini"))


def test_claims_hold_where_the_world_was_built_so(five):
    found = claims.evaluate(load_study(five))
    assert [c.key for c in found] == (
        ["best_on_average"] * 3 + ["gain_grows"] + ["alpha_falls"] * 3 + ["entropy_above"] * 3
        + ["pass_not_below"] * 3 + ["guidance_kept"] * 3 + ["equal_tokens"]
    )  # fmt: skip
    verdicts = {key: {c.verdict for c in found if c.key == key} for key in (c.key for c in found)}
    assert verdicts["best_on_average"] == verdicts["entropy_above"] == {stats.HOLDS}
    assert verdicts["alpha_falls"] == {stats.BUILT_IN}
    rows = rows_of(five, "table1")
    best = next(c for c in found if c.key == "best_on_average")
    averages = {m: float(rows["qwen-s", m, "average"]["mean"]) for m, _ in METHODS}
    margin = averages.pop("sgpo") - max(averages.values())
    assert best.effect.mean == pytest.approx(margin, abs=1e-5)
    assert best.paper == "+1.1 to +2.2 points on three models"
    gain = next(c for c in found if c.key == "gain_grows")
    expected = [
        float(rows[m, "sgpo", "average"]["mean"]) - float(rows[m, "base", "average"]["mean"])
        for m in ("qwen-m", "qwen-s")
    ]
    assert gain.effect.mean == pytest.approx(expected[0] - expected[1], abs=1e-5)
    assert gain.subject == "Qwen-M vs Qwen-S" and gain.paper.startswith("+3.2 points")


def test_alpha_and_entropy_effects_are_the_means_of_the_curves(plain_study):
    found = {(c.key, c.subject): c for c in claims.evaluate(load_study(plain_study[0]))}
    falls, gaps, kept = [], [], []
    for seed in (0, 1, 2):
        ours = pd.read_json(
            run_dir(plain_study[0], "qwen-m", "sgpo", seed) / "metrics.jsonl", lines=True
        )
        grpo = pd.read_json(
            run_dir(plain_study[0], "qwen-m", "grpo", seed) / "metrics.jsonl", lines=True
        )
        falls.append(ours.alpha_mean[: STEPS // 4].mean() - ours.alpha_mean[-STEPS // 4 :].mean())
        guided = 100 * ours.guided_reward
        kept.append(guided[-STEPS // 4 :].mean() - guided[: STEPS // 4].mean())
        gaps.append(ours.entropy[STEPS // 2 :].mean() - grpo.entropy[STEPS // 2 :].mean())
    alpha = found["alpha_falls", "Qwen-M"].effect
    assert alpha.mean == pytest.approx(np.mean(falls))
    expected = stats.Mean.over_units(falls).interval()
    assert (alpha.interval.low, alpha.interval.high) == pytest.approx((expected.low, expected.high))
    assert found["entropy_above", "Qwen-M"].effect.mean == pytest.approx(np.mean(gaps))
    assert found["guidance_kept", "Qwen-M"].effect.mean == pytest.approx(np.mean(kept))


def test_methods_with_different_seeds_are_compared_on_the_common_ones(study):
    gone = run_dir(study, "qwen-s", "luffy", 2)
    shutil.rmtree(gone)

    def drop(plan):
        plan["cells"] = [c for c in plan["cells"] if c["run_id"] != gone.name]

    change(study / "study.json", drop)
    found = estimates.gain(load_study(study), "qwen-s", "sgpo", "luffy", "harder")
    ours, theirs = (
        np.mean([share_correct(run_dir(study, "qwen-s", m, s), "harder") for s in (0, 1)])
        for m in ("sgpo", "luffy")
    )
    assert found.mean == pytest.approx(ours - theirs)
    assert found.num_seeds == 2


def exchange_scores(root: Path, model: str, first: str, second: str, *, copy: bool = False) -> None:
    """``copy``: the second gets the first's and keeps nothing of its own."""
    for cell in load(root / "study.json")["cells"]:
        if (cell["model"], cell["method"]) == (model, first):
            a, b = (run_dir(root, model, m, cell["seed"]) / "scores.json" for m in (first, second))
            tables = load(a)["benchmarks"], load(b)["benchmarks"]
            change(b, lambda s, table=tables[0]: s.update(benchmarks=table))
            if not copy:
                change(a, lambda s, table=tables[1]: s.update(benchmarks=table))


def test_a_reversed_ranking_fails_and_the_report_says_so(five_copy):
    exchange_scores(five_copy, "qwen-m", "sgpo", "hpt")
    loaded = load_study(five_copy)
    claim = next(c for c in claims.evaluate(loaded) if c.subject == "Qwen-M")
    assert claim.verdict == stats.FAILS and claim.corrected >= claim.p
    words = [c.verdict for c in claims.evaluate(loaded) if c.key == "best_on_average"]
    head = pages.headline(loaded, claims.evaluate(loaded))
    assert f"{words[0]} on Qwen-S (" in head and f"; {claim.verdict} on Qwen-M (-" in head


def test_equal_scores_are_equivalent(five_copy):
    exchange_scores(five_copy, "qwen-m", "sgpo", "grpo", copy=True)
    claim = next(c for c in claims.evaluate(load_study(five_copy)) if c.subject == "Qwen-M")
    interval = claim.effect.interval
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0, 0, 0), abs=1e-9)
    assert claim.verdict == stats.EQUIVALENT and claim.effect.of.detectable() == 0.0


def test_few_seeds_decide_nothing_in_the_miniature(plain_study, tmp_path):
    one = write_study(tmp_path / "mini", seeds=(0,))
    for root, number in ((one, 1), (plain_study[0], 3)):
        found = claims.evaluate(load_study(root))
        assert {c.verdict for c in found} <= {stats.TOO_LITTLE, stats.BUILT_IN}
        assert {c.effect.num_seeds for c in found} == {number}


def test_a_real_profile_says_one_run_and_decides_from_three(tmp_path):
    for seeds in ((0,), (0, 1, 2)):
        root = write_study(tmp_path / str(len(seeds)) / "paper", seeds=seeds)
        change(root / "study.json", lambda s: s.update(profile="paper"))
        found = [c for c in claims.evaluate(load_study(root)) if c.key == "best_on_average"]
        assert all(c.effect.interval.low < c.effect.mean for c in found)
        if len(seeds) == 1:
            assert {c.verdict for c in found} == {claims.ONE_RUN}
        else:
            assert all(c.p < 0.05 for c in found)
            assert stats.HOLDS in {c.verdict for c in found}


def test_smoothing_is_the_centred_rolling_mean():
    values = np.random.default_rng(3).random(30)
    values[[4, 5, 17]] = np.nan
    expected = pd.Series(values).rolling(5, center=True, min_periods=1).mean()
    assert smooth(values, 5) == pytest.approx(expected.to_numpy(), abs=1e-12)


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


def test_paper_points_are_those_of_the_paper():
    points = scaling.paper_points()
    assert {model: (b, round(g, 1)) for model, (b, g) in points.items()} == {
        "Qwen2.5-1.5B-Instruct": (23.2, 6.7),
        "Qwen2.5-7B-Instruct": (42.2, 9.9),
        "Llama-3.2-8B-Instruct": (20.4, 7.2),
    }


def test_fig4_shows_qwen_m_else_the_largest_model(study):
    assert training.representative(load_study(study)) == "qwen-m"

    def drop(plan):
        plan["cells"] = [c for c in plan["cells"] if c["model"] != "qwen-m"]

    for path in (study / "runs").glob("qwen-m-*"):
        shutil.rmtree(path)
    change(study / "study.json", drop)
    assert training.representative(load_study(study)) == "llama-m"


def test_regime_shows_conditions_then_what_is_only_reported(study):
    def measure(stored):
        stored["models"]["qwen-s"]["conditions"][1].update(value=0.41234, passed=False)
        stored["models"]["qwen-s"]["reported"] = {
            "right_guesses": 0.0123,
            "guided_by_type": {"a": 0.5, "b": 0.95, "c": 0.7},
            "kl": {"share_below": 0.25, "below_by_role": {"x": 1, "y": 2}},
        }

    change(study / "regime.json", measure)
    loaded = load_study(study)
    rows = [
        [cell.text for cell in cells][1:]
        for cells in records.REGIME.table(loaded, records.REGIME.rows(loaded)).rows[:6]
    ]
    assert rows == [
        ["blind guess", "0.004", "<= 0.01", "passed"],
        ["guided pass rate", "0.412", ">= 0.6", "FAILED"],
        ["right guesses", "0.0123", "reported", ""],
        ["guided by type", "0.5 to 0.95", "reported", ""],
        ["kl: share below", "0.25", "reported", ""],
        ["kl: below by role", "1 to 2", "reported", ""],
    ]
    assert "failed, read the results with care: qwen-s: guided pass rate." in (
        pages.regime_sentence(loaded)
    )


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
