"""Publishing a study: a few tables that give back every file, the same numbers, safe to repeat."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_study import (
    BENCHMARKS,
    METHODS,
    MODELS,
    dump,
    load,
    run_dir,
    write_study,
    write_texts,
)

from benchmarks.cli import main
from benchmarks.report import audit, pages
from benchmarks.store import locks, publish
from benchmarks.store.load import load_frame, load_ledger, load_metrics, load_study
from benchmarks.store.locks import locked
from benchmarks.store.runs import (
    REASONS,
    TABLES,
    StudyError,
    read_samples,
    read_table,
    stored_runs,
)
from sgpo.core.files import write_json

RUN = ("qwen-m", "sgpo", 1)
METRICS = [
    {"step": 1, "reward": 0.123456789, "seconds": 1234567.0, "num_samples": 19_200_001},
    {"step": 2, "kl": 1e-9 / 3, "reward": None, "seconds": 2, "num_samples": 19_200_002},
]

LEDGER = {
    "trained-3": {
        "opening": {"tokens": 1.0, "kl": 2.0, "kl_masked": 2.0},
        "order": {"tokens": 3.0, "kl": 0.0018, "kl_masked": 0.0005},
    },
    "nowhere": {"routine": {"tokens": 7.0, "kl": 0.1, "kl_masked": 0.0}},
}


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def seal(run: Path) -> None:
    """Checksums in result.json, as a run leaves them."""
    result = load(run / "result.json")
    names = ("config.json", "environment.json", "ledger.json", "metrics.jsonl", "scores.json")
    sums = {n: sha((run / n).read_bytes()) for n in names if (run / n).exists()}
    dump(run / "result.json", result | {"sha256": sums})


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A study in directories, with answers in one run, odd metrics in it, and a tuning run."""
    root = write_study(tmp_path_factory.mktemp("publish") / "mini", seeds=(0, 1))
    run = run_dir(root, *RUN)
    (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in METRICS))
    write_json(run / "ledger.json", LEDGER)
    scores = load(run / "scores.json")
    for entry in scores["benchmarks"].values():
        words = (row.translate(str.maketrans("cwnt", "ab..")) for row in entry["verdicts"])
        entry["answers"] = " ".join(words)
    dump(run / "scores.json", scores)
    shutil.copytree(run, root / "tuning" / "runs" / run.name)
    for path in (*root.glob("runs/*"), *root.glob("tuning/runs/*")):
        seal(path)
    return root


@pytest.fixture
def study(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "mini"))


@pytest.fixture(scope="module")
def published(whole, tmp_path_factory) -> Path:
    root = Path(shutil.copytree(whole, tmp_path_factory.mktemp("published") / "mini"))
    assert main(["publish", str(root)]) == 0
    return root


