"""The whole study of a real checkpoint's shape with vLLM, by the commands that a user types."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_vllm_sampler import NO_VLLM

from benchmarks.suites import SUITES, local_file

ROOT = Path(__file__).resolve().parents[1]


def test_every_method_trains_on_vllm_and_table_1_stands(tmp_path):
    if importlib.util.find_spec("vllm") is None:
        pytest.skip(NO_VLLM)
    absent = [key for key in SUITES if local_file(key) is None]
    if absent:
        pytest.skip(f"benchmark file {absent[0]} is absent; set SGPO_DATA_DIR")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "standin_study.py"), str(tmp_path), "--run"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    results = tmp_path / "results"
    methods = [m["key"] for m in json.loads((results / "study.json").read_text())["methods"]]
    runs = {path.name.split("-s0-")[0]: path for path in (results / "runs").iterdir()}
    assert {f"qwen-s-{key}" for key in methods} == set(runs)
    for run in runs.values():
        config = json.loads((run / "config.json").read_text())
        assert config["sampler"] == "vllm"
        result = json.loads((run / "result.json").read_text())
        assert result["num_parameters"] > 151_936 * 64
        log = run / "metrics.jsonl"
        steps = [json.loads(line) for line in log.open()] if config["train"] else []
        assert len(steps) == (2 if config["train"] else 0)
        if config["method"] not in ("base", "sft", "sft_full"):
            assert all(0 <= step["mismatch_max"] < 1e-3 for step in steps)
    with (results / "tables" / "table1.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {(row["method"], row["benchmark"]): row for row in rows}
    assert {method for method, _ in found} == set(methods)
    for row in found.values():
        assert row["status"] == "finished" and 0 <= float(row["mean"]) <= 100
        assert int(row["num_problems"]) >= 2
