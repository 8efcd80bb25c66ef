"""Damaged resume states: found by checksum, passed over, and the run ends as if nothing was.

A run is killed when it holds two resume states. A trial damages the newest (in some trials both):
a file cut short, emptied, removed, or with one bit flipped at a random place. The run is then
continued and compared with the undisturbed one, weights included.
"""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.config import Cell
from benchmarks.reliability.common import Say, copy_of
from benchmarks.reliability.small_study import small_study
from benchmarks.run.cell import run_cell
from sgpo.core.files import sha256_of
from sgpo.core.trainer import Trainer

WHAT = "truncated, bit-flipped and missing resume states"
SEED = 3
NUM_TRIALS = 24
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class _Stop(Exception):
    """Raised in place of a kill once two resume states are there."""


def run(count: int, say: Say) -> tuple[dict[str, Any], bool]:
    """Figures of ``count`` damaged resume states, and whether all runs ended as they should."""
    with tempfile.TemporaryDirectory(prefix="sgpo-checkpoint-") as scratch:
        root = Path(scratch)
        say("preparing an interrupted run and its undisturbed twin")
        cell = _cell()
        whole = root / "whole"
        run_cell(cell, whole, lambda *_: None)
        expected = sha256_of(whole / "runs" / cell.run_id / "model" / "model.safetensors")
        torn = copy_of(whole, root / "torn")
        shutil.rmtree(torn / "runs")
        _interrupted(cell, torn)
        rng = random.Random(SEED)
        trials = []
        for i in range(count):
            name, damage = _DAMAGES[i % len(_DAMAGES)]
            both = i % 6 == 5
            study = copy_of(torn, root / "trial")
            states = sorted((study / "runs" / cell.run_id / "checkpoints").glob("step-*"))
            for state in states if both else states[-1:]:
                damage(state / FILES[i // len(_DAMAGES) % len(FILES)], rng)
            heard = io.StringIO()
            with contextlib.redirect_stdout(heard):
                run_cell(cell, study, lambda *_: None)
            weights = study / "runs" / cell.run_id / "model" / "model.safetensors"
            trials.append(
                {
                    "damage": name,
                    "noticed": "using the previous resume state" in heard.getvalue(),
                    "same": sha256_of(weights) == expected,
                }
            )
            say(f"{i + 1}/{count}: {name}{' (both states)' if both else ''}: {trials[-1]}")
    figures = {
        "damaged_states": count,
        "noticed": sum(t["noticed"] for t in trials),
        "ended_with_identical_weights": sum(t["same"] for t in trials),
        "by_damage": {n: sum(t["damage"] == n for t in trials) for n, _ in _DAMAGES},
        "seed": SEED,
    }
    return figures, all(t["noticed"] and t["same"] for t in trials)


def _cell() -> Cell:
    """An RL run of four steps from the base model."""
    cell = next(c for c in small_study().cells() if c.config.method == "grpo")
    config = replace(
        cell.config, init="base", train=replace(cell.config.train, num_steps=4, checkpoint_every=1)
    )
    return Cell(config)


def _interrupted(cell: Cell, study: Path) -> None:
    """Leave the run of ``cell`` below ``study`` as a kill after three steps would."""
    original = Trainer._step

    def step(self: Trainer, number: int) -> dict:
        if number == 4:
            raise _Stop
        return original(self, number)

    Trainer._step = step  # type: ignore[method-assign]
    try:
        with contextlib.suppress(_Stop):
            run_cell(cell, study, lambda *_: None)
    finally:
        Trainer._step = original  # type: ignore[method-assign]
    states = list((study / "runs" / cell.run_id / "checkpoints").glob("step-*"))
    assert len(states) == 2, states


def _truncate(file: Path, rng: random.Random) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(1, len(data))])


def _flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))


def _empty(file: Path, rng: random.Random) -> None:
    file.write_bytes(b"")


def _remove(file: Path, rng: random.Random) -> None:
    file.unlink()


_DAMAGES: tuple[tuple[str, Callable[[Path, random.Random], None]], ...] = (
    ("cut short", _truncate),
    ("one bit flipped", _flip),
    ("emptied", _empty),
    ("removed", _remove),
)
