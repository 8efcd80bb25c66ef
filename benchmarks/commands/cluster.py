"""Verbs that prepare work for a cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.commands import add_overrides, names, positive
from benchmarks.commands.data import HUB_DEFAULT


def add(verbs: argparse._SubParsersAction) -> None:
    """Add slurm."""
    slurm = verbs.add_parser("slurm", help="write a study's sbatch scripts and a submit.sh")
    add = slurm.add_argument
    add("--profile", default="paper", help="paper or single_gpu (default: %(default)s)")
    add("--out", required=True, type=Path, help="directory of the scripts")
    add("--results", type=Path, help="results directory (default: results/PROFILE)")
    add("--seeds", type=positive, help="number of seeds (default: the profile's)")
    add("--all", action="store_true", help="with the ablations of SGPO")
    add("--methods", type=names, help="just these methods (comma-separated)")
    add("--models", type=names, help="just these models (comma-separated)")
    add("--nodes", type=positive, help="of every cell (default: the profile's, by model)")
    add("--gpus-per-node", type=positive, help="default: the profile's")
    add("--hours", type=positive, help="time limit of every job (default: from the estimate)")
    add("--option", action="append", default=[], metavar="KEY=VALUE",
        help="a further #SBATCH line, e.g. partition=gpu")  # fmt: skip
    add("--source", default=HUB_DEFAULT, help="training set for data prepare (%(default)s)")
    add("--tokenizer", help="for data prepare (default: the profile's, whatever models are run)")
    add("--endpoint", help="for strategies (default: $SGPO_ENDPOINT when submitted)")
    add("--strategy-model", help="its model (default: $SGPO_STRATEGY_MODEL when submitted)")
    add_overrides(slurm)
    slurm.set_defaults(run=_slurm, only=None, only_seeds=None)


def _slurm(options: argparse.Namespace) -> int:
    from benchmarks.plan.slurm import write_scripts

    return write_scripts(options)
