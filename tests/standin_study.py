"""The whole study of the profile ``single_gpu`` in minutes on a CPU: Qwen2.5's vocabulary and
special tokens over a tiny random body, eight training problems, two steps of every method, vLLM.

``python tests/standin_study.py DIRECTORY`` makes what a user would have (checkpoint, prepared data
with strategies) and prints the command that a user types. Its numbers say that everything runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import standin

from benchmarks.cli import main as sgpo

SHAPE = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1}
NUM_PROBLEMS = 12  # a third warms up, eight are left
TOKENS = 16
SHORT = {
    "train.num_steps": 2,
    "rollout.max_tokens": TOKENS,
    "settings.max_tokens": TOKENS,
    "evaluation.max_tokens": TOKENS,
    "evaluation.problem_limit": 2,
    "evaluation.sample_limit": 2,
}


def set_options(settings: dict[str, object]) -> list[str]:
    """``settings`` as the command line takes them."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


MODEL = "qwen2.5-0.5b"


def prepare(directory: Path, *, small: bool = False) -> str:
    """Checkpoint, training set and strategies in ``directory``; the training set's
    ``data.source``. ``small``: a vocabulary of bytes, for a test that has seconds."""
    from benchmarks.data.problems import data_source

    model = standin.write_checkpoint(directory / "model", small=small, **SHAPE)
    rows = standin.write_training_set(directory / "train.jsonl", NUM_PROBLEMS)
    prepared = directory / "prepared"
    arguments = ["--source", str(rows), "--tokenizer", str(model), "--out", str(prepared)]
    if code := sgpo(["data", "prepare", *arguments, "--max-tokens", "2048", "--offline"]):
        raise SystemExit(code)
    problems = [json.loads(line) for line in (prepared / "rl.jsonl").open()]
    strategies = [{"id": p["id"], "strategy": "Add the tens, then the ones."} for p in problems]
    (prepared / "strategies.jsonl").write_text("".join(json.dumps(s) + "\n" for s in strategies))
    return data_source(prepared)


def study_arguments(directory: Path, source: str, sampler: str = "vllm") -> list[str]:
    """What follows ``sgpo`` on the command line."""
    settings = {
        "checkpoint": directory / "model",
        "data.source": source,
        "device": "cpu",
        "precision": "float32",
        "sampler": sampler,
        "vllm.max_model_len": 2048,
        "train.problems_per_step": 2,
    }
    chosen = set_options(settings | SHORT)
    fixed = ["study", "--profile", "single_gpu", "--models", MODEL, "--jobs", "1"]
    return [*fixed, "--out", str(directory / "results"), *chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sampler", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--small", action="store_true", help="a vocabulary of bytes")
    parser.add_argument("--run", action="store_true", help="run the command as well")
    options = parser.parse_args()
    source = prepare(options.directory, small=options.small)
    arguments = study_arguments(options.directory, source, options.sampler)
    print("sgpo", shlex.join(arguments), flush=True)
    if options.run:
        sys.exit(sgpo(arguments))


if __name__ == "__main__":
    main()
