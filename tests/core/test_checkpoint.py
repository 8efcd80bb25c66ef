"""Resume states and atomic files: whole or absent."""

import json
import math
import os
from unittest import mock

import pytest
import torch
from tiny import build_model, equal_weights, weights_of

from sgpo.core import files
from sgpo.core.checkpoint import Checkpoints
from sgpo.core.files import read_json, sha256_of, whole_directory, write_bytes, write_json
from sgpo.core.runlog import MetricsLog, environment, package_versions


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
    model, optimizer = trained(3, tied)
    Checkpoints(tmp_path, model, optimizer).save(3, {"counter": 5})
    fresh, fresh_optimizer = trained(0, tied)
    assert Checkpoints(tmp_path, fresh, fresh_optimizer).load() == (3, {"counter": 5})
    assert equal_weights(weights_of(model), weights_of(fresh))
    for m, o in ((model, optimizer), (fresh, fresh_optimizer)):
        train(m, o, 3)
        train(m, o, 4)
    assert equal_weights(weights_of(model), weights_of(fresh))
    if tied:
        assert fresh.lm_head.weight is fresh.model.embed_tokens.weight


def test_only_the_newest_states_are_kept_and_hold_no_pickle(tmp_path):
    model, optimizer = trained(1)
    assert Checkpoints(tmp_path / "absent", model, optimizer).load() is None
    (tmp_path / "step-000001").mkdir()  # nothing in it
    assert Checkpoints(tmp_path, model, optimizer).load() is None
    for step in (2, 4, 6, 8):
        Checkpoints(tmp_path, model, optimizer).save(step)
    assert sorted(os.listdir(tmp_path)) == ["step-000006", "step-000008"]
    names = sorted(p.name for p in (tmp_path / "step-000008").iterdir())
    assert names == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert Checkpoints(tmp_path, model, optimizer).load()[0] == 8


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
    damage = {
        "bit flip": lambda: file.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),
        "truncated": lambda: file.write_bytes(content[:-7]),
        "missing": file.unlink,
        "state without sums": lambda: (state / "state.json").write_text("[]"),
    }
    damage[what]()
    fresh, fresh_optimizer = trained(0)
    assert Checkpoints(tmp_path, fresh, fresh_optimizer).load()[0] == 2
    assert equal_weights(weights_of(fresh), intact)
    assert "step-000004" in capsys.readouterr().out


class Strike(BaseException):
    """An interruption that no ``except Exception`` sees."""


@pytest.mark.parametrize("where", ["fsync", "replace"])
@pytest.mark.parametrize("strike", [Strike, OSError(28, "No space left on device")])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, where, strike
):
    path = tmp_path / "deep" / "result.json"
    write_bytes(path, b"old")
    with monkeypatch.context() as patched:
        patched.setattr(files.os, where, mock.Mock(side_effect=strike))
        with pytest.raises((Strike, OSError)):
            write_bytes(path, b"new and longer")
    assert path.read_bytes() == b"old" and os.listdir(path.parent) == ["result.json"]
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(Strike), whole_directory(target) as scratch:
        (scratch / "half").write_text("x")
        raise Strike
    assert os.listdir(tmp_path) == []
    with whole_directory(target) as scratch:
        (scratch / "sub").mkdir()
        (scratch / "sub" / "file").write_text("1")
        assert not target.exists()
    assert (target / "sub" / "file").read_text() == "1"
    with pytest.raises(Strike), whole_directory(target) as scratch:
        raise Strike
    assert (target / "sub" / "file").read_text() == "1"  # the old one stays
    with whole_directory(target) as scratch:
        (scratch / "other").write_text("2")
    assert os.listdir(target) == ["other"] and os.listdir(tmp_path) == ["model"]


def test_json_is_stable_and_refuses_what_json_has_not(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": 1}
    text = (tmp_path / "a.json").read_text()
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    with pytest.raises(ValueError):
        write_json(tmp_path / "b.json", {"x": math.nan})
    assert not (tmp_path / "b.json").exists()
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(tmp_path / "abc") == known
    (tmp_path / "c.json").write_text('{"x": ')
    with pytest.raises(ValueError, match="c.json: not valid JSON"):
        read_json(tmp_path / "c.json")


def test_metrics_log_drops_what_came_after_the_state(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, resume_after=0)
    for step in (1, 2, 3):
        log.write({"step": step, "x": step / 3})
    with path.open("a") as file:
        file.write('{"step": 4, "x"')  # cut off by a kill
    log = MetricsLog(path, resume_after=2)
    log.write({"step": 3, "x": 0.5})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3] and rows[1]["x"] == 2 / 3 and rows[2]["x"] == 0.5
    with pytest.raises(ValueError):
        log.write({"step": 4, "x": math.nan})


def test_metrics_that_lack_steps_are_noticed(tmp_path):
    """A curve with a hole must not pass for a whole one."""
    path = tmp_path / "metrics.jsonl"
    for text, steps in (('{"step": 1}\n{"step": 3}\n', 3), ("", 2)):
        path.write_text(text)
        with pytest.raises(ValueError, match="metrics.jsonl"):
            MetricsLog(path, resume_after=steps)


def test_environment_names_what_decides_numbers():
    versions = package_versions()
    assert versions["torch"].startswith(torch.__version__.split("+")[0])
    record = environment()
    assert record["packages"] == versions and record["cores"] == os.cpu_count()
    assert json.loads(json.dumps(record)) == record
