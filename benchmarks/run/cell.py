"""One cell of the grid: gather what it needs, begin its directory, train, evaluate, finish."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers import logging as transformers_logging

from benchmarks.config import Cell, RunConfig, build_method
from benchmarks.data.checkpoints import Shape
from benchmarks.plan.cost import GIB, PROMPT_ROOM, kept_tokens, work_bytes
from benchmarks.report.measures import guidance_text
from benchmarks.run.evaluate import Suites, evaluate
from benchmarks.run.given import Given, Progress, gather
from benchmarks.run.guidance import measure_guidance
from benchmarks.run.rundir import RunDir
from benchmarks.run.tracking import Tracker
from sgpo.core import sampling, sharding
from sgpo.core.config import TrainConfig
from sgpo.core.distributed import Ranks
from sgpo.core.models import cast, load_model
from sgpo.core.prompts import prompt_spec
from sgpo.core.rollout import Rollout
from sgpo.core.sampling import Sampler
from sgpo.core.sampling.ranks import ReplicaSampler, SharedSampler
from sgpo.core.seeding import derive_seed
from sgpo.core.trainer import Diverged, Trainer
from sgpo.mini.window import type_rates, window
from sgpo.mini.world import draw_world

BUDGETS = (0.25, 0.5, 2.0)  # beside 1: where a run's training is evaluated, in ``budget_steps``
MEASURED = ("base", "sft", "grpo")  # methods after which the world is measured type by type
LONGEST_LOOKED_AT = 32  # tokenizing all traces of a large set takes a minute
GLANCE = {"per_type": 1, "unguided_samples": 1, "guided_samples": 1}

Stop = Callable[[], bool]


def run_cell(
    cell: Cell,
    study_dir: Path,
    progress: Progress,
    ranks: Ranks | None = None,
    stop: Stop | None = None,
    log: str | None = None,
    beside: int = 0,
) -> dict[str, Any]:
    """Run ``cell`` to its end, continuing where an earlier attempt stopped; its result.json.

    All ``ranks`` call this together; rank 0 alone writes.

    Args:
        progress: told the stage, how much of it is done, of how much, and perhaps a note.
        stop: asked after every training step and benchmark.
        log: where to send the metrics besides the run's directory (``tracking.MODULES``).
        beside: how many other cells may run at the same time, on the same GPU if there is one.

    Raises:
        Stopped: ``stop`` was true and something is left to do.
        Diverged: the loss became non-finite. The run is evaluated, stored and marked first.
    """
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    ranks = ranks or Ranks()
    run = RunDir(study_dir, cell, ranks)
    with ranks.one_after_first():
        run.open()
        given = gather(cell, study_dir, progress)
        run.begin(given)

    trained = run.is_trained()
    model = load_model(run.model if trained else given.weights)
    num_parameters = sum(p.numel() for p in model.parameters())
    tracker = Tracker(log if ranks.first else None, run.path)
    if given.config.train is None or trained:
        sampler = evaluation_sampler(model, given)
    else:
        sampler, recipe = training_sampler(model, given, ranks, beside)
        train(model, sampler, recipe, run, given, progress, stop, tracker)
    measure_regime(sampler, run, given, progress)
    shared = SharedSampler(sampler, ranks)
    shared.lead(lambda: measure_on_development(shared, run, given, progress))

    began = time.perf_counter()
    scores = shared.lead(lambda: evaluate_cell(shared, run, given, progress, stop))
    try:
        return run.finish(scores, given, num_parameters, time.perf_counter() - began)
    finally:  # of a run that diverged too
        tracker.close(scores)


def measure_regime(sampler: Sampler, run: RunDir, given: Given, progress: Progress) -> None:
    """What a mini world leaves to learn, type by type, at the stages that ``MEASURED`` names; a
    glance of it where pretraining was shortened."""
    config = given.config
    if config.method not in MEASURED or config.data.source != "mini":
        return

    def measured() -> dict[str, Any]:
        how = {} if config.pretrain_steps is None else GLANCE
        rates = type_rates(sampler, given.tokenizer, draw_world(config.seed), **how)
        return {"types": [asdict(rate) for rate in rates], "window": window(rates)}

    progress("regime", 0, 1)
    run.measure("regime.json", measured)


def measure_on_development(sampler: Sampler, run: RunDir, given: Given, progress: Progress) -> None:
    """Whether guidance helps a real model, where its training set has a development split with
    strategies; printed as soon as it is known."""
    config = given.config
    problems = [p for p in given.development if p.strategy][: config.evaluation.problem_limit]
    if not problems or config.rollout is None:
        return

    def measured() -> dict[str, Any]:
        found = measure_guidance(
            sampler, given.tokenizer, given.prompt_spec, config.rollout, problems, config.seed
        )
        print(f"{run.cell.run_id} regime: {guidance_text(found)}", flush=True)
        return found

    progress("regime", 0, 1)
    run.measure("regime.json", measured)


def train(
    model: PreTrainedModel,
    sampler: Sampler,
    recipe: TrainConfig,
    run: RunDir,
    given: Given,
    progress: Progress,
    stop: Stop | None,
    tracker: Tracker,
) -> None:
    """Train ``model`` and store its last weights; of a run that diverges, the last before that.
    Weights of other budgets are evaluated when they are reached."""
    config, seed = given.config, derive_seed(given.config.seed, "train")
    budgets, shared = budget_of_step(recipe), SharedSampler(sampler, run.ranks)
    method = build_method(config, given.tokenizer, given.problems)
    last = min(recipe.budget_steps or math.inf, recipe.num_steps)

    def after_step(step: int) -> None:
        if step == last and getattr(method, "ledger", None):
            run.measure("ledger.json", method.ledger.record)
        if step in budgets:
            asked = at_budget(given.suites, budgets[step])
            shared.lead(lambda: evaluate_cell(shared, run, given, progress, None, asked))

    def report(done: int, total: int) -> None:
        tracker.follow()
        progress("train", done, total)

    rollout = Rollout(
        model=model,
        sampler=sampler,
        tokenizer=given.tokenizer,
        prompt_spec=given.prompt_spec,
        config=config.rollout,
        seed=seed,
        token_budget=recipe.micro_batch_tokens,
        grader=tracker.grader,
    )
    trainer = Trainer(
        model=model,
        method=method,
        rollout=rollout,
        problems=given.problems,
        config=recipe,
        seed=seed,
        run_dir=run.path,
        progress=report,
        ranks=run.ranks,
        stop=stop,
        after_step=after_step,
    )
    diverged = None
    try:
        trainer.run()
    except Diverged as error:
        diverged = error
        sampler.sync(model)  # the update before the one that failed may have moved the weights
    run.store(model, given.tokenizer, diverged, trainer.diverged_past_budget)


def budget_of_step(train: TrainConfig) -> dict[int, float]:
    """Step -> budget, of those of ``BUDGETS`` that the training reaches; none without
    ``budget_steps``. Budget 1 is the step whose weights the run ends with."""
    if train.budget_steps is None:
        return {}
    whole = min(train.budget_steps, train.num_steps)
    steps = {round(whole * budget): budget for budget in BUDGETS}
    return {step: budget for step, budget in steps.items() if 0 < step <= train.num_steps}


def at_budget(suites: Suites, budget: float) -> Suites:
    """``suites`` under the names that their scores at another budget have, with half the samples: a
    curve needs fewer than a table."""
    return {f"{key}@{budget:g}": (found, max(1, k // 2)) for key, (found, k) in suites.items()}


def evaluate_cell(
    sampler: Sampler,
    run: RunDir,
    given: Given,
    progress: Progress,
    stop: Stop | None,
    suites: Suites | None = None,
) -> dict[str, Any]:
    """The scores of the weights that ``sampler`` holds; without ``suites`` those of the run's own,
    and what other budgets have left."""
    if suites is None:
        budgets = budget_of_step(given.config.train).values() if given.config.train else ()
        suites = dict(given.suites)
        for budget in budgets:
            past = at_budget(given.suites, budget)
            suites |= {k: v for k, v in past.items() if (run.samples / f"{k}.jsonl.gz").exists()}
    return evaluate(
        sampler=sampler,
        tokenizer=given.tokenizer,
        prompt_spec=given.prompt_spec,
        config=given.config.evaluation,
        suites=suites,
        seed=given.config.seed,
        samples_dir=run.samples,
        stop=stop,
        progress=lambda done, total, note: progress("evaluate", done, total, note),
    )


def training_sampler(
    model: PreTrainedModel, given: Given, ranks: Ranks, beside: int = 0
) -> tuple[Sampler, TrainConfig]:
    """Prepare ``model`` (float32, on the CPU) in place for training; the sampler of its weights,
    and the recipe with the micro-batches that fit.

    One process in float32 trains the model as it is and samples from the same weights. Otherwise
    the model is spread over the ranks and the sampler has whole weights of its own: an engine's,
    or a replica's in the run's precision.
    """
    config, device, tokenizer = given.config, given.device, given.tokenizer
    sharded = sharding.needs_sharding(ranks, config.precision)
    if not sharded:
        sampler = make_sampler(model.to(device), tokenizer, config)
    elif config.sampler == "vllm":
        sampler = make_sampler(model, tokenizer, config)
    else:
        replica = cast(copy.deepcopy(model), device, sharding.DTYPES[config.precision])
        sampler = ReplicaSampler(replica, make_sampler(replica, tokenizer, config))
    train, recomputed = config.train, False
    if train.activation_checkpointing:
        kept = micro_batch_kept(model, given, ranks, beside)
        if recomputed := kept is None:
            sharding.recompute_activations(model)
        else:
            train = replace(train, micro_batch_tokens=kept)
    if train.compile_layers:
        compiles = sharded and not recomputed and device.type == "cuda"
        if compiles:
            sharding.compile_layers(model)
        elif ranks.first:
            print("layers are not compiled: only on a GPU, in bfloat16, with activations kept")
    if sharded:
        sharding.shard(model, device, config.precision)
    return sampler, train


def longest_trace(given: Given) -> int:
    """Tokens of the longest prompt with its expert's trace, of the traces longest in characters."""
    traced = sorted((p for p in given.problems if p.expert), key=lambda p: len(p.expert))
    spec, tokenizer = given.prompt_spec, given.tokenizer
    lengths = (
        len(spec.prompt_ids(tokenizer, p)) + len(spec.target_ids(tokenizer, p.expert))
        for p in traced[-LONGEST_LOOKED_AT:]
    )
    return max(lengths, default=0)


