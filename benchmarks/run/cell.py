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
from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.config import SUITE_VERSION, Cell, RunConfig, build_method
from benchmarks.data.sources import base_model, training_problems
from benchmarks.run import provenance
from benchmarks.run.evaluate import evaluate
from benchmarks.run.policies import (
    evaluation_sampler,
    training_sampler,
)
from benchmarks.run.prompt_room import check_prompts
from sgpo.core import sharding
from sgpo.core.config import to_dict
from sgpo.core.distributed import Ranks, describe_device, select_device
from sgpo.core.files import read_json, whole_directory, write_json
from sgpo.core.models import load_model, load_tokenizer
from sgpo.core.prompts import prompt_spec
from sgpo.core.rollout import Rollout
from sgpo.core.runlog import environment, source_digest
from sgpo.core.sampling import Sampler
from sgpo.core.sampling.ranks import SharedSampler
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


def run_cell(
    cell: Cell, study_dir: Path, progress: Progress, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Run ``cell`` to its end, continuing where an earlier attempt stopped; its result.json.

    All ``ranks`` call this together; rank 0 alone writes.

    Raises:
        Diverged: the loss became non-finite. The run is evaluated, stored and marked first.
    """
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    ranks = ranks or Ranks()
    config, run_dir = cell.config, study_dir / "runs" / cell.run_id
    device = select_device(config.device)
    started, clock = _now(), time.perf_counter()
    with ranks.one_after_first():
        if ranks.first:
            _start(run_dir, cell, device, ranks)
        base = base_model(config, study_dir / "cache", lambda d, t: progress("pretrain", d, t))
        source = base
        if cell.parent:
            provenance.check_weights(study_dir / "runs" / cell.parent.run_id)
            source = study_dir / "runs" / cell.parent.run_id / "model"
        tokenizer = load_tokenizer(base)
        if ranks.first:
            if config.checkpoint is not None:
                check_prompts(config, tokenizer, base)
            provenance.record_start(
                run_dir, cell, started=started, start_weights=source, tokenizer=tokenizer
            )
            _measure_regime(config, base, run_dir, progress)
    trained = config.train is not None and not ranks.from_first((run_dir / "model").is_dir())
    if trained:
        sampler, num_parameters = _train(source, tokenizer, config, run_dir, progress, ranks)
    else:
        model = load_model(base if config.train is None else run_dir / "model")
        num_parameters = sum(p.numel() for p in model.parameters())
        sampler = evaluation_sampler(model, tokenizer, config, device)
    began = time.perf_counter()
    shared = SharedSampler(sampler, ranks)
    if not ranks.first:
        shared.serve()
        return ranks.from_first(None)
    scores = evaluate(
        sampler=shared,
        tokenizer=tokenizer,
        prompt_spec=prompt_spec(config.prompt, tokenizer),
        config=config.evaluation,
        seed=config.seed,
        samples_dir=run_dir / "samples",
        progress=lambda done, total: progress("evaluate", done, total),
    )
    shared.close()
    write_json(run_dir / "scores.json", {"run_id": cell.run_id, **scores})
    train = (
        read_json(run_dir / "train.json") if config.train else {"seconds": 0.0, "diverged": None}
    )
    diverged = Diverged(**train["diverged"]) if train["diverged"] else None
    result = _result(cell, run_dir, diverged) | {
        "started": started,
        "ended": _now(),
        "wall_seconds": round(time.perf_counter() - clock, 2),
        "train_seconds": round(train["seconds"], 2),
        "eval_seconds": round(time.perf_counter() - began, 2),
        "evaluation_tokens": evaluation_tokens(scores),
        "device": str(device),
        "num_parameters": num_parameters,
    }
    write_json(run_dir / "result.json", result)
    ranks.from_first(result)
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


def _start(run_dir: Path, cell: Cell, device: torch.device, ranks: Ranks) -> None:
    """Write what is asked for and where it runs. Published results that lie in the way of a new
    run are removed first, so that two runs never mix."""
    (run_dir / "failed.json").unlink(missing_ok=True)
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
    used = describe_device(device)
    place = environment(used.get("device_name")) | used | {"ranks": ranks.size}
    write_json(run_dir / "environment.json", place)


def _measure_regime(config: RunConfig, base: Path, run_dir: Path, progress: Progress) -> None:
    """What the mini world promises of its base models, measured once for each."""
    mini = config.method == "base" and config.data.source == "mini"
    if mini and not (run_dir / "regime.json").exists():
        progress("regime", 0, 1)
        write_json(
            run_dir / "regime.json", regime.measure(base, device=select_device(config.device))
        )


def _train(
    source: Path,
    tokenizer: Any,
    config: RunConfig,
    run_dir: Path,
    progress: Progress,
    ranks: Ranks,
) -> tuple[Sampler, int]:
    """Train from the weights of ``source`` and store the last ones; a sampler of those, and their
    number. train.json says how long it took, and why it diverged if it did."""
    model = load_model(source)
    num_parameters = sum(p.numel() for p in model.parameters())
    problems = training_problems(config.data)
    if ranks.first:
        provenance.record_training_data(run_dir, problems)
    device = select_device(config.device)
    sampler = training_sampler(model, tokenizer, config, device, ranks)
    rollout = Rollout(
        model=model,
        sampler=sampler,
        tokenizer=tokenizer,
        prompt_spec=prompt_spec(config.prompt, tokenizer),
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
        ranks=ranks,
    )
    reason = None
    try:
        trainer.run()
    except Diverged as error:
        reason = {"message": str(error), "fatal": error.fatal}
        sampler.sync(model)  # the update before the one that failed may have moved the weights
    if ranks.first:
        seconds = sum(r["seconds"] for r in _metrics(run_dir))
        write_json(run_dir / "train.json", {"seconds": seconds, "diverged": reason})
    _store(model, tokenizer, run_dir, ranks)
    return sampler, num_parameters


def _store(model: PreTrainedModel, tokenizer: Any, run_dir: Path, ranks: Ranks) -> None:
    """Write ``model/`` and drop the resume states; all ranks gather, rank 0 writes."""
    if not ranks.first:
        sharding.export(model, None)
        return
    with whole_directory(run_dir / "model") as target:
        sharding.export(model, target)
        tokenizer.save_pretrained(target)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)


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
