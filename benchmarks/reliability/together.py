"""Two studies started in one directory at the same time: one runs, the other says why it does not.

The delay between the two is drawn from one seed, so that they meet at start-up, in training and in
the report.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability.common import (
    Say,
    copy_of,
    differences,
    must_finish,
    outcome_of,
    prepare_start,
    run_study,
    started_study,
)

WHAT = "two studies in one directory at the same time"
SEED = 8
NUM_TRIALS = 3
LONGEST_DELAY = 6.0
REFUSAL = "another study is running in this directory"


def run(count: int, say: Say) -> tuple[dict[str, Any], bool]:
    """Figures of ``count`` pairs of studies, and whether one of each pair ended undisturbed."""
    with tempfile.TemporaryDirectory(prefix="sgpo-together-") as scratch:
        root = Path(scratch)
        say("preparing the base model and the reference study")
        start = prepare_start(root / "start")
        reference = copy_of(start, root / "reference")
        must_finish(reference)
        expected = outcome_of(reference)
        rng = random.Random(SEED)
        trials = []
        for i in range(count):
            out = copy_of(start, root / "trial")
            with started_study(out) as first:
                time.sleep(rng.random() * LONGEST_DELAY)
                second = run_study(out)
                codes = sorted((first.wait(), second.returncode))
            # Which of the two was first at the lock is the machine's choice.
            said = REFUSAL in second.stderr or second.returncode == 0
            same = not differences(expected, outcome_of(out))
            trials.append(codes == [0, 2] and said and same)
            say(f"{i + 1}/{count}: exit codes {codes}, {'same' if same else 'OTHER'} tables")
    figures = {
        "pairs": count,
        "one_ran_and_one_was_refused": sum(trials),
        "message": REFUSAL,
        "seed": SEED,
    }
    return figures, all(trials)