def files(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_four_tables_take_the_place_of_the_directories_and_give_back_every_file(whole, published):
    assert not (published / "runs").exists() and not (published / "tuning" / "runs").exists()
    for root in (published, published / "tuning"):
        names = {p.name for p in root.glob("*.parquet")}
        assert names - {"problems.parquet"} == {f"{name}.parquet" for name in TABLES}
        assert {*stored_runs(root)} == {*stored_runs(whole / root.relative_to(published))}
    for run_id, run in stored_runs(published).items():
        result, old = run.object("result.json"), whole / "runs" / run_id
        for name in ("config.json", "environment.json"):
            assert run.content(name) == (old / name).read_bytes()
        assert run.object("scores.json") == load(old / "scores.json")
        assert result["before_publishing"].items() <= load(old / "result.json")["sha256"].items()
        for name, digest in result["sha256"].items():
            assert sha(run.content(name)) == digest
        assert run.content("provenance.json") is None and not run.has("train.json")
    once = files(published)
    assert publish.publish(published) == 0 and files(published) == once


def test_the_texts_of_one_world_can_be_kept(whole, tmp_path, monkeypatch, capsys, refused):
    root = Path(shutil.copytree(whole, tmp_path / "mini"))
    refused(
        f"publish {root} --texts qwen-mm",
        "unknown model 'qwen-mm'; did you mean 'qwen-m'?",
    )
    refused(f"publish {root} --texts qwen-m", "are not here; publish where the study was run")
    here = [run_dir(root, "qwen-m", m, None if m == "base" else 0) for m, _ in METHODS]
    for run in (*here, run_dir(root, "qwen-m", "sgpo", 1)):
        write_texts(run, run.name.split("-")[2])
    written = {run.name: read_samples(run / "samples" / "trained.jsonl.gz") for run in here}
    result = load(here[1] / "result.json")
    sums = result["sha256"] | {"samples/trained.jsonl.gz": sha(b"other texts")}
    dump(here[1] / "result.json", result | {"sha256": sums})
    refused(f"publish {root} --texts qwen-m", "trained.jsonl.gz: was changed after the run")
    dump(here[1] / "result.json", result)
    assert main(["publish", str(root), "--texts", "qwen-m"]) == 0
    shutil.rmtree(root / "runs")  # as in a clone
    runs = stored_runs(root)
    assert {run_id for run_id, run in runs.items() if run.sampled()} == set(written)
    for run_id, rows in written.items():
        assert sorted(runs[run_id].sampled()) == sorted(key for key, *_ in BENCHMARKS)
        assert runs[run_id].samples("trained") == rows
    monkeypatch.setenv("SGPO_RESULTS", str(tmp_path))
    a, b = (next(n for n in written if f"-{m}-" in n) for m in ("sgpo", "grpo"))
    capsys.readouterr()
    assert main(["compare", a, b, "--benchmark", "trained", "--limit", "1"]) == 0
    assert "so \\boxed{" in capsys.readouterr().out
    assert '"labels": ' in (root / "samples.html").read_text()
    assert "(samples.html)" in pages.texts(load_study(root))


@pytest.fixture(params=["directories", "tables"])
def form(request, whole, published) -> Path:
    return whole if request.param == "directories" else published


def test_the_ledger_is_a_row_a_type_and_place(whole, form):
    run, frame, stored = run_dir(whole, *RUN), load_ledger(form), stored_runs(form)
    assert set(frame.run_id) == {run.name} and len(frame) == 3
    rows = frame.set_index(["type", "place"])
    order = rows.loc[("trained-3", "order")]
    assert (order.token_class, order.tokens, order.kl, order.kl_masked) == (
        "choice", 3.0, 0.0018, 0.0005)  # fmt: skip
    assert order.prior == 0.5 / 4 and np.isnan(rows.loc[("nowhere", "routine")].prior)
    assert stored[run.name].content("ledger.json") == (run / "ledger.json").read_bytes()
    assert {name for name, r in stored.items() if r.has("ledger.json")} == {run.name}


def test_an_audit_sees_a_column_that_only_the_ledger_s_table_has(published, tmp_path):
    root = Path(shutil.copytree(published, tmp_path / "mini"))
    assert all(ok for ok, _ in audit._published(root))
    rows = pd.read_parquet(root / "ledger.parquet")
    rows.assign(prior=0.9).to_parquet(root / "ledger.parquet")
    (wrong,) = (complaint for ok, complaint in audit._published(root) if not ok)
    assert "ledger.parquet: prior is not what" in wrong


def test_the_frame_has_a_row_a_verdict(whole, form):
    frame = load_frame(form)
    assert set(frame.model.cat.categories) == {m[0] for m in MODELS}
    frame = frame[frame.budget == 1]
    assert len(frame) == len(stored_runs(whole)) * sum(n * k for _, _, n, k in BENCHMARKS)
    run = run_dir(whole, *RUN)
    rows = frame[(frame.model == "qwen-m") & (frame.method == "sgpo") & (frame.seed == 1)]
    assert set(rows.run_id) == {run.name} and not rows.answer.isna().any()
    assert frame[frame.run_id != run.name].answer.isna().all()
    stored = load(run / "scores.json")["benchmarks"]["harder"]
    own = rows[rows.benchmark == "harder"].sort_values(["problem", "sample"])
    letters = own.reason.map({reason: letter for letter, reason in REASONS.items()})
    by_problem = own.assign(letter=letters.astype(str)).groupby("problem")
    assert by_problem.letter.sum().tolist() == stored["verdicts"]
    assert by_problem.answer.apply("".join).tolist() == stored["answers"].split(" ")
    assert (own.correct == (letters == "c")).all() and own["sample"].max() == 7


def test_a_call_that_was_cut_off_is_made_up_for(study, published, monkeypatch):
    def full(path, content):
        if path.name == "runs.parquet":
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    real = publish.write_bytes
    with monkeypatch.context() as patch:
        patch.setattr(publish, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            publish.publish(study)
    assert load_study(study).runs.keys() == load_study(published).runs.keys()
    publish.publish(study)
    made = {p.relative_to(study): data for p, data in files(study).items()}
    assert made == {p.relative_to(published): data for p, data in files(published).items()}


def test_a_directory_with_weights_stays_and_is_not_published_twice(study):
    run = run_dir(study, *RUN)
    (run / "model").mkdir()
    (run / "model" / "weights").write_text("w")
    publish.publish(study)
    assert [p.name for p in (study / "runs").iterdir()] == [run.name]
    assert not stored_runs(study)[run.name].published
    assert len(load_frame(study)) == len(load_frame(study).drop_duplicates())
    once = files(study)
    assert publish.publish(study) == 0 and files(study) == once


def test_what_runs_was_changed_by_hand_or_is_no_study_is_not_published(
    study, tmp_path, capsys, refused
):
    with locked(study):
        refused(f"publish {study}", "another study is running in this directory")
    run = run_dir(study, *RUN)
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text('{"step": 1, "note": "x"}\n')
    refused(f"publish {study}", "metrics.jsonl: was changed after the run")
    seal(run)
    refused(f"publish {study}", "note='x' is no metric")
    (run / "metrics.jsonl").write_text(whole)
    assert len(list((study / "runs").iterdir())) == len(load(study / "study.json")["cells"])
    assert not (study / "runs.parquet").exists() and main(["publish", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_numbers_keep_six_digits_and_damaged_or_parted_tables_are_known(published, tmp_path):
    first, second = stored_runs(published)[run_dir(published, *RUN).name].metrics()
    assert first == {"step": 1, "reward": 0.123457, "seconds": 1234570.0, "num_samples": 19200001}
    assert second == {"step": 2, "seconds": 2.0, "num_samples": 19200002, "kl": 3.33333e-10}
    assert [type(v) for v in second.values()] == [int, float, int, float]
    root = Path(shutil.copytree(published, tmp_path / "mini"))
    expected = load_frame(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "MAX_BYTES", 6000)
        publish._write_table(root, "verdicts", read_table(root, "verdicts"))
    parts = sorted((root / "verdicts.parquet").iterdir())
    assert len(parts) > 1 and max(p.stat().st_size for p in parts) < 12_000
    assert load_frame(root).astype(str).equals(expected.astype(str))
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    with pytest.raises(StudyError, match="verdicts.parquet is damaged"):
        load_study(root)


# One study in a directory, or launches of different runs beside each other ------------------------


def test_launches_of_different_runs_share_a_directory(tmp_path):
    with locked(tmp_path, ["a"]), locked(tmp_path, ["b", "c"]), locked(tmp_path, []):
        with pytest.raises(ValueError, match="another process is making b"):
            with locked(tmp_path, ["d", "b"]):
                raise AssertionError("b is held")
        with locked(tmp_path, ["d"]):  # what the refused launch had taken is free again
            pass


def test_a_study_and_a_launch_exclude_each_other(tmp_path):
    with locked(tmp_path, ["a"]):
        with pytest.raises(ValueError, match="another study is running in this directory"):
            with locked(tmp_path):
                raise AssertionError("a launch runs")
    with locked(tmp_path):
        with pytest.raises(ValueError, match="another study is running in this directory"):
            with locked(tmp_path, ["a"]):
                raise AssertionError("a study runs")
    with locked(tmp_path):
        pass


def test_pandas_alone_reads_the_tables(published, tmp_path):
    frame = pd.read_parquet(published / "verdicts.parquet")
    assert frame.astype(str).equals(load_frame(str(published)).astype(str))
    steps = pd.read_parquet(published / "metrics.parquet")
    assert steps.equals(load_metrics(published))
    assert (steps[steps.method == "grpo"].groupby("run_id", observed=True).step.count() == 40).all()
    for read in (load_frame, load_metrics):
        with pytest.raises(StudyError, match="no ended run there"):
            read(tmp_path)


def test_a_file_system_without_locks_is_one_clear_line(tmp_path, monkeypatch):
    def flock(file, mode):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    with pytest.raises(ValueError, match="study.lock: cannot be locked .No locks available.; ch"):
        with locked(tmp_path):
            raise AssertionError("nothing is held")
