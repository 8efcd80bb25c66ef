"""The embedded miniature study: every value with its source.

Source tags: paper (arXiv 2606.24064), authors' script or code (LUFFY, HPT, SRFT, OPSD), tuned
(results/mini/tuning.csv), ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.config import (
    Benchmark,
    DataConfig,
    EvalConfig,
    MethodEntry,
    Model,
    Plan,
    RunConfig,
)
from benchmarks.profiles.rows import AUTHORS_ENTROPY, Rows, Values
from benchmarks.profiles.variants import derived, to_budget, with_settings
from benchmarks.store.experiments import INITIAL, TRIALS, TUNED
from sgpo.core.config import RolloutConfig
from sgpo.mini.sets import RL_PROBLEMS, TEST_SETS, WARMUP_PROBLEMS
from sgpo.mini.specs import MODELS, model_spec

TABLE_MODELS = ("qwen-s", "qwen-m", "llama-m")
VARIANT_MODELS = ("qwen-m",)  # ours (paper: Qwen2.5-7B-Instruct only)
MAX_TOKENS = 96  # ours: longest derivation of the world, with room
RL_STEPS = 12  # ours: SFT+GRPO must leave types open (`sgpo mini check`)
WARMUP_RATE, WARMUP_EPOCHS = 5e-5, 3  # ours: the warm-up must stay near the base
LEARNING_RATE = {  # tuned on mini-Qwen2-M
    "sft_full": 8e-4, "grpo": 4e-4, "hpt": 4e-4, "luffy": 4e-4, "sgpo": 2e-4,
    "opsd": 8e-4, "srft": 8e-4, "dr_grpo": 4e-4, "dapo": 4e-4, "relift": 4e-4, "chord": 4e-4,
    "sdpo": 1e-4, "sgpo_initial": 8e-4,
}  # fmt: skip
ON_MODEL = {  # tuned there (tuning-MODEL.csv); others as above
    "qwen-s": {
        "sft_full": 8e-4, "grpo": 4e-4, "hpt": 1e-4, "luffy": 2e-4, "sgpo": 1e-4,
        "sgpo_initial": 4e-4,
    },
    "llama-m": {
        "sft_full": 8e-4, "grpo": 4e-4, "hpt": 4e-4, "luffy": 4e-4, "sgpo": 2e-4,
        "sgpo_initial": 4e-4,
    },
}  # fmt: skip
# Model -> what trials of a knob and the rate chose together; nothing before they were run. Where
# that is the knob's usual value the method's own row has it, and there is no other.
CHOSEN: dict[str, dict[str, tuple[float, float]]] = {
    "sgpo_tuned": {"qwen-s": (0.5, 1e-4), "qwen-m": (1.0, 2e-4), "llama-m": (0.5, 4e-4)},
    "hpt_tuned": {"qwen-s": (1, 1e-4), "qwen-m": (2, 4e-4), "llama-m": (2, 4e-4)},
    "luffy_tuned": {"qwen-s": (0.3, 2e-4), "qwen-m": (0.5, 8e-4), "llama-m": (0.5, 4e-4)},
}
VARIANT_RATE = {  # tuned; of a model that is not named a variant keeps SGPO's
    "sgpo_no_grpo": {"qwen-m": 1e-4}, "sgpo_no_proximal": {"qwen-m": 1e-4},
    "sgpo_no_clip": {"qwen-m": 1e-4, "qwen-s": 1e-4, "llama-m": 1e-4},
    "sgpo_nll": {"qwen-m": 8e-4, "llama-m": 4e-4},
    "sgpo_nll_masked": {"qwen-m": 8e-4, "llama-m": 4e-4}, "sgpo_reverse": {"qwen-m": 4e-4},
    "sgpo_delta0.5": {"qwen-m": 4e-4, "qwen-s": 1e-4, "llama-m": 4e-4},
    "sgpo_delta1.2": {"qwen-m": 4e-4},
    "sgpo_delta2": {"qwen-m": 1e-4, "qwen-s": 1e-4, "llama-m": 1e-4},
    "sgpo_delta3": {"qwen-m": 1e-4, "llama-m": 1e-4},
}  # fmt: skip
SFT = {
    "problems_per_step": 64,  # paper
    "warmup_share": 0.1,  # paper
    "held_out_share": 0.1,  # paper: the warm-up's checkpoint is chosen on a tenth
    "nonfinite_patience": 3,  # ours
}
RL = {  # twice the budget is trained, and the weights at the budget are the run's
    "num_steps": 2 * RL_STEPS,
    "budget_steps": RL_STEPS,
    "problems_per_step": 32,  # ours (paper, inferred: 128)
    "updates_per_step": 2,  # ours (paper, inferred: more than one)
    "nonfinite_patience": 3,  # ours
}
BENCHMARKS = tuple(Benchmark(t.key, t.label, t.num_problems, t.k) for t in TEST_SETS)


def base(model: str, seed: int) -> RunConfig:
    """The base model of the world ``seed`` as it is."""
    return RunConfig(
        profile="mini",
        model=model,
        method="base",
        seed=seed,
        init="base",
        prompt="mini",
        sampler="compact",
        # ours: a gap keeps the warm-up near the base (`sgpo mini check`)
        data=DataConfig(split="none", expert_gap=0.1),
        evaluation=EvalConfig(suites=tuple(t.key for t in TEST_SETS), max_tokens=MAX_TOKENS),
    )


ROWS = Rows(base, SFT, RL, RolloutConfig(max_tokens=MAX_TOKENS, temperature=1.0, top_p=0.95))


def _rate(method: str) -> Callable[[str], float]:
    """Model -> the learning rate of ``method`` on it."""
    return lambda model: ON_MODEL.get(model, {}).get(method, LEARNING_RATE[method])


def _rl(
    key: str, label: str, kind: str, train: Values | None = None, **settings: Any
) -> MethodEntry:
    kind = kind if ":" in kind else f"baselines.{key}:{kind}"
    return ROWS.reinforced(key, label, kind, _rate(key), settings, train)


def _kin(
    key: str, label: str, kind: str, train: Values | None = None, **settings: Any
) -> MethodEntry:
    return derived(_rl(key, label, kind, train, **settings), to_budget, extra=True)


def _skips(model: str) -> dict[str, float]:
    return {"skip_above": 80.0} if model_spec(model).family == "qwen2" else {}  # authors' script


SGPO = "sgpo.method:SGPOConfig"
METHODS = (
    MethodEntry("base", "Base", base),
    ROWS.supervised("sft", "SFT (warm-up)", "warmup", WARMUP_PROBLEMS, WARMUP_EPOCHS, WARMUP_RATE),
    ROWS.supervised(
        "sft_full",
        "SFT (all data)",
        "all",
        WARMUP_PROBLEMS + RL_PROBLEMS,
        4,  # ours
        _rate("sft_full"),
    ),
    _rl("grpo", "SFT+GRPO", "GRPOConfig"),
    _rl(
        "hpt",
        "HPT",
        "HPTConfig",
        _skips,
        max_tokens=MAX_TOKENS,
        gate=2,  # script
        sft_coefficient=1.0,  # script
        **AUTHORS_ENTROPY,
    ),
    _rl(
        "luffy",
        "LUFFY",
        "LUFFYConfig",
        max_tokens=MAX_TOKENS,
        entropy_coefficient=0.01,  # paper
        **AUTHORS_ENTROPY,
    ),
    _rl("sgpo", "SGPO", SGPO),
)


def _tuned(row: str) -> list[MethodEntry]:
    """The row whose knob and rate trials chose, on models where that is not the usual value, and
    the methods that only those trials have, on no model of the study."""
    knob, chosen = TUNED[row], CHOSEN[row]
    own = next(entry for entry in METHODS if entry.key == knob.of)

    def change(full: RunConfig) -> RunConfig:
        value, rate = chosen.get(full.model, (knob.usual, full.train.learning_rate))
        return with_settings(full, {full.model: rate}, **{knob.field: value})

    def tried(key: str, value: float) -> MethodEntry:
        setting = partial(with_settings, **{knob.field: value})
        label = f"{own.label}, {knob.name}={value:g}"
        return derived(own, setting, key=key, label=label, extra=True, models=())

    entries = [tried(key, value) for key, value in knob.values.items() if key in TRIALS]
    if not chosen:
        return entries
    models = tuple(model for model, (value, _) in chosen.items() if value != knob.usual)
    label = f"{own.label}, {knob.name} tuned"
    return [derived(own, change, key=row, label=label, extra=True, models=models), *entries]


# Baselines of the same idea, and SGPO with another teacher: not in Table 1, which has the paper's
# rows.
KIN = (
    _kin(
        "opsd",
        "On-policy self-distillation",
        "OPSDConfig",
        direction="jensen_shannon",  # authors
        context="strategy",  # the bases never saw a solution in a prompt
        teacher="initial",  # authors
    ),
    _kin(
        "srft",
        "SRFT",
        "SRFTConfig",
        sft_entropy_sign=-1,  # this and below: authors' code
        entropy_over="response",
        entropy_level="sequence",
        self_signal="reward",
    ),
    _kin("dr_grpo", "Dr. GRPO", "DrGRPOConfig"),
    _kin("dapo", "DAPO", "DAPOConfig", {"samples_per_problem": 12}),  # paper: the budget
    _kin("relift", "ReLIFT", "ReLIFTConfig"),
    _kin("chord", "CHORD", "CHORDConfig"),
    _kin("sdpo", "SDPO", "SDPOConfig"),
    replace(_rl(INITIAL, "SGPO, first weights teach", SGPO, teacher="initial"), extra=True),
    *(entry for row in TUNED for entry in _tuned(row)),
)


def study(num_seeds: int = 5) -> Plan:
    """Five methods and their starting points on three models; a seed is a world."""
    return Plan(
        name="mini",
        models=tuple(Model(key, MODELS[key].label, MODELS[key].family) for key in TABLE_MODELS),
        methods=METHODS,
        seeds=tuple(range(num_seeds)),
        benchmarks=BENCHMARKS,
    )
