"""Resume states, logs and atomic files: whole or absent."""

import json
import math
import os
from unittest import mock

import pytest
import torch
from tiny import build_model, equal_weights, weights_of

from sgpo.core import files
from sgpo.core.checkpoint import Checkpoints
from sgpo.core.files import read_json, whole_directory, write_bytes, write_json
from sgpo.core.runlog import MetricsLog


def trained(steps: int, tied: bool = True):
    model = build_model(tie_word_embeddings=tied)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=True)
    for step in range(steps):
        train(model, optimizer, step)
    return model, optimizer


def train(model, optimizer, step):
    optimizer.zero_grad()
    ids = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(step))
    model(ids, labels=ids).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("tied", [True, False])
def test_a_restored_state_continues_bit_for_bit(tmp_path, tied):
    pairs = [trained(3, tied), trained(0, tied)]
    Checkpoints(tmp_path, *pairs[0]).save(3, {"counter": 5})
    assert Checkpoints(tmp_path, *pairs[1]).load() == (3, {"counter": 5})
    for pair in pairs:
        train(*pair, 3)
    assert equal_weights(*(weights_of(model) for model, _ in pairs))
    fresh = pairs[1][0]
    assert (fresh.lm_head.weight is fresh.model.embed_tokens.weight) == tied


def test_only_the_newest_states_are_kept_and_hold_no_pickle(tmp_path):
    pair = trained(1)
    (tmp_path / "step-000001").mkdir()  # nothing in it
    assert Checkpoints(tmp_path / "absent", *pair).load() is None
    assert Checkpoints(tmp_path, *pair).load() is None
    for step in (2, 4, 6, 8):
        Checkpoints(tmp_path, *pair).save(step)
    assert sorted(os.listdir(tmp_path)) == ["step-000006", "step-000008"]
    names = sorted(os.listdir(tmp_path / "step-000008"))
    assert names == ["model.safetensors", "optimizer.safetensors", "state.json"]


@pytest.mark.parametrize("what", ["bit flip", "truncated", "missing", "state without sums"])
def test_damaged_states_are_passed_over(tmp_path, what, capsys):
    model, optimizer = trained(2)
    Checkpoints(tmp_path, model, optimizer).save(2)
    intact = weights_of(model)
    train(model, optimizer, 9)
    Checkpoints(tmp_path, model, optimizer).save(4)
    state = tmp_path / "step-000004"
    file = state / "model.safetensors"
    content = file.read_bytes()
    {
        "bit flip": lambda: file.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "truncated": lambda: file.write_bytes(content[:-7]),
        "missing": file.unlink,
        "state without sums": lambda: (state / "state.json").write_text("[]"),
    }[what]()
    fresh = trained(0)
    assert Checkpoints(tmp_path, *fresh).load()[0] == 2
    assert equal_weights(weights_of(fresh[0]), intact)
    assert "step-000004" in capsys.readouterr().out


class Strike(BaseException):
    """An interruption that no ``except Exception`` sees."""


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("strike", [Strike, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, where, strike):
    path = tmp_path / "deep" / "result.json"
    write_bytes(path, b"old")
    with mock.patch.object(files.os, where, side_effect=strike):
        with pytest.raises((Strike, OSError)):
            write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["result.json"]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    for before in ([], ["file"]):  # the old one stays
        with pytest.raises(Strike), whole_directory(target) as scratch:
            (scratch / "half").write_text("x")
            raise Strike
        assert (os.listdir(target) if target.exists() else []) == before
        with whole_directory(target) as scratch:
            (scratch / "file").write_text("1")
        assert os.listdir(target) == ["file"] and os.listdir(tmp_path) == ["model"]


def test_json_is_stable_and_refuses_what_json_has_not(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": 1}
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"x": math.nan})
    assert not (tmp_path / "b.json").exists()
    (tmp_path / "c.json").write_text('{"x": ')
    with pytest.raises(ValueError, match="c.json: not valid JSON"):
        read_json(tmp_path / "c.json")


def test_metrics_log_drops_what_came_after_the_state_and_notices_a_hole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_after=0)
    for step in (1, 2, 3):
        log.write({"step": step})
    with path.open("a") as file:
        file.write('{"step": 4, "x"')  # cut off by a kill
    MetricsLog(path, resume_after=2).write({"step": 3, "x": 0.5})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [{"step": 1}, {"step": 2}, {"step": 3, "x": 0.5}]
    with pytest.raises(ValueError):
        log.write({"step": 4, "x": math.nan})
    for text, steps in (('{"step": 1}\n{"step": 3}\n', 3), ("", 2)):
        path.write_text(text)
        with pytest.raises(ValueError, match="metrics.jsonl: holds . of the"):
            MetricsLog(path, resume_after=steps)
