"""The paper's own experiment: Table 1 on three published models, one cell a torchrun launch.

Nothing here was run; ``sgpo slurm`` makes the scripts.
"""

from __future__ import annotations

from benchmarks.config import MethodEntry
from benchmarks.profiles.published import Recipe

RECIPE = Recipe(
    profile="paper",
    # paper: these models, 4 x 8 GPUs; one node for 1.5B: ours; Llama: see checkpoints.py
    nodes={"qwen2.5-1.5b": 1, "qwen2.5-7b": 4, "llama-3.1-8b": 4},
    gpus_per_node=8,  # paper
)
VARIANT_MODELS = ("qwen2.5-7b",)  # paper
KIN: tuple[MethodEntry, ...] = ()  # the baselines of the same idea are compared in the miniature
study = RECIPE.plan
