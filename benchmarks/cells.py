"""One cell of the grid: train (or take) a model, evaluate it, leave a run directory.

A run directory holds, in the order of writing: config.json, environment.json and provenance.json
(beside them source.patch and method.py where there is one), metrics.jsonl and checkpoints/ while
it trains, model/ (an ordinary Hugging Face directory), samples/ per suite, scores.json, and last
result.json with the checksums of the others. A cell is finished exactly when result.json and what
the next cells need from it are there.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks import provenance
from benchmarks.config import SUITE_VERSION, Cell, RunConfig, build_method
from benchmarks.evaluate import evaluate
from benchmarks.sources import base_model, training_problems
from sgpo.core.compact_decoder import CompactSampler
from sgpo.core.config import to_dict
from sgpo.core.files import read_json, whole_directory, write_json
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.rollout import Rollout
from sgpo.core.runlog import environment, source_digest
from sgpo.core.sampling import Sampler, TransformersSampler
from sgpo.core.seeding import derive_seed
from sgpo.core.trainer import Diverged, Trainer
from sgpo.mini import regime

Progress = Callable[[str, int, int], None]  # stage, done, total


def is_finished(run_dir: Path) -> bool:
    """Whether the run is complete on this machine: results that came with the source tree have
    no samples and weights beside them and count as published, not as finished."""
    if not (run_dir / "result.json").exists() or not (run_dir / "samples").is_dir():
        return False
    trained = read_json(run_dir / "result.json")["num_steps"] > 0
    return not trained or (run_dir / "model").is_dir()


def run_cell(cell: Cell, study_dir: Path, progress: Progress) -> dict[str, Any]:
    """Run ``cell`` to its end, continuing where an earlier attempt stopped; its result.json.

    Raises:
        Diverged: the loss became non-finite. The run is evaluated, stored and marked first.
    """
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    config, run_dir = cell.config, study_dir / "runs" / cell.run_id
    cache = study_dir / "cache"
    (run_dir / "failed.json").unlink(missing_ok=True)
    started, clock = _start(run_dir, cell)
    tokenizer_dir = base_model(config, cache, lambda d, t: progress("pretrain", d, t))
    source = tokenizer_dir
    if cell.parent:
        provenance.check_weights(study_dir / "runs" / cell.parent.run_id)
        source = study_dir / "runs" / cell.parent.run_id / "model"
    provenance.record_start(
        run_dir,
        cell,
        started=started,
        start_weights=source,
        tokenizer=load_tokenizer(tokenizer_dir),
    )
    diverged: Diverged | None = None
    train_seconds = 0.0
    if config.method == "base" and not (run_dir / "regime.json").exists():
        progress("regime", 0, 1)
        write_json(run_dir / "regime.json", regime.measure(tokenizer_dir))
    if config.train is None:
        model = load_model(tokenizer_dir)
    elif (run_dir / "model").is_dir():
        model = load_model(run_dir / "model")
        train_seconds = read_json(run_dir / "train.json")["seconds"]
        reason = read_json(run_dir / "train.json")["diverged"]
        diverged = Diverged(**reason) if reason else None
    else:
        model = load_model(source)
        diverged, train_seconds = _train(model, tokenizer_dir, config, run_dir, progress)
        with whole_directory(run_dir / "model") as target:
            model.save_pretrained(target)
            load_tokenizer(tokenizer_dir).save_pretrained(target)
        shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
    tokenizer = load_tokenizer(tokenizer_dir)
    began = time.perf_counter()
    scores = evaluate(
        sampler=make_sampler(model, tokenizer, config),
        tokenizer=tokenizer,
        prompt_spec=PROMPT_SPECS[config.prompt],
        config=config.evaluation,
        seed=config.seed,
        samples_dir=run_dir / "samples",
        progress=lambda done, total: progress("evaluate", done, total),
    )
    write_json(run_dir / "scores.json", {"run_id": cell.run_id, **scores})
    result = _result(cell, run_dir, diverged) | {
        "started": started,
        "ended": _now(),
        "wall_seconds": round(time.perf_counter() - clock, 2),
        "train_seconds": round(train_seconds, 2),
        "eval_seconds": round(time.perf_counter() - began, 2),
        "evaluation_tokens": evaluation_tokens(scores),
        "device": str(model.device),
        "num_parameters": sum(p.numel() for p in model.parameters()),
    }
    write_json(run_dir / "result.json", result)
    if diverged and diverged.fatal:
        raise diverged
    return result


def _result(cell: Cell, run_dir: Path, diverged: Diverged | None) -> dict[str, Any]:
    """What result.json says about which run this is, how it ended and what it left."""
    return {
        "run_id": cell.run_id,
        "model": cell.config.model,
        "method": cell.config.method,
        "seed": cell.config.seed,
        "config_hash": cell.hash,
        "suite_version": SUITE_VERSION,
        "source_digest": source_digest(),
        "status": "diverged" if diverged else "finished",
        "diverged_reason": str(diverged) if diverged else None,
        "diverged_fatally": bool(diverged and diverged.fatal),
        **_training_totals(run_dir),
        "sha256": provenance.checksums(run_dir),
    }


def _start(run_dir: Path, cell: Cell) -> tuple[str, float]:
    """Write what is asked for and where it runs. Published results that lie in the way of a new
    run are removed first, so that two runs never mix."""
    if (run_dir / "result.json").exists() and not is_finished(run_dir):
        shutil.rmtree(run_dir)
    write_json(
        run_dir / "config.json",
        {
            "run_id": cell.run_id,
            "config_hash": cell.hash,
            "settings_class": type(cell.config.settings).__name__,
            "parent": cell.parent.run_id if cell.parent else None,
            **to_dict(cell.config),
        },
    )
    write_json(run_dir / "environment.json", environment())
    return _now(), time.perf_counter()


def _train(
    model: PreTrainedModel,
    tokenizer_dir: Path,
    config: RunConfig,
    run_dir: Path,
    progress: Progress,
) -> tuple[Diverged | None, float]:
    """Train ``model`` in place; why it diverged, if it did, and the seconds of training."""
    tokenizer = load_tokenizer(tokenizer_dir)
    problems = training_problems(config.data)
    provenance.record_training_data(run_dir, problems)
    rollout = Rollout(
        model=model,
        sampler=make_sampler(model, tokenizer, config),
        tokenizer=tokenizer,
        prompt_spec=PROMPT_SPECS[config.prompt],
        config=config.rollout,
        seed=derive_seed(config.seed, "train"),
        token_budget=config.train.micro_batch_tokens,
    )
    trainer = Trainer(
        model=model,
        method=build_method(config, tokenizer),
        rollout=rollout,
        problems=problems,
        config=config.train,
        seed=derive_seed(config.seed, "train"),
        run_dir=run_dir,
        progress=lambda done, total: progress("train", done, total),
    )
    diverged: Diverged | None = None
    try:
        trainer.run()
    except Diverged as error:
        diverged = error
    seconds = sum(r["seconds"] for r in _metrics(run_dir))
    reason = {"message": str(diverged), "fatal": diverged.fatal} if diverged else None
    write_json(run_dir / "train.json", {"seconds": seconds, "diverged": reason})
    return diverged, seconds


def make_sampler(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> Sampler:
    """The sampler that ``config.sampler`` names, on the weights of ``model``."""
    stop_ids = PROMPT_SPECS[config.prompt].stop_ids(tokenizer)
    kind = {"compact": CompactSampler, "transformers": TransformersSampler}[config.sampler]
    return kind(model, tokenizer, stop_ids=stop_ids)


def load_model(directory: Path) -> PreTrainedModel:
    """The float32 model of a local directory: safetensors only, no code from the directory."""
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except SafetensorError as error:
        raise ValueError(f"{directory}: damaged weights ({error}); delete the run") from error
    return model.eval()


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer of a local directory; ValueError when there is none."""
    if not (directory / "tokenizer_config.json").exists():
        raise ValueError(
            f"{directory}: holds no tokenizer (tokenizer_config.json is missing); save the "
            "model's tokenizer beside its weights"
        )
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def evaluation_tokens(scores: dict[str, Any]) -> int:
    """Tokens sampled for scores.json, over all suites."""
    suites = scores["benchmarks"].values()
    return round(sum(s["mean_length"] * s["k"] * len(s["verdicts"]) for s in suites))


def _training_totals(run_dir: Path) -> dict[str, Any]:
    metrics = _metrics(run_dir)
    last = metrics[-1] if metrics else {}
    return {
        "num_steps": len(metrics),
        "num_samples": last.get("num_samples", 0),
        "sampled_tokens": last.get("sampled_tokens", 0),
    }


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
