"""What the profiles plan: the papers' numbers, which runs are made when, and what --set changes."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace

import pytest
import standin
from synthetic_study import VARIANTS as SYNTHETIC_VARIANTS

from benchmarks.cli import main
from benchmarks.config import SUITE_VERSION, Cell
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.sources import evaluation_problems
from benchmarks.profiles import mini, paper
from benchmarks.profiles.planned import planned_study, user_method
from benchmarks.report.tables import accuracy
from benchmarks.run.launch import selected
from benchmarks.store import experiments
from benchmarks.store.load import stored_hash
from benchmarks.store.records import SGPO_VARIANTS
from benchmarks.store.runs import StoredRun
from sgpo.core.config import VLLMSettings, to_dict
from sgpo.core.files import write_json
from sgpo.core.runlog import package_versions

STUDY = {name: planned_study(name, None) for name in ("paper", "single_gpu", "pocket")}
CELLS = {(name, c.config.model, c.config.method): c for name in STUDY for c in STUDY[name].cells()}
ROWS = ["base", "sft", "sft_full", "grpo", "hpt", "luffy", "sgpo"]
SETS = {"math500": (500, 4), "amc23": (40, 32), "olympiadbench": (674, 4), "aime24": (30, 32)}


@pytest.mark.parametrize("name", STUDY)
def test_every_row_of_table_1_is_planned_on_the_real_benchmarks(name):
    study, pocket = STUDY[name], name == "pocket"
    assert [entry.key for entry in study.methods] == ROWS
    expected = {key: (count, 1 if pocket else k) for key, (count, k) in SETS.items()}
    expected = ({"gsm8k": (500, 1)} if pocket else {}) | expected
    assert {b.key: (b.num_problems, b.k) for b in study.benchmarks} == expected
    engine = ("bfloat16", "compact", "auto") if pocket else ("bfloat16", "vllm", "cuda")
    for cell in study.cells():
        config = cell.config
        assert (config.precision, config.sampler, config.device) == engine
        longest = max(config.evaluation.max_tokens, getattr(config.rollout, "max_tokens", 0))
        context = CHECKPOINTS[config.model].shape.context
        assert longest + 2048 <= config.vllm.max_model_len <= context
        assert (config.evaluation.temperature, config.evaluation.top_p) == (0.6, 0.95)
        if config.train:
            assert config.train.activation_checkpointing
            assert (config.rollout.temperature, config.rollout.top_p) == (1.0, 0.95)
        if config.method not in ("base", "sft", "sft_full"):
            assert cell.parent.config.method == "sft" and config.data.split == "rl"


def test_the_paper_profile_has_the_paper_s_numbers():
    assert paper.RECIPE.nodes["qwen2.5-7b"] * paper.RECIPE.gpus_per_node == 32
    for model in paper.RECIPE.nodes:
        config = {m: CELLS["paper", model, m].config for m in ROWS}
        warmup, rl, hpt = (config[m].train for m in ("sft", "sgpo", "hpt"))
        found = (warmup.learning_rate, warmup.problems_per_step, warmup.warmup_share)
        assert found == (1e-5, 64, 0.1)
        assert warmup.num_steps == 10 * ((8491 // 3 - 283) // 64)  # a tenth is held out
        assert config["sft_full"].train.num_steps == 10 * ((8491 - 849) // 64)
        assert warmup.held_out_share == 0.1 and warmup.decay == "constant"
        assert (rl.learning_rate, rl.problems_per_step, rl.updates_per_step) == (1e-6, 128, 2)
        # 10 epochs of the two thirds that are left, to within an epoch
        assert rl.num_steps * 128 == pytest.approx(10 * 8491 * 2 / 3, rel=0.1)
        assert config["grpo"].train == config["luffy"].train == rl
        skip = None if model.startswith("llama") else 80.0
        assert (hpt.learning_rate, hpt.grad_clip, hpt.skip_above) == (5e-6, 1.0, skip)
        assert {config[m].rollout.max_tokens for m in ROWS[3:]} == {16_384}
        longest = 32_768 - (2048 if model.startswith("qwen") else 0)
        assert config["base"].evaluation.max_tokens == longest
    gates = [CELLS["paper", m, "hpt"].config.settings for m in paper.RECIPE.nodes]
    assert [(s.gate, s.sft_coefficient) for s in gates] == [(0, 0.3), (0, 1.0), (2, 1.0)]


def test_single_gpu_differs_from_paper_in_budget_alone():
    mine, theirs = (to_dict(CELLS[name, "qwen2.5-1.5b", "sgpo"].config)
                    for name in ("single_gpu", "paper"))  # fmt: skip
    other = {k for k in mine if mine[k] != theirs[k]}
    assert other == {"profile", "data", "train", "rollout"}
    other = {k for k in mine["train"] if mine["train"][k] != theirs["train"][k]}
    assert other == {"num_steps", "problems_per_step", "micro_batch_tokens"}


def test_pocket_is_what_its_page_says():
    for config in (c.config for (name, _, _), c in CELLS.items() if name == "pocket"):
        assert (config.evaluation.max_tokens, config.rollout.max_tokens) == (1024, 320)
        shown = getattr(config.settings, "show_strategies", None)
        if config.method == "sft":  # two epochs of nine tenths of 1,200
            assert (config.train.num_steps, config.train.problems_per_step, shown) == (66, 32, True)
        elif config.init == "warmup":
            found = [config.train.num_steps, config.train.problems_per_step]
            assert found == [60, 32] and config.train.learning_rate == 5e-6
        assert config.method != "sft_full" or shown is False


def test_with_its_data_a_pocket_run_names_directory_and_content_wherever_the_tree_lies(
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
        write_json(folder / "report.json", {})
        monkeypatch.chdir(tmp_path / place)
        study = planned_study("pocket", None)
        ids.append([cell.run_id for cell in study.cells()])
        config = study.entry("sgpo").config("smollm2-360m", 0)
        assert len(evaluation_problems("gsm8k", config.evaluation)[0]) == 3
    assert ids[0] == ids[1] and not {*ids[0]} & {c.run_id for c in STUDY["pocket"].cells()}


# Which runs are made when ---------------------------------------------------------------------

GRID = planned_study("mini", 6, variants=True)  # more worlds than an experiment's five
PLAIN = planned_study("mini", 6)


def placed(cells) -> set[tuple[str, str]]:
    return {(c.config.model, c.config.method) for c in cells}


def test_variants_and_experiments_leave_the_study_as_it_is():
    plain = [c.run_id for c in PLAIN.cells()]
    assert [c.run_id for c in GRID.cells() if c.run_id in {*plain}] == plain
    extra = {e.key for e in GRID.methods if e.extra}
    untried = {row for row, chosen in mini.CHOSEN.items() if not chosen}
    assert extra == {*experiments.METHODS} - untried
    assert not {m for _, m in placed(GRID.cells())} & {*experiments.TRIALS}
    added = placed(GRID.cells()) - placed(PLAIN.cells())
    variants = {(m, k) for m, k in added if k in SGPO_VARIANTS}
    assert {k for m, k in variants if m == "qwen-m"} == {*SGPO_VARIANTS}
    again = {("llama-m", k) for k in ("sgpo_nll", "sgpo_no_clip", "sgpo_delta3")}
    assert {(m, k) for m, k in variants if m != "qwen-m"} == again
    assert {m for m, k in added if k not in extra and (m, k) not in variants} == {"qwen-l"}
    large = [c for c in GRID.cells() if c.config.model == "qwen-l"]
    assert {c.config.seed for c in large} == {*range(5)}
    assert all(c.parent.config.model == "qwen-l" for c in large if c.config.init == "warmup")


def test_the_report_and_the_profile_name_the_same_variants():
    methods = planned_study("quick", 1, variants=True).methods
    keys = [e.key for e in methods if e.models and not e.extra]
    assert tuple(keys) == SGPO_VARIANTS and {*keys} == {*SYNTHETIC_VARIANTS}
    shown = {m for table in accuracy.VARIANT_TABLES for m, _ in table.rows}
    assert shown == {"sgpo", "grpo", *SGPO_VARIANTS}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, placed(PLAIN.cells())),
        ({"only": ["fig6"]}, {("qwen-m", m) for m in ("sft", "sgpo", "sgpo_nll")}),
        (
            {"only": ["table7"]},
            {("qwen-m", m) for m in ("sft", "sgpo", "sgpo_fixed_alpha", "sgpo_group_alpha")},
        ),
        ({"methods": ["sgpo_nll"]},
         {(m, k) for m in ("qwen-m", "llama-m") for k in ("sft", "sgpo_nll")}),
        ({"methods": ["opsd"], "models": ["qwen-s"]}, {("qwen-s", "sft"), ("qwen-s", "opsd")}),
        ({"models": ["qwen-l"]},
         {("qwen-l", m) for m in ("base", "sft", "grpo", "luffy", "sgpo")}),
        ({"all": True}, placed(GRID.cells())),
    ],
)  # fmt: skip
def test_extra_runs_are_made_only_when_asked_for(asked, expected):
    plain = {"all": False, "only": None, "methods": None, "models": None}
    found = placed(selected(GRID, argparse.Namespace(**(plain | asked))))
    assert found == expected


def test_an_override_reaches_the_variants_but_not_what_they_stand_for():
    changes = ["settings.kl_threshold=2", "train.num_steps=5"]
    grid = planned_study("mini", 1, overrides=changes, variants=True)
    threshold = {
        c.config.method: c.config.settings.kl_threshold
        for c in grid.cells()
        if c.config.method.startswith("sgpo") and c.config.model == "qwen-m"
    }
    assert threshold["sgpo"] == threshold["sgpo_nll"] == 2.0
    assert (threshold["sgpo_delta3"], threshold["sgpo_no_clip"]) == (3.0, math.inf)
    assert {c.config.train.num_steps for c in grid.cells() if c.config.train} == {5}


def test_a_methods_file_cannot_take_the_name_of_a_variant(tmp_path):
    path = tmp_path / "sgpo_nll.py"
    path.write_text("")
    with pytest.raises(ValueError, match="'sgpo_nll' is a method of this profile already"):
        user_method(PLAIN, path)


# The engine's settings, and another checkpoint ------------------------------------------------

REMEDIES = (
    "vllm.stall_seconds=7200", "vllm.gpu_memory_utilization=0.3", "vllm.max_num_seqs=64",
    "vllm.sleep=false", "vllm.enforce_eager=true", "vllm.probe_tolerance=0.1",
    "vllm.server=http://localhost:8000", "vllm.sync_dir=there",
)  # fmt: skip


@pytest.mark.parametrize("setting", [*REMEDIES, "vllm.dtype=float32", "vllm.max_model_len=32767"])
def test_a_remedy_keeps_the_runs_and_what_changes_results_makes_others(setting):
    changed = planned_study("single_gpu", None, overrides=[setting])
    for cell in changed.cells():
        plain = CELLS["single_gpu", cell.config.model, cell.config.method]
        assert (cell.run_id == plain.run_id) == (setting in REMEDIES)
        assert to_dict(cell.config)["vllm"] != to_dict(plain.config)["vllm"]  # recorded


@pytest.mark.parametrize("vllm", [{}, {"stall_seconds": 60.0}, {"max_model_len": 100}])
def test_the_address_of_stored_settings_is_that_of_the_planned_ones(tmp_path, vllm):
    """What a run leaves on disk, another remedy later, gives the hash it was planned with."""
    config = replace(CELLS["single_gpu", "qwen2.5-1.5b", "base"].config, vllm=VLLMSettings(**vllm))
    write_json(tmp_path / "environment.json", {"packages": package_versions()})
    for stored in (config, replace(config, vllm=replace(config.vllm, enforce_eager=True))):
        write_json(tmp_path / "config.json", {"run_id": "r", "parent": None} | to_dict(stored))
        found = stored_hash(StoredRun(tmp_path), {"suite_version": SUITE_VERSION})
        assert found == Cell(config).hash


SMALLER, LARGER = CHECKPOINTS["qwen2.5-0.5b"], CHECKPOINTS["qwen2.5-1.5b"]


def test_another_checkpoint_stands_in_the_place_of_the_selected_model_alone(tmp_path):
    path = standin.write_checkpoint(tmp_path / "mine", small=True)
    study = planned_study(
        "single_gpu", None, overrides=[f"checkpoint={path}"], models=[SMALLER.key]
    )
    for cell in study.cells():
        old = CELLS["single_gpu", cell.config.model, cell.config.method]
        if cell.config.model == SMALLER.key:
            expected = replace(old.config, checkpoint=str(path), revision=None)
            assert cell.config == expected and cell.hash != old.hash
        else:
            assert cell.run_id == old.run_id
    labels = [m.label for m in study.models]
    assert labels == [f"mine in place of {SMALLER.label}", LARGER.label]


@pytest.mark.parametrize(
    ("models", "item", "message"),
    [
        *((models, item, f"override {item!r}: weights are those of one model; say in whose place")
          for models, item in ((None, "checkpoint=a/b"), ([], "revision=main"),
                               ([SMALLER.key, LARGER.key], "checkpoint=a/b"))),
        ([SMALLER.key], "checkpoint=none", "checkpoint=none: must be a directory or a name"),
        ([SMALLER.key], "checkpoint=meta-llama/Llama-3.1-8B-Instruct",
         "model_type='llama', qwen2.5-0.5b is of the family 'qwen2'"),
    ],
)  # fmt: skip
def test_weights_that_cannot_stand_in_are_refused(models, item, message):
    with pytest.raises(ValueError) as caught:
        planned_study("single_gpu", None, overrides=[item], models=models)
    assert message in str(caught.value)


def test_what_is_known_before_a_download_is_said_at_once(tmp_path, monkeypatch, refused, capsys):
    monkeypatch.chdir(tmp_path)
    study = f"study --profile single_gpu --dry-run --models {SMALLER.key} --set checkpoint="
    llama = standin.write_checkpoint(tmp_path / "llama", "llama-3", small=True)
    small = standin.write_checkpoint(tmp_path / "m", small=True)
    pocket = f"study --profile pocket --models {SMALLER.key} --set device=cpu --set checkpoint="
    refused(f"{study}{llama}", "model_type='llama', qwen2.5-0.5b is of the family 'qwen2'")
    refused(f"{study}some/model", "checkpoint 'some/model': no such directory")
    assert main(f"{pocket}{small}".split()) == 2
    assert "`sgpo data gsm8k --out data/pocket`" in capsys.readouterr().err
    config = CELLS["pocket", SMALLER.key, "base"].config
    with pytest.raises(ValueError, match="data/pocket/gsm8k.jsonl: is not there .*sgpo data gsm8k"):
        evaluation_problems("gsm8k", config.evaluation)
