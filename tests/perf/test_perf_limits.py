"""The speed cases that look for the limit: their arithmetic. Nothing here is timed."""

import json
from dataclasses import replace

import pytest
import torch

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.perf import roofline, scaling, study
from benchmarks.perf.rl_step import OurStep, StepShape

TINY = StepShape("qwen-s", num_problems=2, num_samples=3, completion_tokens=5)


def test_exponent_of_an_exact_power_law():
    x = [1.0, 2.0, 8.0, 32.0]
    assert scaling.exponent(x, [5.0 * v**1.5 for v in x]) == pytest.approx(1.5)
    assert scaling.exponent(x, [7.0] * 4) == pytest.approx(0.0, abs=1e-12)


def test_scaling_varies_one_thing_and_gives_the_vocabulary_its_rows(capsys):
    axes = {"num_samples": (2, 4), "vocabulary_rows": (128, 300)}
    result = scaling.run(1, axes=axes, middle=TINY)
    assert {k: v["values"] for k, v in result["axes"].items()} == {
        "num_samples": [2, 4],
        "vocabulary_rows": [128, 300],
    }
    assert json.loads(json.dumps(result)) and "num_samples" in capsys.readouterr().out
    samples = result["axes"]["num_samples"]
    assert samples["last_step_flops_exponent"] == pytest.approx(1.0, abs=0.15)


def test_a_line_and_its_largest_miss_by_hand():
    assert scaling.line([1, 2, 4], [5.0, 7.0, 11.0]) == pytest.approx(
        {"fixed": 3.0, "each": 2.0, "largest_miss": 0.0}, abs=1e-9
    )
    bent = scaling.line([0, 1, 2], [0.0, 0.0, 6.0])  # fits -1, 2, 5
    assert bent == pytest.approx({"fixed": -1.0, "each": 3.0, "largest_miss": 2 / 6})


@pytest.mark.parametrize(
    ("axis", "seconds", "flops", "said"),
    [
        ("num_samples", 1.05, 1.0, ""),
        ("num_samples", 1.3, 1.0, "larger tensors leave the caches"),
        ("completion_tokens", 1.3, 1.2, "pairs grow with the square"),
        ("num_samples", 1.3, 1.2, "unexplained"),
    ],
)
def test_a_superlinear_axis_is_explained_by_its_flops_or_by_memory(axis, seconds, flops, said):
    found = {"last_step_exponent": seconds, "last_step_flops_exponent": flops}
    text = scaling.explanation(axis, found)
    assert said in text and bool(text) == bool(said)


@pytest.fixture
def step(tmp_path):
    return OurStep(GRPO(GRPOConfig(num_samples=TINY.num_samples)), tmp_path, TINY)


def test_counted_flops_lie_where_the_parameters_say(step):
    """Two FLOPs a weight and token forward and four backward, for the tokens the step must touch;
    attention over these 20 tokens and padding come on top."""
    flops = roofline.count_flops(step)
    weights = sum(p.numel() for p in step.trainer.model.parameters())  # tied: the head's once
    sequences = TINY.num_problems * TINY.num_samples
    least = 6 * weights * sequences * TINY.completion_tokens
    assert 0.8 * least < flops["total"] - flops["sampling"] < 8 * least
    assert 0 < flops["sampling"] < flops["total"] / 2
    assert step.inner.sample.__func__ is type(step.inner).sample  # the probe is gone


def test_matmul_rate_counts_two_flops_a_multiplication(monkeypatch):
    monkeypatch.setattr(roofline, "timed", lambda work: 2.0)
    m = k = n = 100
    assert roofline.matmul_rate(m, k, n) == pytest.approx(1e10 / 2.0, rel=1e-3)


def test_busy_shares_by_window():
    """60 readings a window: ticks rise by 2 a second on two cores, busy ones as scripted."""
    watch = study.CoreWatch(read=lambda: (0.0, 0.0))
    watch.readings = [(0.5 * i, 2.0 * i) for i in range(61)]
    watch.readings += [(30 + 2.0 * (i - 60), 2.0 * i) for i in range(61, 121)]
    assert watch.shares(60) == pytest.approx([0.25, 1.0])
    watch.readings += [(150.0, 242.0)]  # a tail too short for a window of its own
    assert len(watch.shares(60)) == 2


def test_core_watch_reads_while_its_block_runs():
    ticks = iter(range(100))
    watch = study.CoreWatch(read=lambda: (float(next(ticks)), 10.0))
    with watch:
        pass
    assert watch.readings == [(0.0, 10.0)]


def test_stages_of_the_grid_by_hand():
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


def test_nested_timings_become_disjoint_stages():
    seconds = {"sampling": 3.0, "verification": 1.0, "collect": 4.5, "scoring": 2.0}
    stages = study._split(10.0, seconds)
    assert stages.pop("total") == sum(stages.values()) == 10.0
    assert stages["other collection"] == 0.5 and stages["backward and update"] == 3.5


def test_stopwatch_adds_up_calls_and_errors():
    watch = study.Stopwatch()

    def work(fail):
        if fail:
            raise RuntimeError
        return 5

    assert watch.wrap("a", work)(False) == 5
    first = watch.seconds["a"]
    with pytest.raises(RuntimeError):
        watch.wrap("a", work)(True)
    assert watch.seconds["a"] > first > 0


def test_roofline_reports_fractions_of_the_measured_peak():
    with torch.random.fork_rng():
        result = roofline.run(1, replace(TINY, num_samples=12))  # SGPO draws 8 + 4
    peak = result["matmul_flops_per_second"]["peak"]["max"]
    whole = result["steps"]["grpo"]["whole step"]
    assert whole["of_peak"] == pytest.approx(whole["flops"] / whole["seconds"] / peak)
    assert 0 < whole["of_peak"] < 1
