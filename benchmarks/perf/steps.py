"""One RL step on the CPU: beside TRL's, against the machine's limit, and how its cost grows.

All three cases time ``our_step``: one update on a randomly initialised float32 Qwen2 of the mini
world, without a reference model. The stop token lies outside of the model's vocabulary, so that
every completion has its full length and the work is known.

``rl_step`` runs our GRPO and SGPO and TRL's GRPOTrainer on the same 16 problems x 12 samples x 48
tokens with two threads. TRL generates with transformers and gets what makes it faster than its
defaults: no gradient checkpointing, no mixed precision, no logging, no saving.

``roofline`` counts the FLOPs of the very step that is timed and divides by the rate of a large
matrix product on the same threads; a tiny model's own products are given beside it.

``scaling`` varies one thing at a time. Through each axis go a line, seconds = fixed + x * each, and
the exponent b of seconds ~ a * x^b: below 1 a fixed cost is being spread, 1 is linear. The exponent
of the counted FLOPs tells arithmetic that grows faster than x from arithmetic that runs slower.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.perf.common import (
    Block,
    Case,
    Host,
    cells,
    in_rounds,
    matmul_rate,
    paired_ratio,
    spread,
    threads,
    timed,
)
from benchmarks.perf.flops import flop_counter
from sgpo.core.config import RolloutConfig, TrainConfig
from sgpo.core.method import Method
from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.rollout import Rollout
from sgpo.core.sampling import CompactSampler
from sgpo.core.trainer import Trainer
from sgpo.core.types import Problem
from sgpo.core.verifier import Verdict
from sgpo.method import SGPO, SGPOConfig
from sgpo.mini.models import build_model, build_tokenizer, model_spec
from sgpo.mini.suites import training_problems

NUM_THREADS = 2
LEARNING_RATE = 1e-4
GRPO_TARGET, SGPO_TARGET = 0.5, 1.4  # of TRL's step, of our GRPO's step
TRL_MISSING = "TRL is not installed, so it is not measured: pip install -e '.[perf]'"
PEAK_SIZE = 2048
SUPERLINEAR = 1.1  # exponent that timing noise does not reach


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
            setattr(owner, name, self._watched(stage, getattr(owner, name)))

    def _watched(self, stage: str, function: Callable) -> Callable:
        def watched(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = function(*args, **kwargs)
            self._seconds[stage] += time.perf_counter() - began
            return result

        return watched

    def __call__(self) -> float:
        self._seconds.clear()
        # The loop around the step only logs and saves: a step is what is compared.
        total = timed(lambda: self.trainer.step(len(self.stages) + 1))
        self.stages.append(split(total, self._seconds))
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
        return {
            "total": float(outside.get_total_flops()),
            "sampling": float(inside.get_total_flops()),
        }


def split(total: float, seconds: Mapping[str, float]) -> dict[str, float]:
    """Nested timings as disjoint stages that add up to ``total``."""
    inner = seconds["sampling"] + seconds["verification"]
    return {
        "total": total,
        "sampling": seconds["sampling"],
        "verification": seconds["verification"],
        "other collection": seconds["collect"] - inner,
        "scoring": seconds["scoring"],
        "backward and update": total - seconds["collect"] - seconds["scoring"],
    }


def our_step(method: Method, shape: StepShape, scratch: str) -> TimedStep:
    """A step of ``method`` at ``shape``."""
    model, tokenizer = _build(shape)
    problems = _problems(shape)
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
        num_steps=2**30, problems_per_step=len(problems), learning_rate=LEARNING_RATE
    )
    return TimedStep(
        Trainer(
            model=model,
            method=method,
            rollout=rollout,
            problems=problems,
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
    problems = training_problems("rl", expert_gap=0.0)[: shape.num_problems]
    assert len(problems) == shape.num_problems
    return problems


def mixed_reward(text: str) -> float:
    """A reward in {0, 1} that costs nothing and is right about half of the time."""
    return float(zlib.crc32(text.encode()) & 1)


def _grade(pairs: Sequence[tuple[str, str]], truncated: Sequence[bool]) -> list[Verdict]:
    rewards = [mixed_reward(completion) for _, completion in pairs]
    return [Verdict(r == 1.0, "correct" if r == 1.0 else "wrong", None) for r in rewards]


def run_rl_step(repeats: int) -> dict[str, Any]:
    """Seconds a step and their ratios; without TRL its entries are absent."""
    with tempfile.TemporaryDirectory() as scratch, threads(NUM_THREADS):
        ours, peer = our_steps(SHAPE, scratch), None
        if importlib.util.find_spec("trl") is None:
            print(TRL_MISSING, flush=True)
        else:
            peer = trl_loop(Path(scratch), SHAPE)
        seconds = in_rounds(ours, repeats, host=peer, host_name="trl")
    weights = sum(p.numel() for p in ours["grpo"].trainer.model.parameters())
    result = {
        "setting": {**asdict(SHAPE), "num_parameters": weights, "threads": NUM_THREADS},
        "unit": "seconds per step",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "sampling_seconds": {
            name: spread([stage["sampling"] for stage in step.stages[-repeats:]])
            for name, step in ours.items()
        },
        "ratios": {"sgpo / grpo": paired_ratio(seconds["sgpo"], seconds["grpo"])},
        "targets": {"sgpo / grpo": SGPO_TARGET, "grpo / trl": GRPO_TARGET},
    }
    if peer is not None:
        from trl import __version__

        result["setting"]["trl"] = __version__
        for name in ("grpo", "sgpo"):
            result["ratios"][f"{name} / trl"] = paired_ratio(seconds[name], seconds["trl"])
    return result


def rl_step_blocks(result: dict[str, Any]) -> list[Block]:
    inside = {k: f"{v['median']:.3f}" for k, v in result["sampling_seconds"].items()}
    goals = {name: f"<= {target}" for name, target in result["targets"].items()}
    return [
        [
            ("step", "median s", "min s", "max s", "sampling s"),
            *((k, *cells(v, ".3f"), inside.get(k, "")) for k, v in result["seconds"].items()),
        ],
        [
            ("ratio (by round)", "median", "min", "max", "target"),
            *((k, *cells(v, ".2f"), goals.get(k, "")) for k, v in result["ratios"].items()),
        ],
    ]


def trl_loop(scratch: Path, shape: StepShape) -> Host:
    """TRL's GRPOTrainer: a step is everything between two ends of a step of its loop (data,
    generation, reward, loss, update), what runs in between taken out."""
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback
    from trl import GRPOConfig as TrlConfig
    from trl import GRPOTrainer

    def loop(rounds: int, between: Callable[[], None]) -> list[float]:
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
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=_trl_reward,
            args=TrlConfig(**_trl_settings(scratch, rounds, shape)),
            train_dataset=Dataset.from_list(rows * rounds),
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return seconds

    return loop


def _trl_settings(scratch: Path, steps: int, shape: StepShape) -> dict[str, Any]:
    return {
        "output_dir": str(scratch / "trl"),
        "max_steps": steps,
        "per_device_train_batch_size": shape.num_problems * shape.num_samples,
        "gradient_accumulation_steps": 1,
        "num_generations": shape.num_samples,
        "max_completion_length": shape.completion_tokens,
        "temperature": 1.0,
        "top_p": 1.0,
        "num_iterations": 1,
        "beta": 0.0,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "loss_type": "grpo",
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "shuffle_dataset": False,  # each step then has each problem once
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }


def _trl_reward(completions, completion_ids, **kwargs) -> list[float]:
    assert len({len(ids) for ids in completion_ids}) == 1  # nothing stopped early
    return [mixed_reward(turns[0]["content"]) for turns in completions]


def run_roofline(repeats: int) -> dict[str, Any]:
    """FLOPs, seconds and fractions of the peak of a step and of its parts."""
    spec, sequences = model_spec(SHAPE.model), SHAPE.num_problems * SHAPE.num_samples
    products = {
        "peak": (PEAK_SIZE, PEAK_SIZE, PEAK_SIZE),
        "mlp of an update": (4096, spec.hidden_size, spec.intermediate_size),
        "mlp of a decoder step": (sequences, spec.hidden_size, spec.intermediate_size),
    }
    with tempfile.TemporaryDirectory() as scratch, threads(NUM_THREADS):
        steps = our_steps(SHAPE, scratch)
        flops = {name: step.flops() for name, step in steps.items()}
        rates = {name: partial(matmul_rate, *sizes) for name, sizes in products.items()}
        measured = in_rounds(rates | steps, repeats)
    peak, found = max(measured["peak"]), {}
    for name, step in steps.items():
        sampling = statistics.median(s["sampling"] for s in step.stages[-repeats:])
        total = statistics.median(measured[name])
        counted = flops[name]
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
    rates, giga = result["matmul_flops_per_second"], 1e9
    parts = [
        (f"{name}: {part}", p)
        for name, found in result["steps"].items()
        for part, p in found.items()
    ]
    return [
        [
            ("matrix product", "GFLOP/s (best)"),
            *((name, f"{rate['max'] / giga:.0f}") for name, rate in rates.items()),
        ],
        [
            ("step", "GFLOP", "seconds", "GFLOP/s", "of peak"),
            *(
                (name, f"{p['flops'] / giga:.1f}", f"{p['seconds']:.3f}",
                 f"{p['flops_per_second'] / giga:.0f}", f"{p['of_peak']:.0%}")
                for name, p in parts
            ),
        ],
    ]  # fmt: skip


def run_scaling(
    repeats: int, axes: dict[str, tuple[int, ...]] = AXES, middle: StepShape = MIDDLE
) -> dict[str, Any]:
    """Seconds of a GRPO step on one thread along each axis, with its fits."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch, threads(1):
        for axis, values in axes.items():
            shapes = {str(v): replace(middle, **{axis: v}) for v in values}
            steps = {
                name: our_step(GRPO(GRPOConfig(num_samples=s.num_samples)), s, scratch)
                for name, s in shapes.items()
            }
            seconds = in_rounds(steps, min(repeats, 3), warmup=1)
            flops = [step.flops()["total"] for step in steps.values()]
            spreads = {name: spread(s) for name, s in seconds.items()}
            medians = [s["median"] for s in spreads.values()]
            fit = {
                "exponent": exponent(values, medians),
                "last_step_exponent": exponent(values[-2:], medians[-2:]),
                "last_step_flops_exponent": exponent(values[-2:], flops[-2:]),
            }
            found[axis] = {
                "values": list(values),
                "seconds": spreads,
                "flops": flops,
                "line": line(values, medians),
                **fit,
                "explanation": explanation(axis, *list(fit.values())[1:]),
            }
    return {"setting": asdict(middle) | {"threads": 1}, "unit": "seconds per step", "axes": found}


