"""One RL step on the CPU: beside TRL's, against the machine's limit, and how its cost grows.

A step is one update on a randomly initialised float32 Qwen2 of the mini world. The stop token lies
outside of the model's vocabulary, so that every completion has its full length and the work is
known.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
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
TARGETS = {"sgpo / grpo": 1.4, "grpo / trl": 0.5}
TRL_MISSING = "TRL is not installed, so it is not measured: pip install -e '.[perf]'"
PEAK_SIZE = 2048


@dataclass(frozen=True)
class StepShape:
    """The work of one step. ``vocabulary_rows``: None for the mini model's own."""

    model: str
    num_problems: int
    num_samples: int
    completion_tokens: int
    vocabulary_rows: int | None = None


SHAPE = StepShape("qwen-l", num_problems=16, num_samples=12, completion_tokens=48)
MIDDLE = replace(SHAPE, model="qwen-m")
AXES: dict[str, tuple[int, ...]] = {
    "num_problems": (4, 8, 16, 32, 64),
    "num_samples": (3, 6, 12, 24, 48),
    "completion_tokens": (12, 24, 48, 96, 192),
    "vocabulary_rows": (128, 512, 2048, 8192, 32768),
}


def flop_counter() -> FlopCounterMode:
    """Counts the FLOPs of matrix products and attention in its block, forward and backward, as
    executed on a CPU; of attention all pairs of positions, by the queries' heads: two products
    forward, then the scores again and the gradients to weights, values, queries and keys."""

    def forward(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any):
        batch, heads, length, size = query
        return 2 * batch * heads * length * key[-2] * (size + value[-1])

    def backward(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any):
        batch, heads, length, size = query
        return 2 * batch * heads * length * key[-2] * (3 * size + 2 * value[-1])

    fused = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            fused._scaled_dot_product_flash_attention_for_cpu: forward,
            fused._scaled_dot_product_flash_attention_for_cpu_backward: backward,
        },
    )


class TimedStep:
    """One step of our trainer a call; returns its seconds and keeps those of its ``stages``, which
    are disjoint and add up. Takes a trainer for itself: what it watches stays watched."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.rollout = trainer, trainer.rollout
        self.stages: list[dict[str, float]] = []
        self._seconds: dict[str, float] = defaultdict(float)
        for stage, owner, name in (
            ("sampling", self.rollout.sampler, "sample"),
            ("verification", self.rollout, "grader"),
            ("collect", trainer.method, "collect"),
            ("scoring", trainer.method, "loss"),
        ):
            setattr(owner, name, partial(self._watched, stage, getattr(owner, name)))

    def _watched(self, stage: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = function(*args, **kwargs)
        self._seconds[stage] += time.perf_counter() - began
        return result

    def __call__(self) -> float:
        seconds = self._seconds
        seconds.clear()
        # The loop around the step only logs and saves: a step is what is compared.
        total = timed(lambda: self.trainer.step(len(self.stages) + 1))
        self.stages.append(
            {
                "total": total,
                "sampling": seconds["sampling"],
                "verification": seconds["verification"],
                "other collection": seconds["collect"]
                - seconds["sampling"]
                - seconds["verification"],
                "scoring": seconds["scoring"],
                "backward and update": total - seconds["collect"] - seconds["scoring"],
            }
        )
        return total

    def flops(self) -> dict[str, float]:
        """FLOPs of one more step: ``total`` and the part inside the sampler."""
        sampler, inside = self.rollout.sampler, flop_counter()
        sample = sampler.sample

        def counted(*args: Any, **kwargs: Any) -> Any:
            with inside:
                return sample(*args, **kwargs)

        sampler.sample = counted
        with flop_counter() as outside:
            self()
        sampler.sample = sample
        counters = {"total": outside, "sampling": inside}
        return {name: float(c.get_total_flops()) for name, c in counters.items()}


def our_step(method: Method, shape: StepShape, scratch: str) -> TimedStep:
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
            run_dir=Path(scratch),
        )
    )


def our_steps(shape: StepShape, scratch: str) -> dict[str, TimedStep]:
    """A step of GRPO and one of SGPO at ``shape``."""
    methods = {"grpo": GRPO(GRPOConfig(num_samples=shape.num_samples)), "sgpo": SGPO(SGPOConfig())}
    return {name: our_step(method, shape, scratch) for name, method in methods.items()}


def _build(shape: StepShape) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, and its tokenizer; both stop at a token that the model has no row for."""
    model, tokenizer = build_model(model_spec(shape.model), seed=0), build_tokenizer()
    if shape.vocabulary_rows:
        model.resize_token_embeddings(shape.vocabulary_rows, mean_resizing=False)
    tokenizer.add_special_tokens({"eos_token": "<|never|>"})
    never = model.config.vocab_size
    assert shape.vocabulary_rows or tokenizer.eos_token_id == never
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


