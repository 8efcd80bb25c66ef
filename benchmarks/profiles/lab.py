"""The mini study with larger models made from scratch (1M to 50M weights), for one GPU.

Same worlds (the first five), data, methods and benchmarks. Every cell is meant to end well within
ten minutes on one data-centre GPU, and one that is cut off goes on where it stopped: pretraining is
kept as a whole, training from its last resume state, evaluation by benchmark.

Nothing here was tuned: learning rates lie on the line (in logarithms of weights and rate) through
the mini study's tuned rate at 0.16M weights and the paper's 1e-6 at 7B. What a world teaches is
the same at all sizes, so a scaling with size is not built in.
"""

from __future__ import annotations

import math
from dataclasses import replace

from benchmarks.config import Model, Plan, RunConfig
from benchmarks.profiles import mini
from benchmarks.profiles.variants import derived, to_budget, with_variants
from sgpo.mini.specs import LAB_MODELS

PROFILE = "lab"
VARIANT_MODELS = ("lab-qwen-4m",)  # ours
RL_STEPS = 60  # ours: six passes over the RL problems
MICRO_BATCH_TOKENS = 65_536  # ours: fits the largest model
CHECKPOINT_EVERY = 10  # ours: steps between resume states
MINI_WEIGHTS = 160_000  # of qwen-m, which the mini study was tuned on
PAPER_RATE, PAPER_WEIGHTS = 1e-6, 7e9  # paper


def scaled_rate(rate: float, num_weights: float) -> float:
    """The learning rate for a model of ``num_weights``, from ``rate`` at the mini study's model:
    a power of the number of weights, fixed by SGPO's two known points (mini, paper)."""
    tuned = mini.LEARNING_RATE["sgpo"]
    exponent = math.log(PAPER_RATE / tuned) / math.log(PAPER_WEIGHTS / MINI_WEIGHTS)
    return float(f"{rate * (num_weights / MINI_WEIGHTS) ** exponent:.2g}")


def num_weights(model: str) -> int:
    """About how many weights a lab model has; embeddings are too few to count."""
    spec = LAB_MODELS[model]
    return 12 * spec.num_layers * spec.hidden_size**2


def _enlarged(small: RunConfig) -> RunConfig:
    train = small.train
    if train is not None:
        train = replace(
            train,
            learning_rate=scaled_rate(train.learning_rate, num_weights(small.model)),
            micro_batch_tokens=MICRO_BATCH_TOKENS,
            checkpoint_every=CHECKPOINT_EVERY,
        )
        if small.init == "warmup":
            train = replace(train, num_steps=2 * RL_STEPS, budget_steps=RL_STEPS)
    return replace(small, profile=PROFILE, device="cuda", train=train)


KIN = tuple(derived(derived(entry, _enlarged), to_budget) for entry in mini.KIN)


def study(num_seeds: int = 5) -> Plan:
    """The mini study's methods on four Qwen2 and two Llama models."""
    return Plan(
        name=PROFILE,
        models=tuple(Model(m.key, m.label, m.family) for m in LAB_MODELS.values()),
        methods=tuple(derived(entry, _enlarged) for entry in mini.METHODS),
        seeds=tuple(range(num_seeds)),
        benchmarks=mini.BENCHMARKS,
    )


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants on one model."""
    return with_variants(plain, VARIANT_MODELS)
