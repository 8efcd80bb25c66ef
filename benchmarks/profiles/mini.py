"""The embedded miniature study: every value with its source.

Source tags: paper (arXiv 2606.24064), authors' script (LUFFY, HPT), tuned (results/mini/tuning.csv,
development set), ours (a choice of this suite).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from baselines.chord import CHORDConfig
from baselines.dapo import DAPOConfig
from baselines.dr_grpo import DrGRPOConfig
from baselines.grpo import GRPOConfig
from baselines.hpt import HPTConfig
from baselines.luffy import LUFFYConfig
from baselines.opsd import OPSDConfig
from baselines.relift import ReLIFTConfig
from baselines.sdpo import SDPOConfig
from baselines.sft import SFTConfig
from baselines.srft import SRFTConfig
from benchmarks.config import (
    Benchmark,
    DataConfig,
    EvalConfig,
    MethodEntry,
    Model,
    Plan,
    RunConfig,
)
from benchmarks.profiles.experiments import with_experiments
from benchmarks.profiles.variants import with_variants
from sgpo.core.config import RolloutConfig, TrainConfig
from sgpo.method import SGPOConfig
from sgpo.mini.models import MODELS
from sgpo.mini.suites import BENCHMARKS

PROFILE = "mini"
# Which values the study has. 1: those of the runs in results/mini. 2: those that the authors' code
# has and edition 1 had not (``corrected``). Raise it together with a new run of the whole study.
EDITION = 1
HELD_OUT = 0.1 if EDITION > 1 else 0.0  # paper: the warm-up's checkpoint is chosen on a tenth
TABLE_MODELS = ("qwen-s", "qwen-m", "llama-m")
VARIANT_MODELS = ("qwen-m",)  # ours (paper: Qwen2.5-7B-Instruct only)
MAX_TOKENS = 96  # ours: longest derivation of the world, with room
EXPERT_GAP = 0.1  # ours: condition 6 of `sgpo mini check`
RL_STEPS = 28  # ours: condition 5, SFT+GRPO must not saturate (judged by training reward)
WARMUP_RATE, WARMUP_EPOCHS = 5e-5, 3  # ours: condition 6, the warm-up must stay near the base
LEARNING_RATE = {  # tuned
    "sft_full": 8e-4,
    "grpo": 2e-4,
    "hpt": 4e-4,
    "luffy": 2e-4,
    "sgpo": 2e-4,
    "opsd": 1e-4,
    "srft": 2e-4,
}
NEWER_RATE = 2e-4  # ours: SFT+GRPO's, until `sgpo tune` has chosen for them too

EVALUATION = EvalConfig(suites=tuple(b.key for b in BENCHMARKS), max_tokens=MAX_TOKENS)
ROLLOUT = RolloutConfig(max_tokens=MAX_TOKENS, temperature=1.0, top_p=0.95)  # paper


def sft_train(num_problems: int, num_epochs: int, learning_rate: float) -> TrainConfig:
    """SFT recipe: ``num_epochs`` passes over the problems in batches of 64."""
    trained = num_problems - round(HELD_OUT * num_problems)
    return TrainConfig(
        num_steps=num_epochs * (trained // 64),
        problems_per_step=64,  # paper
        learning_rate=learning_rate,
        warmup_share=0.1,  # paper
        grad_clip=1.0,  # ours
        held_out_share=HELD_OUT,
    )


def rl_train(learning_rate: float, grad_clip: float) -> TrainConfig:
    """RL recipe, the same number of problems and steps for every method."""
    return TrainConfig(
        num_steps=RL_STEPS,
        problems_per_step=16,  # ours (paper, inferred: 128)
        learning_rate=learning_rate,
        grad_clip=grad_clip,
    )


# What edition 2 changes in the methods' own settings, to what their authors' code does.
AUTHORS: dict[str, dict[str, Any]] = {
    "hpt": {"entropy_over": "response", "scaling": "authors"},
    "luffy": {"entropy_over": "response", "scaling": "authors"},
    "srft": {
        "sft_entropy_sign": -1,
        "entropy_over": "response",
        "entropy_level": "sequence",
        "self_signal": "reward",
    },
    # Its context stays the strategy: the bases never saw a solution in a prompt.
    "opsd": {"direction": "jensen_shannon", "teacher": "initial"},
}


def corrected(entry: MethodEntry) -> MethodEntry:
    """``entry`` of edition 1 as edition 2 has it."""

    def config(model: str, seed: int) -> RunConfig:
        plain = entry.config(model, seed)
        if plain.train is None:
            return plain
        train = replace(plain.train, nonfinite_patience=3)  # ours
        if entry.key == "hpt":  # authors' script: clipped as everyone's; Qwen skips above 80
            skip = 80.0 if MODELS[model].family == "qwen2" else None
            train = replace(train, grad_clip=1.0, skip_above=skip)
        settings = replace(plain.settings, **AUTHORS.get(entry.key, {}))
        return replace(plain, train=train, settings=settings)

    return replace(entry, config=config)


def base(model: str, seed: int) -> RunConfig:
    """The pretrained model as it is."""
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
        settings=SFTConfig(),
        train=sft_train(num_problems, num_epochs, rate),
        rollout=ROLLOUT,
    )


def reinforced(method: str, settings: Any, grad_clip: float, model: str, seed: int) -> RunConfig:
    """An RL method, from the warm-up checkpoint."""
    return replace(
        base(model, seed),
        method=method,
        init="warmup",
        data=DataConfig(split="rl", expert_gap=EXPERT_GAP),
        settings=settings,
        train=rl_train(LEARNING_RATE.get(method, NEWER_RATE), grad_clip),
        rollout=ROLLOUT,
    )


def _sft(key: str, label: str, *recipe: Any) -> MethodEntry:
    return MethodEntry(key, label, partial(supervised, key, *recipe))


def _rl(
    key: str, label: str, settings: Any, *, grad_clip: float = 1.0, extra: bool = False
) -> MethodEntry:
    return MethodEntry(key, label, partial(reinforced, key, settings, grad_clip), extra=extra)


METHODS = (
    MethodEntry("base", "Base", base),
    _sft("sft", "SFT (warm-up)", "warmup", 512, WARMUP_EPOCHS),
    _sft("sft_full", "SFT (all data)", "all", 1536, 2),  # 2 epochs: ours
    _rl("grpo", "SFT+GRPO", GRPOConfig()),
    _rl(
        "hpt",
        "HPT",
        HPTConfig(max_tokens=MAX_TOKENS, gate=2, sft_coefficient=1.0),  # tuned
        grad_clip=80.0,  # authors' script (Qwen)
    ),
    _rl("luffy", "LUFFY", LUFFYConfig(max_tokens=MAX_TOKENS, entropy_coefficient=0.01)),  # tuned
    _rl("sgpo", "SGPO", SGPOConfig()),
)

# Baselines of the same idea: in a table of their own, Table 1 has the paper's rows.
KIN = (
    _rl(
        "opsd",
        "On-policy self-distillation",
        OPSDConfig(direction="reverse", context="strategy"),  # tuned
        extra=True,
    ),
    _rl("srft", "SRFT", SRFTConfig(sft_entropy_sign=1), extra=True),  # tuned
)


def _within_budget(model: str, seed: int) -> RunConfig:
    plain = reinforced("dapo", DAPOConfig(), 1.0, model, seed)
    return replace(plain, train=replace(plain.train, samples_per_problem=12))  # paper: the budget


# In the comparison from edition 2 on; until then by name (``sgpo train``, ``--methods``).
NEWER = (
    _rl("dr_grpo", "Dr. GRPO", DrGRPOConfig(), extra=True),
    MethodEntry("dapo", "DAPO", _within_budget, extra=True),
    _rl("relift", "ReLIFT", ReLIFTConfig(), extra=True),
    _rl("chord", "CHORD", CHORDConfig(), extra=True),
    _rl("sdpo", "SDPO", SDPOConfig(), extra=True),
)

if EDITION > 1:
    METHODS, KIN = (tuple(map(corrected, entries)) for entries in (METHODS, KIN + NEWER))
    NEWER = ()


def study(num_seeds: int = 5) -> Plan:
    """Five methods and their starting points on three models."""
    return Plan(
        name=PROFILE,
        models=tuple(Model(key, MODELS[key].label, MODELS[key].family) for key in TABLE_MODELS),
        methods=METHODS,
        seeds=tuple(range(num_seeds)),
        benchmarks=tuple(Benchmark(b.key, b.label, b.num_problems, b.k) for b in BENCHMARKS),
    )


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants and the experiments past the paper."""
    return with_experiments(with_variants(plain, VARIANT_MODELS))
