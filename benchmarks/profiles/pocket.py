"""Table 1 on two small families in cells of a few minutes on one GPU of 80 GB.

Qwen2.5-0.5B-Instruct and SmolLM2-360M-Instruct on GSM8K (``sgpo data gsm8k``), short completions.

What differs from the paper beside the sizes: problems and traces are GSM8K's; the 240 of the 1,200
warm-up problems that have a strategy are learned under the prompt that shows it, so that the model
knows the form of an answer under both prompts (``--set settings.show_strategies=false`` does as the
paper does); every problem is answered once at evaluation, with at most 1,024 tokens. Guided and
unguided pass rates are measured on a development split after every run.

The strategies of ``results/pocket`` were written by a large language model from problem and worked
solution; they stand in for those of a strong model's answers, neither scored nor chosen.

Nothing here is tuned: a declared grid for whoever does is 1e-6, 2e-6, 5e-6, 1e-5, the same for
every RL method, on the development split. It was not run.
"""

from __future__ import annotations

from benchmarks.config import MethodEntry, Plan
from benchmarks.profiles.paper import Recipe, table_study
from benchmarks.profiles.variants import with_variants

PROFILE = "pocket"
MODELS = ("qwen2.5-0.5b", "smollm2-360m")  # ours
VARIANT_MODELS = ("qwen2.5-0.5b",)  # ours
NODES = dict.fromkeys(MODELS, 1)
GPUS_PER_NODE = 1
DATA_VERB = "gsm8k"  # of `sgpo data`: what makes the training set

RECIPE = Recipe(
    profile=PROFILE,
    data="data/pocket",  # ours: where `sgpo data gsm8k` puts it
    own_benchmark=("gsm8k", "GSM8K", 500),  # ours: of the official test split
    problems=1600,  # ours
    warmup=1200,  # ours: 400 are left for RL
    show_strategies=True,  # ours
    regime=True,  # ours
    rollout_tokens=320,  # ours
    evaluation_tokens=1024,  # ours
    evaluation_samples=1,  # ours
    sft_epochs=2,  # ours
    sft_batch=32,  # ours
    rl_steps=60,  # ours: nearly five passes over the RL problems
    problems_per_step=32,  # ours
    # Ours, untuned: authors' script of HPT. The paper's 1e-6, at 7B and 440 steps, would hardly
    # move 0.5B in 60.
    rl_rate=5e-6,
    hpt_rate=5e-6,
    micro_batch_tokens=24_576,  # ours: 0.5B weights fit 80 GB with all activations
    checkpoint_every=10,  # ours
    sampler="compact",  # ours: needs nothing beside torch
    device="auto",
)
KIN: tuple[MethodEntry, ...] = ()


def study(num_seeds: int = 1) -> Plan:
    """Five methods and their starting points on two models, one seed."""
    return table_study(RECIPE, MODELS, num_seeds)


def extended(plain: Plan) -> Plan:
    """``plain`` with SGPO's variants on the first model."""
    return with_variants(plain, VARIANT_MODELS)
