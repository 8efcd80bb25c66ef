"""The loss memory case: what it compares, and what it says of a dense loss that does not fit."""

import json

import pytest
import torch

from benchmarks.perf import common, loss_memory, loss_work
from benchmarks.perf.loss_work import Shape

CPU = torch.device("cpu")


@pytest.fixture
def inside(monkeypatch):
    """The real passes, in this process (starting one each takes seconds), with a peak that can be
    told beforehand: 4 bytes a token and vocabulary entry above the gradients."""

    def measure(loss, name, shape, device):
        with common.threads(1):
            found = loss_work.measure(loss, name, shape, CPU)
        assert found["seconds"] > 0
        logits = 4 * shape.tokens * shape.vocabulary / loss_work.GIB
        return found | {"peak_gib": logits + shape.gradient_gib}

    monkeypatch.setattr(loss_memory, "_measure", measure)
    monkeypatch.setattr(loss_memory.importlib.util, "find_spec", lambda name: None)


def test_a_dense_loss_that_does_not_fit_is_fitted_and_marked(inside, monkeypatch, capsys):
    monkeypatch.setattr(loss_memory, "_available", lambda device: 0.02)
    shapes = (Shape(64, 5000, 16), Shape(2048, 5000, 16))
    result = json.loads(json.dumps(loss_memory.run(1, shapes, "cpu")))
    dense = [r for r in result["rows"] if r["implementation"] == "dense" and r["loss"] == "kl"]
    assert [r["shape"]["tokens"] for r in dense] == [32, 64]
    found = {(c["loss"], c["implementation"], c["tokens"]): c for c in result["compared"]}
    short, long = found["kl", "chunked", 64], found["kl", "chunked", 2048]
    assert not short["dense is fitted"] and long["dense is fitted"]
    assert long["dense workspace_gib"] == pytest.approx(4 * 2048 * 5000 / 2**30)
    points = [(r["shape"]["tokens"], r["seconds"]["median"]) for r in dense]
    slope = (points[1][1] - points[0][1]) / 32
    assert long["dense seconds"] == pytest.approx(points[0][1] + slope * (2048 - 32))
    assert "not installed" in found["nll", "liger", 64]["not_run"]
    printed = capsys.readouterr().out
    assert "~: the dense loss did not fit" in printed and loss_memory.NO_LIGER in printed


def test_what_fits_is_measured_at_its_own_sizes_alone(inside, monkeypatch):
    monkeypatch.setattr(loss_memory, "_available", lambda device: 1000.0)
    shapes = (Shape(32, 500, 16), Shape(64, 500, 16))
    result = loss_memory.run(1, shapes, "cpu")
    assert {r["shape"]["tokens"] for r in result["rows"]} == {32, 64}
    assert not any(c.get("dense is fitted") for c in result["compared"])


def test_the_peak_counts_what_lives_together():
    """Two float32 tensors of 64 MiB at a time above the inputs, whatever was freed before."""
    with common.threads(1):
        torch.ones(2**25).sum()  # a higher peak that is over
        before = loss_work._reset_peak(CPU)
        for _ in range(3):
            a = torch.ones(2**24)
            (a + 1).sum()
            del a
        assert loss_work._peak(CPU) - before == pytest.approx(2 * 2**26, rel=0.05)


def test_a_line_through_two_points_by_hand():
    assert loss_memory.at([(1.0, 5.0), (3.0, 9.0)], 10.0) == pytest.approx(23.0)


def test_a_measurement_that_dies_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(loss_memory.sys, "executable", "false")
    with pytest.raises(ValueError, match="kl dense at 64 tokens: exit code 1"):
        loss_memory._measure("kl", "dense", Shape(64, 50, 4), "cpu")