def run_rl_step(repeats: int) -> dict[str, Any]:
    """One RL step on the CPU: our GRPO and SGPO beside TRL's GRPOTrainer.

    The same 16 problems x 12 samples x 48 tokens on a randomly initialised Qwen2 of 0.8M weights
    with two threads, without a reference model. TRL generates with transformers and gets what makes
    it faster than its defaults: no gradient checkpointing, no mixed precision, no logging, no
    saving.
    """
    versions, host = {}, None
    with tempfile.TemporaryDirectory() as scratch, common.threads(NUM_THREADS):
        if importlib.util.find_spec("trl") is None:
            print(TRL_MISSING, flush=True)
        else:
            from trl import __version__

            versions["trl"], host = __version__, ("trl", partial(_trl_loop, Path(scratch), SHAPE))
        ours = our_steps(SHAPE, scratch)
        seconds = in_rounds(ours, repeats, host=host)
    pairs = [("sgpo", "grpo"), ("grpo", "trl"), ("sgpo", "trl")]
    weights = ours["grpo"].trainer.model.num_parameters()
    return {
        "setting": {**asdict(SHAPE), "num_parameters": weights, "threads": NUM_THREADS} | versions,
        "unit": "seconds per step",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "sampling_seconds": {
            name: spread([stage["sampling"] for stage in step.stages[-repeats:]])
            for name, step in ours.items()
        },
        "ratios": {
            f"{a} / {b}": paired_ratio(seconds[a], seconds[b]) for a, b in pairs if b in seconds
        },
        "targets": TARGETS,
    }


def rl_step_blocks(result: dict[str, Any]) -> list[Block]:
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


