"""The profiles single_gpu and paper: their values, and the formulas behind --dry-run."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import standin
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, Qwen2Config

from benchmarks.cli import main as sgpo
from benchmarks.config import SUITE_VERSION, Cell
from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.plan import cost as gpu_cost
from benchmarks.plan.cost import GIB
from benchmarks.profiles import paper, single_gpu
from benchmarks.profiles.planned import planned_study
from benchmarks.profiles.variants import VARIANTS
from benchmarks.run.progress import expected_cost
from benchmarks.store.load import stored_hash
from benchmarks.store.runs import StoredRun
from sgpo.core import chunked_head
from sgpo.core.config import VLLMSettings, to_dict
from sgpo.core.files import write_json
from sgpo.core.models import context_length, read_config
from sgpo.core.prompts import NATIVE, PROMPT_SPECS
from sgpo.core.runlog import package_versions

STUDY = {name: planned_study(name, None) for name in ("paper", "single_gpu")}
CELLS = {(name, c.config.model, c.config.method): c for name in STUDY for c in STUDY[name].cells()}
ROWS = ["base", "sft", "sft_full", "grpo", "hpt", "luffy", "sgpo"]
PUBLISHED = {  # from the model cards
    "qwen2.5-0.5b": 494_032_768,
    "smollm2-360m": 361_821_120,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
}


def config_of(shape: Shape):
    kind = Qwen2Config if shape.qkv_bias else LlamaConfig
    sizes = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
    }
    return kind(tie_word_embeddings=shape.tied, **sizes)


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_a_shape_has_the_weights_of_the_published_model_and_of_the_library_s(key):
    shape = CHECKPOINTS[key].shape
    assert shape.num_parameters == PUBLISHED[key]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    assert model.num_parameters() == PUBLISHED[key]
    assert CHECKPOINTS[key].prompt in (*PROMPT_SPECS, NATIVE)
    assert CHECKPOINTS[key].revision is None or len(CHECKPOINTS[key].revision) == 40


def test_a_local_checkpoint_s_shape_is_read_from_its_config(tmp_path):
    path = standin.write_checkpoint(tmp_path / "m", small=True)
    config = read_config(path)
    shape = Shape.from_config(config, context_length(config), 1e6)
    assert shape.num_parameters == AutoModelForCausalLM.from_pretrained(path).num_parameters()
    assert (shape.context, shape.tied, shape.head_dim) == (32_768, True, 32)
    for change, message in (
        ({"model_type": "gpt2"}, "model_type='gpt2'"),
        ({"hidden_size": None}, "config.json: hidden_size=None must be"),
        ({"head_dim": 48}, "head_dim=48: must be hidden_size"),
    ):
        with pytest.raises(ValueError, match=message):
            Shape.from_config(config | change, 1024, 1e4)


@pytest.mark.parametrize("name", STUDY)
def test_every_row_of_table_1_is_planned_on_the_real_benchmarks(name):
    study = STUDY[name]
    assert [entry.key for entry in study.methods] == ROWS
    assert [(b.key, b.num_problems, b.k) for b in study.benchmarks] == [
        ("math500", 500, 4), ("amc23", 40, 32), ("olympiadbench", 674, 4), ("aime24", 30, 32),
    ]  # fmt: skip
    for cell in study.cells():
        config = cell.config
        assert (config.precision, config.sampler, config.device) == ("bfloat16", "vllm", "cuda")
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
    def train(model, method):
        return CELLS["paper", model, method].config.train

    assert paper.NODES["qwen2.5-7b"] * paper.GPUS_PER_NODE == 32
    for model in paper.MODELS:
        warmup, rl = train(model, "sft"), train(model, "sgpo")
        found = (warmup.learning_rate, warmup.problems_per_step, warmup.warmup_share)
        assert found == (1e-5, 64, 0.1)
        assert warmup.num_steps == 10 * ((8491 // 3 - 283) // 64)  # a tenth is held out
        assert train(model, "sft_full").num_steps == 10 * ((8491 - 849) // 64)
        assert warmup.held_out_share == 0.1 and warmup.decay == "constant"
        assert (rl.learning_rate, rl.problems_per_step, rl.updates_per_step) == (1e-6, 128, 2)
        # 10 epochs of the two thirds that are left, to within an epoch
        assert rl.num_steps * 128 == pytest.approx(10 * 8491 * 2 / 3, rel=0.1)
        assert train(model, "grpo") == train(model, "luffy") == rl
        hpt, skip = train(model, "hpt"), None if model.startswith("llama") else 80.0
        assert (hpt.learning_rate, hpt.grad_clip, hpt.skip_above) == (5e-6, 1.0, skip)
        for method in ("grpo", "hpt", "luffy", "sgpo"):
            assert CELLS["paper", model, method].config.rollout.max_tokens == 16_384
    gates = {m: CELLS["paper", m, "hpt"].config.settings for m in paper.MODELS}
    assert [(s.gate, s.sft_coefficient) for s in gates.values()] == [(0, 0.3), (0, 1.0), (2, 1.0)]
    assert CELLS["paper", "llama-3.1-8b", "base"].config.evaluation.max_tokens == 32_768
    assert CELLS["paper", "qwen2.5-7b", "base"].config.evaluation.max_tokens == 32_768 - 2048


def test_single_gpu_differs_from_paper_in_budget_alone():
    mine = to_dict(CELLS["single_gpu", "qwen2.5-1.5b", "sgpo"].config)
    theirs = to_dict(CELLS["paper", "qwen2.5-1.5b", "sgpo"].config)
    other = {k for k in mine if mine[k] != theirs[k]}
    assert other == {"profile", "data", "train", "rollout"}
    other = {k for k in mine["train"] if mine["train"][k] != theirs["train"][k]}
    assert other == {"num_steps", "problems_per_step", "micro_batch_tokens"}
    assert single_gpu.NODES["qwen2.5-1.5b"] * single_gpu.GPUS_PER_NODE == 1


def test_variants_are_planned_on_the_paper_s_model_and_no_analysis_of_the_mini_world():
    from benchmarks.analyses import analysis_tasks

    full = planned_study("paper", None, variants=True)
    added = {(c.config.model, c.config.method) for c in full.cells()} - {k[1:] for k in CELLS}
    assert {model for model, _ in added} == {"qwen2.5-7b"} and len(added) == len(VARIANTS)
    assert analysis_tasks(full) == []


def test_sequences_of_each_method_are_those_it_handles():
    found = {m: CELLS["paper", "qwen2.5-7b", m].config.settings for m in ROWS[1:]}
    assert {m: gpu_cost.sequences(s, 1) for m, s in found.items()} == {
        "sft": (0, 1, 0),
        "sft_full": (0, 1, 0),
        "grpo": (12, 12, 0),
        "hpt": (12, 12, 0),
        "luffy": (11, 12, 0),
        "sgpo": (12, 9, 5),
    }
    assert gpu_cost.sequences(found["sgpo"], 2) == (12, 9, 13)
    assert gpu_cost.sequences(replace(found["sgpo"], select_target=False), 1) == (12, 12, 8)


@pytest.mark.parametrize("family", ["qwen2.5", "llama-3"])  # with a tied head, and without
def test_flops_of_a_forward_pass_are_those_that_torch_counts(family):
    model = standin.build_model(family, small=True, num_hidden_layers=3, intermediate_size=160)
    model.set_attn_implementation("eager")  # the counter knows no fused attention of a CPU
    shape = Shape.from_config(model.config.to_dict(), 32_768, 1e6)
    length = 96
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, length, dtype=torch.long), use_cache=False)
    # torch counts the whole square of scores, twice what causal attention needs
    counted = counter.get_total_flops()
    assert gpu_cost.forward_flops(shape, length, attention_share=1.0) == counted
    assert 0.5 * counted < gpu_cost.forward_flops(shape, length) < counted


def test_activations_are_kept_where_an_update_without_recomputing_fits():
    """1.5B in bfloat16 over 18,432 tokens on one GPU: 18 bytes a weight, 28 layers of
    13 x 1536 + 4 x 8960 numbers a token, one layer's gradients, the head and the overhead come to
    91 GiB, a tenth to spare: on an H200 (140 GiB), not on an H100 (79 GiB)."""
    shape = CHECKPOINTS["qwen2.5-1.5b"].shape
    for gib, kept in ((140, True), (79, False), (103, True), (100, False)):
        free = gib * gpu_cost.GIB
        assert gpu_cost.keeps_activations(shape, 18_432, 2, 1, free) is kept, gib
    # Half the micro-batch fits 80 GB where the whole one does not. A sequence above it is one of
    # its own, and has to fit as well.
    for asked, longest, tokens in (
        (18_432, 4_608, 9_216),
        (18_432, 13_000, None),
        (2_048, 4_608, 2_048),
        (2_048, 13_000, None),
    ):
        assert gpu_cost.kept_tokens(shape, asked, longest, 2, 1, 79 * gpu_cost.GIB) == tokens


@pytest.mark.parametrize(("family", "kv_heads"), [("qwen2.5", 2), ("llama-3", 4)])
def test_kept_activations_are_those_that_a_layer_saves(family, kv_heads):
    """Bytes that autograd holds of one more layer, weights apart: nothing is forgotten, and the
    estimate is no more than a third above."""
    counts = []
    for layers in (2, 3):
        model = standin.build_model(
            family,
            small=True,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
        ).bfloat16()
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        held = {}

        def keep(tensor, held=held, weights=weights):
            if tensor.untyped_storage().data_ptr() not in weights:
                held[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            hidden = model.base_model(
                input_ids=torch.zeros(1, 96, dtype=torch.long), use_cache=False
            )
            counts.append(sum(t.untyped_storage().nbytes() for t in held.values()))
            del hidden
    h, inner = model.config.hidden_size, model.config.intermediate_size
    estimate = 96 * 2 * (13 * h + 4 * inner)
    assert counts[1] - counts[0] <= estimate < 4 / 3 * (counts[1] - counts[0])


def test_cache_and_training_state_take_what_the_libraries_keep():
    model = standin.build_model("llama-3", small=True, num_attention_heads=4)
    shape = Shape.from_config(model.config.to_dict(), 32_768, 1e6)
    cache = DynamicCache()
    model(input_ids=torch.zeros(1, 7, dtype=torch.long), past_key_values=cache)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert kept == 7 * shape.cache_numbers
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    held = [*model.parameters(), *(t for s in optimizer.state.values() for t in s.values())]
    assert sum(t.nbytes for t in held) == pytest.approx(12 * model.num_parameters(), rel=0.01)


def test_memory_by_hand():
    """1.5B on one GPU: 12 bytes a weight always, 4 more of gradients and 2 gathered beside the
    engine's half in a rollout, 6 gathered in an update."""
    config = CELLS["single_gpu", "qwen2.5-1.5b", "sgpo"].config
    shape, n = CHECKPOINTS["qwen2.5-1.5b"].shape, 1_543_714_304
    found = gpu_cost.memory(shape, config, 1)
    assert found.rollout == pytest.approx(18 * n + 0.5 * 79 * GIB + 2.5 * GIB)
    inputs = 28 * 16_384 * 1536 * 2
    layer = 16_384 * 2 * (17 * 1536 + 8 * 8960)
    logits = 2**27 * 4 * gpu_cost.HEAD_COPIES + (4 + 2 + 2) * 151_936 * 1536
    assert chunked_head.MAX_LOGITS["elsewhere"] == gpu_cost.HEAD_LOGITS
    assert found.update == pytest.approx(18 * n + inputs + layer + logits + 4 * GIB)
    assert found.optimizer == pytest.approx(24 * n + 4 * GIB)
    # 28 layers x 2 heads of 128 numbers, keys and values, 2 bytes each
    cache = 0.5 * 79 * GIB - 2 * n - 3 * GIB
    assert found.full_sequences == pytest.approx(cache / (28 * 2 * 128 * 2 * 2 * 32_768))
    assert found.peak < gpu_cost.REFERENCE.memory
    eight = gpu_cost.memory(shape, config, 8)
    assert found.optimizer - eight.optimizer == pytest.approx(24 * n * 7 / 8)
    served = replace(config, vllm=replace(config.vllm, server="http://localhost:8000"))
    assert gpu_cost.memory(shape, served, 1).rollout == pytest.approx(18 * n + 2.5 * GIB)


