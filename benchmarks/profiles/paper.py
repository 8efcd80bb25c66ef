"""The paper's own experiment: Table 1 on three published models, one cell a torchrun launch.

Source tags: paper (arXiv 2606.24064), inferred (follows from numbers in it), authors' script
(LUFFY, HPT), ours (a choice of this suite). Nothing here was run; ``sgpo slurm`` makes the scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from benchmarks.config import (
    Benchmark,
    DataConfig,
    EvalConfig,
    MethodEntry,
    Model,
    Plan,
    RunConfig,
    settings_of,
)
from benchmarks.data.checkpoints import CHECKPOINTS, Checkpoint
from benchmarks.data.problems import data_source
from benchmarks.data.sources import OWN_SAMPLES, file_source
from benchmarks.data.suites import SUITES
from benchmarks.profiles.mini import AUTHORS_ENTROPY
from benchmarks.profiles.variants import with_variants
from sgpo.core.config import RolloutConfig, TrainConfig, VLLMSettings

PROFILE = "paper"
MODELS = ("qwen2.5-1.5b", "qwen2.5-7b", "llama-3.1-8b")  # paper; Llama: see checkpoints.py
VARIANT_MODELS = ("qwen2.5-7b",)  # paper
NODES = {"qwen2.5-1.5b": 1, "qwen2.5-7b": 4, "llama-3.1-8b": 4}  # paper: 4 x 8 GPUs; 1.5B: ours
GPUS_PER_NODE = 8  # paper
UNPREPARED = "unprepared"  # in place of its hash before that


@dataclass(frozen=True)
class Recipe:
    """What differs between this profile, ``single_gpu`` and ``pocket``; the defaults are the
    paper's.

    ``tokenizer``: measures traces, the same whatever models are run, because the training set is
    part of a run's address. ``trace_tokens``: longest prompt with expert trace.
    ``rollout_tokens``, ``evaluation_tokens``: longest completion. Steps are those of ``problems``
    training problems, ``warmup`` of them (None: a third) for the warm-up. ``gpu_share``: of a GPU's
    memory, for vLLM. ``own_benchmark``: key, label and number of problems of a benchmark that lies
    beside the training set. ``evaluation_samples``: at most so many a problem. ``show_strategies``:
    in the warm-up. ``regime``: the set has a development split to measure it on.
    """

    profile: str = PROFILE
    data: str = "data/openr1-16k"  # ours: where `sgpo data prepare` puts the training set
    problems: int = 8491  # inferred: the rows of SII-Enigma/OpenR1-Math-R1-8.5k
    tokenizer: str = CHECKPOINTS["qwen2.5-1.5b"].name  # ours
    trace_tokens: int = 16_384  # paper
    rollout_tokens: int = 16_384  # paper
    evaluation_tokens: int = 32_768  # paper; capped where the context is no longer than that
    prompt_tokens: int = 2048  # ours: room for problem and strategy
    sft_epochs: int = 10  # paper
    sft_batch: int = 64  # paper
    sft_rate: float = 1e-5  # paper
    sft_warmup: float = 0.1  # paper
    rl_steps: int = 440  # inferred: 10 epochs (paper) of 5.7K problems
    problems_per_step: int = 128  # inferred; also the authors' scripts of LUFFY and HPT
    updates_per_step: int = 2  # authors' script (LUFFY, HPT); not stated for SGPO
    rl_rate: float = 1e-6  # paper; LUFFY: authors' script
    hpt_rate: float = 5e-6  # authors' script
    hpt_skip: float = 80.0  # authors' script (Qwen): an update of a larger norm is skipped
    grad_clip: float = 1.0  # authors' scripts (LUFFY, HPT); ours for the others
    held_out: float = 0.1  # paper: chooses the checkpoint of the SFT stage
    sft_decay: str = "constant"  # ours: the paper names the rise only
    nonfinite_patience: int = 3  # ours
    micro_batch_tokens: int = 18_432  # ours: one longest sequence
    checkpoint_every: int = 20  # ours: steps between resume states
    gpu_share: float = 0.5  # ours
    sequences: int = 256  # ours: decoded at once
    stall_seconds: float = 3600.0  # ours
    sampler: Literal["compact", "transformers", "vllm"] = "vllm"  # paper
    device: Literal["cpu", "cuda", "auto"] = "cuda"
    warmup: int | None = None
    show_strategies: bool = False
    own_benchmark: tuple[str, str, int] | None = None
    evaluation_samples: int | None = None
    regime: bool = False

    @property
    def warmup_problems(self) -> int:
        return self.warmup or self.problems // 3  # paper: "about one third"


RECIPE = Recipe()
TEMPERATURE, TOP_P = 1.0, 0.95  # paper: sampling while training
# HPT's settings follow the model. authors' script: gate 0 for Qwen and 2 for Llama, coefficient 1.0
# and 0.3 for the 1.5B model (ours: for the smaller ones as well)
HPT_GATE = {"qwen2": 0, "llama": 2}
HPT_COEFFICIENT = {"qwen2.5-0.5b": 0.3, "qwen2.5-1.5b": 0.3, "smollm2-360m": 0.3}


def source(recipe: Recipe) -> str:
    """``data.source`` of the recipe's training set; before it is prepared a placeholder that no
    run accepts, so that the study can be planned."""
    if (Path(recipe.data) / "report.json").is_file():
        return data_source(Path(recipe.data))
    return f"{recipe.data}@{UNPREPARED}"


def evaluation(recipe: Recipe, tokens: int) -> EvalConfig:
    """paper: sets and decoding."""
    suites, files = tuple(SUITES), ()
    if recipe.own_benchmark:
        path = Path(recipe.data) / f"{recipe.own_benchmark[0]}.jsonl"
        suites = (recipe.own_benchmark[0], *suites)
        files = (file_source(path) if path.is_file() else f"{path}@{UNPREPARED}",)
    samples = recipe.evaluation_samples
    return EvalConfig(suites=suites, max_tokens=tokens, sample_limit=samples, files=files)


def evaluation_tokens(checkpoint: Checkpoint, recipe: Recipe) -> int:
    """Longest completion at evaluation: 32K tokens and a prompt do not fit a context of 32K."""
    return min(recipe.evaluation_tokens, checkpoint.shape.context - recipe.prompt_tokens)


def base(recipe: Recipe, data: str, model: str, seed: int) -> RunConfig:
    """The published checkpoint as it is."""
    checkpoint = CHECKPOINTS[model]
    tokens = evaluation_tokens(checkpoint, recipe)
    return RunConfig(
        profile=recipe.profile,
        model=model,
        method="base",
        seed=seed,
        init="base",
        prompt=checkpoint.prompt,
        sampler=recipe.sampler,
        data=DataConfig(source=data, split="none"),
        evaluation=evaluation(recipe, tokens),
        rollout=rollout(recipe) if recipe.regime else None,
        device=recipe.device,
        precision="bfloat16",  # ours
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        vllm=VLLMSettings(
            max_model_len=recipe.prompt_tokens + max(tokens, recipe.rollout_tokens),
            max_num_seqs=recipe.sequences,
            gpu_memory_utilization=recipe.gpu_share,
            stall_seconds=recipe.stall_seconds,
        ),
    )


def sft_train(recipe: Recipe, problems: int) -> TrainConfig:
    """SFT on ``problems`` expert traces, a share of which is held out."""
    trained = problems - round(recipe.held_out * problems)
    return TrainConfig(
        num_steps=recipe.sft_epochs * (trained // recipe.sft_batch),
        problems_per_step=recipe.sft_batch,
        learning_rate=recipe.sft_rate,
        warmup_share=recipe.sft_warmup,
        decay=recipe.sft_decay,
        held_out_share=recipe.held_out,
        nonfinite_patience=recipe.nonfinite_patience,
        grad_clip=recipe.grad_clip,
        micro_batch_tokens=recipe.micro_batch_tokens,
        checkpoint_every=recipe.checkpoint_every,
        activation_checkpointing=True,
    )


def rl_train(recipe: Recipe, rate: float, skip_above: float | None) -> TrainConfig:
    """The same problems and steps for every RL method."""
    return TrainConfig(
        num_steps=recipe.rl_steps,
        problems_per_step=recipe.problems_per_step,
        updates_per_step=recipe.updates_per_step,
        learning_rate=rate,
        grad_clip=recipe.grad_clip,
        skip_above=skip_above,
        nonfinite_patience=recipe.nonfinite_patience,
        micro_batch_tokens=recipe.micro_batch_tokens,
        checkpoint_every=recipe.checkpoint_every,
        activation_checkpointing=True,
    )


def supervised(
    recipe: Recipe, data: str, method: str, split: str, problems: int, model: str, seed: int
) -> RunConfig:
    """SFT on ``problems`` traces of a part of the training pool, from the base model."""
    return replace(
        base(recipe, data, model, seed),
        method=method,
        data=DataConfig(source=data, split=split),
        settings=settings_of(
            "baselines.sft:SFTConfig",
            show_strategies=recipe.show_strategies and split == "warmup",
        ),
        train=sft_train(recipe, problems),
        rollout=rollout(recipe),
    )


def reinforced(recipe: Recipe, data: str, method: str, model: str, seed: int) -> RunConfig:
    """An RL method, from the warm-up checkpoint."""
    hpt = method == "hpt"
    skips = hpt and CHECKPOINTS[model].family == "qwen2"
    rate = recipe.hpt_rate if hpt else recipe.rl_rate
    return replace(
        base(recipe, data, model, seed),
        method=method,
        init="warmup",
        data=DataConfig(source=data, split="rl"),
        settings=own_settings(recipe, method, model),
        train=rl_train(recipe, rate, recipe.hpt_skip if skips else None),
        rollout=rollout(recipe),
    )


def own_settings(recipe: Recipe, method: str, model: str) -> Any:
    """The own settings of an RL method on a model."""
    if method == "hpt":
        return settings_of(
            "baselines.hpt:HPTConfig",
            max_tokens=recipe.rollout_tokens,
            gate=HPT_GATE[CHECKPOINTS[model].family],
            sft_coefficient=HPT_COEFFICIENT.get(model, 1.0),
            **AUTHORS_ENTROPY,
        )
    if method == "luffy":
        tokens = recipe.rollout_tokens
        return settings_of("baselines.luffy:LUFFYConfig", max_tokens=tokens, **AUTHORS_ENTROPY)
    return settings_of(
        {"grpo": "baselines.grpo:GRPOConfig", "sgpo": "sgpo.method:SGPOConfig"}[method]
    )


def rollout(recipe: Recipe) -> RolloutConfig:
    """How every method samples while it trains."""
    return RolloutConfig(recipe.rollout_tokens, temperature=TEMPERATURE, top_p=TOP_P)


def methods(recipe: Recipe, data: str) -> tuple[MethodEntry, ...]:
    """The rows of Table 1; every RL method starts from the same warm-up checkpoint."""

    def entry(key: str, label: str, config: Callable[..., RunConfig], *more: Any) -> MethodEntry:
        return MethodEntry(key, label, partial(config, recipe, data, *more))

    return (
        entry("base", "Base", base),
        entry("sft", "SFT (warm-up)", supervised, "sft", "warmup", recipe.warmup_problems),
        entry("sft_full", "SFT (all data)", supervised, "sft_full", "all", recipe.problems),
        entry("grpo", "SFT+GRPO", reinforced, "grpo"),
        entry("hpt", "HPT", reinforced, "hpt"),
        entry("luffy", "LUFFY", reinforced, "luffy"),
        entry("sgpo", "SGPO", reinforced, "sgpo"),
    )


def table_study(recipe: Recipe, models: tuple[str, ...], num_seeds: int) -> Plan:
    """Table 1 on ``models``."""
    benchmarks = [Benchmark(s.key, s.label, s.num_problems, s.k) for s in SUITES.values()]
    if recipe.own_benchmark:
        benchmarks.insert(0, Benchmark(*recipe.own_benchmark, OWN_SAMPLES))
    return Plan(
        name=recipe.profile,
        models=tuple(Model(k, CHECKPOINTS[k].label, CHECKPOINTS[k].family) for k in models),
        methods=methods(recipe, source(recipe)),
        seeds=tuple(range(num_seeds)),
        benchmarks=tuple(benchmarks),
    )


KIN: tuple[MethodEntry, ...] = ()  # the baselines of the same idea are compared in the miniature


def study(num_seeds: int = 1) -> Plan:
    """Five methods and their starting points on three models. One seed: ours; the paper names
    none, and the claims are judged from three on."""
    return table_study(RECIPE, MODELS, num_seeds)


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants (Tables 2, 3, 6, 7 and the sweep of delta) on one model."""
    return with_variants(plain, VARIANT_MODELS)
