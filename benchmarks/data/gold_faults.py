"""Gold answers of the benchmarks that are faulty in their data set, and how each is handled.

Nothing is corrected: a gold is graded as its data set has it. The list says where a right answer
cannot match, so that a score can be read with that in mind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).with_suffix(".jsonl")


@dataclass(frozen=True)
class GoldFault:
    """``right_answer`` is an answer to the question that is right; ``handled`` says in words what
    grading makes of it."""

    suite: str
    id: str
    gold: str
    fault: str
    right_answer: str
    handled: str


def gold_faults(suite: str | None = None) -> list[GoldFault]:
    """The known faults of one suite, or of all."""
    faults = [GoldFault(**json.loads(line)) for line in PATH.read_text().splitlines()]
    return [fault for fault in faults if suite in (None, fault.suite)]
