"""The embedded miniature study: every value with its source.

Source tags: paper (arXiv 2606.24064), authors' script or code (LUFFY, HPT, SRFT, OPSD), tuned
(results/mini/tuning.csv), ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

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
from benchmarks.profiles.experiments import with_experiments
from benchmarks.profiles.variants import to_budget, with_variants
from benchmarks.store import experiments
from sgpo.core.config import RolloutConfig, TrainConfig
from sgpo.mini.sets import RL_PROBLEMS, TEST_SETS, WARMUP_PROBLEMS
from sgpo.mini.specs import MODELS, model_spec

PROFILE = "mini"
TABLE_MODELS = ("qwen-s", "qwen-m", "llama-m")
VARIANT_MODELS = ("qwen-m",)  # ours (paper: Qwen2.5-7B-Instruct only)
MAX_TOKENS = 96  # ours: longest derivation of the world, with room
EXPERT_GAP = 0.1  # ours: the warm-up must stay near the base (`sgpo mini check`)
HELD_OUT = 0.1  # paper: the warm-up's checkpoint is chosen on a tenth
WARMUP_RATE, WARMUP_EPOCHS = 5e-5, 3  # ours: the warm-up must stay near the base
RL_STEPS = 12  # ours: SFT+GRPO must leave types open (`sgpo mini check`)
PROBLEMS_PER_STEP, UPDATES_PER_STEP = 32, 2  # ours (paper, inferred: 128 and more than one)
LEARNING_RATE = {  # tuned
    "sft_full": 8e-4, "grpo": 4e-4, "hpt": 4e-4, "luffy": 4e-4, "sgpo": 2e-4,
    "opsd": 8e-4, "srft": 8e-4, "dr_grpo": 4e-4, "dapo": 4e-4, "relift": 4e-4, "chord": 4e-4,
    "sdpo": 1e-4, "sgpo_initial": 8e-4,
}  # fmt: skip

EVALUATION = EvalConfig(suites=tuple(t.key for t in TEST_SETS), max_tokens=MAX_TOKENS)
BENCHMARKS = tuple(Benchmark(t.key, t.label, t.num_problems, t.k) for t in TEST_SETS)
ROLLOUT = RolloutConfig(max_tokens=MAX_TOKENS, temperature=1.0, top_p=0.95)  # paper


def sft_train(num_problems: int, num_epochs: int, learning_rate: float) -> TrainConfig:
    """SFT recipe: ``num_epochs`` passes over the problems in batches of 64."""
    trained = num_problems - round(HELD_OUT * num_problems)
    return TrainConfig(
        num_steps=num_epochs * (trained // 64),
        problems_per_step=64,  # paper
        learning_rate=learning_rate,
        warmup_share=0.1,  # paper
        nonfinite_patience=3,  # ours
        held_out_share=HELD_OUT,
    )


def rl_train(method: str, model: str) -> TrainConfig:
    """RL recipe, the same number of problems and steps for every method. Twice the budget is
    trained, and the weights at the budget are the run's."""
    skips = method == "hpt" and model_spec(model).family == "qwen2"
    return TrainConfig(
        num_steps=2 * RL_STEPS,
        budget_steps=RL_STEPS,
        problems_per_step=PROBLEMS_PER_STEP,
        updates_per_step=UPDATES_PER_STEP,
        learning_rate=LEARNING_RATE[method],
        nonfinite_patience=3,  # ours
        skip_above=80.0 if skips else None,  # authors' script (Qwen)
        samples_per_problem=12 if method == "dapo" else None,  # paper: the budget
    )


def base(model: str, seed: int) -> RunConfig:
    """The base model of the world ``seed`` as it is."""
    return RunConfig(
        profile=PROFILE,
        model=model,
        method="base",
        seed=seed,
        init="base",
        prompt="mini",
        sampler="compact",
        data=DataConfig(split="none", expert_gap=EXPERT_GAP),
        evaluation=EVALUATION,
    )


def supervised(
    method: str, split: str, num_problems: int, num_epochs: int, model: str, seed: int
) -> RunConfig:
    """SFT on a part of the training pool, from the base model."""
    rate = WARMUP_RATE if method == "sft" else LEARNING_RATE[method]
    return replace(
        base(model, seed),
        method=method,
        data=DataConfig(split=split, expert_gap=EXPERT_GAP),
        settings=settings_of("baselines.sft:SFTConfig"),
        train=sft_train(num_problems, num_epochs, rate),
        rollout=ROLLOUT,
    )


