"""What a user of ``sgpo`` gets wrong: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.cli import main
from benchmarks.store.locks import locked

BORROWED = """
from baselines.grpo import GRPO, GRPOConfig as CONFIG

class METHOD(GRPO):
    pass
"""

NO_DEFAULT = """
from dataclasses import dataclass

@dataclass(frozen=True)
class CONFIG:
    size: int

class METHOD:
    pass
"""


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (BORROWED, "CONFIG must be a dataclass defined in the file"),
        (NO_DEFAULT, "CONFIG field 'size' needs a default"),
        ("CONFIG = 1", "defines no METHOD"),
    ],
)
def test_a_method_file_that_would_run_something_else_is_refused(tmp_path, capsys, source, why):
    (tmp_path / "mine.py").write_text(source)
    assert main(["study", "--dry-run", "--method-file", str(tmp_path / "mine.py")]) == 2
    assert why in capsys.readouterr().err


def test_two_studies_in_one_directory_are_refused(tmp_path, capsys):
    with locked(tmp_path / "s"):
        code = main(["study", "--profile", "quick", "--out", str(tmp_path / "s")])
    assert code == 2
    assert "another study is running in this directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "--profile", "huge"], "unknown profile 'huge': must be one of mini, quick"),
        (["study", "--models", "gpt", "--dry-run"], "unknown model 'gpt'"),
        (["study", "--methods", "ppo", "--dry-run"], "unknown method 'ppo'"),
        (["study", "--set", "train.lr=1", "--dry-run"], "unknown override key 'train.lr'"),
        (["study", "--set", "train.learning_rate=fast", "--dry-run"], "must be of type float"),
        (["study", "--only", "table99", "--dry-run"], "unknown artefact 'table99'"),
        (["evaluate", "--model", "nowhere", "--suite", "minimath", "--out", "x"], "no such model"),
        (["grade", "nowhere"], "no such file"),
        (["status", "--out", "nowhere"], "no study here yet"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_command_itself_exits_with_code_2(tmp_path):
    command = [sys.executable, "-m", "benchmarks.cli", "grade", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "no such file" in done.stderr and done.stderr.count("\n") == 1
