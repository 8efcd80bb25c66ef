"""Files of problems: both forms, every container, and every fault named with its line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import standin

from benchmarks.data.problems import (
    data_source,
    problem_of,
    question_id,
    read_problems,
    read_strategies,
    source_problems,
    write_problems,
)
from sgpo.core.files import jsonl_rows, write_json
from sgpo.core.types import Problem

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"id": "a", "question": "1 + 1?", "answer": "2"}
LUFFY = {
    "prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "1 + 1?"}],
    "target": [{"role": "assistant", "content": "\\boxed{2}"}],
    "reward_model": {"ground_truth": "2", "style": "rule"},
}


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (GOOD, Problem("a", "1 + 1?", "2")),
        ({"id": 7, "problem": "?", "answer": 0.5}, Problem("7", "?", "0.5")),
        (
            GOOD | {"strategy": "add", "expert": "\\boxed{2}", "kind": "sums", "level": 3},
            Problem("a", "1 + 1?", "2", expert="\\boxed{2}", kind="sums", level=3, strategy="add"),
        ),
        # a table's null is an absent field
        (GOOD | {"id": None, "strategy": None, "level": None},
         Problem(question_id("1+1?"), "1 + 1?", "2")),
        (GOOD | {"answer": ["2", "3"]}, Problem("a", "1 + 1?", "2, 3")),
        (LUFFY, Problem(question_id("1 + 1?"), "1 + 1?", "2", expert="\\boxed{2}")),
        (
            LUFFY | {"data_source": "numina", "reward_model": {"ground_truth": [2]}},
            Problem(question_id("1 + 1?"), "1 + 1?", "2", expert="\\boxed{2}", kind="numina"),
        ),
    ],
)  # fmt: skip
def test_a_row_becomes_a_problem(row, problem):
    assert problem_of(row, "here") == problem


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"id": "b", "question": "?"}, "line 3: field 'answer' is missing; it has id, question"),
        ({"id": "b", "question": "?", "answer": "  "}, "line 3: field 'answer' is empty"),
        ({"id": "b", "question": 7, "answer": "7"}, "'question' must be a text, is 7"),
        ('{"id": "b", "question": "?", "answer": NaN}', "must be a text or a number, is nan"),
        ({"id": "b", "question": "?", "answer": "7", "level": "x"}, "'level' must be a whole"),
        (GOOD, "line 3: id 'a' was used before"),
        ('{"id": "b", ', "line 3: not valid JSON"),
        ("null", "line 3: must be a JSON object, is NoneType"),
        (LUFFY | {"prompt": "text"}, "line 3: column 'prompt' must be a list of chat turns"),
        (LUFFY | {"target": [{"role": "assistant", "content": " "}]}, "'target' holds no assist"),
        (LUFFY | {"reward_model": {"style": "rule"}}, "ground_truth' must be a text or a number"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, second, message):
    with pytest.raises(ValueError, match=message):
        read_problems(write(tmp_path / "p.jsonl", GOOD, "", second))


def test_bytes_that_are_no_utf8_are_named_and_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "p.jsonl"
    line = json.dumps(GOOD).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n")
    assert read_problems(path) == [Problem("a", "1 + 1?", "2")]
    path.write_bytes(line + b'\n{"id": "\xe9"}\n')
    with pytest.raises(ValueError, match=r"line 2: not UTF-8 text \(byte 0xe9 at position 9\)"):
        list(jsonl_rows(path))


def test_files_that_cannot_be_read_are_named_in_one_line(tmp_path):
    for path, message in (
        (tmp_path / "none.jsonl", "no such file"),
        (write(tmp_path / "empty.jsonl", ""), "holds no problems"),
        (write(tmp_path / "x.csv", "a,b"), "must be .jsonl, .json, .parquet or a data set"),
        (write(tmp_path / "x.parquet", "no parquet"), "x.parquet: cannot be read as a data set"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            read_problems(path)
        assert "\n" not in str(caught.value)
    datasets.Dataset.from_list(standin.training_rows(400)).to_parquet(tmp_path / "z.parquet")
    content = bytearray((tmp_path / "z.parquet").read_bytes())
    content[40:400] = b"\xff" * 360  # inside the data pages
    (tmp_path / "z.parquet").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="z.parquet: cannot be read"):
        read_problems(tmp_path / "z.parquet")


def test_every_container_gives_the_same_problems_and_writes_nowhere_else(tmp_path):
    """Both forms of rows, in a process whose caches are empty and stay so."""
    names, expected = [], []
    for form, rows in (("a", standin.training_rows(5)), ("b", [GOOD, GOOD | {"id": "b"}])):
        data, folder = datasets.Dataset.from_list(rows), tmp_path / form
        (folder / "plain").mkdir(parents=True)
        data.to_parquet(folder / "plain" / "train-0.parquet")
        data.save_to_disk(folder / "saved")
        datasets.DatasetDict({"train": data}).save_to_disk(folder / "splits")
        kinds = ("plain/train-0.parquet", "plain", "saved", "splits")
        names += [f"{form}/{kind}" for kind in kinds]
        expected += [str(read_problems(write(folder / "x.jsonl", *rows)))] * len(kinds)
    code = (
        "import sys, socket\n"
        "from pathlib import Path\n"
        "from benchmarks.data.problems import read_problems\n"
        "def refuse(*a, **k): raise AssertionError('a connection was opened')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "for name in sys.argv[1:]: print(read_problems(Path(name)))\n"
    )
    home = tmp_path / "home"
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(tmp_path / name) for name in names)],
        cwd=ROOT, env={"PATH": "", "HF_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == expected, done.stderr
    assert not [p for p in home.rglob("*") if p.is_file() and p.stat().st_size]  # locks are empty


def test_what_is_written_is_read_back(tmp_path):
    problems = [
        Problem("a", "é?", "1", strategy="s\nt", expert="\\boxed{1}", kind="k"),
        Problem("b", "\u2028?", "2"),
    ]
    write_problems(tmp_path / "p.jsonl", problems)
    assert read_problems(tmp_path / "p.jsonl") == problems


def test_strategies_come_with_the_row_or_from_the_extraction(tmp_path):
    write_problems(tmp_path / "warmup.jsonl", [])
    write_problems(tmp_path / "rl.jsonl", [Problem(n, "?", "1", strategy=s) for n, s in
                                           (("a", "own"), ("b", "own"), ("c", None))])  # fmt: skip
    write_json(tmp_path / "report.json", {})

    def strategies() -> dict[str, str | None]:
        return {p.id: p.strategy for p in source_problems(data_source(tmp_path), "rl")}

    assert strategies() == {"a": "own", "b": "own"}
    write(tmp_path / "strategies.jsonl", {"id": "b", "strategy": "better"})
    assert strategies() == {"a": "own", "b": "better"}
    with pytest.raises(ValueError, match="no problem is left in 'warmup'"):
        source_problems(data_source(tmp_path), "warmup")
    write(tmp_path / "strategies.jsonl", {"id": "b"})
    with pytest.raises(ValueError, match="line 1: field 'strategy' is missing.*delete the file"):
        read_strategies(tmp_path)
