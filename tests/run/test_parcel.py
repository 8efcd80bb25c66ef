"""A study that leaves its machine as a few files is the same study where it comes in."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from tiny_study import small_cells, study_words

from benchmarks.cli import main
from benchmarks.run import launch
from benchmarks.run.cell import run_cell
from benchmarks.store import parcel
from benchmarks.store.runs import stored_runs
from sgpo.core.files import read_json, read_jsonl
from sgpo.core.trainer import Stopped


def tree(root: Path) -> dict[str, bytes]:
    """All files of the runs but weights, by their paths."""
    paths = [p for p in root.rglob("*") if p.is_file() and "model" not in p.parts]
    return {str(p.relative_to(root)): p.read_bytes() for p in paths}


def taking(folder: Path, out: Path) -> list[str]:
    return ["study", "--profile", "quick", "--out", str(out), "--import", str(folder)]


def take(folder: Path, out: Path) -> int:
    return main(taking(folder, out))


def started(root: Path, **runs: dict[str, str]) -> Path:
    """A pocket study whose runs hold these files; their texts by name."""
    cells = [{"run_id": name} for name in runs]
    root.mkdir(parents=True)
    (root / "study.json").write_text(json.dumps({"profile": "pocket", "cells": cells}))
    for name, files in runs.items():
        for file, text in files.items():
            path = root / "runs" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return root


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    words = study_words(Path("elsewhere"), "--export", folder)[1:]
    runs = (finished / "runs").iterdir()
    asked = {run.name: read_json(run / "config.json")["parent"] for run in runs}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parcel, "PART_BYTES", 2**14)
        said = parcel.export(finished, folder, ["study", *words], asked)
    assert "8 finished runs and 0 in progress exported" in said
    return folder


def test_an_export_comes_in_whole_and_nothing_is_trained_again(
    finished, exported, tmp_path, capsys
):
    files = list(exported.iterdir())
    assert len(files) > 2 and all(f.is_file() for f in files)
    assert all(f.stat().st_size <= 2**14 for f in files if f.suffix == ".part")
    out = tmp_path / "out"
    assert take(exported, out) == 0
    assert "8 finished runs and 0 in progress came in" in capsys.readouterr().out
    assert tree(out / "runs") == tree(finished / "runs")
    assert not list(out.rglob("*.safetensors"))
    assert main(["status", "--out", str(out)]) == 0 and "8 finished" in capsys.readouterr().out
    before = {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}
    assert main(study_words(out)) == 0
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}
    table = Path("tables/table1.csv")
    assert (out / table).read_bytes() == (finished / table).read_bytes()
    assert take(exported, out) == 0  # twice
    assert "0 finished runs and 0 in progress came in; 8 were here" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("runs/*/*")}


def test_cut_off_exported_with_its_weights_and_continued_equals_uninterrupted(
    finished, tmp_path, capsys
):
    study, folder, out = tmp_path / "study", tmp_path / "exported", tmp_path / "out"
    shutil.copytree(finished, study)
    cell = small_cells()["sgpo"]
    shutil.rmtree(study / "runs" / cell.run_id)
    with pytest.raises(Stopped):
        run_cell(cell, study, lambda *news: None, stop=lambda: True)
    words = study_words(study, "--methods", "sgpo", "--time-limit", "0.001s", "--export", folder)
    capsys.readouterr()
    assert main([*words, "--export-weights", "sgpo"]) == 2  # and packs what is there all the same
    told = capsys.readouterr()
    assert f"with the weights of {cell.run_id}" in told.out
    assert "--time-limit 0.001s: over before the first step; give more" in told.err
    assert "writing the report" not in told.out and "to go on" not in told.out
    assert take(folder, out) == 0
    said = capsys.readouterr().out
    assert f"1 left to run: {cell.run_id}" in said and "go on: sgpo study --profile quick" in said
    assert parcel.AGAIN not in said  # what it started from came along
    run, whole = out / "runs" / cell.run_id, finished / "runs" / cell.run_id
    steps = [len(read_jsonl(path / "metrics.jsonl")) for path in (run, whole)]
    assert 1 <= steps[0] < steps[1] and list(run.glob("checkpoints/*"))
    assert take(folder, study) == 0 and "0 in progress came in" in capsys.readouterr().out
    assert main(study_words(out, "--methods", "sgpo")) == 0
    assert (run / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    steps = [read_jsonl(path / "metrics.jsonl") for path in (run, whole)]
    assert [{**row, "seconds": 0} for row in steps[0]] == [
        {**row, "seconds": 0} for row in steps[1]
    ]


def test_what_a_child_needs_and_is_not_here_is_said_and_run_again(
    finished, exported, tmp_path, capsys
):
    out, cells = tmp_path / "out", small_cells()
    assert take(exported, out) == 0
    shutil.copytree(finished / "cache", out / "cache")  # a base model takes long to make
    run, sft = out / "runs" / cells["hpt"].run_id, cells["hpt"].parent.run_id
    shutil.rmtree(run)
    capsys.readouterr()
    assert main(study_words(out, "--methods", "hpt")) == 0
    assert f"{sft} runs again: what is left needs its weights" in capsys.readouterr().out
    assert (out / "runs" / sft / "model").is_dir()
    whole = finished / "runs" / run.name
    assert (run / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_less_never_replaces_more(finished, exported, tmp_path, capsys):
    cell, part, out = small_cells()["grpo"], tmp_path / "part", tmp_path / "out"
    shutil.copytree(finished, part)
    (part / "runs" / cell.run_id / "result.json").unlink()
    parcel.export(part, tmp_path / "less", ["study"], {cell.run_id: cell.parent.run_id})
    assert take(exported, out) == 0
    before = tree(out / "runs")
    assert take(tmp_path / "less", out) == 0
    assert "0 finished runs and 0 in progress came in" in capsys.readouterr().out
    assert tree(out / "runs") == before
    assert take(tmp_path / "less", tmp_path / "new") == 0
    said = capsys.readouterr().out
    assert f"1 left to run: {cell.run_id}" in said
    assert parcel.AGAIN + cell.parent.run_id in said
    assert cell.run_id not in stored_runs(tmp_path / "new")
    assert take(exported, tmp_path / "new") == 0
    assert "1 finished runs and 0 in progress came in; 7 were here" in capsys.readouterr().out
    assert tree(tmp_path / "new" / "runs") == before


def damaged(folder: Path) -> str:
    part = max(folder.glob("*.part"))
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    return f"{part.name} is damaged"


def absent(folder: Path) -> str:
    part = max(folder.glob("*.part"))
    part.unlink()
    return f"{part.name} is absent"


def edited(folder: Path) -> str:
    path = folder / "export.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"runs": []}))
    return "does not match its own checksum"


def empty(folder: Path) -> str:
    (folder / "export.json").unlink()
    return "holds no export"


@pytest.mark.parametrize("spoil", [damaged, absent, edited, empty])
def test_a_damaged_export_is_refused(exported, tmp_path, spoil, refused):
    folder = Path(shutil.copytree(exported, tmp_path / "exported"))
    why = spoil(folder)
    refused(taking(folder, tmp_path / "out"), why)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_changed_is_refused(finished, tmp_path, refused):
    study, out = Path(shutil.copytree(finished, tmp_path / "study")), tmp_path / "out"
    scores = study / "runs" / small_cells()["sgpo"].run_id / "scores.json"
    scores.write_bytes(scores.read_bytes().replace(b"w", b"c", 1))
    parcel.export(study, tmp_path / "exported", ["study"], {})
    refused(taking(tmp_path / "exported", out), "scores.json is not as its run left it")
    assert not (out / "runs").exists() and not (out / "study.json").exists()


def test_an_export_of_another_study_is_refused(finished, exported, tmp_path, capsys, refused):
    out = tmp_path / "out"
    out.mkdir()
    plan = json.loads((finished / "study.json").read_text())
    gone = small_cells()["sgpo"].run_id
    plan["cells"] = [cell for cell in plan["cells"] if cell["run_id"] != gone]
    (out / "study.json").write_text(json.dumps(plan))
    before = tree(out)
    refused(taking(exported, out), f"{gone} is not planned there")
    assert tree(out) == before
    words = f"study --profile mini --out {tmp_path}/m --import {exported}"
    refused(words, "of another study (profile quick)")


def test_a_finished_run_does_not_take_the_only_weights_away(finished, exported, tmp_path, capsys):
    out, cell = Path(shutil.copytree(finished, tmp_path / "out")), small_cells()["grpo"]
    run = out / "runs" / cell.run_id
    (run / "result.json").unlink()  # as while it is still judged
    assert take(exported, out) == 0
    assert f"came in: {cell.run_id}\n" in capsys.readouterr().out
    assert (run / "result.json").exists()
    assert tree(run) == tree(finished / "runs" / run.name)
    for path in (finished / "runs" / run.name / "model").iterdir():
        assert (run / "model" / path.name).read_bytes() == path.read_bytes()


def test_an_export_never_hides_why_the_study_ended(tmp_path, capsys, monkeypatch):
    words = ["study", "--profile", "quick", "--out", str(tmp_path), "--export", str(tmp_path / "e")]

    def ends(*_):
        raise ValueError("the mistake")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(launch, "launch_study", ends)
    assert main(words) == 2  # before there is a study.json
    assert capsys.readouterr().err == "sgpo: error: the mistake\n"
    (tmp_path / "study.json").write_text(json.dumps({"profile": "quick", "cells": []}))
    assert main(words) == 2 and (tmp_path / "e" / "export.json").exists()
    assert capsys.readouterr().err == "sgpo: error: the mistake\n"
    monkeypatch.setattr(parcel, "export", full)
    assert main(words) == 2
    notes = capsys.readouterr().err.splitlines()
    assert notes == [f"sgpo: --export {tmp_path / 'e'}: No space left on device",
                     "sgpo: error: the mistake"]  # fmt: skip
    monkeypatch.setattr(launch, "launch_study", lambda *_: 0)
    assert main(words) == 2  # a study that went well, without the export that was asked for
    assert capsys.readouterr().err == "sgpo: error: No space left on device\n"


def test_published_runs_do_not_come_in_again(finished, exported, tmp_path, capsys):
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    assert main(["publish", str(out)]) == 0
    shutil.rmtree(out / "runs")  # as a copy of the source tree has it
    assert all(run.published for run in stored_runs(out).values())
    assert take(exported, out) == 0
    said = capsys.readouterr().out
    assert "0 finished runs and 0 in progress came in; 8 were here" in said
    assert not list(out.glob("runs/*"))


def test_an_import_refuses_options_that_it_would_not_heed(tmp_path, capsys):
    for words in (["--methods", "sgpo"], ["--dry-run"], ["--seeds=2"]):
        assert main(["study", "--out", str(tmp_path / "o"), "--import", "D", *words]) == 2
        error = capsys.readouterr().err
        assert f"takes no {words[0].partition('=')[0]};" in error and error.count("\n") == 1


def test_a_listed_run_that_is_not_packed_is_refused_before_anything_moves(tmp_path):
    study, folder = started(tmp_path / "study", a={"config.json": "{}"}, b={}), tmp_path / "e"
    parcel.export(study, folder, ["study"], {})
    manifest = parcel.read_sealed_json(folder / "export.json")
    parcel.write_sealed_json(folder / "export.json", manifest | {"runs": ["a", "b"]})
    with pytest.raises(ValueError, match="holds nothing of b, which it lists"):
        parcel.take_in(folder, tmp_path / "out", "pocket")
    assert not list((tmp_path / "out").glob("runs/*"))


def test_a_new_directory_takes_the_profile_of_the_export(tmp_path, capsys, monkeypatch):
    study, folder = started(tmp_path / "study", a={"config.json": "{}"}), tmp_path / "exported"
    parcel.export(study, folder, ["study"], {})
    assert main(["study", "--import", str(folder), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/study.json").read_text())["profile"] == "pocket"
    monkeypatch.setenv("SGPO_RESULTS", str(tmp_path / "results"))
    assert main(["study", "--import", str(folder)]) == 0
    assert (tmp_path / "results/pocket/runs/a/config.json").exists()
    words = ["study", "--import", str(folder), "--out", str(tmp_path / "m"), "--profile", "quick"]
    capsys.readouterr()
    assert main(words) == 2
    assert "and --profile pocket or none" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-an-export", "link"])
def test_an_export_writes_nothing_outside(tmp_path, name):
    archive, target = tmp_path / "a.tar", tmp_path / "target"
    target.mkdir()
    with tarfile.open(archive, "w") as made:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(member)
    (tmp_path / "a.part").write_bytes(archive.read_bytes())
    with pytest.raises(ValueError, match="cannot be unpacked .*neither a file nor a directory"):
        parcel._unpack(tmp_path, ["a.part"], target)
    assert not list(target.iterdir()) and not (tmp_path / "outside").exists()
