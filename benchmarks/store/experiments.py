"""The experiments past the paper by name: which runs each one reads.

The plan (``benchmarks.profiles.experiments``) and the figures both take the keys from here, so
that they cannot disagree. Imports no torch.
"""

from __future__ import annotations

SEEDS = 5  # of an experiment's runs, where the study has that many

# Teacher gap: expert_gap of warm-up and RL run; the study's own gap has the study's own runs.
GAPS = (0.0, 0.1, 0.3)
STUDY_GAP = 0.1
MAP_METHODS = ("grpo", "luffy", "sgpo")
MAP_BASELINES = ("grpo", "luffy")
SIZE_MODELS = ("qwen-s", "qwen-m", "qwen-l")

BUDGETS = (0.25, 0.5, 1.0, 2.0)  # times the study's steps: evaluated in every RL run
BUDGET_MODEL = "qwen-m"
BUDGET_METHODS = ("grpo", "hpt", "luffy", "sgpo")

DEGRADED_MODEL = "qwen-m"
DEGRADED = ("wrong_choice", "wrong_type", "open", "leak")

# Baselines of the same idea
KIN = ("opsd", "srft", "dr_grpo", "dapo", "relift", "chord", "sdpo")
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


def gap_method(method: str, gap: float) -> str:
    """Key of ``method`` at a teacher gap: the study's own key at the study's gap."""
    return method if gap == STUDY_GAP else f"{method}_gap{gap:g}"


def degraded_method(quality: str) -> str:
    """Key of SGPO with strategies of a quality in ``DEGRADED``."""
    return f"sgpo_strategy_{quality}"


def extra_models() -> tuple[str, ...]:
    """Models that only experiments have."""
    return ("qwen-l",)


def methods() -> tuple[str, ...]:
    """Keys of all methods that only experiments have."""
    gaps = (gap_method(m, g) for g in GAPS if g != STUDY_GAP for m in ("sft", *MAP_METHODS))
    return (*KIN, "sgpo_nll_masked", *gaps, *map(degraded_method, DEGRADED))
