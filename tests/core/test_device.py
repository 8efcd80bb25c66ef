"""Where a cell computes, and what is refused."""

import os
from dataclasses import replace

import pytest
import torch

from benchmarks.cli import main
from benchmarks.config import Cell
from benchmarks.profiles import mini
from benchmarks.profiles.planned import planned_study
from benchmarks.run.launch import default_jobs
from sgpo.core import distributed as devices
from sgpo.core.config import to_dict
from sgpo.core.distributed import select_device


def pretend(monkeypatch, gpus):
    """A machine with ``gpus`` GPUs, as far as torch tells."""
    chosen = []
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(devices.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(devices.torch.cuda, "set_device", chosen.append)
    return chosen


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused(monkeypatch):
    pretend(monkeypatch, 0)
    assert select_device("auto") == select_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device='cuda': torch sees no GPU here; use --set device"):
        select_device("cuda")


def test_every_local_rank_gets_its_gpu(monkeypatch):
    chosen = pretend(monkeypatch, 2)
    assert select_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert select_device("cuda") == torch.device("cuda", 1) and chosen == [0, 1]
    assert select_device("cpu") == torch.device("cpu")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="local rank 2: only 2 GPUs are visible"):
        select_device("auto")


def test_a_setting_that_was_added_changes_no_address_at_its_default():
    config = mini.study(1).cells()[1].config
    plain = to_dict(config)
    assert not {"device", "precision", "checkpoint", "revision"} & plain.keys()
    assert "activation_checkpointing" not in plain["train"]
    assert Cell(replace(config, device="cpu")).hash == Cell(config).hash
    changed = [
        replace(config, device="auto"),
        replace(config, precision="bfloat16"),
        replace(config, checkpoint="owner/model"),
        replace(config, train=replace(config.train, activation_checkpointing=True)),
    ]
    assert len({Cell(c).hash for c in [config, *changed]}) == 5
    assert to_dict(changed[0])["device"] == "auto"


def test_cells_share_the_cores_and_have_a_gpu_alone():
    assert default_jobs(planned_study("mini", 1)) == os.cpu_count()
    assert default_jobs(planned_study("mini", 1, overrides=["device=auto"])) == 1
    assert main(["study", "--profile", "quick", "--dry-run", "--seeds", "1"]) == 0
