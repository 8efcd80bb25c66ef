"""The lab profile: what differs from the mini study, its sizes, and one of its cells on the CPU."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks.config import Cell
from benchmarks.profiles import lab, mini
from benchmarks.profiles.planned import planned_study
from benchmarks.run.cell import run_cell
from benchmarks.run.launch import dry_run, launch_study
from sgpo.core.config import apply_overrides, to_dict
from sgpo.mini import foundation
from sgpo.mini.models import build_model
from sgpo.mini.specs import LAB_MODELS, MODELS, model_spec

STUDY = planned_study("lab", None, variants=True)
CELLS = {(c.config.model, c.config.method, c.config.seed): c for c in STUDY.cells()}
OPTIONS = argparse.Namespace(
    all=False, only=None, methods=["base"], models=["lab-qwen-50m"], jobs=1, set=[]
)


def test_sizes_families_and_seeds():
    assert [m.key for m in STUDY.models] == list(LAB_MODELS)
    assert {m.family for m in STUDY.models} == {"qwen2", "llama"}
    assert STUDY.seeds == (0, 1, 2, 3, 4)
    named = {"1m": 1e6, "4m": 4e6, "16m": 16e6, "50m": 50e6}
    for key, spec in LAB_MODELS.items():
        assert model_spec(key) is spec and key not in MODELS
        with torch.device("meta"):
            weights = build_model(spec, 0).num_parameters()
        assert weights == pytest.approx(named[key.rsplit("-", 1)[1]], rel=0.05)
        assert weights == pytest.approx(lab.num_weights(key), rel=0.05)
        assert spec.hidden_size % spec.num_heads == 0 and spec.num_heads % spec.num_kv_heads == 0


def test_learning_rates_go_through_the_two_known_points():
    tuned = mini.LEARNING_RATE["sgpo"]
    assert lab.scaled_rate(tuned, lab.MINI_WEIGHTS) == pytest.approx(tuned, rel=0.01)
    assert lab.scaled_rate(tuned, lab.PAPER_WEIGHTS) == pytest.approx(lab.PAPER_RATE, rel=0.01)
    rates = [
        CELLS[key, "grpo", 0].config.train.learning_rate for key in LAB_MODELS if "qwen" in key
    ]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 4
    assert 1e-6 < min(rates) and max(rates) < tuned


def test_a_lab_run_differs_from_the_mini_study_s_in_size_and_budget_alone():
    small = {(e.key, 3): e.config("llama-m", 3) for e in mini.METHODS + mini.KIN}
    for (method, seed), config in small.items():
        mine, theirs = (
            to_dict(CELLS["lab-llama-16m", method, seed].config),
            to_dict(config),
        )
        assert (mine["profile"], mine["device"]) == ("lab", "cuda")
        for name in ("profile", "model", "seed", "train"):
            mine.pop(name), theirs.pop(name)
        assert mine == theirs | {"device": "cuda"}
    changed = {
        name
        for (method, _), config in small.items()
        if config.train
        for name, value in to_dict(config.train).items()
        if value != to_dict(CELLS["lab-llama-16m", method, 3].config.train)[name]
    }
    assert changed == {
        "learning_rate", "num_steps", "budget_steps", "micro_batch_tokens", "checkpoint_every",
    }  # fmt: skip


def test_dry_run_needs_no_gpu_and_a_launch_without_one_says_so(tmp_path, capsys):
    assert dry_run(STUDY, tmp_path, OPTIONS) == 0
    assert "lab-qwen-50m-base" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU: the refusal is what is tested")
    with pytest.raises(ValueError, match="device='cuda': torch sees no GPU here.*device=cpu"):
        launch_study(STUDY, tmp_path, OPTIONS)
    assert not (tmp_path / "runs").exists()


def test_scaled_down_cells_run_on_the_cpu(tmp_path, monkeypatch):
    short = partial(foundation.FoundationConfig, batch_size=4)
    monkeypatch.setattr(foundation, "FoundationConfig", short)
    small = [
        "device=cpu", "pretrain_steps=2", "train.num_steps=2", "train.problems_per_step=4",
        "rollout.max_tokens=8", "evaluation.max_tokens=8", "evaluation.problem_limit=2",
        "evaluation.sample_limit=1",
    ]  # fmt: skip

    def cell(method, parent=None):
        config = CELLS["lab-qwen-1m", method, 1].config
        return Cell(apply_overrides(config, small), parent)

    warmup = cell("sft")
    for planned in (warmup, cell("sgpo", warmup)):
        result = run_cell(planned, tmp_path, lambda *_: None)
        assert (result["status"], result["device"], result["num_steps"]) == ("finished", "cpu", 2)
        assert result["num_parameters"] == pytest.approx(1e6, rel=0.05)
        stored = json.loads((tmp_path / "runs" / planned.run_id / "environment.json").read_text())
        assert stored["device"] == "cpu"
    assert len(list((tmp_path / "cache").glob("lab-qwen-1m-world-1-*"))) == 1


def test_the_learning_rate_of_a_foundation_is_its_models_own_and_enters_its_address(
    monkeypatch, tmp_path
):
    laid = []
    monkeypatch.setattr(foundation, "lay_foundation", lambda spec, config, *_: config)
    monkeypatch.setattr(foundation, "_store", lambda *stored: laid.append(stored) or 1 / 0)
    for rate in (3e-3, 5e-4):
        monkeypatch.setitem(MODELS, "qwen-m", replace(MODELS["qwen-m"], rate=rate))
        with pytest.raises(ZeroDivisionError):
            foundation.ensure_world_model("qwen-m", 0, tmp_path)
    assert [config.learning_rate for config, _ in laid] == [3e-3, 5e-4]
    assert laid[0][1] != laid[1][1]
