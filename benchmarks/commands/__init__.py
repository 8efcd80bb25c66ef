"""The verbs of ``sgpo``, a file a group; each has ``add(verbs)``. Only standard library here, so
that the command starts fast: a verb imports what it needs when it runs.

This file holds what several groups share: argument types and the options of a profile.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``--set KEY=VALUE``."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a value, e.g. train.learning_rate=1e-4",
    )


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile`` and ``--out``."""
    parser.add_argument(
        "--profile", default="mini", help="mini, quick, lab, single_gpu or paper (default: mini)"
    )
    parser.add_argument("--out", type=Path, help="results directory (default: results/PROFILE)")


def positive(text: str) -> int:
    """Argument type: a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value}: must be at least 1")
    return value


def names(text: str) -> list[str]:
    """Argument type: comma-separated names."""
    return [name for name in text.split(",") if name]


def results_dir(options: argparse.Namespace, default: str | None = None) -> Path:
    """The results directory: ``--out``, else results/<default or profile>."""
    return options.out or Path("results") / (default or options.profile)
