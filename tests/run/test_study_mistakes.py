"""What a user of ``sgpo`` gets wrong: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cli import in_words_of, main
from benchmarks.profiles.planned import planned_study
from benchmarks.run.study import write_plan
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


METHOD_WITHOUT_LOSS = """
class METHOD:
    def collect(self, problems, rollout): ...
    def totals(self, trajectories): ...
"""
NO_LOSS = NO_DEFAULT.partition("class METHOD")[0].replace("int", "int = 1") + METHOD_WITHOUT_LOSS
HALF_A_STATE = f"""{NO_LOSS}
    def loss(self, model, trajectories, totals): ...
    def state(self): ...
"""


HALF_A_CONFIG = """
from dataclasses import dataclass

from baselines.grpo import GRPO, GRPOConfig

@dataclass(frozen=True)
class CONFIG(GRPOConfig):
    def __post_init__(self):
        raise KeyError("teacher")

class METHOD(GRPO):
    def __init__(self, config):
        self.teacher = config.teacher
"""


@pytest.mark.parametrize(
    ("name", "source", "why"),
    [
        ("mine.py", BORROWED, "CONFIG must be a dataclass defined in the file"),
        ("mine.py", NO_DEFAULT, "CONFIG field 'size' needs a default"),
        ("mine.py", "CONFIG = 1", "defines no METHOD"),
        ("mine.py", HALF_A_STATE, "METHOD: has state without load_state; define both"),
        ("mine.py", NO_LOSS, "METHOD: has no loss; a method needs collect, totals, loss"),
        ("mine.py", "x = 1\nclass METHOD(:\n", "line 2: SyntaxError: invalid syntax"),
        ("mine.py", "\n\nimport nowhere", "line 3: ModuleNotFoundError: No module named 'nowhere'"),
        ("mine.py", "import sys\nsys.exit(3)", "line 2: SystemExit: 3 (traceback: "),
        ("mine.py", HALF_A_CONFIG, "line 9, in __post_init__: KeyError: 'teacher' (traceback: "),
        ("README.md", "# text", "is no Python file (.py)"),
    ],
)
def test_a_method_file_that_cannot_run_is_refused(tmp_path, refused, name, source, why):
    (tmp_path / name).write_text(source)
    refused(["study", "--dry-run", "--method-file", str(tmp_path / name)], why)


def test_an_own_method_that_cannot_be_made_is_one_line_with_its_place(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(HALF_A_CONFIG.replace('raise KeyError("teacher")', "pass"))
    words = ["train", "--profile", "quick", "--model", "qwen-s", "--out", str(tmp_path / "o")]
    assert main([*words, "--method", str(tmp_path / "mine.py")]) == 2
    error = capsys.readouterr().err
    assert "line 13, in __init__: AttributeError: 'CONFIG' object has no" in error
    assert error.count("\n") == 1 and "Traceback" in Path(error[:-2].split()[-1]).read_text()


def test_a_dry_run_names_the_training_set_that_is_not_there_once(capsys):
    assert main("study --profile quick --set data.source=nowhere@1 --dry-run".split()) == 0
    said = [x for x in capsys.readouterr().out.splitlines() if x.startswith("in the way: ")]
    assert len(said) == 1 and "'nowhere@1': no prepared training set there" in said[0]


MISTAKES = [
    ("study --profile huge", "unknown profile 'huge': must be one of mini, quick"),
    ("study --methods sgpoo --dry-run", "did you mean 'sgpo'?"),
    ("study --models qwen-x --dry-run", "did you mean 'qwen-"),
    ("study --set settings.num_samples=6 --dry-run", "grpo 6, hpt 6, luffy 6, sgpo 12"),
    ("study --problems none.jsonl --dry-run", "no such file"),
    ("study --set train.lr=1 --dry-run", "did you mean 'train.learning_rate'?"),
    ("study --set delta=1 --dry-run", "did you mean 'settings.kl_threshold'?"),
    ("study --set max_tokens=1 --dry-run", "did you mean 'evaluation.max_tokens' or 'rollout.max"),
    ("study --set xyzzy=1 --dry-run", "'xyzzy'; `sgpo config METHOD` shows all"),
    ("study --profile quick --export-weights sgpo", "--export DIR takes along; give both"),
    ("study --profile quick --export e --export-weights sgpa", "means 0 runs"),
    ("tune --profile paper", "there are trials of mini, quick, pocket"),
    ("tune --model qwen-mm --dry-run", "did you mean 'qwen-m'?"),
    ("compare nothing", "name a run's directory (DIR/runs/RUN in a study of --out DIR)"),
    ("study --set train.learning_rate=fast --dry-run", "must be of type float"),
    ("study --set evaluation.suites=mine --dry-run", "use --problems, which adds a benchmark"),
    ("study --only tuning --dry-run", "not here; its trials are run by `sgpo tune`"),
    ("study --methods sgpo_nll --models qwen-s --dry-run", "sgpo_nll on qwen-m, llama-m; leave"),
    ("study --out file --dry-run", "--out file: is a file, must be a directory"),
    ("train --model qwen-s --method grpo --set seed=4", "use --seed"),
    ("train --model qwen-s --method grpo --set data.source=d", "no prepared"),
    (
        "train --model qwen-s --method grpo --set settings.num_guided=3",
        "unknown override key 'settings.num_guided'",
    ),
    ("list settings", "say whose"),
    ("data check --data nowhere", "--data nowhere: no such directory"),
    ("report --check --out nowhere", "nowhere/study.json"),
    ("status --out nowhere", "no study here yet"),
    ("evaluate --model a/b/c --suite trained --out x", "no such model"),
    ("train --model qwen-s --method grpo --out /proc/mine", "error: /proc/mine: No such file"),
    ("grade nowhere", "no such file"),
    ("study --import D --methods sgpo", "takes no --methods;"),
    ("study --import D --seeds=2", "takes no --seeds;"),
    ("grade file", "file: no samples file, or a damaged one"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_users_mistake_is_one_line_and_code_2(words, message, tmp_path, refused, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    refused(words, message)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "study --time-limit 0",
            "'0': must be a time above 0 such as 90s, 8m or 2h (left out: none)",
        ),
        ("study --onyl-seeds 1", "unknown option '--onyl-seeds'; did you mean '--only-seeds'?"),
        ("data check --offlien", "sgpo data check: error: unknown option '--offlien'"),
        ("report table1", "one word too many: 'table1'; `sgpo report --help` shows all"),
        ("strategies --data d --endpoint e --model m --limit 0", "must be a whole number of at"),
        ("evaluate --model m --out o --set sampler=vllm", "use --engine vllm"),
        ("list", "required: methods|models|benchmarks|artefacts|profiles|settings"),
    ],
)
def test_a_word_that_the_command_does_not_know_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(words.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("verb", "text", "said"),
    [
        ("evaluate", "sampler=vllm: use --set sampler=compact", "--engine vllm: use --engine c"),
        ("evaluate", "evaluation.max_tokens=0: no", "--max-tokens 0: no"),
        ("evaluate", "runs/seed=3/x: no such file", "runs/seed=3/x: no"),
        ("train", "others with --methods, smaller with --models", "others with --method, smaller"),
    ],
)  # fmt: skip
def test_advice_is_in_the_words_of_the_verb(verb, text, said):
    assert said in in_words_of(verb, text)


def test_the_command_itself_exits_with_code_2(tmp_path):
    command = [sys.executable, "-m", "benchmarks.cli", "status", "--out", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "no study here yet" in done.stderr and done.stderr.count("\n") == 1


def test_a_pipe_that_is_closed_early_ends_quietly(tmp_path):
    write_plan(planned_study("quick", 1), tmp_path)
    command = [sys.executable, "-m", "benchmarks.cli", "status", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, error = process.communicate()
    assert process.returncode == 141 and error == b""


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("sgpo 0.")


def test_two_studies_in_one_directory_are_refused(tmp_path, refused):
    with locked(tmp_path):
        refused(f"study --profile quick --out {tmp_path}", "another study is running in this")
