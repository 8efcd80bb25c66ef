"""A whole study, as small as it gets: every kind of run, file and page, in seconds.

``python -m benchmarks.reliability.small_study --out DIR`` runs it as ``sgpo study`` runs a profile.
Resume states after every step and few problems make it dense in moments at which a kill matters;
its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.config import Benchmark, MethodEntry, Plan, RunConfig
from benchmarks.profiles import quick
from sgpo.mini.sets import TEST_SETS

# One method of each kind of data flow; tests kill every method in training.
METHODS = ("base", "sft", "grpo", "luffy", "sgpo")
PROBLEMS, SAMPLES, MAX_TOKENS = 4, 2, 24


def _shortened(entry: MethodEntry) -> MethodEntry:
    def config(model: str, seed: int) -> RunConfig:
        full = entry.config(model, seed)
        small = {"num_steps": 3, "problems_per_step": PROBLEMS, "checkpoint_every": 1}
        return replace(
            full,
            train=full.train and replace(full.train, **small),
            rollout=full.rollout and replace(full.rollout, max_tokens=MAX_TOKENS),
            evaluation=replace(
                full.evaluation,
                problem_limit=PROBLEMS,
                sample_limit=SAMPLES,
                max_tokens=MAX_TOKENS,
            ),
            pretrain_steps=2,
        )

    return MethodEntry(entry.key, entry.label, config)


def small_study() -> Plan:
    """The quick profile's study with one seed, five methods, few steps and few problems."""
    plain = quick.study(1)
    return replace(
        plain,
        methods=tuple(_shortened(e) for e in plain.methods if e.key in METHODS),
        benchmarks=tuple(Benchmark(b.key, b.label, PROBLEMS, SAMPLES) for b in TEST_SETS),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or continue the study in ``--out``; the exit code of ``sgpo study``."""
    from benchmarks.run.launch import launch_study

    parser = argparse.ArgumentParser(prog="benchmarks.reliability.small_study")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.set_defaults(only=None, methods=None, models=None, all=False, overrides=[])
    options = parser.parse_args(arguments)
    try:
        return launch_study(small_study(), options.out, options)
    except (ValueError, OSError) as error:
        print(f"small study: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
