"""Table 1 on one GPU of 80 GB: the two smallest Qwen2.5-Instruct models, traces and completions of
at most 8K tokens, a quarter of the paper's batch and fewer steps.

The recipe is the paper profile's but for what ``RECIPE`` names. It was not run and nothing in it
was tuned: with 100 small steps at the paper's learning rate expect small differences.
"""

from __future__ import annotations

from benchmarks.config import MethodEntry, Plan
from benchmarks.profiles.paper import Recipe, table_study
from benchmarks.profiles.variants import with_variants

PROFILE = "single_gpu"
MODELS = ("qwen2.5-0.5b", "qwen2.5-1.5b")  # paper: 1.5B; 0.5B: ours
VARIANT_MODELS = ("qwen2.5-1.5b",)  # ours (paper: 7B)
NODES = dict.fromkeys(MODELS, 1)
GPUS_PER_NODE = 1

RECIPE = Recipe(
    profile=PROFILE,
    data="data/openr1-8k",  # ours
    trace_tokens=8192,  # ours (paper: 16K)
    rollout_tokens=8192,  # ours (paper: 16K)
    sft_epochs=3,  # ours (paper: 10)
    rl_steps=100,  # ours (paper, inferred: 440)
    problems_per_step=32,  # ours (paper, inferred: 128)
    micro_batch_tokens=16_384,  # ours: fits 80 GB with 1.5B weights
)
KIN: tuple[MethodEntry, ...] = ()


def study(num_seeds: int = 1) -> Plan:
    """Five methods and their starting points on two models, one seed."""
    return table_study(RECIPE, MODELS, num_seeds)


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants on the larger model."""
    return with_variants(plain, VARIANT_MODELS)
