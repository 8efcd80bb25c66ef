"""The four real benchmarks: where they come from, and that they are the sets they should be.

Several sets go under each of these names (AMC23 with 40 and with 83 problems, OlympiadBench with
674 and 675), so a count and a hash of the content decide, whatever the source.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.data.hub import fetch_dataset, rows_of
from benchmarks.data.problems import problem_of, read_problems
from sgpo.core.config import canonical_json
from sgpo.core.types import Problem
from sgpo.core.verifier import grade_many
from sgpo.core.verifier.extract import unwrap_box

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Suite:
    """A real benchmark.

    ``k``: samples a problem in the paper's protocol. ``sha256``: of ``content_sha256``. ``hub``:
    data set, then the columns of id (None: numbered), question and answer. ``exceptions``: ids
    whose gold answer the verifier does not recognise in some phrasing.
    """

    key: str
    label: str
    num_problems: int
    k: int
    sha256: str
    hub: tuple[str, str | None, str, str]
    exceptions: tuple[str, ...] = ()


SUITES: dict[str, Suite] = {
    suite.key: suite
    for suite in (
        Suite(
            "math500", "MATH500", 500, 4,
            "ee01ac953478587a5e49f1f565056a3fd8e44e6f99e2e7ab0c5392af1f8ab062",
            ("HuggingFaceH4/MATH-500", "unique_id", "problem", "answer"),
            exceptions=("test/number_theory/417.json",),  # 11,\\! 111,\\! .. outside a box: a list
        ),
        Suite(
            "amc23", "AMC23", 40, 32,
            "c6f4913f99ab1df3b78fb4b95d4897ee43e0b87a174a3501e5c4a9564ef9765e",
            ("math-ai/amc23", None, "question", "answer"),
        ),
        Suite(
            "olympiadbench", "OlympiadBench", 674, 4,
            "eef3f8d0b04c0bf0d5914384f23de65f82f18443dc929ebf63aad535fd41c95d",
            ("math-ai/olympiadbench", None, "question", "final_answer"),
        ),
        Suite(
            "aime24", "AIME24", 30, 32,
            "fa2d6b41a2be4f16a7a14624ff427bd0d7621a88dfeb8d624cc95f3855bd4de0",
            ("math-ai/aime24", None, "problem", "solution"),
        ),
    )
}  # fmt: skip

PHRASINGS = (
    "\\boxed{%s}",
    "Therefore the final answer is $\\boxed{%s}$.",
    "<think>\nMaybe \\boxed{0}?\n</think>\n\nSo it is \\[\\boxed{%s}\\]",
    "The answer is $%s$.",
)


def load_suite(key: str) -> list[Problem]:
    """The checked problems of a real benchmark, from a local file or else from the hub.

    Raises:
        ValueError: unknown key; neither file nor hub can give it; or it is another set than the
            one that the suite's scores are about.
    """
    if key not in SUITES:
        raise ValueError(f"unknown benchmark {key!r}: must be one of {', '.join(SUITES)}")
    suite, path = SUITES[key], local_file(key)
    if path is not None:
        problems, source = read_problems(path), str(path)
    else:
        problems, source = _from_hub(suite)
    if len(problems) != suite.num_problems:
        raise ValueError(
            f"{source}: {suite.label} has {suite.num_problems} problems, this has {len(problems)}"
        )
    found = content_sha256(problems)
    if found != suite.sha256:
        raise ValueError(
            f"{source}: not the {suite.label} that scores are about: its content has sha256 "
            f"{found[:12]}..., {suite.sha256[:12]}... is right; scores would not be comparable"
        )
    return problems


def local_file(key: str) -> Path | None:
    """``benchmarks/<key>.jsonl`` below SGPO_DATA_DIR, or below ``../shared/data`` where the
    variable is not set; None where there is none.

    Raises:
        ValueError: SGPO_DATA_DIR is set and does not exist.
    """
    named = os.environ.get("SGPO_DATA_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if named and not folder.is_dir():
        raise ValueError(f"SGPO_DATA_DIR={named!r}: no such directory")
    path = folder / "benchmarks" / f"{key}.jsonl"
    return path if path.is_file() else None


def _from_hub(suite: Suite) -> tuple[list[Problem], str]:
    repository, id_column, question, answer = suite.hub
    try:
        folder, commit = fetch_dataset(repository)
    except ValueError as error:
        raise ValueError(
            f"{error}; or set SGPO_DATA_DIR to a folder with benchmarks/{suite.key}.jsonl"
        ) from error
    problems = []
    for number, (where, row) in enumerate(rows_of(folder, "test")):
        name = row.get(id_column) if id_column else f"{suite.key}/{number:03d}"
        fields = {"id": name, "question": row.get(question), "answer": row.get(answer)}
        problems.append(problem_of(fields, where))
    return problems, f"{repository} at {commit}"


def content_sha256(problems: Sequence[Problem]) -> str:
    """Hash of questions (spaces collapsed) and answers (without ``$`` and box), in any order."""
    pairs = sorted(
        [" ".join(p.question.split()), unwrap_box(p.answer.strip().strip("$")).strip()]
        for p in problems
    )
    return hashlib.sha256(canonical_json(pairs).encode()).hexdigest()


def failed_golds(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """(id, phrasing) of every gold answer that is not judged correct when it is given as the
    answer in one of ``PHRASINGS``."""
    cases = [(p, phrasing) for p in problems for phrasing in PHRASINGS]
    verdicts = grade_many([(p.answer, text % _bare(p.answer)) for p, text in cases])
    return [(p.id, t) for (p, t), v in zip(cases, verdicts, strict=True) if not v.correct]


def _bare(gold: str) -> str:
    gold = unwrap_box(gold).rstrip(".")
    return gold.strip("$") if gold.count("$") == 2 and gold[0] == gold[-1] == "$" else gold
