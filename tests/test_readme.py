"""The READMEs: short, every command parses, every link leads somewhere; the first one says what the
stored runs say, its worked example is a method, and what is cited is what is installed."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from benchmarks.cli import _parser
from benchmarks.config import load_method_file
from benchmarks.report.pages import results_block, with_block
from benchmarks.store.load import load_study
from sgpo import __version__

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
ROOMS = ("sgpo", "baselines", "benchmarks", "results")
READMES = [ROOT / "README.md", *sorted(p for r in ROOMS for p in (ROOT / r).rglob("README.md"))]
FENCE = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
OWN_VERBS = ("setup", "setup-vllm", "setup-vllm-cpu", "test")  # of reproduce.sh alone


def commands(text: str) -> list[list[str]]:
    """Words after ``sgpo`` of every command in the bash blocks of ``text``, in order, whether it
    is given as ``sgpo``, through ``reproduce.sh`` or to torchrun."""
    lines = "".join(FENCE.findall(text)).replace("\\\n", " ").splitlines()
    found = (_words(shlex.split(line, comments=True)) for line in lines)
    return [words for words in found if words is not None]


def _words(words: list[str]) -> list[str] | None:
    while words and re.fullmatch(r"\w+=.*", words[0]):  # variables set for one command
        words = words[1:]
    if words[:2] == ["bash", "reproduce.sh"]:
        words = words[2:]
        if words[:1] == ["--locked"]:
            words = words[1:]
        if words and words[0] in OWN_VERBS:
            return None
        if words[:1] == ["--quick"]:
            return ["study", "--profile", "quick", *words[1:]]
        return words if words and not words[0].startswith("--") else ["study", *words]
    if words and words[0].endswith("/sgpo"):
        return words[1:]
    if "benchmarks.cli" in words and words[0].endswith("torchrun"):
        return words[words.index("benchmarks.cli") + 1 :]
    return None


def test_the_block_of_results_is_what_the_stored_runs_give():
    study = load_study(ROOT / "results" / "mini")
    assert with_block(README, results_block(study)) == README


def test_the_worked_example_is_under_80_lines_and_is_a_method(tmp_path):
    example = re.search(r"```python\n(# my_method.py\n.*?)```", README, re.DOTALL).group(1)
    assert example.count("\n") < 80
    (tmp_path / "my_method.py").write_text(example)
    module = load_method_file(tmp_path / "my_method.py")
    assert module.METHOD(module.CONFIG()).config.num_samples == 12


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


def test_the_citation_names_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == __version__ and cited["date-released"]
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_locked_versions_are_those_of_the_stored_runs():
    stored = load_study(ROOT / "results" / "mini").runs.values()
    lines = (ROOT / "results" / "mini" / "constraints.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    for run in stored:  # the build of torch (+cpu) is the index's, not a version's
        versions = {k: v.partition("+")[0] for k, v in run.environment["packages"].items()}
        assert versions.items() <= locked.items()
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.match(r"[\w-]+", line)[0] for line in listed} == set(locked)
