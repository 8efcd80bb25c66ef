"""Accuracy and verdicts under other graders, on a small study with scripted samples."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from synthetic_study import BENCHMARKS, change, dump, load, run_dir, write_study, write_texts

from benchmarks.cli import main
from benchmarks.report import audit
from benchmarks.report.tables import graders
from benchmarks.run.graders import GRADERS, differing
from benchmarks.store.load import load_study
from benchmarks.store.runs import StoredRun, StudyError

SEEDS = (0, 1, 2, 3, 4)
METHODS = ("grpo", "sgpo")


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> Path:
    root = write_study(tmp_path_factory.mktemp("graders") / "mini", seeds=SEEDS)
    plan = load(root / "study.json")
    plan["cells"] = [c for c in plan["cells"] if c["model"] == "qwen-m" and c["method"] in METHODS]
    dump(root / "study.json", plan)
    for cell in plan["cells"]:
        write_texts(root / "runs" / cell["run_id"], cell["method"])
    assert main(["grade", str(root), "--grader", "all"]) == 0
    return root


def test_graders_differ_where_they_should(capsys):
    golds, texts = ["7", "\\frac{1}{2}", "(1,2)"], ["\\boxed{7}", "\\boxed{0.5}", "\\boxed{(2,1)}"]
    pairs = list(zip(golds, texts, strict=True))
    found = {name: [v.correct for v in judge(pairs)] for name, judge in GRADERS.items()}
    assert found["ours"] == found["stock"] == [True, True, False]
    assert found["exact"] == [True, False, False]
    with pytest.raises(SystemExit):
        main(["grade", "--grader", "mine", "results/mini"])
    assert "'ours', 'stock', 'exact', 'all'" in capsys.readouterr().err


def test_the_table_has_every_method_under_every_grader(graded, tmp_path):
    made = graders.GRADERS.make(load_study(graded), tmp_path)
    assert [path.name for path in made.paths] == ["graders.md", "graders.csv"]
    with made.paths[1].open() as file:
        means = {
            (r["method"], r["benchmark"], r["grader"]): r["mean"] for r in csv.DictReader(file)
        }
    assert len(means) == len(METHODS) * (len(BENCHMARKS) + 1) * 3
    for method in METHODS:
        paths = [run_dir(graded, "qwen-m", method, seed) / "scores.json" for seed in SEEDS]
        letters = "".join("".join(load(p)["benchmarks"]["trained"]["verdicts"]) for p in paths)
        share = pytest.approx(100 * letters.count("c") / len(letters), abs=1e-5)
        assert float(means[method, "trained", "ours"]) == share
        assert float(means[method, "trained", "stock"]) == share
        exact = float(means[method, "trained", "exact"])
        assert exact == (0.0 if method == "sgpo" else share)


def test_disagreements_have_examples_and_changed_verdicts_are_named(graded, tmp_path):
    graders.GRADERS.make(load_study(graded), tmp_path)
    text = (tmp_path / "tables" / "graders.md").read_text()
    (line,) = [x for x in text.splitlines() if x.startswith("| exact text | ours | ")]
    stored = [load(run_dir(graded, "qwen-m", "sgpo", s) / "scores.json") for s in SEEDS]
    tables = [s["benchmarks"][key] for s in stored for key, *_ in BENCHMARKS]  # at budget 1
    right = sum("".join(table["verdicts"]).count("c") for table in tables)
    example = 'gold \\\\frac{1}{2}, answer 0.5 in "so \\\\boxed{0.5}"'
    assert f"numbers | {right} | {example} |" in line
    assert "SGPO is best on average, Qwen-M: holds (" in text
    assert "under ours, fails (" in text and "under exact text" in text
    assert "under Math-Verify" not in text


def test_what_cannot_be_graded_is_one_line_and_nothing_is_overwritten(
    graded, plain_study, tmp_path, refused
):
    refused(["grade", str(plain_study[0]), "--grader", "all"], "no samples below runs/")
    root = Path(shutil.copytree(graded, tmp_path / "mini"))
    run = run_dir(root, "qwen-m", "sgpo", 0)
    refused(f"grade {run} --grader all", f"{run}: --grader all takes a study's directory")
    before = (root / "graders.json").read_bytes()
    shutil.rmtree(run / "samples")
    refused(
        f"grade {root} --grader all",
        "holds the grades of 1 runs whose texts are not here",
    )
    assert (root / "graders.json").read_bytes() == before


def test_places_follow_problems_and_need_as_many_samples_of_each(graded):
    rows = StoredRun(run_dir(graded, "qwen-m", "sgpo", 0)).samples("trained")
    right = [i for i, row in enumerate(rows) if row["correct"]]  # each spelled as no gold is
    assert differing(rows, {}) == {"samples": len(rows), "exact": right}
    mixed = sorted(rows, key=lambda row: row["sample"])  # problems stay in their order
    assert mixed != rows and differing(mixed, {}) == differing(rows, {})
    with pytest.raises(ValueError, match=f"{len(rows) - 1} samples of 60 problems are not as many"):
        differing(rows[1:], {})


def test_an_audit_judges_anew_or_says_that_it_did_not(graded, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(audit, "differing_artefacts", lambda results: (0, []))
    root = Path(shutil.copytree(graded, tmp_path / "mini"))
    name = "other graders' verdicts follow from the samples"
    run = run_dir(root, "qwen-m", "sgpo", 0)
    for samples in root.glob("runs/*/samples"):
        if samples.parent != run:
            shutil.rmtree(samples)
    main(["audit", str(root)])
    text = capsys.readouterr().out
    assert "graders.json: not recomputed; --regrade does, where texts are" in text
    assert name not in text
    change(root / "graders.json",
           lambda found: found["runs"][run.name]["trained"]["exact"].pop())  # fmt: skip
    main(["audit", str(root), "--regrade"])
    text = capsys.readouterr().out
    assert f"FAIL {name}: {len(BENCHMARKS) - 1} right, 1 wrong" in text
    assert f"{run.name}: trained is not what its samples give" in text


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda by: by.update(gone=by["trained"]), "gone: 240 samples are judged, the study has 0"),
        (lambda by: by["trained"].update(samples=236), "236 samples are judged, the study has 240"),
        (lambda by: by["trained"].update(exact=[240]), "240 samples are judged, the study has 240"),
        (lambda by: by["trained"].pop("samples"), "None samples are judged, the study has 240"),
    ],
)
def test_verdicts_of_other_problems_ask_to_grade_again(graded, tmp_path, edit, words):
    root = Path(shutil.copytree(graded, tmp_path / "mini"))
    change(root / "graders.json", lambda found: edit(next(iter(found["runs"].values()))))
    with pytest.raises(StudyError, match=f"{words}; run sgpo grade .* --grader all again$"):
        graders.graded(load_study(root))
