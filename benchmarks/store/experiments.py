"""The experiments past the paper by name: which runs each one reads.

The plan (``benchmarks.profiles.experiments``) and the figures both take the keys from here, so
that they cannot disagree. Imports no torch.
"""

from __future__ import annotations

SEEDS = 3  # of an experiment's runs, where the study has that many

# Teacher gap: expert_gap of warm-up and RL run; the study's own gap has the study's own runs.
GAPS = (0.0, 0.1, 0.3)
STUDY_GAP = 0.1
MAP_METHODS = ("grpo", "luffy", "sgpo")
MAP_BASELINES = ("grpo", "luffy")
# Base models from easy to hard to explore; qwen-m is the study's own.
DIFFICULTY_MODELS = ("qwen-m-p30", "qwen-m", "qwen-m-p10", "qwen-m-p03", "qwen-m-p01")
SIZE_MODELS = ("qwen-s", "qwen-m", "qwen-l")
STYLE_MODEL = "qwen-m-style"

# Training budgets in steps beside the study's own.
BUDGET_MODEL = "qwen-m"
BUDGETS = (7, 14, 56)
BUDGET_METHODS = ("grpo", "hpt", "luffy", "sgpo")

DEGRADED_MODEL = "qwen-m"
DEGRADED = ("wrong_choice", "wrong_type", "open", "leak")

KIN = ("opsd", "srft")  # baselines of the same idea
NEWER = ("dr_grpo", "dapo", "relift", "chord", "sdpo")  # those that results/mini has not yet
MASK_MODELS = ("qwen-m", "llama-m")
SECOND_MODEL = "llama-m"  # where some of SGPO's variants are repeated
REPEATED = ("sgpo_nll", "sgpo_nll_masked", "sgpo_no_clip", "sgpo_delta3")
SWEEP = ("sgpo_delta0.1", "sgpo_delta0.3", "sgpo", "sgpo_delta3", "sgpo_no_clip")


def gap_method(method: str, gap: float) -> str:
    """Key of ``method`` at a teacher gap: the study's own key at the study's gap."""
    return method if gap == STUDY_GAP else f"{method}_gap{gap:g}"


def budget_method(method: str, steps: int) -> str:
    """Key of ``method`` trained for another number of steps."""
    return f"{method}_steps{steps}"


def degraded_method(quality: str) -> str:
    """Key of SGPO with strategies of a quality in ``DEGRADED``."""
    return f"sgpo_strategy_{quality}"


def extra_models() -> tuple[str, ...]:
    """Models that only experiments have, each once."""
    models = (*DIFFICULTY_MODELS, STYLE_MODEL, *SIZE_MODELS)
    return tuple(m for m in dict.fromkeys(models) if m not in ("qwen-s", "qwen-m"))


def methods() -> tuple[str, ...]:
    """Keys of all methods that only experiments have."""
    gaps = (gap_method(m, g) for g in GAPS if g != STUDY_GAP for m in ("sft", *MAP_METHODS))
    budgets = (budget_method(m, steps) for steps in BUDGETS for m in BUDGET_METHODS)
    return (*KIN, "sgpo_nll_masked", *gaps, *budgets, *map(degraded_method, DEGRADED))
