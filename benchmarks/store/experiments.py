"""The experiments past the paper by name: which runs each one reads.

The plan (``benchmarks.profiles.variants``) and the figures both take the keys from here, so
that they cannot disagree. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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
# KL and direct SFT with one more factor changed
FACTORS = ("kl_no_first", "kl_frozen", "kl_sharp", "nll_unverified")
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


@dataclass(frozen=True)
class Knob:
    """A setting that its authors varied, chosen from trials together with the learning rate.

    name: what it is called. field: of the method's settings. values: the method whose trials have
    it -> its value, first the method itself with that of Table 1.
    """

    name: str
    field: str
    values: Mapping[str, float]

    @property
    def of(self) -> str:
        """The method whose setting it is."""
        return next(iter(self.values))

    @property
    def usual(self) -> float:
        return self.values[self.of]


# Row -> what was chosen for it: four values each, so that every row has as many trials.
TUNED = {
    "sgpo_tuned": Knob(
        "delta",
        "kl_threshold",
        {"sgpo": 1.0, "sgpo_delta0.5": 0.5, "sgpo_delta2": 2.0, "sgpo_no_clip": math.inf},
    ),
    # authors: 0, 1/8 and 2/8 of the samples, of which there are 12 here
    "hpt_tuned": Knob("gate", "gate", {"hpt": 2, "hpt_gate0": 0, "hpt_gate1": 1, "hpt_gate3": 3}),
    # authors' code: 0.1, 0.3 and 0.5; 0.03 is ours, so that the default is no end of the grid
    "luffy_tuned": Knob(
        "shaping",
        "shaping",
        {"luffy": 0.1, "luffy_shaping0.03": 0.03, "luffy_shaping0.3": 0.3, "luffy_shaping0.5": 0.5},
    ),
}
# Those that only trials have
TRIALS = tuple(m for k in TUNED.values() for m in k.values if m not in (k.of, *SWEEP))
# Those that only experiments have
METHODS = (*KIN, INITIAL, *TUNED, *TRIALS, *DISTIL, *FACTORS, "sgpo_nll_masked")
