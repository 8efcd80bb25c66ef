"""Where a run's problems come from, and what its problem sets share. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.config import DataConfig, EvalConfig, Plan
from benchmarks.data.problems import DEV, read_problems, source_problems
from benchmarks.data.suites import SUITES, load_suite
from benchmarks.store.runs import PROBLEMS_FILE
from sgpo.core.config import canonical_json
from sgpo.core.files import sha256_of, write_bytes, write_json
from sgpo.core.types import Problem
from sgpo.mini import sets
from sgpo.mini.world import draw_world

DEVELOPMENT = "minidev"
DEVELOPMENT_SAMPLES = 8
OWN_SAMPLES = 8  # of a problem of the user's own


def training_problems(config: DataConfig, world: int) -> list[Problem]:
    """The training problems of a run, with strategies and expert traces; ``world``: its seed."""
    if config.source != "mini":
        return [] if config.split == "none" else source_problems(config.source, config.split)
    splits = {"warmup": ["warmup"], "rl": ["rl"], "all": ["warmup", "rl"], "none": []}
    return [
        problem
        for split in splits[config.split]
        for problem in sets.training_problems(draw_world(world), split, config.expert_gap)
    ]


def development_problems(config: DataConfig) -> list[Problem]:
    """The development split of a prepared training set; none in the mini world, or without one."""
    folder = Path(config.source.rpartition("@")[0])
    if config.source == "mini" or not (folder / f"{DEV}.jsonl").is_file():
        return []
    return source_problems(config.source, DEV)


def evaluation_problems(key: str, config: EvalConfig, world: int = 0) -> tuple[list[Problem], int]:
    """The problems of one suite and the samples per problem, after the config's limits; ``world``
    is the one that a mini suite is drawn from.

    Raises:
        ValueError: unknown suite.
    """
    own = {Path(item.rpartition("@")[0]).stem: item for item in config.files}
    mini = {t.key: t for t in sets.TEST_SETS}
    if key in own:
        problems, samples = _own_problems(own[key]), OWN_SAMPLES
    elif key == DEVELOPMENT:
        problems, samples = sets.development_problems(draw_world(world)), DEVELOPMENT_SAMPLES
    elif key in SUITES:
        problems, samples = load_suite(key), SUITES[key].k
    elif key in mini:
        problems, samples = sets.test_problems(draw_world(world), key), mini[key].k
    else:
        names = ", ".join([*mini, DEVELOPMENT, *SUITES])
        raise ValueError(f"unknown benchmark {key!r}: must be one of {names}")
    return problems[: config.problem_limit], min(samples, config.sample_limit or samples)


def file_source(path: Path) -> str:
    """How ``EvalConfig.files`` names a file of problems: with its content's hash."""
    return f"{path}@{sha256_of(path)[:12]}"


def _own_problems(source: str) -> list[Problem]:
    """The problems of a file, which must be the one that the run was planned with."""
    path = Path(source.rpartition("@")[0])
    if not path.is_file() or file_source(path) != source:
        raise ValueError(
            f"{path}: is not there or was changed since; name it again with --problems (GSM8K's: "
            "`sgpo data gsm8k`)"
        )
    return read_problems(path)


def known_problems(key: str, world: int = 0, files: tuple[str, ...] = ()) -> Sequence[Problem]:
    """The problems of a suite in their order; none where it is unknown or cannot be had here."""
    suite = key.partition("@")[0]  # what follows is a budget
    try:
        config = EvalConfig(suites=(suite,), max_tokens=1, files=files)
        return evaluation_problems(suite, config, world)[0]
    except (ValueError, OSError):
        return ()


def problem_set_sha256(problems: Sequence[Problem]) -> str:
    """Hash of ids, questions and answers in their order."""
    content = [[p.id, p.question, p.answer] for p in problems]
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def mini_sets(seed: int) -> dict[str, list[Problem]]:
    """Every problem set of a world by name."""
    world = draw_world(seed)
    return {
        "training, warm-up": sets.training_problems(world, "warmup", 0.0),
        "training, RL": sets.training_problems(world, "rl", 0.0),
        "development": sets.development_problems(world),
    } | {f"test, {t.label}": sets.test_problems(world, t.key) for t in sets.TEST_SETS}


def overlaps(found: Mapping[str, Sequence[Problem]]) -> dict[str, Any]:
    """Sizes and hashes of the sets, and for every pair how many questions both hold, equal but for
    case, spacing and punctuation."""
    questions = {
        name: {"".join(filter(str.isalnum, p.question.casefold())) for p in problems}
        for name, problems in found.items()
    }
    return {
        "sets": {
            name: {
                "problems": len(problems),
                "distinct_questions": len(questions[name]),
                "sha256": problem_set_sha256(problems),
            }
            for name, problems in found.items()
        },
        "shared": [
            {"first": a, "second": b, "questions": len(questions[a] & questions[b])}
            for a, b in combinations(found, 2)
        ],
    }


def record_disjointness(study: Plan, results: Path) -> None:
    """Write disjointness.json of a study on the mini world, of its first world (the others are
    drawn alike); other data are checked where they are prepared."""
    entry, seed = study.methods[0], study.seeds[0]
    if entry.config(study.models[0].key, seed).data.source == "mini":
        write_json(results / "disjointness.json", overlaps(mini_sets(seed)))


def record_problems(study: Plan, results: Path) -> None:
    """Write problems.parquet of a study that evaluates on mini worlds: what the report knows of
    them."""
    if {b.key for b in study.benchmarks} & {t.key for t in sets.TEST_SETS}:
        buffer = io.BytesIO()
        problem_table(study.seeds).to_parquet(buffer, compression="zstd", index=False)
        write_bytes(results / PROBLEMS_FILE, buffer.getvalue())


def problem_table(seeds: Sequence[int]) -> pd.DataFrame:
    """A row a test problem of every world: the ``types`` that it names, the ``prior`` with which a
    writer without a strategy finds all their plans, ``fidelity`` and ``style`` of the world."""
    rows = []
    for seed in seeds:
        world = draw_world(seed)
        drawn = {"fidelity": world.fidelity, "style": world.style}
        for test_set in sets.TEST_SETS:
            for number, problem in enumerate(sets.test_problems(world, test_set.key)):
                named = [kind for kind in world.types if kind.name in problem.question]
                asked = {
                    "seed": seed,
                    "benchmark": test_set.key,
                    "problem": number,
                    "types": " ".join(kind.name for kind in named),
                    "prior": math.prod(kind.found for kind in named),
                }
                rows.append(asked | drawn)
    return pd.DataFrame(rows)
