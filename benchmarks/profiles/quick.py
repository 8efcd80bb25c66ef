"""The mini study's wiring in a few minutes: one tiny model, few steps, few problems.

Its numbers say that everything runs, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.config import Benchmark, Model, Plan, RunConfig
from benchmarks.profiles import mini
from benchmarks.profiles.variants import derived, with_variants
from sgpo.mini.models import MODELS
from sgpo.mini.suites import BENCHMARKS

MODEL = "qwen-s"
VARIANT_MODELS = (MODEL,)
PRETRAIN_STEPS = 120
TRAIN_STEPS = 6
LIMITS = {"problem_limit": 40, "sample_limit": 4}


def _shortened(full: RunConfig) -> RunConfig:
    train = full.train and replace(full.train, num_steps=TRAIN_STEPS, checkpoint_every=2)
    return replace(
        full,
        profile="quick",
        pretrain_steps=PRETRAIN_STEPS,
        train=train,
        evaluation=replace(full.evaluation, **LIMITS),
    )


def study(num_seeds: int = 2) -> Plan:
    """Every method of the mini study on its smallest model, two seeds."""
    return Plan(
        name="quick",
        models=(Model(MODEL, MODELS[MODEL].label, MODELS[MODEL].family),),
        methods=tuple(derived(entry, _shortened) for entry in mini.METHODS),
        seeds=tuple(range(num_seeds)),
        benchmarks=tuple(
            Benchmark(b.key, b.label, min(b.num_problems, 40), min(b.k, 4)) for b in BENCHMARKS
        ),
    )


KIN = tuple(derived(entry, _shortened) for entry in mini.KIN)
NEWER = tuple(derived(entry, _shortened) for entry in mini.NEWER)


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants; the experiments past the paper need the mini study."""
    return with_variants(plain, VARIANT_MODELS)