def explanation(axis: str, exponent_of_seconds: float, exponent_of_flops: float) -> str:
    """Why ``axis`` is superlinear between its two largest values; empty where it is not."""
    if exponent_of_seconds <= SUPERLINEAR:
        return ""
    if exponent_of_flops <= (1 + SUPERLINEAR) / 2:
        return (
            "superlinear; its FLOPs do not: larger tensors leave the caches, and the same "
            "arithmetic runs slower"
        )
    reason = "unexplained"
    if axis == "completion_tokens":
        reason = "every token attends to all earlier ones, so pairs grow with the square"
    return f"superlinear, and so are its FLOPs: {reason}"


def line(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares ``y = fixed + x * each``, and ``largest_miss``: the largest distance of a
    point from the line over the largest y."""
    each, fixed = (float(v) for v in np.polyfit(x, y, 1))
    miss = max(abs(fixed + each * a - b) for a, b in zip(x, y, strict=True))
    return {"fixed": fixed, "each": each, "largest_miss": miss / max(y)}


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """b of the least-squares line log y = log a + b log x."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def scaling_blocks(result: dict[str, Any]) -> list[Block]:
    rows = [("axis", "values", "seconds (median)", "fixed s", "s for each 1000", "largest miss",
             "exponent", "largest two", "FLOPs of these")]  # fmt: skip
    notes = []
    for axis, found in result["axes"].items():
        medians = [found["seconds"][str(v)]["median"] for v in found["values"]]
        fit = found["line"]
        exponents = ("exponent", "last_step_exponent", "last_step_flops_exponent")
        rows.append(
            (
                axis,
                " ".join(map(str, found["values"])),
                " ".join(f"{s:.2f}" for s in medians),
                f"{fit['fixed']:.3f}",
                f"{1000 * fit['each']:.3g}",
                f"{fit['largest_miss']:.0%}",
                *(f"{found[name]:.2f}" for name in exponents),
            )
        )
        if found["explanation"]:
            notes.append(f"{axis}: {found['explanation']}")
    return [rows, *(notes or ["no axis is superlinear"])]


RL_STEP = Case(
    "one RL step on the CPU: our GRPO and SGPO beside TRL's GRPOTrainer",
    run_rl_step,
    rl_step_blocks,
)
ROOFLINE = Case(
    "FLOPs of an RL step against the machine's matmul peak", run_roofline, roofline_blocks
)
SCALING = Case(
    "cost of an RL step against problems, samples, length and vocabulary",
    run_scaling,
    scaling_blocks,
)