def _trl_loop(
    scratch: Path, shape: StepShape, rounds: int, between: Callable[[], None]
) -> list[float]:
    """Seconds of each step of TRL's GRPOTrainer: all between two ends of a step of its loop (data,
    generation, reward, loss, update), what ``between`` took taken out."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig as TrlConfig
    from trl import GRPOTrainer

    seconds: list[float] = []

    class Clock(TrainerCallback):
        began = 0.0

        def on_train_begin(self, args, state, control, **kwargs):
            self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            seconds.append(time.perf_counter() - self.began)
            between()
            self.began = time.perf_counter()

    model, tokenizer = _build(shape)
    rows = [{"prompt": [{"role": "user", "content": p.question}]} for p in _problems(shape)]
    settings = TrlConfig(
        output_dir=str(scratch / "trl"),
        max_steps=rounds,
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
        train_dataset=Dataset.from_list(rows * rounds),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return seconds


def _trl_reward(completions, completion_ids, **kwargs) -> list[float]:
    assert len({len(ids) for ids in completion_ids}) == 1  # nothing stopped early
    return [mixed_reward(turns[0]["content"]) for turns in completions]


def run_roofline(repeats: int) -> dict[str, Any]:
    """FLOPs of an RL step against the machine's matmul peak.

    Counted in the very step that is timed, over the rate of a large matrix product.
    """
    spec, sequences = model_spec(SHAPE.model), SHAPE.num_problems * SHAPE.num_samples
    products = {
        "peak": (PEAK_SIZE, PEAK_SIZE, PEAK_SIZE),
        "mlp of an update": (4096, spec.hidden_size, spec.intermediate_size),
        "mlp of a decoder step": (sequences, spec.hidden_size, spec.intermediate_size),
    }
    with tempfile.TemporaryDirectory() as scratch, common.threads(NUM_THREADS):
        steps = our_steps(SHAPE, scratch)
        flops = {name: step.flops() for name, step in steps.items()}
        rates = {name: partial(common.matmul_rate, *sizes) for name, sizes in products.items()}
        measured = in_rounds(rates | steps, repeats)
    peak, found = max(measured["peak"]), {}
    for name, step in steps.items():
        sampling = statistics.median(s["sampling"] for s in step.stages[-repeats:])
        total, counted = statistics.median(measured[name]), flops[name]
        parts = {
            "sampling": (counted["sampling"], sampling),
            "scoring and update": (counted["total"] - counted["sampling"], total - sampling),
            "whole step": (counted["total"], total),
        }
        found[name] = {
            part: {"flops": f, "seconds": s, "flops_per_second": f / s, "of_peak": f / s / peak}
            for part, (f, s) in parts.items()
        }
    return {
        "setting": asdict(SHAPE) | {"threads": NUM_THREADS},
        "matmul_flops_per_second": {name: spread(measured[name]) for name in products},
        "steps": found,
    }


def roofline_blocks(result: dict[str, Any]) -> list[Block]:
    rates = result["matmul_flops_per_second"].items()
    rows = [("step", "GFLOP", "seconds", "GFLOP/s", "of peak")]
    for name, found in result["steps"].items():
        for part, p in found.items():
            numbers = f"{p['flops'] / 1e9:.1f}", f"{p['seconds']:.3f}"
            rate = f"{p['flops_per_second'] / 1e9:.0f}", f"{p['of_peak']:.0%}"
            rows.append((f"{name}: {part}", *numbers, *rate))
    best = ", ".join(f"{name} {rate['max'] / 1e9:.0f}" for name, rate in rates)
    return [rows, f"Best GFLOP/s of matrix products: {best}."]


def run_scaling(repeats: int) -> dict[str, Any]:
    """Cost of an RL step against problems, samples, length and vocabulary.

    One thing varied at a time, on one thread. The exponent b is that of seconds ~ a * x^b: below 1
    a fixed cost is being spread, 1 is linear. That of the counted FLOPs tells arithmetic that grows
    faster than x (every token attends to all earlier ones) from arithmetic that runs slower.
    """
    found = {}
    with tempfile.TemporaryDirectory() as scratch, common.threads(1):
        for axis, values in AXES.items():
            shapes = {str(v): replace(MIDDLE, **{axis: v}) for v in values}
            steps = {
                name: our_step(GRPO(GRPOConfig(num_samples=s.num_samples)), s, scratch)
                for name, s in shapes.items()
            }
            seconds = in_rounds(steps, min(repeats, 3), warmup=1)
            flops = [step.flops()["total"] for step in steps.values()]
            medians = [statistics.median(s) for s in seconds.values()]
            found[axis] = {
                "values": list(values),
                "seconds": {name: spread(s) for name, s in seconds.items()},
                "flops": flops,
                "exponent": exponent(values, medians),
                "last_step_exponent": exponent(values[-2:], medians[-2:]),
                "last_step_flops_exponent": exponent(values[-2:], flops[-2:]),
            }
    return {"setting": asdict(MIDDLE) | {"threads": 1}, "unit": "seconds per step", "axes": found}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """b of the least-squares line log y = log a + b log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def scaling_blocks(result: dict[str, Any]) -> list[Block]:
    rows = [
        ("axis", "values", "seconds (median)", "exponent", "of the largest two", "FLOPs of these")
    ]
    for axis, found in result["axes"].items():
        medians = [found["seconds"][str(v)]["median"] for v in found["values"]]
        exponents = ("exponent", "last_step_exponent", "last_step_flops_exponent")
        rows.append(
            (
                axis,
                " ".join(map(str, found["values"])),
                " ".join(f"{s:.2f}" for s in medians),
                *(f"{found[name]:.2f}" for name in exponents),
            )
        )
    return [rows]
