"""Bringing a GGUF file in: a small one written here, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import standin
import torch
from tiny import END, build_model

from benchmarks.cli import main
from sgpo.core.models import load_model, load_tokenizer

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")


def write_gguf(path):
    """A random Llama in 8 bits without a head of its own, whose eos is the end of a text."""
    symbols = [*standin.byte_vocabulary(256), "he", *standin.QWEN_SPECIALS]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(len(symbols))
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(symbols)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 3)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(257)
    writer.add_chat_template(standin.QWEN_TEMPLATE)
    draws, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q8_0
    matrices = {"token_embd": (len(symbols), 64)} | {
        f"blk.0.{name}": (32 if name in ("attn_k", "attn_v") else 64, 64)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    }
    for name, shape in matrices.items():
        values = draws.normal(size=shape).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(values, kind), raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_becomes_a_checkpoint_that_says_what_it_was(tmp_path, capsys):
    write_gguf(tmp_path / "m.gguf")
    out = tmp_path / "made"
    assert main(["checkpoint", "import", str(tmp_path / "m.gguf"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "restored from quantised ones (8 Q8_0, 3 F32 tensors): scores are not the" in said
    model, tokenizer = load_model(out), load_tokenizer(out)
    assert model.config.tie_word_embeddings and tokenizer.eos_token == "<|im_end|>"
    assert model.config.eos_token_id == 259 and model.generation_config.eos_token_id == [259, 257]
    assert tokenizer.decode(tokenizer("hehe <|im_end|>")["input_ids"]) == "hehe <|im_end|>"


def test_what_is_no_gguf_file_and_a_directory_that_exists_are_one_line(tmp_path, refused):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04 a zip")
    refused(f"checkpoint import {file} --out {tmp_path}/out", "no GGUF file")
    assert not (tmp_path / "out").exists()
    refused(f"checkpoint import {file} --out {tmp_path}", "exists already")
    assert main(["checkpoint", "import", str(tmp_path / "x"), "--out", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_repeats_the_embedding_is_tied_again(tied):
    """Two quantisations of one matrix differ by rounding; two matrices differ altogether."""
    from benchmarks.data.gguf import _clean

    read = build_model(tie_word_embeddings=False)
    with torch.no_grad():
        if tied:
            coarse = read.lm_head.weight + 0.01 * torch.randn(read.lm_head.weight.shape)
            read.get_input_embeddings().weight.copy_(coarse)
    read.config.eos_token_id = 7
    made = _clean(read, SimpleNamespace(eos_token_id=END))
    head, embedding = made.lm_head.weight, made.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) == tied == made.config.tie_word_embeddings
    assert torch.equal(head, read.lm_head.weight.bfloat16())
    assert made.config.eos_token_id == END and made.generation_config.eos_token_id == [END, 7]
    assert made.dtype == torch.bfloat16 and json.dumps(made.config.to_dict())
