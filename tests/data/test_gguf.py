"""Bringing a GGUF file in: a small one written here, and what is refused."""

import json

import pytest
import torch

from benchmarks.cli import main

gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")


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
    from types import SimpleNamespace

    from tiny import END, build_model

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
