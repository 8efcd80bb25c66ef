"""What a run was made from, stored beside it: data, prompts, seeds, starting weights, source.

``provenance.json`` answers "is this the same as that?" by hashes; ``source.patch`` is there when
the source was not that of the commit, ``method.py`` when the method came from a user's file.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from benchmarks.config import Cell, user_method_file
from benchmarks.data.sources import evaluation_problems, problem_set_sha256
from sgpo.core.config import canonical_json
from sgpo.core.files import read_json, sha256_of, write_bytes, write_json, write_text
from sgpo.core.prompts import prompt_spec
from sgpo.core.runlog import revision, source_digest
from sgpo.core.seeding import derive_seed
from sgpo.core.types import Problem

FILE = "provenance.json"
KEPT_FILES = (
    "config.json", "environment.json", FILE, "source.patch", "method.py", "metrics.jsonl",
    "train.json", "regime.json", "scores.json",
)  # fmt: skip
# Hashing larger weights would take longer than a few seconds; their size is stored instead.
MAX_HASHED_BYTES = 2 * 2**30


def record_start(
    run_dir: Path,
    cell: Cell,
    *,
    started: str,
    start_weights: Path,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write provenance.json of a run that starts or continues; earlier attempts stay listed.

    Args:
        started: time of this attempt, ISO 8601.
        start_weights: directory of the weights that the run starts from.
    """
    path = run_dir / FILE
    before = read_json(path) if path.exists() else {}
    source = revision()
    attempt = {"started": started, "git_commit": source.commit, "source_digest": source_digest()}
    if source.patch:
        write_text(run_dir / "source.patch", source.patch)
        attempt["source_patch_sha256"] = hashlib.sha256(source.patch.encode()).hexdigest()
    method_file = user_method_file(cell.config.settings)
    if method_file:
        write_bytes(run_dir / "method.py", method_file.read_bytes())
    write_json(
        path,
        before
        | {
            "attempts": [*before.get("attempts", []), attempt],
            "start_weights": weights_record(start_weights),
            "prompt": prompt_record(cell.config.prompt, tokenizer),
            "evaluation_data": _evaluation_record(cell),
            "seeds": seed_record(cell),
        },
    )


def record_training_data(run_dir: Path, problems: Sequence[Problem]) -> None:
    """Add the hash of the training problems, strategies and traces included."""
    content = [dataclasses.asdict(p) for p in problems]
    entry = {
        "num_problems": len(problems),
        "sha256": hashlib.sha256(canonical_json(content).encode()).hexdigest(),
    }
    write_json(run_dir / FILE, read_json(run_dir / FILE) | {"training_data": entry})


def weights_record(directory: Path) -> dict[str, Any]:
    """File name -> sha256 of every safetensors file (its size, where it is above
    ``MAX_HASHED_BYTES``)."""
    return {file.name: _digest(file) for file in sorted(directory.glob("*.safetensors"))}


def check_weights(run_dir: Path) -> None:
    """ValueError unless the weights of a finished run are those that it ended with."""
    stored = read_json(run_dir / "result.json").get("sha256", {})
    for name, digest in weights_record(run_dir / "model").items():
        if stored.get(f"model/{name}", digest) != digest:
            raise ValueError(
                f"{run_dir / 'model' / name}: was damaged after the run ended (its checksum is "
                f"another one); delete {run_dir} to run it again"
            )


def checksums(run_dir: Path) -> dict[str, str]:
    """Path below ``run_dir`` -> sha256 of everything that a finished run consists of, but
    result.json, which holds them."""
    kept = [run_dir / name for name in KEPT_FILES]
    kept += [*run_dir.glob("samples/*.jsonl.gz"), *run_dir.glob("model/*.safetensors")]
    return {str(p.relative_to(run_dir)): _digest(p) for p in sorted(kept) if p.exists()}


def _digest(file: Path) -> str:
    size = file.stat().st_size
    return sha256_of(file) if size <= MAX_HASHED_BYTES else f"{size} bytes, not hashed"


def prompt_record(name: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Hashes of the prompt spec, of the chat template, and of what both make of one question."""
    spec = prompt_spec(name, tokenizer)
    probe = Problem(id="probe", question="What is 1+1?", answer="2", strategy="Add the numbers.")
    ids = [spec.prompt_ids(tokenizer, probe, guided=guided) for guided in (False, True)]

    def digest(value: Any) -> str:
        return hashlib.sha256(canonical_json(value).encode()).hexdigest()

    return {
        "spec": name,
        "spec_sha256": digest(dataclasses.asdict(spec)),
        "chat_template_sha256": digest(tokenizer.chat_template),
        "probe_ids_sha256": digest(ids),
    }


def seed_record(cell: Cell) -> dict[str, Any]:
    """Every named sub-seed of the run. Draws of a step are derived from ``train``, the step and
    the role when they are made, by the rule that is written out."""
    config = cell.config
    seeds: dict[str, Any] = {"run": config.seed}
    if config.train is not None:
        seeds["train"] = derive_seed(config.seed, "train")
        seeds["rollout"] = "derive_seed(train, 'rollout', step, role[, call])"
    for key in config.evaluation.suites:
        seeds[f"eval/{key}"] = derive_seed(config.seed, "eval", key)
    return seeds


def _evaluation_record(cell: Cell) -> dict[str, Any]:
    record = {}
    for key in cell.config.evaluation.suites:
        problems, k = evaluation_problems(key, cell.config.evaluation)
        record[key] = {
            "num_problems": len(problems),
            "samples_per_problem": k,
            "sha256": problem_set_sha256(problems),
        }
    return record
