"""What a run directory says about its origin is enough to tell two runs apart, and to go back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import small_cells

from benchmarks.data.sources import training_problems
from benchmarks.run import provenance
from benchmarks.run.given import base_model, gather
from sgpo.core import runlog
from sgpo.core.runlog import revision
from sgpo.core.seeding import derive_seed


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def checkout(tmp_path) -> Path:
    root = tmp_path / "checkout"
    (root / "sgpo").mkdir(parents=True)
    (root / "sgpo" / "a.py").write_text("x = 1\n")
    (root / "sgpo" / "gone.py").write_text("y = 1\n")
    (root / "README.md").write_text("text\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def test_a_clean_checkout_has_a_commit_and_no_patch_and_is_left_as_it_is(checkout):
    """A study may be killed while it asks: git's lock on the index must not be left behind."""
    (checkout / "README.md").write_text("documents do not decide numbers\n")
    (checkout / "scratch.py").write_text("and a script of the user does not\n")
    (checkout / "vendored").mkdir()  # a copy inside another repository
    os.utime(checkout / "sgpo" / "a.py", (1_000_000_000, 1_000_000_000))  # git would note that
    before = (checkout / ".git" / "index").read_bytes()
    found = revision(checkout)
    assert found.commit == git(checkout, "rev-parse", "HEAD").strip()
    assert found.patch is None and not found.dirty
    assert (checkout / ".git" / "index").read_bytes() == before
    assert revision(checkout / "vendored").commit is None


def test_the_patch_leads_from_the_commit_to_the_files(checkout, tmp_path):
    (checkout / "sgpo" / "a.py").write_text("x = 2\nz = 'ä'")
    (checkout / "sgpo" / "gone.py").unlink()
    (checkout / "sgpo" / "new.py").write_text("a = 1\n\nb = 2\n")
    (checkout / "sgpo" / "cut.py").write_text("no = 'newline at the end'")
    (checkout / "sgpo" / "empty.py").write_text("")
    found = revision(checkout)
    assert found.dirty and found.commit == git(checkout, "rev-parse", "HEAD").strip()
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(checkout), str(clone))
    (tmp_path / "p.patch").write_text(found.patch)
    git(clone, "apply", str(tmp_path / "p.patch"))

    def sources(root: Path) -> dict[str, str]:
        return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*.py")}

    assert sources(clone) == sources(checkout) and len(sources(clone)) == 4


@pytest.fixture(scope="module")
def run(finished):
    """(cell, study directory) of a supervised run."""
    return small_cells()["sft"], finished


def stored(run, name: str) -> dict:
    cell, out = run
    return json.loads((out / "runs" / cell.run_id / name).read_text())


def test_a_run_names_its_data_prompts_seeds_and_starting_weights(run):
    cell, out = run
    record = stored(run, "provenance.json")
    assert record["training_data"]["num_problems"] == 256
    assert record["evaluation_data"]["long"]["num_problems"] == 4
    scores = stored(run, "scores.json")["benchmarks"]
    for key, entry in record["evaluation_data"].items():
        assert entry["sha256"] == scores[key]["problem_set_sha256"]
    assert record["seeds"]["eval/harder"] == derive_seed(0, "eval", "harder")
    base = base_model(cell.config, out / "cache")
    weights = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert record["start_weights"] == {"model.safetensors": weights}
    assert record["attempts"][0]["source_digest"] == stored(run, "result.json")["source_digest"]


def test_a_result_names_device_time_tokens_and_the_checksum_of_every_file(run):
    cell, out = run
    result, directory = stored(run, "result.json"), out / "runs" / cell.run_id
    assert result["device"] == "cpu" and result["started"] <= result["ended"]
    scores = stored(run, "scores.json")["benchmarks"].values()
    texts = sum(s["mean_length"] * 8 for s in scores)  # two samples of each of four problems
    assert result["evaluation_tokens"] == pytest.approx(texts, abs=0.5)
    sums = result["sha256"]
    assert {"config.json", "provenance.json", "metrics.jsonl", "scores.json",
            "model/model.safetensors", "samples/trained.jsonl.gz"} <= set(sums)  # fmt: skip
    for name, value in sums.items():
        assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == value, name


def test_a_second_attempt_is_listed_and_changes_nothing_else(run, tmp_path):
    cell, out = run
    for started in ("first", "second"):
        provenance.record(tmp_path, cell, gather(cell, out, lambda *_: None), started)
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert [a["started"] for a in record["attempts"]] == ["first", "second"]
    for name in ("start_weights", "prompt", "evaluation_data", "seeds", "training_data"):
        assert record[name] == stored(run, "provenance.json")[name]


def test_a_changed_trace_is_another_training_set(run):
    cell, _ = run
    problems = training_problems(cell.config.data, cell.config.seed)
    altered = [replace(problems[0], expert=problems[0].expert + " "), *problems[1:]]
    hashes = [provenance.training_record(found) for found in (problems, altered)]
    assert hashes[0] == stored(run, "provenance.json")["training_data"]
    assert hashes[0]["sha256"] != hashes[1]["sha256"]


def test_another_rule_of_the_verifier_is_another_source(tmp_path, monkeypatch):
    for folder in ("sgpo", "baselines"):
        shutil.copytree(runlog.ROOT / folder, tmp_path / folder)
    before = runlog.source_digest()
    monkeypatch.setattr(runlog, "ROOT", tmp_path)
    assert runlog.source_digest.__wrapped__() == before
    with (tmp_path / "sgpo/core/verifier/spelling.toml").open("a") as table:
        table.write("# another\n")
    assert runlog.source_digest.__wrapped__() != before
