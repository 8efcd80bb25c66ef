"""What test files share: studies that are made once for all worker processes, and one thread each,
since two spinning threads per process slow each other down tenfold."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.cli import choose_instructions

choose_instructions()  # before torch is imported, as the commands do that tests start

# ruff: noqa: E402
import pytest
import torch
from synthetic_study import save_empty
from tiny_study import own_method, study_words

from benchmarks.report import artefact
from benchmarks.run import given

torch.set_num_threads(1)

# Files of a minute or so are given out first: a long one at the end would run alone.
LONG = (
    "test_ranks.py", "test_study.py", "test_trainer.py", "test_verifier.py", "test_parcel.py",
    "test_standin_study.py", "test_report.py", "test_claims.py",
    "test_methods.py", "test_publish.py", "test_formulas.py", "test_perf.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else 99)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], Any]], Any]:
    """``once(name, make)``: what ``make(directory)`` returned to the first worker that asked.
    Whoever gets it reads that directory and copies it before changing anything."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # beside the folders of all workers of this session
        folder = folder.parent

    def found(name: str, make: Callable[[Path], Any]) -> Any:
        stored = folder / f"{name}.pickle"
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stored.exists():
                stored.write_bytes(pickle.dumps(make(folder / name)))
        return pickle.loads(stored.read_bytes())

    return found


def finish_study(directory: Path) -> Path:
    from benchmarks.cli import main

    directory.mkdir()
    out = directory / "quick"
    assert main(study_words(out, "--method-file", own_method(directory))) == 0
    return out


@pytest.fixture(scope="session")
def finished(once) -> Path:
    """The results directory of the quick study with a method of the user's own, as small as it
    gets, run by its command."""
    return once("finished", finish_study)


@pytest.fixture
def refused(capsys) -> Callable[..., None]:
    """``refused(words, said)``: the command ends with code 2 and one line of advice, which never
    tells to delete what may be the user's own."""

    def refused(words: str | Iterable[object], said: str) -> None:
        from benchmarks.cli import main

        capsys.readouterr()
        assert main(words.split() if isinstance(words, str) else [*map(str, words)]) == 2, words
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and "delete it" not in error, error

    return refused


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """Figures of reports that are made in this process are drawn and stay empty."""
    monkeypatch.setattr(artefact, "save", save_empty)


@pytest.fixture(scope="session")
def bases(finished, tmp_path_factory) -> Path:
    return shutil.copytree(finished / "cache", tmp_path_factory.mktemp("bases") / "cache")


@pytest.fixture
def shared_bases(bases, monkeypatch) -> None:
    """Cells that run in this process take equal base models from one place, made once."""
    make = given.ensure_world_model

    def shared(key, seed, cache, *arguments, **options):
        return make(key, seed, bases, *arguments, **options)

    monkeypatch.setattr(given, "ensure_world_model", shared)
