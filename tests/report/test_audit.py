"""The audit passes on what is stored and fails on any single thing that was changed by hand."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_study import change as change_json
from tiny_study import small_cells

from benchmarks.cli import main
from benchmarks.config import SUITE_VERSION
from benchmarks.report import audit
from benchmarks.report.build import build
from benchmarks.run.cell import run_cell
from benchmarks.run.evaluate import recomputed
from benchmarks.store.runs import StoredRun
from sgpo.core.files import write_json


@pytest.fixture(scope="module")
def audited(finished, tmp_path_factory) -> Path:
    """The finished small study with its whole report."""
    out = shutil.copytree(finished, tmp_path_factory.mktemp("audit") / "quick")
    build(out, figures=False)
    assert main(["audit", str(out)]) == 0
    return out


@pytest.fixture
def no_rebuild(monkeypatch):
    """Leave out the slow part, the rebuild of all tables, which has a test of its own."""
    monkeypatch.setattr(audit, "differing_artefacts", lambda results: (0, []))


@pytest.fixture
def copy(audited, tmp_path) -> Path:
    return Path(shutil.copytree(audited, tmp_path / "quick"))


def run_of(results: Path, method: str) -> Path:
    return next((results / "runs").glob(f"*-{method}-s0-*"))


def test_an_untouched_study_passes_and_says_what_it_read(copy, tmp_path, capsys, no_rebuild):
    assert main(["audit", str(copy), "--regrade"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text and "8 right, 0 wrong" in text
    assert "tables recomputed from full samples in 8 of them" in text
    for run in (copy / "runs").iterdir():
        shutil.rmtree(run / "samples")
        shutil.rmtree(run / "model", ignore_errors=True)  # a base model has none
    assert main(["audit", str(copy)]) == 0
    assert "from the stored verdict letters in 8" in capsys.readouterr().out
    assert main(["audit", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-7] ^= 4
    path.write_bytes(bytes(data))


def change_sample(path: Path) -> list[dict]:
    """The rows with one wrong verdict in them, as they lie there now."""
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    wrong = next(row for row in rows if row["reason"] != "correct")
    wrong["reason"] = "correct"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return rows


def change_types(path: Path) -> None:
    rows = pd.read_parquet(path)
    rows.loc[rows.benchmark == "long", "types"] = "Aldric"
    rows.to_parquet(path)


def edited(edit):
    return lambda path: change_json(path, edit)


@pytest.mark.parametrize(
    ("file", "tamper", "complaint"),
    [
        ("scores.json", edited(lambda s: s["benchmarks"]["trained"].update(mean_length=1.0)),
         "scores.json: trained is not what"),
        ("config.json", edited(lambda c: c["train"].update(learning_rate=1.0)),
         "the stored config gives"),
        ("environment.json", edited(lambda e: e["packages"].update(torch="1.0")),
         "the stored config gives"),
        ("result.json", edited(lambda r: r.update(suite_version=SUITE_VERSION + 1)),
         "suite version"),
        ("metrics.jsonl", lambda path: path.write_text(path.read_text().replace("0.", "0.9", 1)),
         "metrics.jsonl: was changed after the run"),
        ("metrics.jsonl", Path.unlink, "metrics.jsonl: is missing"),
        ("model/model.safetensors", flip_bit, "model.safetensors: was changed after the run"),
        ("samples/harder.jsonl.gz", change_sample, "harder is not what its samples give"),
        ("provenance.json",
         edited(lambda p: p.update(start_weights={"model.safetensors": "0" * 64})),
         "did not start from the weights"),
        ("../../problems.parquet", change_types, "long is not what its worlds say"),
        ("../../problems.parquet", Path.unlink, "trained is not what its worlds say"),
    ],
)  # fmt: skip
def test_one_change_fails_and_is_named(copy, capsys, no_rebuild, file, tamper, complaint):
    tamper(run_of(copy, "grpo") / file)
    assert main(["audit", str(copy)]) == 1
    assert complaint in capsys.readouterr().out


def test_every_column_of_the_published_tables_is_checked(copy, capsys, no_rebuild):
    assert main(["publish", str(copy)]) == 0
    assert main(["audit", str(copy)]) == 0
    for table, column, value in (
        ("metrics", "seed", 7),
        ("runs", "method", "hpt"),
        ("verdicts", "correct", True),
    ):
        path = copy / f"{table}.parquet"
        kept = path.read_bytes()
        stored = pq.read_table(path)
        place, forged = stored.column_names.index(column), pa.array([value] * stored.num_rows)
        pq.write_table(stored.set_column(place, column, forged.cast(stored[column].type)), path)
        wrong = [complaint for ok, complaint in audit._published(copy) if not ok]
        assert wrong == [f"{path}: {column} is not what the runs' files give"]
        if column != "correct":
            path.write_bytes(kept)
    capsys.readouterr()
    assert main(["audit", str(copy)]) == 1
    assert "correct is not what the runs' files give" in capsys.readouterr().out


def test_a_trial_has_the_settings_of_its_run_and_the_best_rate_is_chosen(tmp_path):
    trials = {}
    for rate, verdicts in ((0.1, ["cw", "ww"]), (0.2, ["cc", "cw"])):
        run = tmp_path / "runs" / f"r{rate}"
        config = {"method": "grpo", "seed": 1000, "train": {"learning_rate": rate}}
        write_json(run / "config.json", config)
        write_json(run / "scores.json", {"benchmarks": {"minidev": {"verdicts": verdicts}}})
        trials[run.name] = StoredRun(run)
    header = "method,trial,learning_rate,seed,dev_accuracy,run_id,chosen\n"
    good = f"{header}grpo,0,0.1,1000,0.25,r0.1,False\ngrpo,1,0.2,1000,0.75,r0.2,True\n"
    swapped = good.replace("False", "x").replace("True", "False").replace("x", "True")
    for text, complaint in (
        (good, ""),
        (good.replace("1000,0.75", "1001,0.75"), "trial 1 was made with"),
        (good.replace("0.1,1000", "0.15,1000"), "trial 0 was made with"),
        (good.replace("False", "True"), "of grpo, [0.1, 0.2] is marked chosen"),
        (good.replace("True", "False"), "of grpo, [] is marked chosen"),
        (good.replace("0.75", "0.85"), "trial 1 has 0.75"),
        (swapped, "of grpo, [0.1] is marked chosen"),
    ):
        (tmp_path / "tuning.csv").write_text(text)
        wrong = [said for ok, said in audit._tuning(tmp_path, trials) if not ok]
        assert len(wrong) == bool(complaint) and complaint in "".join(wrong)


def test_changed_tables_and_pages_are_named(copy):
    table, page = copy / "tables" / "budget.csv", copy / "REPORT.md"
    table.write_text(table.read_text() + "\n")
    page.write_text(page.read_text() + "\nIt holds.\n")
    (copy / "tables" / "extra.csv").write_text("a,b\n1,2\n")
    (copy / "tables" / "budget.md").unlink()
    compared, wrong = audit.differing_artefacts(copy)
    assert compared > 10
    assert wrong == [
        "REPORT.md",
        *(f"tables/{n}" for n in ("budget.csv", "budget.md", "extra.csv")),
    ]


def test_a_verdict_that_the_verifier_would_not_give_is_found_by_regrading(copy, capsys, no_rebuild):
    """Samples, letters and checksums all forged alike: only judging anew can tell."""
    run = run_of(copy, "sft")
    rows = change_sample(run / "samples" / "harder.jsonl.gz")

    def change(scores: dict) -> None:
        entry = scores["benchmarks"]["harder"]
        entry |= recomputed(rows, entry["k"])

    change_json(run / "scores.json", change)
    change_json(run / "result.json", lambda r: r.pop("sha256"))
    assert main(["audit", str(copy)]) == 0
    assert main(["audit", str(copy), "--regrade"]) == 1
    assert "harder is not what" in capsys.readouterr().out


def test_damaged_parent_weights_stop_the_run_that_starts_from_them(copy):
    cell = small_cells()["grpo"]
    shutil.rmtree(copy / "runs" / cell.run_id)
    flip_bit(copy / "runs" / cell.parent.run_id / "model" / "model.safetensors")
    with pytest.raises(ValueError, match="was damaged after the run ended"):
        run_cell(cell, copy, lambda *_: None)


@pytest.mark.parametrize(
    ("name", "said"),
    [("spec_sha256", 0), ("chat_template_sha256", 1), ("probe_ids_sha256", 1)],
)
def test_runs_must_have_been_asked_alike_whatever_a_release_calls_it(copy, name, said):
    change_json(
        run_of(copy, "grpo") / "provenance.json",
        lambda record: record["prompt"].update({name: "of another release"}),
    )
    grid = {run.name: StoredRun(run) for run in (copy / "runs").iterdir()}
    wrong = [words for ok, words in audit._origins(grid, {*grid}) if ok is False]
    assert sum("differ in prompt" in words for words in wrong) == len(wrong)
    assert bool(wrong) == bool(said)
