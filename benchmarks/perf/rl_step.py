"""Seconds of one RL step on the CPU: our GRPO and SGPO, and TRL's GRPOTrainer beside them.

All take the same 16 problems x 12 samples x 48 tokens through the same 0.8M-parameter Qwen2 with
two threads, in float32, one update a step, no reference model. The stop token lies outside of the
model's vocabulary, so that every completion has its 48 tokens and the work is equal. TRL runs with
transformers' generation and with what makes it faster than its defaults: no gradient
checkpointing, no mixed precision, no logging, no saving.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from baselines.grpo import GRPO, GRPOConfig
from benchmarks.perf.common import in_rounds, paired_ratio, spread, table, threads, timed
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


@dataclass(frozen=True)
class StepShape:
    """The work of one step. ``vocabulary_rows``: None for the mini model's own."""

    model: str
    num_problems: int
    num_samples: int
    completion_tokens: int
    vocabulary_rows: int | None = None


SHAPE = StepShape("qwen-l", num_problems=16, num_samples=12, completion_tokens=48)


def run(repeats: int) -> dict[str, Any]:
    """Measure and print; seconds and ratios as JSON values. Without TRL its entries are absent."""
    with tempfile.TemporaryDirectory() as scratch, threads(NUM_THREADS):
        methods = {
            "grpo": GRPO(GRPOConfig(num_samples=SHAPE.num_samples)),
            "sgpo": SGPO(SGPOConfig()),
        }
        ours = {name: OurStep(method, Path(scratch), SHAPE) for name, method in methods.items()}
        peer = None
        if importlib.util.find_spec("trl") is None:
            print(TRL_MISSING, flush=True)
        else:
            peer = trl_loop(Path(scratch), SHAPE)
        seconds = in_rounds(ours, repeats, host=peer, host_name="trl")
    result = _summary(seconds, {name: step.sampling[-repeats:] for name, step in ours.items()})
    print(_text(result), flush=True)
    return result


def mixed_reward(text: str) -> float:
    """A reward in {0, 1} that costs nothing and is right about half of the time."""
    return float(zlib.crc32(text.encode()) & 1)


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


class OurStep:
    """One step of our trainer a call; returns its seconds and keeps those spent sampling."""

    def __init__(self, method: Method, scratch: Path, shape: StepShape) -> None:
        model, tokenizer = _build(shape)
        problems, self.shape = _problems(shape), shape
        self.rollout = Rollout(
            model=model,
            sampler=self,
            tokenizer=tokenizer,
            prompt_spec=PROMPT_SPECS["mini"],
            config=RolloutConfig(max_tokens=shape.completion_tokens, temperature=1.0, top_p=1.0),
            seed=0,
            grader=_grade,
        )
        config = TrainConfig(
            num_steps=2**30, problems_per_step=len(problems), learning_rate=LEARNING_RATE
        )
        self.trainer = Trainer(
            model=model,
            method=method,
            rollout=self.rollout,
            problems=problems,
            config=config,
            seed=0,
            run_dir=scratch,
        )
        self.inner = CompactSampler(model, tokenizer, stop_ids=[model.config.eos_token_id])
        self.sampling: list[float] = []
        self.num_steps = 0

    def __call__(self) -> float:
        self.num_steps += 1
        self.sampling.append(0.0)
        before = self.rollout.spent.sampled_tokens
        # The loop around the step only logs and saves: a step is what is compared.
        seconds = timed(lambda: self.trainer.step(self.num_steps))
        sampled = self.rollout.spent.sampled_tokens - before
        shape = self.shape
        assert sampled == shape.num_problems * shape.num_samples * shape.completion_tokens
        return seconds

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """The sampler's ``sample``, with its time added to the step's."""
        groups: list[Any] = []
        self.sampling[-1] += timed(lambda: groups.extend(self.inner.sample(*args, **kwargs)))
        return groups

    def sync(self, model: PreTrainedModel) -> None:
        self.inner.sync(model)

    def release(self) -> None:
        self.inner.release()


def _grade(pairs: Sequence[tuple[str, str]], truncated: Sequence[bool]) -> list[Verdict]:
    rewards = [mixed_reward(completion) for _, completion in pairs]
    return [Verdict(r == 1.0, "correct" if r == 1.0 else "wrong", None) for r in rewards]


def trl_loop(scratch: Path, shape: StepShape) -> Callable[[int, Callable[[], None]], list[float]]:
    """TRL's GRPOTrainer as a ``common.Host``: a step is everything between two ends of a step of
    its loop (data, generation, reward, loss, update), what runs in between taken out."""
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
        assert torch.get_num_threads() == NUM_THREADS
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


def _summary(seconds: dict[str, list[float]], sampling: dict[str, list[float]]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "setting": {
            **asdict(SHAPE),
            "num_parameters": sum(p.numel() for p in _build(SHAPE)[0].parameters()),
            "threads": NUM_THREADS,
        },
        "unit": "seconds per step",
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "sampling_seconds": {name: spread(values) for name, values in sampling.items()},
        "ratios": {"sgpo / grpo": paired_ratio(seconds["sgpo"], seconds["grpo"])},
        "targets": {"sgpo / grpo": SGPO_TARGET, "grpo / trl": GRPO_TARGET},
    }
    if "trl" in seconds:
        from trl import __version__

        result["setting"]["trl"] = __version__
        for name in ("grpo", "sgpo"):
            result["ratios"][f"{name} / trl"] = paired_ratio(seconds[name], seconds["trl"])
    return result


def _text(result: dict[str, Any]) -> str:
    """The result as two tables."""
    rows = [("step", "median s", "min s", "max s", "sampling s")]
    for name, s in result["seconds"].items():
        sampling = result["sampling_seconds"].get(name)
        cells = [f"{s[key]:.3f}" for key in ("median", "min", "max")]
        rows.append((name, *cells, f"{sampling['median']:.3f}" if sampling else ""))
    ratios = [("ratio (by round)", "median", "min", "max", "target")]
    for name, r in result["ratios"].items():
        target = result["targets"].get(name)
        cells = [f"{r[key]:.2f}" for key in ("median", "min", "max")]
        ratios.append((name, *cells, f"<= {target}" if target else ""))
    return f"{table(rows)}\n{table(ratios)}"
