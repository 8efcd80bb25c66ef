"""The scripts of ``sgpo slurm``: they parse, say the right commands, and wait for each other.

``tests/standin_slurm.py`` runs them all.
"""

from __future__ import annotations

import json
import re
import shlex
import socket
import subprocess
import sys

import pytest
import standin
import standin_slurm
from standin_study import set_options

from benchmarks.cli import _parser
from benchmarks.cli import main as sgpo
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.suites import SUITES, local_file
from benchmarks.profiles.planned import planned_study
from benchmarks.run import torchrun as together
from benchmarks.run.launch import selected
from benchmarks.store.locks import locked
from sgpo.core.distributed import leave

SMALL = "--profile single_gpu --models qwen2.5-0.5b"


def written(tmp_path, monkeypatch, *options):
    """Name -> text of every script that these options give."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "scripts"
    assert sgpo(["slurm", "--out", str(out), *options]) == 0
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file()}


def commands(script: str) -> list[list[str]]:
    """The words of every ``sgpo`` command in a script."""
    lines = re.sub(r'"\$\{(\w+):\?[^}]*\}"', r"\1", script).splitlines()
    return [
        shlex.split(line.partition(" -m benchmarks.cli ")[2])
        for line in lines
        if "benchmarks.cli" in line
    ]


def cells_of(words: list[str]) -> list[str]:
    """The runs that `sgpo study` with these words would make."""
    asked = _parser().parse_args(words)
    study = planned_study(asked.profile, asked.seeds, (), asked.overrides, asked.all, asked.models)
    return [cell.run_id for cell in selected(study, asked)]


def test_paper_has_a_job_a_cell_that_runs_this_cell_alone(tmp_path, monkeypatch):
    scripts = written(tmp_path, monkeypatch)
    study = planned_study("paper", None)
    names = [f"{c.config.model}-{c.config.method}-s0" for c in study.cells()]
    assert set(scripts) == {"submit.sh"} | {
        f"{name}.sbatch" for name in ["data", "strategies", *names, "report"]
    }
    for cell, name in zip(study.cells(), names, strict=True):
        (words,) = commands(scripts[f"{name}.sbatch"])
        assert cells_of(words) == [c.run_id for c in (cell.parent, cell) if c]
        nodes = 1 if cell.config.model == "qwen2.5-1.5b" else 4
        assert f"#SBATCH --nodes={nodes}\n" in scripts[f"{name}.sbatch"]
        assert "#SBATCH --gpus-per-node=8\n" in scripts[f"{name}.sbatch"]
        assert f"--nnodes {nodes} --nproc-per-node 8 " in scripts[f"{name}.sbatch"]


def test_every_script_parses_and_waits_for_what_it_needs(tmp_path, monkeypatch):
    options = "--models qwen2.5-7b --seeds 2 --set train.num_steps=5"
    scripts = written(tmp_path, monkeypatch, *options.split())
    loop = f"for file in {tmp_path}/scripts/*.*; do bash -n $file || exit 1; done"
    checked = subprocess.run(["bash", "-c", loop], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    for name, text in scripts.items():
        assert "set -euo pipefail" in text and (commands(text) or name == "submit.sh")
        assert all(callable(_parser().parse_args(words).run) for words in commands(text))
    waits: dict[str, tuple[str, list[str]]] = {}
    pattern = r"id\[(.*?)\]=\$\(sbatch --parsable(?:.*--dependency=\"(\w+)(.*?)\")? \"(.*)\"\)"
    for name, kind, after, file in re.findall(pattern, scripts["submit.sh"]):
        waits[name] = (kind, re.findall(r"id\[([^]]+)\]", after))
        assert file == f"{name}.sbatch"
        assert {*waits[name][1]} <= {*waits} - {name}  # submitted before
    expected = {"data": ("", []), "strategies": ("afterok", ["data"])}
    expected["qwen2.5-7b-base-s0"] = ("afterok", ["strategies"])
    for seed in (0, 1):
        for method in ("sft", "sft_full", "grpo", "hpt", "luffy", "sgpo"):
            parent = "strategies" if "sft" in method else f"qwen2.5-7b-sft-s{seed}"
            expected[f"qwen2.5-7b-{method}-s{seed}"] = ("afterok", [parent])
    report = waits.pop("report")
    assert waits == expected and report == ("afterany", [*waits])


def test_submit_hands_every_job_to_sbatch_in_that_order(tmp_path, monkeypatch):
    """With stand-ins for sbatch and for python, whose words are written down."""
    environment = standin_slurm.fake_commands(tmp_path / "bin")
    python = tmp_path / "bin" / "python"
    python.write_text(f'#!/usr/bin/env bash\necho "$@" >> {tmp_path}/calls\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    path = standin.write_checkpoint(tmp_path / "m", small=True)
    options = f"{SMALL} --methods base,sgpo --set checkpoint={path} --option account=me"
    written(tmp_path, monkeypatch, *options.split())
    submit = ["bash", str(tmp_path / "scripts" / "submit.sh")]
    unset = subprocess.run(submit, env=environment, capture_output=True, text=True)
    assert unset.returncode != 0 and "set SGPO_ENDPOINT before submit.sh" in unset.stderr
    (tmp_path / "calls").unlink()
    environment |= {"SGPO_ENDPOINT": "http://localhost:1", "SGPO_STRATEGY_MODEL": "strong"}
    done = subprocess.run(submit, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text().splitlines()
    verbs = [re.search(r"benchmarks\.cli (\w+ ?\w*)", call).group(1) for call in calls]
    assert verbs == [
        "data prepare", "data check", "strategies ", "study ", "study ", "study ", "report ",
    ]  # fmt: skip
    assert calls[2].endswith("--endpoint http://localhost:1 --model strong")
    methods = [re.search(r"--methods (\w+)", call).group(1) for call in calls[3:6]]
    assert methods == ["base", "sft", "sgpo"]
    for call in calls[3:6]:
        number = re.search(r"--rdzv-endpoint localhost:(\d+) --rdzv-id (\d+) ", call)
        assert int(number.group(1)) == 20_000 + int(number.group(2)) % 12_000 < 32_768
    assert "--nnodes 1 --nproc-per-node 1 " in calls[3]
    assert "#SBATCH --account=me\n" in (tmp_path / "scripts" / "data.sbatch").read_text()


def test_the_data_job_brings_all_that_jobs_without_a_network_need(tmp_path, monkeypatch):
    scripts = written(tmp_path, monkeypatch, "--models", "llama-3.1-8b", "--methods", "base")
    pinned, data = CHECKPOINTS["llama-3.1-8b"], scripts["data.sbatch"]
    assert f"hf download {pinned.name} --revision {pinned.revision} " in data
    assert "export HF_HUB_OFFLINE=1\n" in scripts["llama-3.1-8b-base-s0.sbatch"]
    # Its hash is part of every run's address, so it must not depend on which models are run.
    assert "--tokenizer Qwen/Qwen2.5-1.5B-Instruct --max-tokens 16384 --out data/openr1-16k" in data
    given = "slurm --models qwen2.5-1.5b --set data.source=somewhere@123 --out other"
    assert sgpo(given.split()) == 0  # data that are given are not prepared again
    names = {path.name for path in (tmp_path / "other").iterdir()}
    assert not names & {"data.sbatch", "strategies.sbatch"}
    assert "HF_HUB_OFFLINE" not in (tmp_path / "other/qwen2.5-1.5b-base-s0.sbatch").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--profile mini", "profile 'mini': trains no published checkpoint"),
        ("--methods sgpoo", "unknown method 'sgpoo'"),
        ("--set train.num_step=3", "unknown override key 'train.num_step'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, refused, options, said):
    refused(f"slurm --out {tmp_path}/s {options}", said)
    assert not (tmp_path / "s").exists()


def as_torchrun_starts_it(monkeypatch):
    """The variables of a single rank, with a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0", "LOCAL_RANK": "0"}
    for key, value in (place | {"WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(key, value)


def test_a_launch_holds_the_directory_and_leaves_a_running_study_its_plan(tmp_path, monkeypatch):
    def interrupted(*_):
        plan = json.loads((tmp_path / "study.json").read_text())
        assert {c["run_id"] for c in plan["cells"]} == {c.run_id for c in study.cells()}
        with pytest.raises(ValueError, match="another study is running"), locked(tmp_path):
            raise AssertionError("the launch holds the directory")
        raise KeyboardInterrupt

    def start():
        together.run_together(study.cells()[:1], tmp_path, 9.0, study)

    study = planned_study("single_gpu", None, overrides=["device=cpu"])
    monkeypatch.setattr(together, "_result", interrupted)
    as_torchrun_starts_it(monkeypatch)
    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        (tmp_path / "study.json").write_text("the plan of the study that runs")
        with locked(tmp_path), pytest.raises(ValueError, match="another study is running"):
            start()
    finally:
        leave()
    assert (tmp_path / "study.json").read_text() == "the plan of the study that runs"


def test_a_launch_makes_its_cell_and_the_plan_from_which_the_report_is_made(
    tmp_path, monkeypatch, no_figures
):
    absent = [key for key in SUITES if local_file(key) is None]
    if absent:
        pytest.skip(f"benchmark file {absent[0]} is absent; set SGPO_DATA_DIR")
    path = standin.write_checkpoint(tmp_path / "m", small=True)
    settings = {
        "checkpoint": path, "device": "cpu", "precision": "float32", "sampler": "transformers",
        "evaluation.max_tokens": 4, "evaluation.problem_limit": 1, "evaluation.sample_limit": 1,
    }  # fmt: skip
    options = [*SMALL.split(), "--methods", "base", *set_options(settings)]
    scripts = written(tmp_path, monkeypatch, *options)
    (launch,) = commands(scripts["qwen2.5-0.5b-base-s0.sbatch"])
    (report,) = commands(scripts["report.sbatch"])
    as_torchrun_starts_it(monkeypatch)
    assert sgpo(launch) == 0
    results = tmp_path / "results" / "single_gpu"
    (run,) = (results / "runs").iterdir()
    assert run.name.startswith("qwen2.5-0.5b-base-s0-") and (run / "result.json").exists()
    made = (run / "result.json").read_bytes()
    plan = json.loads((results / "study.json").read_text())
    assert {c["run_id"] for c in plan["cells"]} >= {run.name} and len(plan["cells"]) == 14
    assert not (results / "tables").exists()
    as_torchrun_starts_it(monkeypatch)
    assert sgpo(launch) == 0 and (run / "result.json").read_bytes() == made  # not made again
    assert sgpo(report) == 0
    rows = (results / "tables" / "table1.csv").read_text().splitlines()
    assert sum(",finished," in row for row in rows) == 5
    assert sum(row.count("not run") > 0 for row in rows) == 5 * 13
