"""The READMEs: short, every command parses, every link leads somewhere; the first one says what the
stored runs say, and its worked example is a method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme_commands import commands

from benchmarks.cli import _parser
from benchmarks.config import load_method_file
from benchmarks.report.pages import results_block, with_block
from benchmarks.store.load import load_study

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ROOMS = ("sgpo", "baselines", "benchmarks", "results")
READMES = [ROOT / "README.md", *sorted(p for r in ROOMS for p in (ROOT / r).rglob("README.md"))]


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


@pytest.mark.parametrize("path", READMES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_readme_is_short_and_its_commands_and_links_work(path):
    text = path.read_text()
    assert text.count("\n") <= (150 if path.parent == ROOT else 120)
    for words in commands(text):
        assert callable(_parser().parse_args(words).run), words
    shown = re.findall(r"`(?:\.venv/bin/)?sgpo ([a-z][^`\n]*)`", text)
    for words in map(str.split, shown):
        verb = words[: 2 if words[0] in ("data", "mini", "checkpoint") else 1]
        with pytest.raises(SystemExit) as end:
            _parser().parse_args([*verb, "--help"])
        assert end.value.code == 0, words
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / target).exists(), target


def test_the_walk_above_sees_the_rooms_and_their_commands():
    rooms = {str(p.parent.relative_to(ROOT)) for p in READMES}
    assert {".", "sgpo/core", "sgpo/mini", "benchmarks/report", "results/perf"} <= rooms
    assert len(commands(README)) >= 10


def test_a_command_that_does_not_exist_is_noticed(capsys):
    text = "```bash\nbash reproduce.sh --sedes 3\nX=1 .venv/bin/sgpo study \\\n  --quick\n```\n"
    assert commands(text) == [["study", "--sedes", "3"], ["study", "--quick"]]
    for words in commands(text):
        with pytest.raises(SystemExit):
            _parser().parse_args(words)
