"""The mini study's wiring in a few minutes: one tiny model, few steps, few problems.

Its numbers say that everything runs, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.config import Model, Plan, RunConfig
from benchmarks.profiles import mini
from benchmarks.profiles.variants import derived, with_variants
from sgpo.mini.specs import MODELS

MODEL = "qwen-s"
VARIANT_MODELS = (MODEL,)
PRETRAIN_STEPS = 120
TRAIN_STEPS = 6
LIMITS = {"problem_limit": 40}


def _shortened(full: RunConfig) -> RunConfig:
    budget = TRAIN_STEPS // 2 if full.init == "warmup" else None
    train = full.train and replace(
        full.train, num_steps=TRAIN_STEPS, budget_steps=budget, checkpoint_every=2
    )
    return replace(
        full,
        profile="quick",
        pretrain_steps=PRETRAIN_STEPS,
        train=train,
        evaluation=replace(full.evaluation, **LIMITS),
    )


def study(num_seeds: int = 2) -> Plan:
    """Every method of the mini study on its smallest model, two worlds."""
    return Plan(
        name="quick",
        models=(Model(MODEL, MODELS[MODEL].label, MODELS[MODEL].family),),
        methods=tuple(derived(entry, _shortened) for entry in mini.METHODS),
        seeds=tuple(range(num_seeds)),
        benchmarks=tuple(replace(b, num_problems=40) for b in mini.BENCHMARKS),
    )


KIN = tuple(derived(entry, _shortened) for entry in mini.KIN)


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants; the experiments past the paper need the mini study."""
    return with_variants(plain, VARIANT_MODELS)
