"""``sgpo curves``: stored, published and running runs, in the terminal and as a PNG."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from synthetic_study import run_dir

from benchmarks.cli import main
from benchmarks.report import curves


def lines_of(text: str, label: str) -> list[str]:
    """The rows below a metric's heading."""
    return text.split(label)[1].split("\n\n")[0].splitlines()[1:]


def test_a_stored_and_a_running_run_side_by_side(study, monkeypatch, capsys):
    monkeypatch.setenv("SGPO_RESULTS", str(study.parent))
    done, running = (run_dir(study, "qwen-m", m, 0) for m in ("sgpo", "grpo"))
    path = running / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]) + '{"step": 7, "rew')
    (running / "result.json").unlink()
    assert main(["curves", str(done), running.name]) == 0
    shown = capsys.readouterr().out
    rows = lines_of(shown, "reward, 0 to 1")
    assert [row.split()[-1] for row in rows] == [done.name, running.name]
    assert "step 39" in rows[0] and "step 6" in rows[1]
    stored = pd.read_json(done / "metrics.jsonl", lines=True)
    first, last = stored.reward.iloc[[0, -1]]
    assert f"{first:.3g} -> {last:.3g}" in rows[0]
    assert "held-out" not in shown


def test_a_png_is_drawn(study, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("SGPO_RESULTS", str(study.parent))
    names = [run_dir(study, "qwen-m", m, 0).name for m in ("sgpo", "sft")]
    assert main(["curves", *names, "--out", str(tmp_path / "c.png")]) == 0
    assert main(["curves", *names, "--out", str(tmp_path / "c.bmp")]) == 2
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert "c.png: 2 runs" in capsys.readouterr().out
    frames = {"a": pd.DataFrame({"loss": [0.0, 8.0]}), "b": pd.DataFrame({"loss": [4.0, 4.0]})}
    a, b = lines_of(curves.terminal(frames), "loss (0 to 8)")  # bars share one scale
    assert "▁█" in a and "▅▅" in b


@pytest.mark.parametrize(
    ("name", "said"), [("no-such-run", "no run here"), ("empty", "no training step")]
)
def test_mistakes_are_one_line(study, monkeypatch, capsys, name, said):
    monkeypatch.setenv("SGPO_RESULTS", str(study.parent))
    (study / "runs" / "empty").mkdir()
    (study / "runs" / "empty" / "metrics.jsonl").write_text(json.dumps({"step": 1})[:4])
    assert main(["curves", name]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
