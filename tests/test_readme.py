"""README says what the stored runs say, and its worked example runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from benchmarks.config import load_method_file
from benchmarks.loading import load_study
from benchmarks.readme import results_block, with_block

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def example() -> str:
    return re.search(r"```python\n(# my_method.py\n.*?)```", README, re.DOTALL).group(1)


def test_the_block_of_results_is_what_the_stored_runs_give():
    study = load_study(ROOT / "results" / "mini")
    assert with_block(README, results_block(study)) == README


def test_the_worked_example_is_under_80_lines_and_is_a_method(tmp_path):
    assert example().count("\n") < 80
    (tmp_path / "my_method.py").write_text(example())
    module = load_method_file(tmp_path / "my_method.py")
    method = module.METHOD(module.CONFIG())
    assert all(callable(getattr(method, hook)) for hook in ("collect", "totals", "loss"))


def test_every_sgpo_option_in_the_readme_exists():
    for verb, flags in re.findall(r"\.venv/bin/sgpo ([\w-]+)([^\n`]*)", README):
        done = subprocess.run(
            [sys.executable, "-m", "sgpo.cli", verb, "--help"], capture_output=True, text=True
        )
        assert done.returncode == 0, verb
        for flag in re.findall(r"--[a-z-]+", flags):
            assert flag in done.stdout, (verb, flag)
