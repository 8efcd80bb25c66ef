"""What stands in the way of a real study, with hardware made up here."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import standin

from benchmarks.cli import main as sgpo
from benchmarks.config import Cell
from benchmarks.data.problems import data_source, write_problems
from benchmarks.plan import cost, preflight
from benchmarks.plan.cost import GIB
from benchmarks.plan.preflight import Hardware
from benchmarks.profiles.planned import planned_study
from sgpo.core.config import apply_overrides
from sgpo.core.types import Problem

H100 = 79.1 * GIB
ENOUGH = Hardware((H100,), host_memory=256 * GIB, disk_free=1e12, vllm=True, token=True,
                  offline=False)  # fmt: skip
STUDY = {name: planned_study(name, None) for name in ("paper", "single_gpu")}
CONFIG = {
    (name, c.config.model, c.config.method): c.config for name in STUDY for c in STUDY[name].cells()
}


@pytest.fixture
def prepared(tmp_path):
    """``data.source`` of a training set with strategies."""
    folder = tmp_path / "train"
    folder.mkdir()
    problems = [Problem(str(i), f"{i}+1?", str(i + 1), expert="x") for i in range(200)]
    write_problems(folder / "warmup.jsonl", problems[:70])
    write_problems(folder / "rl.jsonl", problems[70:])
    rows = [json.dumps({"id": p.id, "strategy": "Add."}) + "\n" for p in problems]
    (folder / "strategies.jsonl").write_text("".join(rows))
    (folder / "report.json").write_text("{}")
    return data_source(folder)


@pytest.fixture(autouse=True)
def benchmarks_are_here(monkeypatch):
    monkeypatch.setattr(preflight, "_is_here", lambda key: True)


def found(tmp_path, source, *settings, hardware=ENOUGH, key=("single_gpu", "qwen2.5-1.5b", "sgpo")):
    config = replace(CONFIG[key], data=replace(CONFIG[key].data, source=source))
    cell = Cell(apply_overrides(config, list(settings)))
    return preflight.obstacles([cell], tmp_path / "results", hardware)


def test_one_gpu_of_80_gb_runs_every_cell_of_single_gpu(tmp_path, prepared):
    for name, model, method in CONFIG:
        if name == "single_gpu":
            assert found(tmp_path, prepared, key=(name, model, method)) == []


def test_four_nodes_run_every_cell_of_paper_and_one_gpu_does_not(tmp_path, prepared):
    node = replace(ENOUGH, gpus=(H100,) * 8, host_memory=1024 * GIB)
    for name, model, method in CONFIG:
        if name == "paper":
            ranks = 8 if model == "qwen2.5-1.5b" else 32
            here = replace(node, ranks=ranks, local_ranks=8)
            lines = found(tmp_path, prepared, hardware=here, key=(name, model, method))
            assert [x for x in lines if "problems" not in x] == []  # 130 are too few for a step
    # Evaluation alone fits one GPU, training does not.
    assert found(tmp_path, prepared, key=("paper", "qwen2.5-7b", "base"), hardware=node) == []
    (line,) = found(
        tmp_path, prepared, "train.problems_per_step=64", key=("paper", "qwen2.5-7b", "sgpo")
    )
    assert "qwen2.5-7b: sgpo needs about 1" in line and "each of 1 GPU, " in line
    ranks = re.search("the smallest has 79; spread it over at least (\\d+) GPUs", line).group(1)
    assert 4 <= int(ranks) <= 32


@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        (dict(gpus=()), "", "device=cuda: torch sees no GPU here"),
        (dict(gpus=(22.0 * GIB,)), "", "the smallest has 22; "),
        (dict(gpus=(H100, 31.4 * GIB), local_ranks=2, ranks=2), "", "the smallest has 31; "),
        (dict(ranks=4, local_ranks=4), "", "4 ranks on this machine: it has 1 GPU; "),
        (dict(ranks=32), "", "32 ranks: an update of sgpo has 16 problems"),
        (dict(host_memory=4 * GIB), "", "1 rank on this machine: about 7 GiB of main memory are"),
        (
            dict(disk_free=50e9),
            "",
            "disk: the runs need about 65 GB more (weights 6, resume",
        ),
        (dict(vllm=False), "", "sampler=vllm: vLLM is not installed; run `bash reproduce.sh setup"),
        (dict(offline=True), "", "not in the hub's cache and HF_HUB_OFFLINE is set"),
        (
            dict(),
            "vllm.gpu_memory_utilization=0.08",
            "of a GPU of 79 GiB holds 0.5 sequences",
        ),
        (dict(), "vllm.max_model_len=40000", "qwen2.5-1.5b was made for 32768 positions"),
        (dict(), "evaluation.max_tokens=32768", "leaves fewer than 2048 of 32768 positions for"),
        (dict(compiles=False), "", "no C compiler or no Python.h: torch compiles the losses"),
        (dict(), "train.problems_per_step=256", "130 problems in split 'rl', a step of sgpo"),
    ],
)
def test_each_obstacle_is_one_clear_line(tmp_path, prepared, change, settings, expected):
    lines = found(tmp_path, prepared, *settings.split(), hardware=replace(ENOUGH, **change))
    assert len(lines) == 1, lines
    assert expected in lines[0] and "\n" not in lines[0]


def test_what_is_no_obstacle_is_not_named(tmp_path, prepared):
    server = ("vllm.server=http://localhost:8000", "vllm.gpu_memory_utilization=0.01")
    assert found(tmp_path, prepared, *server, hardware=replace(ENOUGH, vllm=False)) == []
    # Another rank leaves files to the first.
    gpus = replace(ENOUGH, gpus=(H100,) * 8, rank=3, ranks=8, local_ranks=8, disk_free=0.0)
    assert found(tmp_path, "data/openr1-8k@unprepared", hardware=gpus) == []
    # Finished cells and the mini world need nothing.
    nothing = Hardware((), 0.0, 0.0, False, False, True)
    preflight.check(planned_study("mini", 1).cells(), tmp_path, nothing)
    preflight.check([], tmp_path, nothing)


def test_a_compiler_with_headers_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.setattr(preflight.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("CC", "/usr/bin/mycc")
    assert not preflight.can_compile()
    (tmp_path / "Python.h").touch()
    assert preflight.can_compile()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not preflight.can_compile()


def test_gated_weights_and_missing_benchmarks_are_named_before_the_training(
    tmp_path, prepared, monkeypatch
):
    key = ("paper", "llama-3.1-8b", "base")
    (line,) = found(tmp_path, prepared, hardware=replace(ENOUGH, token=False), key=key)
    assert "'meta-llama/Llama-3.1-8B-Instruct' is gated and no token is set" in line
    assert found(tmp_path, prepared, key=key) == []
    monkeypatch.setattr(preflight, "_is_here", lambda key: key == "amc23")
    (line,) = found(tmp_path, prepared)
    assert line.startswith("benchmark math500, olympiadbench, aime24: neither below SGPO_DATA_DIR")


def test_training_data_that_cannot_be_used(tmp_path, prepared):
    folder = Path(prepared.partition("@")[0])
    (line,) = found(tmp_path, "data/openr1-8k@unprepared")
    assert "no prepared training set there" in line
    assert "make it with `sgpo data prepare --out data/openr1-8k`" in line
    (line,) = found(tmp_path, str(folder))
    assert line.endswith(f"names no hash; the set there is {prepared}")
    (line,) = found(tmp_path, f"{folder}@0123")
    assert f"the files there are {prepared} now" in line
    (folder / "strategies.jsonl").write_text('{"id": "other", "strategy": "Add."}\n')
    (line,) = found(tmp_path, data_source(folder))
    assert "strategies.jsonl names no problem of 'rl' (of another set?), and sgpo" in line
    (folder / "strategies.jsonl").unlink()
    (line,) = found(tmp_path, data_source(folder))
    assert "no strategies.jsonl" in line
    assert f"sgpo needs strategies; run `sgpo strategies --data {folder}` first" in line
    grpo = ("single_gpu", "qwen2.5-1.5b", "grpo")
    assert found(tmp_path, data_source(folder), key=grpo) == []


def test_local_checkpoints_are_looked_at(tmp_path, prepared):
    path = standin.write_checkpoint(tmp_path / "m", small=True)
    setting = f"checkpoint={path}"
    assert found(tmp_path, prepared, setting, hardware=replace(ENOUGH, offline=True)) == []
    (path / "tokenizer_config.json").rename(tmp_path / "kept.json")
    (line,) = found(tmp_path, prepared, setting)
    assert "tokenizer_config.json is missing" in line
    shutil.copy(tmp_path / "kept.json", path / "tokenizer_config.json")


def test_all_obstacles_come_at_once_and_nothing_is_written(tmp_path, capsys, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "this_machine", lambda _: replace(ENOUGH, vllm=False, gpus=()))
    assert sgpo(["study", "--profile", "single_gpu"]) == 2
    error = capsys.readouterr().err
    assert "3 things stand in the way:" in error and error.count("\n- ") == 3
    for part in ("vLLM is not installed", "torch sees no GPU", "no prepared training set"):
        assert part in error
    assert not list(tmp_path.iterdir())


def test_a_run_that_was_interrupted_asks_for_no_more_than_it_lacks(tmp_path):
    config = CONFIG["single_gpu", "qwen2.5-1.5b", "sgpo"]
    cells = [Cell(config), Cell(replace(config, seed=1))]
    runs = [tmp_path / "runs" / cell.run_id for cell in cells]
    weights = 1_543_714_304  # three resume states of 12 bytes each, then 4 are kept
    whole = cost.disk(cells)
    assert whole.training == 3 * 12 * weights and whole.download == 2 * weights
    samples = whole.kept - 2 * 4 * weights

    def left(name: str, run: Path, size: int) -> tuple[float, float]:
        path = run / name / "file"  # a sparse one, which takes no room
        path.parent.mkdir(parents=True)
        with path.open("wb") as file:
            file.truncate(size)
        found = cost.disk(cells, tmp_path)
        return found.training, found.kept

    assert left("checkpoints", runs[0], 24 * weights) == (12 * weights, whole.kept)
    # states of one never make room for the weights of both
    assert left("checkpoints", runs[1], 24 * weights) == (0.0, whole.kept)
    for run in runs:
        (run / "checkpoints").rename(run / "gone")
    states = 3 * 12 * weights  # of the other one
    assert left("model", runs[0], 4 * weights) == (states, 4 * weights + samples)
    assert left("model", runs[1], 4 * weights) == (0.0, samples)
