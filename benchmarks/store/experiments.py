"""The experiments past the paper by name: which runs each one reads.

The plan (``benchmarks.profiles.variants``) and the figures both take the keys from here, so
that they cannot disagree. Imports no torch.
"""

from __future__ import annotations

SEEDS = 5  # on the large model, where the study has that many

LARGE_MODEL = "qwen-l"  # only where it is asked for
LARGE_METHODS = ("base", "grpo", "luffy", "sgpo", "sft")

BUDGETS = (0.25, 0.5, 1.0, 2.0)  # times the study's steps: evaluated in every RL run
BUDGET_MODEL = "qwen-m"
BUDGET_METHODS = ("grpo", "hpt", "luffy", "sgpo")

# Baselines of the same idea
KIN = ("opsd", "srft", "dr_grpo", "dapo", "relift", "chord", "sdpo")
# From SGPO's distillation to on-policy self-distillation: samples and teacher changed in turn.
DISTIL = ("distil_rate", "distil_plain", "distil_guided", "distil_own", "distil_frozen")
DISTIL_MODELS = ("qwen-m",)
INITIAL = "sgpo_initial"  # SGPO with its first weights as teacher, tuned for itself
TUNED = "sgpo_tuned"  # SGPO whose delta was chosen from trials, too
# KL and direct SFT with one more factor changed
FACTORS = ("kl_no_first", "kl_frozen", "kl_sharp", "nll_unverified")
# Those that only experiments have
METHODS = (*KIN, INITIAL, TUNED, *DISTIL, *FACTORS, "sgpo_nll_masked")
MASK_MODELS = ("qwen-m", "llama-m")
SECOND_MODEL = "llama-m"  # where some of SGPO's variants are repeated
REPEATED = ("sgpo_nll", "sgpo_nll_masked", "sgpo_no_clip", "sgpo_delta3")
SWEEP = (
    "sgpo_delta0.5",
    "sgpo",
    "sgpo_delta1.2",
    "sgpo_delta1.5",
    "sgpo_delta2",
    "sgpo_delta3",
    "sgpo_no_clip",
)
