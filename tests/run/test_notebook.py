"""The notebook runs from its first cell to its last, on fewer steps than it shows."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tempfile

import matplotlib
from tiny_study import NOTEBOOK, OVERRIDES

from benchmarks.cli import main


def test_every_cell_runs(finished, tmp_path, monkeypatch, capsys):
    """On a study whose methods are trained, its own one too; all commands but the first run in this
    process."""
    shutil.copytree(finished, tmp_path / "sgpo-first-study")

    def sgpo(command):
        assert main(shlex.split(command)) == 0

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    matplotlib.use("Agg")
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert len(cells) == 10 and not any(cell.get("outputs") for cell in cells)
    smaller = " ".join(f"--set {item}" for item in OVERRIDES) + " --jobs 2 --only table1"
    names: dict = {}
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\(([^)]+)\)", source):
                assert (NOTEBOOK.parent / target).exists(), target
            continue
        exec(source.replace('SETTINGS = ""', f'SETTINGS = "{smaller}"'), names)  # noqa: S102
        names["sgpo"] = sgpo
    said = capsys.readouterr().out
    assert "sgpo_no_clip" in said  # the list of methods, by a process of its own
    assert "verdict     correct" in said and "=== " in said
    assert {"base", "sft", "grpo", "sgpo", "centred"} <= set(names["table"].index)
    assert not names["table"].isna().any(axis=None)
    assert {"grpo", "sgpo", "centred"} <= set(names["curves"].columns)
    assert '"labels": ["qwen-s-sgpo-s0-' in names["PAGE"].read_text()
