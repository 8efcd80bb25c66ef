"""``sgpo doctor`` says what is wrong with a machine and what to do about it."""

from __future__ import annotations

import shutil
from importlib import metadata
from types import SimpleNamespace

import torch

from benchmarks.cli import main
from benchmarks.plan import doctor


def test_a_ready_machine_passes(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "FAIL" not in text and text.count("ok ") == len(doctor.EXACT) + 4
    assert "verifier judges a symbolic answer" in text and "CPU cores" in text


def test_a_wrong_version_and_a_full_disk_come_with_their_remedy(monkeypatch, capsys):
    plain = metadata.version
    monkeypatch.setattr(
        doctor.metadata, "version", lambda n: "4.9.3" if n.startswith("antlr") else plain(n)
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    assert main(["doctor"]) == 1
    failed = [s for s in capsys.readouterr().out.splitlines() if s.startswith("FAIL")]
    assert len(failed) == 2 and all("  -> " in line for line in failed)
    assert "antlr4-python3-runtime 4.9.3 (needs 4.13.2)" in failed[0]
    assert "free 2 GiB" in failed[1]


def test_gpus_are_named(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    card = SimpleNamespace(name="Some GPU", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    assert doctor._accelerator() == "GPUs: Some GPU (80 GiB), Some GPU (80 GiB)"
