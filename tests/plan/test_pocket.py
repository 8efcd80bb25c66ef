"""The profile pocket: what it promises, and what it says before its data is there."""

from __future__ import annotations

import json

import pytest
import standin

from benchmarks.cli import main
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.sources import evaluation_problems
from benchmarks.plan import cost
from benchmarks.profiles import fairness, pocket
from benchmarks.profiles.planned import planned_study
from sgpo.core.config import to_dict

STUDY = planned_study("pocket", None)
CONFIG = {(c.config.model, c.config.method): c.config for c in STUDY.cells()}


def test_the_recipe_is_what_the_page_says():
    assert [m.key for m in STUDY.models] == ["qwen2.5-0.5b", "smollm2-360m"]
    sizes = {b.key: (b.num_problems, b.k) for b in STUDY.benchmarks}
    assert sizes == {
        "gsm8k": (500, 1), "math500": (500, 1), "amc23": (40, 1),
        "olympiadbench": (674, 1), "aime24": (30, 1),
    }  # fmt: skip
    for (model, method), config in CONFIG.items():
        assert (config.evaluation.max_tokens, config.rollout.max_tokens) == (1024, 320)
        assert (config.sampler, config.device, config.precision) == ("compact", "auto", "bfloat16")
        if method == "sft":  # two epochs of nine tenths of 1,200
            assert (config.train.num_steps, config.train.problems_per_step) == (66, 32)
            assert config.settings.show_strategies and config.train.learning_rate == 1e-5
        elif config.init == "warmup":
            assert (config.train.num_steps, config.train.problems_per_step) == (60, 32)
            assert config.train.learning_rate == CONFIG[model, "sgpo"].train.learning_rate
            drawn, _, _ = cost.sequences(config.settings, 1)
            assert drawn == (11 if method == "luffy" else 12)  # and an expert's trace
    assert not CONFIG["qwen2.5-0.5b", "sft_full"].settings.show_strategies


@pytest.mark.parametrize(("model", "method"), [k for k in CONFIG if k[1] != "grpo"])
def test_methods_differ_in_what_is_allowed(model, method):
    found = fairness.differences(*(to_dict(CONFIG[model, key]) for key in ("grpo", method)))
    allowed = fairness.ALLOWED.get(method, fairness.RL)
    assert [key for key, _, _ in found if fairness.reason(key, allowed) is None] == []


@pytest.mark.parametrize("model", pocket.MODELS)
def test_an_update_without_recomputing_fits_80_gb(model):
    tokens = pocket.RECIPE.micro_batch_tokens
    free = cost.REFERENCE.memory
    assert cost.keeps_activations(CHECKPOINTS[model].shape, tokens, 2, 1, free)


def test_without_its_data_it_can_be_planned_and_says_what_makes_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["study", "--profile", "pocket", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "14 of 14 cells to run" in out and "smollm2-360m-sgpo-s0" in out
    checkpoint = standin.write_checkpoint(tmp_path / "m", small=True)
    command = ["study", "--profile", "pocket", "--models", "qwen2.5-0.5b"]
    assert main([*command, "--set", f"checkpoint={checkpoint}", "--set", "device=cpu"]) == 2
    assert "`sgpo data gsm8k --out data/pocket`" in capsys.readouterr().err
    base = planned_study("pocket", None).entry("base").config("qwen2.5-0.5b", 0)
    with pytest.raises(
        ValueError, match=r"data/pocket/gsm8k.jsonl: is not there .*sgpo data gsm8k"
    ):
        evaluation_problems("gsm8k", base.evaluation)


def test_with_its_data_a_run_names_directory_and_content_wherever_the_tree_lies(
    tmp_path, monkeypatch
):
    ids = []
    for place in ("here", "there"):
        folder = tmp_path / place / "data" / "pocket"
        folder.mkdir(parents=True)
        rows = [{"id": i, "question": f"{i} + 1?", "answer": i + 1} for i in range(3)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        for name in ("warmup", "rl", "dev", "gsm8k"):
            (folder / f"{name}.jsonl").write_text(lines)
        (folder / "report.json").write_text("{}")
        monkeypatch.chdir(tmp_path / place)
        study = planned_study("pocket", None)
        ids.append([cell.run_id for cell in study.cells()])
        config = study.entry("sgpo").config("smollm2-360m", 0)
        assert len(evaluation_problems("gsm8k", config.evaluation)[0]) == 3
    assert ids[0] == ids[1] and not {*ids[0]} & {c.run_id for c in STUDY.cells()}
