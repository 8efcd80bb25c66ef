"""Every speed case runs at a tiny size and writes its columns; what they compute is checked by
hand. Nothing here is timed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny import chunks_of
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.data.checkpoints import Shape
from benchmarks.perf import __main__ as perf
from benchmarks.perf import common, gpu_step, losses, rl_step, sampling, verifier
from benchmarks.perf.losses import Size
from benchmarks.perf.rl_step import StepShape
from sgpo.core.distributed import leave

CPU = torch.device("cpu")
TINY = StepShape("qwen-s", num_problems=2, num_samples=12, completion_tokens=5)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Takes most of a tiny measurement's time."""
    monkeypatch.setattr(common, "gc", SimpleNamespace(collect=lambda: None))


@pytest.fixture
def measure(monkeypatch, tmp_path, capsys):
    """Run a case by its command: its JSON, its printed text and the page's section about it."""
    monkeypatch.setattr(rl_step, "SHAPE", TINY)
    monkeypatch.setattr(rl_step, "NUM_THREADS", 1)

    def run(case: str, *more: str, repeats: int):
        error = perf.main([case, "--repeats", str(repeats), "--out", str(tmp_path), *more])
        printed = capsys.readouterr()
        assert error == 0, printed.err
        kept = json.loads((tmp_path / f"{case}.json").read_text())
        assert kept["case"] == case and kept["environment"]["cores"]
        name = "GPU.md" if case.startswith("gpu_") else "README.md"
        page = (tmp_path / name).read_text()
        return kept, printed.out, page.split(f"## {case}: ")[1].split("\n## ")[0]

    return run


def test_rl_step_pairs_the_rounds_and_says_that_trl_is_absent(measure, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "trl" else find(n))
    kept, printed, page = measure("rl_step", repeats=2)
    assert rl_step.TRL_MISSING in printed and set(kept["seconds"]) == {"grpo", "sgpo"}
    grpo, sgpo = (kept["seconds"][name]["values"] for name in ("grpo", "sgpo"))
    ratio = kept["ratios"]["sgpo / grpo"]
    assert ratio["values"] == [s / g for s, g in zip(sgpo, grpo, strict=True)]
    assert f"sgpo / grpo {ratio['median']:.2f} (" in page and "of it sampling" in printed


def test_sampling_counts_completion_tokens_and_stops_spread_the_lengths(capsys):
    """Equal models stop alike: both samplers see geometric lengths, and neither runs to the cap."""
    (row,) = sampling.run(1, models=["qwen-s"], sequences=[128])["rows"]
    with_vllm = importlib.util.find_spec("vllm") is not None
    assert (sampling.VLLM_MISSING in capsys.readouterr().out) != with_vllm
    ours, theirs = row["mean_length"]["compact"], row["mean_length"]["transformers"]
    # Five standard errors of the difference of two means of 128.
    assert row["sequences"] == 128 and 10 < ours < 70 and abs(ours - theirs) < 20
    rates = {key: rate["values"][0] for key, rate in row["tokens_per_second"].items()}
    assert set(rates) == {"compact", "transformers"}  # heads of 12 dimensions are none for vLLM
    ratio = rates["compact"] / rates["transformers"]
    assert row["compact / transformers"]["values"] == [ratio]
    ((header, line),) = sampling.blocks({"rows": [row]})
    assert header[3:] == ("compact", "transformers") and f"compact is {ratio:.2f} (" in line[4]


def test_gpu_sampling_runs_tiny_on_a_cpu():
    shape = Shape(512, 32, 48, 2, 4, 2, 128, 1e4, True, True)
    how = {"device": "cpu", "given": shape, "sequences": [4], "max_tokens": 4}
    (row,) = sampling.run_gpu(1, **how)["rows"]
    ours, theirs = (row["tokens_per_second"][key] for key in ("compact", "transformers"))
    assert row["mean_length"]["compact"] <= 4
    ratio = ours["values"][0] / theirs["values"][0]
    assert row["compact / transformers"]["values"] == [pytest.approx(ratio)]
    alone = sampling.run_gpu(1, engines="transformers", **how)
    assert alone["not_run"][0] == "compact" and "transformers" in sampling.blocks(alone)[0][0]
    with pytest.raises(ValueError, match="--engines 'sglang': must be of compact"):
        sampling.run_gpu(1, engines="sglang", **how)


def test_losses_agree_and_a_dense_one_that_does_not_fit_is_fitted(monkeypatch):
    """Gradients are compared inside; the dense loss stands at two sizes for the third."""
    monkeypatch.setattr(common, "free_bytes", lambda device: 4_000_000)
    monkeypatch.setattr(losses, "THREADS", 1)
    sizes = (Size(64, 1000, 16), Size(1024, 1000, 16))
    result = json.loads(json.dumps(losses.run(1, sizes, "cpu")))
    rows = {(r["loss"], r["implementation"], r["shape"]["tokens"]): r for r in result["rows"]}
    assert [k[2] for k in rows if k[:2] == ("kl", "dense")] == [32, 64]
    assert {loss for loss, name, _ in rows if name == "chunked"} == {"nll", "kl", "jsd"}
    first, second = (rows["kl", "dense", n]["seconds"]["median"] for n in (32, 64))
    fitted = first + (second - first) / 32 * (1024 - 32)
    (header, *lines), _ = losses.blocks(result)
    shown = {line[:3]: line[-1] for line in lines}
    assert len(lines) == len(rows) and header[3] == "peak GiB"
    value = rows["kl", "chunked", 1024]["seconds"]["median"]
    assert shown["kl", "1024", "chunked"] == f"~{value / fitted:.2f}"
    assert not shown["kl", "64", "chunked"].startswith("~") and shown["kl", "64", "dense"] == ""


