"""Publishing a study: smaller files, the same verdicts, checksums of both forms, safe to repeat."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.store import publish
from benchmarks.store.locks import locked

RUN = "qwen-s-sgpo-s0-12345678"
METRICS = [
    {"step": 1, "reward": 0.123456789, "seconds": 1234567.0, "num_samples": 19_200_001},
    {"step": 2, "reward": 1e-9 / 3, "kl": {"choice": [2 / 3]}, "note": "0.123456789"},
]
SCORES = {"benchmarks": {"miniamc": {"k": 2, "verdicts": ["cw", "ww"]}}, "suite_version": 1}


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def study(tmp_path) -> Path:
    """One ended run below ``runs``, one below ``tuning/runs``, as a run writes them."""
    for run in (tmp_path / "runs" / RUN, tmp_path / "tuning" / "runs" / RUN):
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in METRICS))
        (run / "scores.json").write_text(json.dumps(SCORES, indent=1, sort_keys=True) + "\n")
        (run / "config.json").write_text("{}\n")
        names = ("config.json", "metrics.jsonl", "scores.json")
        result = {"run_id": RUN, "sha256": {name: sha(run / name) for name in names}}
        (run / "result.json").write_text(json.dumps(result))
    (tmp_path / "study.json").write_text("{}")
    return tmp_path


def files(root: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_numbers_keep_six_digits_and_everything_else_stays(study, capsys):
    run = study / "tuning" / "runs" / RUN
    before = {name: sha(run / name) for name in ("metrics.jsonl", "scores.json", "config.json")}
    assert main(["publish", str(study)]) == 0
    assert "MiB saved" in capsys.readouterr().out
    first, second = (json.loads(line) for line in (run / "metrics.jsonl").open())
    assert first == {"step": 1, "reward": 0.123457, "seconds": 1234570.0, "num_samples": 19200001}
    assert second == {"step": 2, "reward": 3.33333e-10, "kl": {"choice": [0.666667]},
                      "note": "0.123456789"}  # fmt: skip
    assert json.loads((run / "scores.json").read_text()) == SCORES
    assert len((run / "scores.json").read_text().splitlines()) == 1
    result = json.loads((run / "result.json").read_text())
    assert result["sha256"] == {name: sha(run / name) for name in before}
    changed = {name: before[name] for name in ("metrics.jsonl", "scores.json")}
    assert result["before_publishing"] == changed


def test_a_second_call_changes_nothing(study):
    assert publish.publish(study) > 0
    once = files(study)
    assert publish.publish(study) == 0
    assert files(study) == once


def test_a_call_that_was_cut_off_is_made_up_for(study, monkeypatch):
    whole = Path(shutil.copytree(study, study.parent / "whole"))
    publish.publish(whole)

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(publish, "write_bytes", full)  # after result.json of the first run
        with pytest.raises(OSError, match="No space left"):
            publish.publish(study)
    assert json.loads((study / "runs" / RUN / "result.json").read_text())["before_publishing"]
    publish.publish(study)
    assert [*files(study).values()] == [*files(whole).values()]


@pytest.mark.parametrize("digits", [3, 8])
def test_the_checksum_of_the_run_itself_outlives_another_number_of_digits(
    study, monkeypatch, digits
):
    path = study / "runs" / RUN / "metrics.jsonl"
    raw, own = path.read_bytes(), sha(path)
    publish.publish(study)
    short = path.read_bytes()
    monkeypatch.setattr(publish, "DIGITS", digits)
    publish.publish(study)
    assert path.read_bytes() == short
    path.write_bytes(raw)  # from where the run was made
    publish.publish(study)
    assert json.loads(path.read_text().splitlines()[0])["reward"] == round(0.123456789, digits)
    result = json.loads((path.parent / "result.json").read_text())
    assert result["sha256"]["metrics.jsonl"] == sha(path) != own
    assert result["before_publishing"]["metrics.jsonl"] == own


def test_a_study_that_runs_is_not_published(study, capsys):
    before = files(study)
    with locked(study):
        assert main(["publish", str(study)]) == 2
    assert "another study is running in this directory" in capsys.readouterr().err
    assert {p: data for p, data in files(study).items() if p in before} == before


def test_a_file_that_was_changed_by_hand_is_not_given_a_new_checksum(study, capsys):
    path = study / "runs" / RUN / "scores.json"
    path.write_text(path.read_text().replace("cw", "cc"))
    assert main(["publish", str(study)]) == 2
    assert "scores.json: was changed after the run" in capsys.readouterr().err
    assert "before_publishing" not in (study / "runs" / RUN / "result.json").read_text()


def test_what_is_no_study_is_refused(tmp_path, capsys):
    assert main(["publish", str(tmp_path)]) == 2
    assert "holds no study" in capsys.readouterr().err
