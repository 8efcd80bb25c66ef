"""Methods of the mini profile differ in what ``profiles.fairness`` allows, and in nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.cli import main
from benchmarks.profiles import fairness, mini
from benchmarks.profiles.planned import planned_study
from benchmarks.store import experiments
from benchmarks.store.runs import stored_runs
from sgpo.core.config import to_dict

STUDY = planned_study("mini", 1)
MODELS = [m.key for m in STUDY.models]
RESULTS = Path(__file__).resolve().parents[2] / "results" / "mini"
COMPARED = [entry.key for entry in mini.METHODS if entry.key != "grpo"]


def config(method: str, model: str = "qwen-m") -> dict:
    return to_dict(STUDY.entry(method).config(model, 0))


def unfair(method: str, other: dict) -> list[str]:
    """Keys in which ``other`` differs from SFT+GRPO without a reason that is written down."""
    allowed = fairness.ALLOWED.get(method, fairness.RL)
    found = fairness.differences(config("grpo", other["model"]), other)
    return [key for key, _, _ in found if fairness.reason(key, allowed) is None]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", COMPARED)
def test_a_method_differs_from_grpo_only_as_allowed(method, model):
    assert unfair(method, config(method, model)) == []


@pytest.mark.parametrize("method", COMPARED)
def test_every_reason_is_needed_by_its_method(method):
    """A list of allowed differences that grows on its own would allow anything in the end."""
    found = fairness.differences(config("grpo"), config(method))
    optional = {"train.learning_rate"} if method not in ("sft", "sft_full") else set()
    for key in fairness.ALLOWED.get(method, fairness.RL):
        used = any(k == key or k.startswith(f"{key}.") for k, _, _ in found)
        assert used or key in optional, key


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"num_steps": 56}},
        {"train": {"problems_per_step": 64}},
        {"train": {"updates_per_step": 1}},
        {"train": {"budget_steps": 32}},
        {"rollout": {"top_p": 0.8}},
        {"evaluation": {"max_tokens": 128}},
        {"evaluation": {"temperature": 0.2}},
        {"data": {"expert_gap": 0.0}},
        {"prompt": "other"},
        {"init": "base"},
        {"pretrain_steps": 900},
    ],
)
@pytest.mark.parametrize("method", ["sgpo", "luffy"])
def test_an_advantage_that_is_not_the_objective_is_noticed(method, changes):
    plain = STUDY.entry(method).config("qwen-m", 0)
    better = {
        key: replace(getattr(plain, key), **value) if isinstance(value, dict) else value
        for key, value in changes.items()
    }
    assert unfair(method, to_dict(replace(plain, **better)))


@pytest.mark.parametrize("method", COMPARED)
def test_settings_of_one_name_have_one_value(method):
    reference, settings = config("grpo")["settings"], config(method)["settings"] or {}
    for name in fairness.COMMON_SETTINGS:
        assert settings.get(name, reference[name]) == reference[name]


def test_every_rl_method_may_sample_the_same_number_of_answers():
    def drawn(settings: dict) -> int:
        if "num_autonomous" in settings:
            return settings["num_autonomous"] + settings["num_guided"]
        return settings["num_samples"]

    for entry in mini.METHODS:
        if entry.key not in ("base", "sft", "sft_full"):
            # LUFFY's twelfth sample is the expert's trace.
            allowed = (11, 12) if entry.key == "luffy" else (12,)
            assert drawn(config(entry.key)["settings"]) in allowed, entry.key


def test_diff_configs_prints_every_difference_with_its_reason(capsys, tmp_path):
    assert main(["diff-configs", "grpo", "hpt", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    expected = fairness.differences(config("grpo"), config("hpt"))
    assert all(f"{key}: {a} -> {b}" in text for key, a, b in expected)
    assert "authors' script" in text and text.endswith(f"{len(expected)} values differ\n")


def test_the_rate_of_what_was_not_tuned_has_a_reason_of_its_own(capsys, tmp_path):
    for method, words in (("sgpo", "same number of trials"), ("sgpo_nll", "SGPO's, not tuned")):
        assert main(["diff-configs", "grpo", method, "--out", str(tmp_path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        (rate,) = [line for line in lines if line.startswith("train.learning_rate: ")]
        assert words in rate
    for method in experiments.KIN:
        reason = fairness.allowed_beside_grpo(method)["train.learning_rate"]
        assert "same number of trials" in reason


def test_a_variant_is_compared_on_a_model_that_both_methods_have(capsys):
    assert main(["diff-configs", "sgpo", "sgpo_no_clip"]) == 0
    out = capsys.readouterr().out
    assert "settings.kl_threshold: 1.0 -> inf" in out and "\nmodel:" not in f"\n{out}"


def test_diff_configs_reads_runs(capsys, tmp_path):
    stored = stored_runs(RESULTS)
    runs = [run_id for run_id in stored if run_id.startswith("qwen-m-sgpo-")]
    assert main(["diff-configs", runs[0], runs[1], "--out", str(RESULTS)]) == 0
    assert capsys.readouterr().out == "seed: 0 -> 1\n1 values differ\n"
    directory = tmp_path / runs[0]  # and a run's own directory, wherever it lies
    directory.mkdir()
    (directory / "config.json").write_bytes(stored[runs[0]].content("config.json"))
    assert main(["diff-configs", str(directory), runs[0], "--out", str(RESULTS)]) == 0
    assert capsys.readouterr().out == "no value differs\n"


def test_an_unknown_name_is_one_line(capsys):
    assert main(["diff-configs", "grpo", "sgpoo"]) == 2
    message = capsys.readouterr().err
    assert "did you mean sgpo?" in message and message.count("\n") == 1
