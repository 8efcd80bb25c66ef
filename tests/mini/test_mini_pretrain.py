"""Pretraining and its cache, on models that train for a second or two."""

import random
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.mini import models, pretrain
from sgpo.mini.models import build_tokenizer
from sgpo.mini.pretrain import PretrainConfig, content_hash, draw_batch, ensure_base_model
from sgpo.mini.suites import partition_of, random_task
from sgpo.mini.text import WriterHabits

CONFIG = PretrainConfig(batch_size=16, warmup_steps=2, max_lessons=4)
TINY = replace(models.MODELS["qwen-s"], hidden_size=16, intermediate_size=32, pretrain_steps=8)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(models.MODELS, "qwen-s", TINY)
    return TINY


def _batch(seed=0, lesson=False):
    vocab = build_tokenizer().get_vocab()
    return draw_batch(CONFIG, WriterHabits(), random.Random(seed), vocab, lesson=lesson)


def test_half_of_a_batch_is_guided_and_all_of_it_reads_back():
    tokenizer = build_tokenizer()
    texts = [tokenizer.decode(ids) for ids, _ in _batch()]
    assert sum(t.startswith("<|user|>Type ") for t in texts) == 8
    assert sum(t.startswith("<|user|>Find ") for t in texts) == 8
    for (ids, prompt_length), text in zip(_batch(), texts, strict=True):
        assert tokenizer(text)["input_ids"] == ids
        assert tokenizer.decode(ids[prompt_length - 1]) == "<|assistant|>"


def test_a_lesson_is_short_and_has_neither_strategy_nor_guess():
    tokenizer = build_tokenizer()
    for ids, _ in _batch(lesson=True):
        text = tokenizer.decode(ids)
        assert text.startswith("<|user|>Find ") and "Guess" not in text and "then" not in text
        assert len(ids) == 38  # 11 of the prompt, 26 of the derivation, 1 end


def test_lessons_end_when_the_digits_are_learned(tiny):
    calls = []
    easy = replace(CONFIG, max_lessons=50, lesson_goal=4.0)  # above ln 10: reached at once
    pretrain.pretrain(tiny, easy, lambda *call: calls.append(call[:2]))
    assert calls == [(1, 58), *((50 + i, 58) for i in range(1, 9))]


def test_pretraining_tasks_come_from_the_training_partition_alone():
    rng = random.Random(0)
    assert {partition_of(random_task(rng, level, "train")) for level in range(1, 7)} == {"train"}


def test_loss_falls_and_equals_cross_entropy_at_the_start(tiny):
    losses = []
    pretrain.pretrain(tiny, CONFIG, lambda step, steps, loss: losses.append(loss))
    assert len(losses) == 12
    assert losses[-1] < losses[0]
    # The first loss by hand: mean over completion tokens, one unpadded text at a time.
    vocab, habits = build_tokenizer().get_vocab(), WriterHabits(knowledge=tiny.knowledge)
    rows = draw_batch(CONFIG, habits, random.Random("pretrain-0"), vocab, lesson=True)
    model = models.build_model(tiny, CONFIG.seed)
    total, count = 0.0, 0
    for ids, prompt_length in rows:
        with torch.no_grad():
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        for t in range(prompt_length, len(ids)):
            total -= float(logprobs[t - 1, ids[t]])
            count += 1
    assert losses[0] == pytest.approx(total / count, rel=1e-4)


def test_cache_holds_an_ordinary_checkpoint_and_is_used_again(tiny, tmp_path):
    calls = []
    first = ensure_base_model("qwen-s", tmp_path, lambda *a: calls.append(a), CONFIG)
    second = ensure_base_model("qwen-s", tmp_path, lambda *a: calls.append(a), CONFIG)
    assert first == second and len(calls) == 12
    assert (first / "model.safetensors").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == [first.name]  # no scratch left
    model = AutoModelForCausalLM.from_pretrained(first)
    tokenizer = AutoTokenizer.from_pretrained(first)
    assert model.config.model_type == "qwen2"
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)


def test_an_interrupted_write_is_never_read(tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("transformers.PreTrainedModel.save_pretrained", fails)
        with pytest.raises(OSError, match="disk full"):
            ensure_base_model("qwen-s", tmp_path, None, CONFIG)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".qwen-s-left-by-a-kill").mkdir()
    assert (ensure_base_model("qwen-s", tmp_path, None, CONFIG) / "config.json").is_file()


def test_every_setting_changes_the_hash(tiny):
    base = content_hash(tiny, CONFIG)
    assert content_hash(tiny, CONFIG) == base
    assert content_hash(replace(tiny, pretrain_steps=13), CONFIG) != base
    assert content_hash(replace(tiny, knowledge=0.5), CONFIG) != base
    assert content_hash(tiny, replace(CONFIG, seed=1)) != base
    assert content_hash(tiny, replace(CONFIG, learning_rate=1e-3)) != base


def test_world_text_changes_the_hash(tiny, monkeypatch):
    base = content_hash(tiny, CONFIG)
    monkeypatch.setattr("sgpo.mini.text.STYLE_LINE", ["Following", " the", "\n"])
    assert content_hash(tiny, CONFIG) != base


def test_training_is_repeatable_and_leaves_the_global_generator_alone(tiny):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a = pretrain.pretrain(replace(tiny, pretrain_steps=2), CONFIG)
    assert torch.equal(torch.get_rng_state(), before)
    b = pretrain.pretrain(replace(tiny, pretrain_steps=2), CONFIG)
    for x, y in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(x, y)


def test_number_of_steps_can_be_overridden_and_is_cached_apart(tiny, tmp_path):
    calls = []
    short = ensure_base_model("qwen-s", tmp_path, lambda *a: calls.append(a), CONFIG, num_steps=2)
    assert len(calls) == 2
    assert short != ensure_base_model("qwen-s", tmp_path, None, CONFIG)
    with pytest.raises(ValueError, match="num_steps=0"):
        ensure_base_model("qwen-s", tmp_path, num_steps=0)


def test_unknown_model_is_named(tmp_path):
    with pytest.raises(ValueError, match="'qwen-xxl'.*qwen-s, qwen-m"):
        ensure_base_model("qwen-xxl", tmp_path)


@pytest.mark.parametrize("key", list(models.MODELS))
def test_sizes_and_families(key):
    spec = models.MODELS[key]
    model = models.build_model(spec, 0)
    assert model.config.model_type == spec.family
    assert 5e4 <= model.num_parameters() <= 1.1e6
