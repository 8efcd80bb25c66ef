"""The formulas behind --dry-run of a study on published checkpoints."""

from __future__ import annotations

import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
import standin
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from benchmarks.cli import main as sgpo
from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.plan import cost
from benchmarks.plan.cost import GIB
from benchmarks.profiles.planned import planned_study
from benchmarks.run.cell import micro_batch_kept
from benchmarks.run.progress import expected_cost
from sgpo.core import chunked_head
from sgpo.core.distributed import Ranks
from sgpo.core.models import context_length, read_config
from sgpo.core.prompts import NATIVE, PROMPT_SPECS

CELLS = {
    (name, c.config.model, c.config.method): c
    for name in ("paper", "single_gpu", "pocket")
    for c in planned_study(name, None).cells()
}
SHAPE_1B = CHECKPOINTS["qwen2.5-1.5b"].shape
PUBLISHED = {  # from the model cards
    "qwen2.5-0.5b": 494_032_768,
    "smollm2-360m": 361_821_120,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "llama-3.1-8b": 8_030_261_248,
}


@pytest.mark.parametrize("key", CHECKPOINTS)
def test_a_shape_has_the_weights_of_the_published_model_and_of_the_library_s(key):
    shape = CHECKPOINTS[key].shape
    config = (Qwen2Config if shape.qkv_bias else LlamaConfig)(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.num_parameters == PUBLISHED[key] == model.num_parameters()
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
    assert cost.forward_flops(shape, length, attention_share=1.0) == counted
    assert 0.5 * counted < cost.forward_flops(shape, length) < counted


@pytest.mark.parametrize(
    ("gib", "asked", "longest", "tokens"),
    [
        # 18 bytes a weight, 28 layers of 13 x 1536 + 4 x 8960 numbers a token, one layer's
        # gradients, the head and the overhead come to 91 GiB, a tenth to spare: no H100.
        (140, 18_432, 18_432, 18_432),
        (103, 18_432, 18_432, 18_432),
        (100, 18_432, 18_432, None),
        # Half the micro-batch fits 80 GB. A sequence above it is one of its own and has to fit.
        (79, 18_432, 4_608, 9_216),
        (79, 18_432, 13_000, None),
        (79, 2_048, 4_608, 2_048),
        (79, 2_048, 13_000, None),
    ],
)
def test_activations_are_kept_where_an_update_without_recomputing_fits(gib, asked, longest, tokens):
    assert cost.kept_tokens(SHAPE_1B, asked, longest, 2, 1, gib * GIB) == tokens


@pytest.mark.parametrize(("family", "kv_heads"), [("qwen2.5", 2), ("llama-3", 4)])
def test_kept_activations_are_those_that_a_layer_saves(family, kv_heads):
    """Bytes that autograd holds of one more layer, weights apart: nothing is forgotten, and the
    estimate is no more than a third above."""
    counts, estimates = [], []
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
        shape = Shape.from_config(model.config.to_dict(), 32_768, 1e6)
        estimates.append(cost._passes(shape, 96, 2, kept=True))
    (one, two), (low, high) = counts, estimates
    assert two - one <= high - low < 4 / 3 * (two - one)


def test_memory_by_hand():
    """1.5B on one GPU: 12 bytes a weight always, 4 more of gradients and 2 gathered beside the
    engine's half in a rollout, 6 gathered in an update."""
    config = CELLS["single_gpu", "qwen2.5-1.5b", "sgpo"].config
    shape, n = SHAPE_1B, 1_543_714_304
    found = cost.memory(shape, config, 1)
    assert found.rollout == pytest.approx(18 * n + 0.5 * 79 * GIB + 2.5 * GIB)
    inputs = 28 * 16_384 * 1536 * 2
    layer = 16_384 * 2 * (17 * 1536 + 8 * 8960)
    logits = 2**27 * 4 * 8 + (4 + 2 + 2) * 151_936 * 1536
    assert chunked_head.MAX_LOGITS["elsewhere"] == cost.HEAD_LOGITS
    assert found.update == pytest.approx(18 * n + inputs + layer + logits + 4 * GIB)
    assert found.optimizer == pytest.approx(24 * n + 4 * GIB)
    # 28 layers x 2 heads of 128 numbers, keys and values, 2 bytes each
    cache = 0.5 * 79 * GIB - 2 * n - 3 * GIB
    assert found.full_sequences == pytest.approx(cache / (28 * 2 * 128 * 2 * 2 * 32_768))
    eight = cost.memory(shape, config, 8)
    assert found.optimizer - eight.optimizer == pytest.approx(24 * n * 7 / 8)
    served = replace(config, vllm=replace(config.vllm, server="http://localhost:8000"))
    assert cost.memory(shape, served, 1).rollout == pytest.approx(18 * n + 2.5 * GIB)


def test_every_cell_fits_the_gpus_that_it_is_planned_on_and_progress_weighs_its_hours():
    for (name, model, _), cell in CELLS.items():
        shape, config = CHECKPOINTS[model].shape, cell.config
        found = cost.memory(shape, config, cost.planned_ranks(config))
        assert found.peak < cost.GPU_MEMORY
        assert name == "pocket" or found.full_sequences > 1
        assert expected_cost(cell) == 3600 * cost.gpu_hours(shape, config) > 0
        if name == "pocket" and config.train:  # the README: with all activations
            tokens = config.train.micro_batch_tokens
            assert cost.kept_tokens(shape, tokens, tokens, 2, 1, cost.GPU_MEMORY) == tokens
    large, shape = CELLS["paper", "qwen2.5-7b", "sgpo"].config, CHECKPOINTS["qwen2.5-7b"].shape
    assert cost.memory(shape, large, 1).peak > 160 * GIB
    # 17 hours on 4 x 8 GPUs for 7B (Section 4): the assumptions must not be off by far.
    both = [CELLS["paper", "qwen2.5-7b", m].config for m in ("sft", "sgpo")]
    assert 17 * 32 / 2 < sum(cost.gpu_hours(shape, config) for config in both) < 17 * 32 * 2


@pytest.mark.parametrize(("profile", "count"), [("paper", 21), ("pocket", 14)])
def test_dry_run_prints_every_cell_and_every_assumption_and_touches_nothing(
    capsys, monkeypatch, tmp_path, profile, count
):
    def refuse(*_):
        raise AssertionError("a dry run opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    assert sgpo(["study", "--profile", profile, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for cell in (c for (name, _, _), c in CELLS.items() if name == profile):
        (line,) = [x for x in out.splitlines() if x.startswith(cell.run_id)]
        ranks = cost.planned_ranks(cell.config)
        peak = cost.memory(CHECKPOINTS[cell.config.model].shape, cell.config, ranks).peak / GIB
        assert line.split()[-4:-2] == [str(ranks), f"{peak:.1f}"]
    assert f"{count} of {count} cells to run" in out and cost.FORMULAS in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("beside", "tokens"), [(0, 24_576), (1, 24_576), (2, 12_288), (19, None)])
def test_cells_beside_each_other_share_a_gpu(monkeypatch, capsys, beside, tokens):
    """140 GiB of which this process holds 2: its part less those, however much is still free."""
    config = CELLS["pocket", "qwen2.5-0.5b", "grpo"].config
    shape = CHECKPOINTS["qwen2.5-0.5b"].shape
    model = SimpleNamespace(config=Qwen2Config(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, num_hidden_layers=24,
        intermediate_size=shape.intermediate_size, num_attention_heads=14, num_key_value_heads=2,
    ))  # fmt: skip
    given = SimpleNamespace(
        device=torch.device("cuda"), config=config, problems=[], prompt_spec=None, tokenizer=None
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (138 * GIB, 140 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GIB)
    assert micro_batch_kept(model, given, Ranks(), beside) == tokens
    part = min(138, 140 / (1 + beside) - 2)
    assert f"{part:.0f} GiB are free" in capsys.readouterr().out