def test_every_cell_fits_the_gpus_that_it_is_planned_on_and_progress_weighs_its_hours():
    for (name, model, _), cell in CELLS.items():
        module, shape = {"paper": paper, "single_gpu": single_gpu}[name], CHECKPOINTS[model].shape
        found = gpu_cost.memory(shape, cell.config, module.NODES[model] * module.GPUS_PER_NODE)
        assert found.peak < gpu_cost.REFERENCE.memory and found.full_sequences > 1
        assert expected_cost(cell) == 3600 * gpu_cost.gpu_hours(shape, cell.config) > 0
    large, shape = CELLS["paper", "qwen2.5-7b", "sgpo"].config, CHECKPOINTS["qwen2.5-7b"].shape
    assert gpu_cost.memory(shape, large, 1).peak > 160 * GIB
    # 17 hours on 4 x 8 GPUs for 7B (Section 4): the assumptions must not be off by far.
    hours = sum(
        gpu_cost.gpu_hours(shape, CELLS["paper", "qwen2.5-7b", m].config) for m in ("sft", "sgpo")
    )
    assert 17 * 32 / 2 < hours < 17 * 32 * 2


def test_dry_run_prints_every_cell_and_every_assumption_and_touches_nothing(
    capsys, monkeypatch, tmp_path
):
    def refuse(*_):
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    assert sgpo(["study", "--profile", "paper", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for cell in STUDY["paper"].cells():
        assert cell.run_id in out
    line = next(x for x in out.splitlines() if x.startswith("qwen2.5-7b-sgpo-"))
    config = CELLS["paper", "qwen2.5-7b", "sgpo"].config
    peak = gpu_cost.memory(CHECKPOINTS["qwen2.5-7b"].shape, config, 32).peak / GIB
    assert line.split()[-4:-2] == ["32", f"{peak:.1f}"]
    assert "21 of 21 cells to run" in out
    assert all(assumption in out for assumption in gpu_cost.ASSUMPTIONS)
    assert not list(tmp_path.iterdir())


REMEDIES = (
    "vllm.stall_seconds=7200", "vllm.gpu_memory_utilization=0.3", "vllm.max_num_seqs=64",
    "vllm.sleep=false", "vllm.enforce_eager=true", "vllm.probe_tolerance=0.1",
    "vllm.server=http://localhost:8000", "vllm.sync_dir=there",
)  # fmt: skip


def cells_with(*overrides):
    study = planned_study("single_gpu", None, overrides=overrides)
    return {(c.config.model, c.config.method): c for c in study.cells()}


@pytest.mark.parametrize("remedies", [*([r] for r in REMEDIES), REMEDIES])
def test_a_remedy_keeps_the_runs_and_their_resume_states(remedies):
    plain = cells_with()
    for key, cell in cells_with(*remedies).items():
        assert cell.run_id == plain[key].run_id
        assert to_dict(cell.config)["vllm"] != to_dict(plain[key].config)["vllm"]  # recorded


@pytest.mark.parametrize("setting", ["vllm.dtype=float32", "vllm.max_model_len=32767"])
def test_engine_settings_that_change_results_make_other_runs(setting):
    plain = cells_with()
    for key, cell in cells_with(setting).items():
        assert cell.hash != plain[key].hash


@pytest.mark.parametrize("vllm", [{}, {"stall_seconds": 60.0}, {"max_model_len": 100}])
def test_the_address_of_stored_settings_is_that_of_the_planned_ones(tmp_path, vllm):
    """What a run leaves on disk, another remedy later, gives the hash it was planned with."""
    config = replace(CELLS["single_gpu", "qwen2.5-1.5b", "base"].config, vllm=VLLMSettings(**vllm))
    write_json(tmp_path / "environment.json", {"packages": package_versions()})
    for stored in (config, replace(config, vllm=replace(config.vllm, enforce_eager=True))):
        write_json(tmp_path / "config.json", {"run_id": "r", "parent": None} | to_dict(stored))
        found = stored_hash(StoredRun(tmp_path), {"suite_version": SUITE_VERSION})
        assert found == Cell(config).hash


SMALLER = CHECKPOINTS["qwen2.5-0.5b"]


def test_another_checkpoint_stands_in_the_place_of_the_selected_model_alone(tmp_path):
    path = standin.write_checkpoint(tmp_path / "mine", small=True)
    overrides = [f"checkpoint={path}", "train.num_steps=3"]
    plain = planned_study("single_gpu", None, overrides=overrides[1:])
    study = planned_study("single_gpu", None, overrides=overrides, models=[SMALLER.key])
    before = {(c.config.model, c.config.method): c for c in plain.cells()}
    for cell in study.cells():
        model, old = cell.config.model, before[cell.config.model, cell.config.method]
        if model == SMALLER.key:
            expected = replace(old.config, checkpoint=str(path), revision=None)
            assert cell.config == expected and cell.hash != old.hash
        else:
            assert cell.config == old.config and cell.run_id == old.run_id
    labels = {m.key: m.label for m in study.models}
    assert labels == {
        SMALLER.key: f"mine in place of {SMALLER.label}",
        "qwen2.5-1.5b": CHECKPOINTS["qwen2.5-1.5b"].label,
    }


def base_with(*overrides):
    study = planned_study("single_gpu", None, overrides=overrides, models=[SMALLER.key])
    config = study.entry("base").config(SMALLER.key, 0)
    return config.checkpoint, config.revision


def test_a_revision_belongs_to_the_name_that_it_was_given_for():
    other = CHECKPOINTS["qwen2.5-1.5b"].name
    assert base_with(f"checkpoint={other}") == (other, None)
    assert base_with(f"checkpoint={other}", "revision=main") == (other, "main")
    assert base_with("revision=main", f"checkpoint={other}") == (other, "main")
    assert base_with(f"checkpoint={SMALLER.name}") == (SMALLER.name, SMALLER.revision)


@pytest.mark.parametrize("models", [None, [], ["qwen2.5-0.5b", "qwen2.5-1.5b"], ["absent"]])
@pytest.mark.parametrize("item", ["checkpoint=some/model", "revision=main"])
def test_another_checkpoint_for_several_models_is_refused(models, item):
    with pytest.raises(ValueError) as caught:
        planned_study("single_gpu", None, overrides=[item], models=models)
    assert str(caught.value) == (
        f"override {item!r}: weights are those of one model; say in whose place with --models and "
        "one of qwen2.5-0.5b, qwen2.5-1.5b"
    )


def test_weights_that_cannot_stand_in_are_refused_by_name(tmp_path, capsys):
    path = standin.write_checkpoint(tmp_path / "llama", "llama-3", small=True)
    study = f"study --profile single_gpu --dry-run --models {SMALLER.key} --set".split()
    train = f"train --profile single_gpu --model {SMALLER.key} --method sgpo --set".split()
    family = "model_type='llama', qwen2.5-0.5b is of the family 'qwen2'"
    for words, name, message in (
        (study, path, family),
        (train, CHECKPOINTS["llama-3.1-8b"].name, family),
        (study, "some/model", "checkpoint 'some/model': no such directory"),
    ):
        assert sgpo([*words, f"checkpoint={name}"]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="checkpoint=none: must be a directory or a name"):
        base_with("checkpoint=none")
