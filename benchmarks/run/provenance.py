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

from benchmarks.config import Cell, digest_of_file, user_method_file, weights_record
from benchmarks.data.sources import problem_set_sha256
from benchmarks.run.given import Given
from sgpo.core.config import canonical_json
from sgpo.core.files import read_json, write_bytes, write_json, write_text
from sgpo.core.prompts import prompt_spec
from sgpo.core.runlog import revision, source_digest
from sgpo.core.seeding import derive_seed
from sgpo.core.types import Problem

FILE = "provenance.json"
KEPT_FILES = (
    "config.json", "environment.json", FILE, "source.patch", "method.py", "metrics.jsonl",
    "train.json", "regime.json", "ledger.json", "scores.json",
)  # fmt: skip


def record(run_dir: Path, cell: Cell, given: Given, started: str) -> None:
    """Write provenance.json of a run that starts or continues at ``started`` (ISO 8601). Earlier
    attempts stay listed, and a trained run keeps the record of what it was trained on."""
    path = run_dir / FILE
    before = read_json(path) if path.exists() else {}
    source = revision()
    attempt = {"started": started, "git_commit": source.commit, "source_digest": source_digest()}
    if source.patch:
        write_text(run_dir / "source.patch", source.patch)
        attempt["source_patch_sha256"] = hashlib.sha256(source.patch.encode()).hexdigest()
    if method_file := user_method_file(cell.config.settings):
        write_bytes(run_dir / "method.py", method_file.read_bytes())
    now = {
        "attempts": [*before.get("attempts", []), attempt],
        "start_weights": weights_record(given.weights),
        "prompt": prompt_record(cell.config.prompt, given.tokenizer),
        "evaluation_data": {
            key: {
                "num_problems": len(problems),
                "samples_per_problem": k,
                "sha256": problem_set_sha256(problems),
            }
            for key, (problems, k) in given.suites.items()
        },
        "seeds": seed_record(cell),
    }
    if given.problems and not (run_dir / "model").is_dir():
        now["training_data"] = training_record(given.problems)
    write_json(path, before | now)


def training_record(problems: Sequence[Problem]) -> dict[str, Any]:
    """Number and hash of the training problems, strategies and traces included."""
    content = [dataclasses.asdict(p) for p in problems]
    return {"num_problems": len(problems), "sha256": _digest_of(content)}


def checksums(run_dir: Path) -> dict[str, str]:
    """Path below ``run_dir`` -> sha256 of everything that a finished run consists of, but
    result.json, which holds them."""
    kept = [run_dir / name for name in KEPT_FILES]
    kept += [*run_dir.glob("samples/*.jsonl.gz"), *run_dir.glob("model/*.safetensors")]
    return {str(p.relative_to(run_dir)): digest_of_file(p) for p in sorted(kept) if p.exists()}


def prompt_record(name: str, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Hashes of the prompt spec, of the chat template, and of what both make of one question."""
    spec = prompt_spec(name, tokenizer)
    probe = Problem(id="probe", question="What is 1+1?", answer="2", strategy="Add the numbers.")
    ids = [spec.prompt_ids(tokenizer, probe, guided=guided) for guided in (False, True)]
    return {
        "spec": name,
        "spec_sha256": _digest_of(dataclasses.asdict(spec)),
        "chat_template_sha256": _digest_of(tokenizer.chat_template),
        "probe_ids_sha256": _digest_of(ids),
    }


def seed_record(cell: Cell) -> dict[str, Any]:
    """Every named sub-seed of the run. Draws of a step are derived from ``train``, the step and
    the role when they are made, by the rule that is written out."""
    config = cell.config
    seeds: dict[str, Any] = {"run": config.seed}
    if config.train is not None:
        seeds["train"] = derive_seed(config.seed, "train")
        seeds["rollout"] = "derive_seed(train, 'rollout', step, role[, call])"
    return seeds | {
        f"eval/{key}": derive_seed(config.seed, "eval", key) for key in config.evaluation.suites
    }


def _digest_of(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