def reinforced(
    method: str, kind: str, values: Mapping[str, Any], model: str, seed: int
) -> RunConfig:
    """An RL method, from the warm-up checkpoint; its settings are ``kind`` with ``values``."""
    return replace(
        base(model, seed),
        method=method,
        init="warmup",
        data=DataConfig(split="rl", expert_gap=EXPERT_GAP),
        settings=settings_of(kind, **values),
        train=rl_train(method, model),
        rollout=ROLLOUT,
    )


def _sft(key: str, label: str, *recipe: Any) -> MethodEntry:
    return MethodEntry(key, label, partial(supervised, key, *recipe))


def _rl(key: str, label: str, kind: str, **values: Any) -> MethodEntry:
    return MethodEntry(key, label, partial(reinforced, key, kind, values))


def _kin(key: str, label: str, kind: str, **values: Any) -> MethodEntry:
    def config(model: str, seed: int) -> RunConfig:
        return to_budget(reinforced(key, kind, values, model, seed))

    return MethodEntry(key, label, config, extra=True)


AUTHORS_ENTROPY = {"entropy_over": "response", "scaling": "authors"}  # authors' code
METHODS = (
    MethodEntry("base", "Base", base),
    _sft("sft", "SFT (warm-up)", "warmup", WARMUP_PROBLEMS, WARMUP_EPOCHS),
    _sft("sft_full", "SFT (all data)", "all", WARMUP_PROBLEMS + RL_PROBLEMS, 4),  # epochs: ours
    _rl("grpo", "SFT+GRPO", "baselines.grpo:GRPOConfig"),
    _rl(
        "hpt",
        "HPT",
        "baselines.hpt:HPTConfig",
        max_tokens=MAX_TOKENS,
        gate=2,  # script
        sft_coefficient=1.0,  # script
        **AUTHORS_ENTROPY,
    ),
    _rl(
        "luffy",
        "LUFFY",
        "baselines.luffy:LUFFYConfig",
        max_tokens=MAX_TOKENS,
        entropy_coefficient=0.01,  # paper
        **AUTHORS_ENTROPY,
    ),
    _rl("sgpo", "SGPO", "sgpo.method:SGPOConfig"),
)

# Baselines of the same idea, and SGPO with another teacher: not in Table 1, which has the paper's
# rows.
KIN = (
    _kin(
        "opsd",
        "On-policy self-distillation",
        "baselines.opsd:OPSDConfig",
        direction="jensen_shannon",  # authors
        context="strategy",  # the bases never saw a solution in a prompt
        teacher="initial",  # authors
    ),
    _kin(
        "srft",
        "SRFT",
        "baselines.srft:SRFTConfig",
        sft_entropy_sign=-1,  # this and below: authors' code
        entropy_over="response",
        entropy_level="sequence",
        self_signal="reward",
    ),
    _kin("dr_grpo", "Dr. GRPO", "baselines.dr_grpo:DrGRPOConfig"),
    _kin("dapo", "DAPO", "baselines.dapo:DAPOConfig"),
    _kin("relift", "ReLIFT", "baselines.relift:ReLIFTConfig"),
    _kin("chord", "CHORD", "baselines.chord:CHORDConfig"),
    _kin("sdpo", "SDPO", "baselines.sdpo:SDPOConfig"),
    replace(
        _rl(
            experiments.INITIAL,
            "SGPO, first weights teach",
            "sgpo.method:SGPOConfig",
            teacher="initial",
        ),
        extra=True,
    ),
)


def study(num_seeds: int = 5) -> Plan:
    """Five methods and their starting points on three models; a seed is a world."""
    return Plan(
        name=PROFILE,
        models=tuple(Model(key, MODELS[key].label, MODELS[key].family) for key in TABLE_MODELS),
        methods=METHODS,
        seeds=tuple(range(num_seeds)),
        benchmarks=BENCHMARKS,
    )


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants and the experiments past the paper."""
    return with_experiments(with_variants(plain, VARIANT_MODELS))