def test_a_peak_counts_what_lives_together_and_a_second_measurement_equals_the_first():
    """Two float32 tensors of 64 MiB at a time, whatever was freed before; and of a whole pass over
    24 MiB of logits, repeated on the same inputs, the same peak each time."""
    with common.threads(1):
        torch.ones(2**25).sum()  # a higher peak that is over
        before = common.reset_peak(CPU)
        for _ in range(3):
            a = torch.ones(2**24)
            (a + 1).sum()
            del a
        assert common.peak_bytes(CPU) - before == pytest.approx(2 * 2**26, rel=0.05)
        inputs = losses.Inputs(Size(128, 50_000, 16), CPU)
        _, *peaks = (inputs.measure("nll", "dense", 128)["peak_gib"] for _ in range(6))
        assert min(peaks) > 24 / 1024 and max(peaks) - min(peaks) < 4 / 1024


def test_flops_of_an_update_equal_those_that_torch_counts(tmp_path):
    """Without recomputation, the head whole and eager attention, which multiplies all pairs: equal
    to the last one, with the token of the pass that closes an update."""
    update = gpu_step.UPDATES["tiny"]
    with chunks_of(2**32):
        step = gpu_step.UpdateStep(update, CPU, str(tmp_path))
        step.model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            step()
    leave()
    closing = 3 * gpu_step.forward_flops(update.model, 1, 1, attention_share=1.0)
    expected = update.flops(attention_share=1.0) + closing
    assert counter.get_total_flops() == expected
    assert 0.7 * expected < update.flops() < expected


def test_the_gpu_step_runs_tiny_on_a_cpu_and_out_of_memory_is_a_row(measure, monkeypatch):
    kept, _, page = measure("gpu_step", "--shape", "tiny", "--device", "cpu", repeats=1)
    assert kept["completion_tokens"] == 16 * 32 and kept["setting"]["shape"] == "tiny"
    assert kept["rows"].pop("kept, compiled layers") == {"not_run": "needs a GPU"}
    assert kept["matmul_flops_per_second"]["best"] > 1e6
    for row in kept["rows"].values():
        rate = kept["model_flops"] / row["pass_seconds"]["median"]
        assert row["flops_per_second"] == pytest.approx(rate) and row["mfu"] is None
    assert "| kept |" in page and not torch.distributed.is_initialized()

    def step(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_step, "UpdateStep", step)
    found = gpu_step._measured(gpu_step.UPDATES["tiny"], CPU, 1)
    assert found == {"not_run": "out of memory"}


def test_rounds_alternate_and_drop_the_warmup():
    order: list[str] = []
    variants = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    assert common.in_rounds(variants, 2, warmup=1) == {"a": [3, 5], "b": [4, 6]}
    assert order == ["a", "b"] * 3
    # By round: 1/2, 9/3, 4/1. The ratio of the medians would be 2, which is not what is asked.
    ratio = common.paired_ratio([1.0, 9.0, 4.0], [2.0, 3.0, 1.0])
    assert (ratio["median"], ratio["min"], ratio["max"]) == (3.0, 0.5, 4.0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rl_step", "nope"], ["'nope'", *perf.CASES]),
        ([], [*perf.CASES]),
        (["sampling", "--repeats", "0"], ["--repeats 0", "at least 1"]),
        (["--page"], ["no measurements here"]),
        (["gpu_step", "--shape", "huge"], ["'huge': must be one of qwen2.5-1.5b, tiny"]),
        (["gpu_step", "--device", "cpu"], ["not run: needs a GPU"]),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2_and_measures_nothing(
    arguments, named, tmp_path, capsys
):
    assert perf.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(name in error for name in named)
    assert not (tmp_path / "out").exists()


def test_the_committed_page_says_what_the_committed_measurements_say(tmp_path):
    stored = common.ROOT / "results" / "perf"
    directory = shutil.copytree(stored, tmp_path / "perf")
    assert perf.write_page(directory).read_text() == (stored / "README.md").read_text()
    assert (directory / "GPU.md").read_text() == (stored / "GPU.md").read_text()
    assert {p.stem for p in directory.glob("*.json")} <= {*perf.CASES}


def test_verifier_rates_and_counts(monkeypatch):
    golds = [rf"\frac{{{n}}}{{7}}" for n in range(8, 20)] + [r"\sqrt{2}+1", "x^2+1"]
    monkeypatch.setattr(verifier, "_benchmark_golds", lambda: golds)
    monkeypatch.setattr(verifier, "symbolic_pairs", lambda: verifier.latex_pairs(60)[-4:])
    monkeypatch.setattr(verifier, "_start_cold", lambda: None)
    result = verifier.run(1, limit=6)
    found = result["workloads"]
    spelled = [
        "{" + gold.replace("\\frac{", "").replace("}{", "/").rstrip("}") + "}" in text
        for gold, text in verifier.short_pairs()[:6]
    ]  # a pair is right where its answer spells its gold: the spellings of short_pairs are three
    assert found["short exact"]["pairs"] == 6
    assert found["short exact"]["ours"]["correct"] == sum(spelled)
    assert found["LaTeX"]["ours"]["correct"] >= 3  # every second is respelled
    assert [r[0] for r in verifier.blocks(result)[0][1:]] == ["short exact", "LaTeX", "symbolic"]