def micro_batch_kept(
    model: PreTrainedModel, given: Given, ranks: Ranks, beside: int = 0
) -> int | None:
    """Tokens of the micro-batches for which this GPU can keep all activations, since recomputing
    costs a third more time; None where it cannot. Says which."""
    if given.device.type != "cuda":
        return None
    config, shape = given.config, Shape.from_config(model.config.to_dict(), 0, 0.0)
    free, total = torch.cuda.mem_get_info(given.device)
    free = min(free, total // (1 + beside) - torch.cuda.memory_allocated(given.device))
    longest = max(config.rollout.max_tokens + PROMPT_ROOM, longest_trace(given))
    tokens = config.train.micro_batch_tokens
    kept = kept_tokens(shape, tokens, longest, work_bytes(config), ranks.size, free)
    if ranks.first:
        said = f"kept, in micro-batches of {kept} tokens" if kept else "recomputed"
        print(f"activations are {said}: {free / GIB:.0f} GiB are free", flush=True)
    return kept


def evaluation_sampler(model: PreTrainedModel, given: Given) -> Sampler:
    """The sampler of finished weights, in the precision that the run samples in."""
    cast(model, given.device, sharding.DTYPES[given.config.precision])
    return make_sampler(model, given.tokenizer, given.config)


def make_sampler(model: PreTrainedModel, tokenizer: Any, config: RunConfig) -> Sampler:
    """The sampler that ``config.sampler`` names, on the weights of ``model``. An engine whose dtype
    is left open works in the run's precision, so that it samples what the trainer scores."""
    stop_ids = prompt_spec(config.prompt, tokenizer).stop_ids(tokenizer)
    vllm = config.vllm
    if vllm.dtype == "auto" and vllm.server is None:
        vllm = replace(vllm, dtype=config.precision)
    return sampling.make_sampler(config.sampler, model, tokenizer, stop_ids=stop_ids, vllm=vllm)
