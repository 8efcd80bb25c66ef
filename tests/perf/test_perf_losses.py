"""The loss memory and GPU step cases: what they compare, count and say when they cannot run."""

import json

import pytest
import torch

from benchmarks.data.checkpoints import Shape as ModelShape
from benchmarks.perf import __main__ as perf
from benchmarks.perf import common, gpu_step, loss_memory, loss_work
from benchmarks.perf.flops import Passed, flop_counter, model_flops
from benchmarks.perf.loss_work import Shape
from sgpo.core import chunked_head

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
        before = loss_work.reset_peak(CPU)
        for _ in range(3):
            a = torch.ones(2**24)
            (a + 1).sum()
            del a
        assert loss_work.peak_bytes(CPU) - before == pytest.approx(2 * 2**26, rel=0.05)


def test_a_line_through_two_points_by_hand():
    assert loss_memory.at([(1.0, 5.0), (3.0, 9.0)], 10.0) == pytest.approx(23.0)


def test_a_measurement_that_dies_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(loss_memory.sys, "executable", "false")
    with pytest.raises(ValueError, match="kl dense at 64 tokens: exit code 1"):
        loss_memory._measure("kl", "dense", Shape(64, 50, 4), "cpu")


def test_flops_of_an_update_equal_those_that_torch_counts(tmp_path):
    """Without recomputation, the head whole and eager attention, which multiplies all pairs: equal
    to the last one, with the token of the pass that closes an update. The CPU's fused attention is
    counted too; its backward pass multiplies queries and keys once more."""
    update, counted = gpu_step.UPDATES["tiny"], {}
    with gpu_step._own_process_group(), gpu_step.whole_head():
        step = gpu_step.UpdateStep(update, CPU, tmp_path, recompute=False)
        for attention in ("sdpa", "eager"):
            step.model.set_attn_implementation(attention)
            with flop_counter() as counter:
                step()
            counted[attention] = counter.get_total_flops()
    sequences = [*update.sequences(), Passed(0, 1, trained=True)]
    expected = model_flops(update.model, sequences, attention_share=1.0)
    assert counted["eager"] == expected
    trained = [s for s in sequences if s.trained]
    pairs = sum((s.prompt + s.completion) ** 2 for s in trained)
    assert counted["sdpa"] == expected + 2 * pairs * 2 * 32  # layers x heads x head size
    assert 0.7 * expected < model_flops(update.model, sequences) < expected


def test_flops_of_one_sequence_by_hand():
    shape = ModelShape(100, 8, 16, 3, 2, 1, 64, 1e4, True, True)
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    forward = 3 * (2 * layer * 10 + 4 * 8 * 10 * 10 / 2) + 2 * 100 * 8 * 6
    assert model_flops(shape, [Passed(4, 6, trained=False)]) == forward
    assert model_flops(shape, [Passed(4, 6, trained=True)] * 2) == 6 * forward


def test_the_gpu_step_runs_tiny_on_a_cpu_and_keeps_its_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(chunked_head.MAX_LOGITS, "cpu", 512 * 16)
    arguments = ["gpu_step", "--shape", "tiny", "--device", "cpu", "--repeats", "1"]
    assert perf.main([*arguments, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "gpu_step.json").read_text())
    assert result["completion_tokens"] == 16 * 32 and result["setting"]["shape"] == "tiny"
    rows = result["rows"]
    for row in rows.values():
        rate = result["model_flops"] / row["pass_seconds"]["median"]
        assert row["flops_per_second"] == pytest.approx(rate) and row["mfu"] is None
    # The chunked head is applied once more to the trained tokens and to both sides of the KL.
    again = 2 * 512 * 32 * 32 * (16 + 2)
    extra = rows["chunked"]["counted_flops"] - rows["dense"]["counted_flops"]
    assert again <= extra < 1.05 * again
    assert "pass s" in capsys.readouterr().out and not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_real_shape_is_one_line_and_code_2(tmp_path, capsys):
    assert perf.main(["gpu_step", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "not run: needs a GPU" in printed.err and not (tmp_path / "out").exists()
    assert perf.main(["gpu_step", "--shape", "huge"]) == 2
    assert "'huge': must be one of qwen2.5-1.5b, tiny" in capsys.readouterr().err


def test_out_of_memory_is_a_row_and_not_an_end(monkeypatch):
    def step():
        raise torch.OutOfMemoryError

    assert gpu_step._measured(step, 1) == {"not_run": "out of memory"}
