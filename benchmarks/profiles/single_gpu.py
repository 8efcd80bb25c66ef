"""Table 1 on one GPU of 80 GB: the two smallest Qwen2.5-Instruct models, traces and completions of
at most 8K tokens, a quarter of the paper's batch and fewer steps.

The recipe is the paper profile's but for what ``RECIPE`` names. It was not run and nothing in it
was tuned: with 100 small steps at the paper's learning rate expect small differences.
"""

from __future__ import annotations

from benchmarks.config import MethodEntry
from benchmarks.profiles.published import Recipe

RECIPE = Recipe(
    profile="single_gpu",
    nodes={"qwen2.5-0.5b": 1, "qwen2.5-1.5b": 1},  # paper: 1.5B; 0.5B: ours
    data="data/openr1-8k",  # ours
    trace_tokens=8192,  # ours (paper: 16K)
    rollout_tokens=8192,  # ours (paper: 16K)
    sft_epochs=3,  # ours (paper: 10)
    rl_steps=100,  # ours (paper, inferred: 440)
    problems_per_step=32,  # ours (paper, inferred: 128)
    micro_batch_tokens=16_384,  # ours: fits 80 GB with 1.5B weights
)
VARIANT_MODELS = ("qwen2.5-1.5b",)  # ours (paper: 7B)
KIN: tuple[MethodEntry, ...] = ()
study = RECIPE.plan
