"""The mini study's wiring in two minutes: one model that has hardly learned to write, few steps,
few problems.

Its numbers say that everything runs, and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.config import Model, Plan, RunConfig
from benchmarks.profiles import mini
from benchmarks.profiles.variants import derived, to_budget
from sgpo.mini.specs import MODELS

MODEL = "qwen-s"
VARIANT_MODELS = (MODEL,)
PRETRAIN_STEPS = 8  # too few for any right answer, as ten times as many are
TRAIN_STEPS, RL_PROBLEMS = 6, 8
NUM_PROBLEMS, SAMPLES = 16, 2  # of each test set


def _shortened(full: RunConfig) -> RunConfig:
    train = full.train and replace(full.train, num_steps=TRAIN_STEPS, checkpoint_every=2)
    if full.init == "warmup":
        train = replace(train, budget_steps=TRAIN_STEPS // 2, problems_per_step=RL_PROBLEMS)
    limits = {"problem_limit": NUM_PROBLEMS, "sample_limit": SAMPLES}
    return replace(
        full,
        profile="quick",
        pretrain_steps=PRETRAIN_STEPS,
        train=train,
        evaluation=replace(full.evaluation, **limits),
    )


METHODS = tuple(derived(entry, _shortened) for entry in mini.METHODS)
KIN = tuple(derived(derived(entry, _shortened), to_budget) for entry in mini.KIN)


def study(num_seeds: int = 2) -> Plan:
    """Every method of the mini study on its smallest model, two worlds."""
    return Plan(
        name="quick",
        models=(Model(MODEL, MODELS[MODEL].label, MODELS[MODEL].family),),
        methods=METHODS,
        seeds=tuple(range(num_seeds)),
        benchmarks=tuple(replace(b, num_problems=NUM_PROBLEMS, k=SAMPLES) for b in mini.BENCHMARKS),
    )
