"""Table 1 on published checkpoints: what ``paper``, ``single_gpu`` and ``pocket`` are made with.

Source tags: paper (arXiv 2606.24064), inferred (follows from numbers in it), authors' script
(LUFFY, HPT), ours (a choice of this suite).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.config import (
    Benchmark,
    DataConfig,
    EvalConfig,
    MethodEntry,
    Model,
    Plan,
    RunConfig,
)
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.problems import data_source
from benchmarks.data.sources import OWN_SAMPLES, file_source
from benchmarks.data.suites import SUITES
from benchmarks.profiles.rows import AUTHORS_ENTROPY, Rows
from sgpo.core.config import RolloutConfig, VLLMSettings

UNPREPARED = "unprepared"  # in place of a hash before there is one
PROMPT_TOKENS = 2048  # ours: room for problem and strategy
# Ours. It measures traces, the same whatever models are run: the training set is part of a run's
# address.
TOKENIZER = CHECKPOINTS["qwen2.5-1.5b"].name
# HPT's settings follow the model. authors' script: gate 0 for Qwen and 2 for Llama, coefficient 1.0
# and 0.3 for the 1.5B model (ours: for the smaller ones as well)
HPT_GATE = {"qwen2": 0, "llama": 2}
HPT_COEFFICIENT = {"qwen2.5-0.5b": 0.3, "qwen2.5-1.5b": 0.3, "smollm2-360m": 0.3}


@dataclass(frozen=True)
class Recipe:
    """What differs between these profiles; the defaults are the paper's.

    ``nodes``: model -> nodes of ``gpus_per_node``. ``data``: where ``sgpo data`` with the verb
    ``data_verb`` puts the training set. ``problems``: of that, ``warmup`` of them (None: a third)
    for the warm-up. ``trace_tokens``: longest prompt with expert trace; ``rollout_tokens``,
    ``evaluation_tokens``: longest completion. ``own_benchmark``: key, label and number of problems
    of one that lies beside the training set. ``evaluation_samples``: at most so many a problem.
    ``show_strategies``: in the warm-up. ``regime``: the set has a development split for it.
    """

    profile: str
    nodes: Mapping[str, int]
    gpus_per_node: int = 1
    data: str = "data/openr1-16k"  # ours
    data_verb: str = "prepare"
    problems: int = 8491  # inferred: the rows of SII-Enigma/OpenR1-Math-R1-8.5k
    warmup: int | None = None  # paper: "about one third"
    show_strategies: bool = False
    regime: bool = False
    own_benchmark: tuple[str, str, int] | None = None
    trace_tokens: int = 16_384  # paper
    rollout_tokens: int = 16_384  # paper
    evaluation_tokens: int = 32_768  # paper; capped where the context is no longer than that
    evaluation_samples: int | None = None
    sft_epochs: int = 10  # paper
    sft_batch: int = 64  # paper
    rl_steps: int = 440  # inferred: 10 epochs (paper) of 5.7K problems
    problems_per_step: int = 128  # inferred; also the authors' scripts of LUFFY and HPT
    rl_rate: float = 1e-6  # paper; LUFFY: authors' script
    hpt_rate: float = 5e-6  # authors' script
    micro_batch_tokens: int = 18_432  # ours: one longest sequence
    checkpoint_every: int = 20  # ours: steps between resume states
    sampler: Literal["compact", "vllm"] = "vllm"  # paper
    device: Literal["cuda", "auto"] = "cuda"

    def plan(self, num_seeds: int = 1) -> Plan:
        """Five methods and their starting points. One seed: ours; the paper names none, and the
        claims are judged from three on."""
        benchmarks = [Benchmark(s.key, s.label, s.num_problems, s.k) for s in SUITES.values()]
        if self.own_benchmark:
            benchmarks.insert(0, Benchmark(*self.own_benchmark, OWN_SAMPLES))
        models = [CHECKPOINTS[key] for key in self.nodes]
        return Plan(
            name=self.profile,
            models=tuple(Model(m.key, m.label, m.family) for m in models),
            methods=_methods(self),
            seeds=tuple(range(num_seeds)),
            benchmarks=tuple(benchmarks),
        )

    def source(self) -> str:
        """``data.source`` of the training set; before it is prepared a placeholder that no run
        accepts, so that the study can be planned."""
        folder = Path(self.data)
        if (folder / "report.json").is_file():
            return data_source(folder)
        return f"{folder}@{UNPREPARED}"

    def evaluation(self, context: int) -> EvalConfig:
        """paper: sets and decoding. 32K tokens and a prompt do not fit a context of 32K."""
        suites, files = tuple(SUITES), ()
        if self.own_benchmark:
            path = Path(self.data) / f"{self.own_benchmark[0]}.jsonl"
            suites = (self.own_benchmark[0], *suites)
            files = (file_source(path) if path.is_file() else f"{path}@{UNPREPARED}",)
        return EvalConfig(
            suites=suites,
            max_tokens=min(self.evaluation_tokens, context - PROMPT_TOKENS),
            sample_limit=self.evaluation_samples,
            files=files,
        )


def _rows(recipe: Recipe) -> Rows:
    data = recipe.source()
    rollout = RolloutConfig(recipe.rollout_tokens, temperature=1.0, top_p=0.95)  # paper
    shared = {
        "grad_clip": 1.0,  # authors' scripts (LUFFY, HPT); ours for the others
        "nonfinite_patience": 3,  # ours
        "micro_batch_tokens": recipe.micro_batch_tokens,
        "checkpoint_every": recipe.checkpoint_every,
        "activation_checkpointing": True,
    }
    sft = shared | {
        "problems_per_step": recipe.sft_batch,
        "warmup_share": 0.1,  # paper; what follows it is not named: constant
        "held_out_share": 0.1,  # paper: chooses the checkpoint of the SFT stage
    }
    rl = shared | {
        "num_steps": recipe.rl_steps,
        "problems_per_step": recipe.problems_per_step,
        "updates_per_step": 2,  # authors' script (LUFFY, HPT); not stated for SGPO
    }

    def base(model: str, seed: int) -> RunConfig:
        """The published checkpoint as it is."""
        checkpoint = CHECKPOINTS[model]
        evaluation = recipe.evaluation(checkpoint.shape.context)
        longest = max(evaluation.max_tokens, recipe.rollout_tokens)
        return RunConfig(
            profile=recipe.profile,
            model=model,
            method="base",
            seed=seed,
            init="base",
            prompt=checkpoint.prompt,
            sampler=recipe.sampler,
            data=DataConfig(source=data, split="none"),
            evaluation=evaluation,
            rollout=rollout if recipe.regime else None,
            device=recipe.device,
            precision="bfloat16",  # ours
            checkpoint=checkpoint.name,
            revision=checkpoint.revision,
            vllm=VLLMSettings(  # ours
                max_model_len=PROMPT_TOKENS + longest,
                max_num_seqs=256,
                gpu_memory_utilization=0.5,
                stall_seconds=3600.0,
            ),
        )

    return Rows(base, sft, rl, rollout)


def _methods(recipe: Recipe) -> tuple[MethodEntry, ...]:
    """The rows of Table 1; every RL method starts from the same warm-up checkpoint."""
    rows, epochs, rate = _rows(recipe), recipe.sft_epochs, 1e-5  # paper
    everything, warmup = recipe.problems, recipe.warmup or recipe.problems // 3

    def hpt(model: str) -> dict[str, Any]:
        return {
            "max_tokens": recipe.rollout_tokens,
            "gate": HPT_GATE[CHECKPOINTS[model].family],
            "sft_coefficient": HPT_COEFFICIENT.get(model, 1.0),
        } | AUTHORS_ENTROPY

    def skips(model: str) -> dict[str, float]:  # authors' script: a larger update is skipped
        return {"skip_above": 80.0} if CHECKPOINTS[model].family == "qwen2" else {}

    luffy = {"max_tokens": recipe.rollout_tokens} | AUTHORS_ENTROPY
    return (
        MethodEntry("base", "Base", rows.base),
        rows.supervised("sft", "SFT (warm-up)", "warmup", warmup, epochs, rate,
                        show_strategies=recipe.show_strategies),
        rows.supervised("sft_full", "SFT (all data)", "all", everything, epochs, rate),
        rows.reinforced("grpo", "SFT+GRPO", "baselines.grpo:GRPOConfig", recipe.rl_rate),
        rows.reinforced("hpt", "HPT", "baselines.hpt:HPTConfig", recipe.hpt_rate, hpt, skips),
        rows.reinforced("luffy", "LUFFY", "baselines.luffy:LUFFYConfig", recipe.rl_rate, luffy),
        rows.reinforced("sgpo", "SGPO", "sgpo.method:SGPOConfig", recipe.rl_rate),
    )  # fmt: skip
