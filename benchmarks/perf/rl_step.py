"""One RL step on the CPU beside TRL's.

A step is one update on a randomly initialised float32 Qwen2 of the mini world. The stop token lies
outside of the model's vocabulary, so that every completion has its full length and the work is
known.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.perf import common
from benchmarks.perf.common import Block, in_rounds, paired_ratio, shown, spread, timed
from sgpo.core.config import RolloutConfig, TrainConfig
from sgpo.core.method import Method
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.rollout import Rollout
from sgpo.core.sampling import CompactSampler
from sgpo.core.trainer import Trainer
from sgpo.core.types import Problem
from sgpo.core.verifier import Verdict
from sgpo.method import SGPO, SGPOConfig
from sgpo.mini.models import build_model, build_tokenizer
from sgpo.mini.sets import training_problems
from sgpo.mini.specs import model_spec
from sgpo.mini.world import draw_world

NUM_THREADS = 2
LEARNING_RATE = 1e-4
WARMUP = 2  # rounds that are not counted
TARGETS = {"sgpo / grpo": 1.4, "grpo / trl": 0.5}
TRL_MISSING = "TRL is not installed, so it is not measured: pip install -e '.[perf]'"


@dataclass(frozen=True)
class StepShape:
    """The work of one step."""

    model: str
    num_problems: int
    num_samples: int
    completion_tokens: int


SHAPE = StepShape("qwen-l", num_problems=16, num_samples=12, completion_tokens=48)


class TimedStep:
    """One step of our trainer a call; returns its seconds and keeps those of its ``sampling``."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.sampling = trainer, []
        self._sample = trainer.rollout.sampler.sample
        trainer.rollout.sampler.sample = self._timed_sample

    def _timed_sample(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        drawn = self._sample(*args, **kwargs)
        self.sampling[-1] += time.perf_counter() - began
        return drawn

    def __call__(self) -> float:
        self.sampling.append(0.0)
        # The loop around the step only logs and saves: a step is what is compared.
        return timed(lambda: self.trainer.step(len(self.sampling)))


def our_step(method: Method, shape: StepShape, scratch: Path) -> TimedStep:
    """A step of ``method`` at ``shape``."""
    model, tokenizer = _build(shape)
    rollout = Rollout(
        model=model,
        sampler=CompactSampler(model, tokenizer, stop_ids=[model.config.eos_token_id]),
        tokenizer=tokenizer,
        prompt_spec=PROMPT_SPECS["mini"],
        config=RolloutConfig(max_tokens=shape.completion_tokens, temperature=1.0, top_p=1.0),
        seed=0,
        grader=_grade,
    )
    config = TrainConfig(
        num_steps=2**30, problems_per_step=shape.num_problems, learning_rate=LEARNING_RATE
    )
    return TimedStep(
        Trainer(
            model=model,
            method=method,
            rollout=rollout,
            problems=_problems(shape),
            config=config,
            seed=0,
            run_dir=scratch,
        )
    )


def our_steps(shape: StepShape, scratch: Path) -> dict[str, TimedStep]:
    """A step of GRPO and one of SGPO at ``shape``."""
    methods = {"grpo": GRPO(GRPOConfig(num_samples=shape.num_samples)), "sgpo": SGPO(SGPOConfig())}
    return {name: our_step(method, shape, scratch) for name, method in methods.items()}


def _build(shape: StepShape) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, and its tokenizer; both stop at a token that the model has no row for."""
    model, tokenizer = build_model(model_spec(shape.model), seed=0), build_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    never = model.config.vocab_size
    assert tokenizer.eos_token_id == never
    model.config.eos_token_id = model.generation_config.eos_token_id = never
    return model, tokenizer


def _problems(shape: StepShape) -> list[Problem]:
    problems = training_problems(draw_world(0), "rl", expert_gap=0.0)[: shape.num_problems]
    assert len(problems) == shape.num_problems
    return problems


def mixed_reward(text: str) -> float:
    """A reward in {0, 1} that costs nothing and is right about half of the time."""
    return float(zlib.crc32(text.encode()) & 1)


def _grade(pairs: Sequence[tuple[str, str]], truncated: Sequence[bool]) -> list[Verdict]:
    rewards = [mixed_reward(completion) for _, completion in pairs]
    return [Verdict(r == 1.0, "correct" if r == 1.0 else "wrong", None) for r in rewards]


def run(repeats: int) -> dict[str, Any]:
    """One RL step on the CPU: our GRPO and SGPO beside TRL's GRPOTrainer.

    The same 16 problems x 12 samples x 48 tokens on a randomly initialised Qwen2 of 0.8M weights
    with two threads, without a reference model. TRL generates with transformers and gets what makes
    it faster than its defaults: no gradient checkpointing, no mixed precision, no logging, no
    saving.
    """
    versions = {}
    with tempfile.TemporaryDirectory() as scratch, common.threads(NUM_THREADS):
        ours = our_steps(SHAPE, Path(scratch))
        if importlib.util.find_spec("trl") is None:
            print(TRL_MISSING, flush=True)
            seconds = in_rounds(ours, repeats, warmup=WARMUP)
        else:
            from trl import __version__

            versions["trl"] = __version__
            seconds = _beside_trl(ours, repeats, Path(scratch))
    pairs = [("sgpo", "grpo"), ("grpo", "trl"), ("sgpo", "trl")]
    weights = ours["grpo"].trainer.model.num_parameters()
    return {
        "setting": {**asdict(SHAPE), "num_parameters": weights, "threads": NUM_THREADS} | versions,
        "unit": "seconds per step",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "sampling_seconds": {name: spread(s.sampling[-repeats:]) for name, s in ours.items()},
        "ratios": {
            f"{a} / {b}": paired_ratio(seconds[a], seconds[b]) for a, b in pairs if b in seconds
        },
        "targets": TARGETS,
    }


def blocks(result: dict[str, Any]) -> list[Block]:
    inside = {k: shown(v, ".3f") for k, v in result["sampling_seconds"].items()}
    goals = {name: f", target <= {target}" for name, target in result["targets"].items()}
    ratios = [f"{k} {shown(v, '.2f')}{goals.get(k, '')}" for k, v in result["ratios"].items()]
    return [
        [
            ("step", "seconds", "of it sampling"),
            *((k, shown(v, ".3f"), inside.get(k, "")) for k, v in result["seconds"].items()),
        ],
        f"Ratios, formed in each round: {'; '.join(ratios)}.",
    ]


def _beside_trl(
    ours: Mapping[str, TimedStep], repeats: int, scratch: Path
) -> dict[str, list[float]]:
    """``in_rounds`` inside the loop of TRL's GRPOTrainer, for it owns its loop: our steps run after
    each of its own. A step of its is all between two ends of a step (data, generation, reward,
    loss, update)."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig as TrlConfig
    from trl import GRPOTrainer

    rounds: list[dict[str, float]] = []

    class Clock(TrainerCallback):
        began = 0.0

        def on_train_begin(self, args, state, control, **kwargs):
            self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            seconds = time.perf_counter() - self.began
            rounds.append({"trl": seconds} | {name: step() for name, step in ours.items()})
            self.began = time.perf_counter()

    (model, tokenizer), shape = _build(SHAPE), SHAPE
    rows = [{"prompt": [{"role": "user", "content": p.question}]} for p in _problems(shape)]
    settings = TrlConfig(
        output_dir=str(scratch / "trl"),
        max_steps=WARMUP + repeats,
        per_device_train_batch_size=shape.num_problems * shape.num_samples,
        gradient_accumulation_steps=1,
        num_generations=shape.num_samples,
        max_completion_length=shape.completion_tokens,
        temperature=1.0,
        top_p=1.0,
        num_iterations=1,
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        loss_type="grpo",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        shuffle_dataset=False,  # each step then has each problem once
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=_trl_reward,
        args=settings,
        train_dataset=Dataset.from_list(rows * settings.max_steps),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return {name: [found[name] for found in rounds[WARMUP:]] for name in rounds[0]}


def _trl_reward(completions, completion_ids, **kwargs) -> list[float]:
    assert len({len(ids) for ids in completion_ids}) == 1  # nothing stopped early
    return [mixed_reward(turns[0]["content"]) for turns in completions]
