"""Runs the scripts of ``sgpo slurm`` on this machine, on a stand-in: every stage from the training
set to Table 1, torchrun with two ranks a job.

``python tests/standin_slurm.py DIRECTORY`` (a few minutes). ``sbatch``, ``srun`` and ``scontrol``
are stand-ins too: a submitted script runs at once, after those that it waits for.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import standin
from scripted_endpoint import scripted_endpoint
from standin_study import SHORT, set_options

from benchmarks.cli import main as sgpo

MODEL = "qwen2.5-0.5b"
NUM_PROBLEMS = 15
COMMANDS = {
    "sbatch": """
shift
for word in "$@"; do
  case "$word" in
    --dependency=*) ids=${word#--dependency=*:}
      for id in ${ids//:/ }; do
        [ -e "$FAKE_SLURM/$id" ] || { echo "job $id has not ended" >&2; exit 1; }
      done ;;
  esac
done
script="${!#}"
number=$(ls "$FAKE_SLURM" | wc -l)
export SLURM_JOB_ID=$((1000 + number)) SLURM_JOB_NODELIST=localhost
echo "== $script" >&2
bash "$script" >&2
touch "$FAKE_SLURM/$SLURM_JOB_ID"
echo "$SLURM_JOB_ID"
""",
    "srun": """
while [[ "$1" == --* ]]; do shift; done
exec "$@"
""",
    "scontrol": "echo localhost\n",
}


def fake_commands(directory: Path) -> dict[str, str]:
    """Writes the stand-in commands; the environment in which they are found."""
    jobs = directory / "jobs"
    jobs.mkdir(parents=True)
    for name, body in COMMANDS.items():
        path = directory / name
        path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{body.lstrip()}")
        path.chmod(0o755)
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "FAKE_SLURM": str(jobs)}


def arguments(directory: Path) -> list[str]:
    """What follows ``sgpo`` on the command line."""
    settings = {
        "checkpoint": directory / "model",
        "device": "cpu",
        "precision": "float32",
        "sampler": "transformers",
        "train.problems_per_step": 4,
    }
    chosen = set_options(settings | SHORT)
    fixed = ["slurm", "--profile", "single_gpu", "--models", MODEL, "--gpus-per-node", "2"]
    fixed += ["--source", str(directory / "train.jsonl"), "--tokenizer", str(directory / "model")]
    return [*fixed, "--out", str(directory / "scripts"), *chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory.absolute()
    directory.mkdir(parents=True)
    os.chdir(directory)
    standin.write_checkpoint(directory / "model", small=True)
    standin.write_training_set(directory / "train.jsonl", NUM_PROBLEMS)
    environment = fake_commands(directory / "bin") | {"OPENAI_API_KEY": "none"}
    with scripted_endpoint() as endpoint:
        environment |= {"SGPO_ENDPOINT": endpoint.url, "SGPO_STRATEGY_MODEL": "scripted"}
        assert sgpo(arguments(directory)) == 0
        done = subprocess.run(["bash", str(directory / "scripts" / "submit.sh")], env=environment)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
