"""One SGPO optimiser update at the shape of Qwen2.5-1.5B: seconds, peak memory and MFU.

16 x 4096 completion tokens of random ids under random weights: two problems with seven autonomous
completions and one distilled target each, in bfloat16 over float32 master weights, through the
trainer's own update. Each row pulls one lever: ``recomputed`` is training as it is where memory is
short, ``kept`` where it is not (a run chooses by ``benchmarks.plan.cost.keeps_activations``); the
others add layers compiled by torch, chunks of the head four times as large, or the head on all
tokens of a micro-batch at once. What runs out of memory is a row that says so. Packing sequences
instead of padding them has no row: these are of one length, and sorted by length as micro-batches
are, padding takes 1 to 7% of the tokens.

The training pass is the update without the optimiser's step. Its MFU is ``flops.model_flops``
over its seconds and the GPU's dense bfloat16 peak; recomputation earns nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.perf.common import Block, Case, matmul_rate, spread, synchronize
from benchmarks.perf.flops import Passed, model_flops
from benchmarks.perf.losses import GIB, peak_bytes, reset_peak
from benchmarks.plan.cost import keeps_activations
from sgpo.core import chunked_head, sharding
from sgpo.core.config import TrainConfig
from sgpo.core.distributed import describe_device, select_device
from sgpo.core.trainer import Trainer
from sgpo.core.types import Problem, Role, Spent, Sums, Trajectory
from sgpo.method import SGPO, SGPOConfig

PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16, data sheets (SXM)
MFU_TARGET = 0.4


@dataclass(frozen=True)
class Update:
    """The work of one update: ``num_problems`` times ``num_autonomous`` completions and a target,
    each of ``completion`` tokens behind ``prompt``, the target's teacher behind ``guided``."""

    model: Shape
    num_problems: int
    num_autonomous: int
    completion: int
    prompt: int
    guided: int
    micro_batch_tokens: int

    def sequences(self) -> list[Passed]:
        """Every sequence that the update passes through the model."""
        own = [Passed(self.prompt, self.completion, True)] * self.num_autonomous
        student = Passed(self.prompt, self.completion, True)
        teacher = Passed(self.guided, self.completion, False)
        return [*own, student, teacher] * self.num_problems


UPDATES = {
    "qwen2.5-1.5b": Update(CHECKPOINTS["qwen2.5-1.5b"].shape, 2, 7, 4096, 256, 512, 18_432),
    "tiny": Update(Shape(512, 32, 48, 2, 4, 2, 128, 1e4, True, True), 2, 7, 32, 8, 16, 256),
}


@dataclass(frozen=True)
class Levers:
    """``head``: times the usual number of logits in a chunk."""

    recompute: bool = False
    compiled: bool = False
    head: int = 1


ROWS = {
    "recomputed": Levers(recompute=True),
    "kept": Levers(),
    "kept, compiled layers": Levers(compiled=True),
    "kept, head in larger chunks": Levers(head=4),
    "kept, whole head": Levers(head=2**32),
}


def check(shape: str = "qwen2.5-1.5b", device: str = "auto") -> None:
    """Raises ValueError, before anything runs, for an unknown shape or without a GPU."""
    if shape not in UPDATES:
        raise ValueError(f"--shape {shape!r}: must be one of {', '.join(UPDATES)}")
    if select_device(device).type == "cpu" and shape != "tiny":
        raise ValueError("gpu_step: not run: needs a GPU (--shape tiny --device cpu runs anywhere)")


def run(repeats: int, shape: str = "qwen2.5-1.5b", device: str = "auto") -> dict[str, Any]:
    """Seconds, bytes and FLOPs of the update; ``check`` says which ``shape`` and ``device``."""
    place, update = select_device(device), UPDATES[shape]
    sequences = update.sequences()
    if place.type == "cuda":
        free, _ = torch.cuda.mem_get_info(place)
        keeps = keeps_activations(update.model, update.micro_batch_tokens, 2, 1, free)
        print(f"{free / GIB:.0f} GiB free: a run would {'keep' if keeps else 'recompute'} "
              "activations", flush=True)  # fmt: skip
    with _own_process_group():
        rows = {name: _measured(update, place, levers, min(repeats, 3))
                for name, levers in ROWS.items()}  # fmt: skip
    flops = model_flops(update.model, sequences)
    peak = next((p for n, p in PEAKS.items() if n in describe_device(place).get("device_name", "")),
                None)  # fmt: skip
    for row in rows.values():
        if "pass_seconds" in row:
            row["flops_per_second"] = flops / row["pass_seconds"]["median"]
            row["mfu"] = row["flops_per_second"] / peak if peak else None
    return {
        "setting": {"shape": shape, **asdict(update), "precision": "bfloat16"},
        **describe_device(place),
        "completion_tokens": sum(s.completion for s in sequences if s.trained),
        "model_flops": flops,
        "device_peak_flops_per_second": peak,
        "matmul_flops_per_second": _matmul_rate(place),
        "targets": {"mfu": MFU_TARGET},
        "rows": rows,
    }


class UpdateStep:
    """The update as the trainer does it, again with every call; the seconds of its passes and of
    its optimiser."""

    def __init__(self, update: Update, device: torch.device, scratch: str, levers: Levers) -> None:
        self.device = device
        self.model = build_model(update.model, device)
        if levers.recompute:
            sharding.recompute_activations(self.model)
        if levers.compiled:
            for layer in self.model.base_model.layers:
                layer.compile()
        sharding.shard(self.model, device, "bfloat16")
        self.trajectories = trajectories(update)
        self.trainer = Trainer(
            model=self.model,
            method=SGPO(SGPOConfig(num_autonomous=update.num_autonomous)),
            rollout=SimpleNamespace(spent=Spent()),
            problems=[Problem(str(i), "", "") for i in range(update.num_problems)],
            config=TrainConfig(
                num_steps=1,
                problems_per_step=update.num_problems,
                learning_rate=1e-6,
                micro_batch_tokens=update.micro_batch_tokens,
                activation_checkpointing=levers.recompute,
            ),
            seed=0,
            run_dir=Path(scratch),
        )
        self.optimizer_seconds = 0.0
        self.plain_step = self.trainer.optimizer.step
        self.trainer.optimizer.step = self._optimizer_step

    def __call__(self) -> tuple[float, float]:
        began = self._now()
        self.trainer.update(1, self.trajectories, Sums())
        return self._now() - began - self.optimizer_seconds, self.optimizer_seconds

    def _optimizer_step(self) -> None:
        began = self._now()
        self.plain_step()
        self.optimizer_seconds = self._now() - began

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()


def build_model(shape: Shape, device: torch.device) -> PreTrainedModel:
    """A randomly initialised float32 Qwen2 of ``shape`` on ``device``."""
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=shape.context,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen2ForCausalLM(config).eval()


def trajectories(update: Update) -> list[Trajectory]:
    """The update's trajectories of seeded random ids; every advantage moves its sequence."""
    make = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(update.model.vocab_size, (count,), generator=make).tolist())

    found = []
    for problem in range(update.num_problems):
        name, prompt, guided = str(problem), ids(update.prompt), ids(update.guided)
        for i in range(update.num_autonomous):
            found.append(
                Trajectory(name, Role.AUTONOMOUS, prompt, ids(update.completion), float(i % 2),
                           advantage=1.0 if i % 2 else -1.0)
            )  # fmt: skip
        found.append(
            Trajectory(name, Role.GUIDED, prompt, ids(update.completion), 1.0, weight=0.5,
                       second_prompt_ids=guided)
        )  # fmt: skip
    return found


@contextmanager
def head_chunks(times: int) -> Iterator[None]:
    """The head takes ``times`` as many logits and tokens at once in the block."""
    logits, tokens = chunked_head.MAX_LOGITS, chunked_head.MAX_TOKENS
    chunked_head.MAX_LOGITS = {place: limit * times for place, limit in logits.items()}
    chunked_head.MAX_TOKENS = tokens * times
    try:
        yield
    finally:
        chunked_head.MAX_LOGITS, chunked_head.MAX_TOKENS = logits, tokens


@contextmanager
def _own_process_group() -> Iterator[None]:
    """Sharding over one rank makes a process group where there is none; it ends with the block."""
    before = dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_initialized() and not before:
            dist.destroy_process_group()


def _measured(update: Update, device: torch.device, levers: Levers, repeats: int) -> dict[str, Any]:
    """Seconds and peak of ``repeats`` updates after one that is not timed."""
    if levers.compiled and device.type != "cuda":
        return {"not_run": "needs a GPU"}
    try:
        with tempfile.TemporaryDirectory() as scratch, head_chunks(levers.head):
            step = UpdateStep(update, device, scratch, levers)
            step()
            before = reset_peak(device)
            seconds = [step() for _ in range(repeats)]
    except torch.OutOfMemoryError:
        return {"not_run": "out of memory"}
    return {
        "pass_seconds": spread([s[0] for s in seconds]),
        "optimizer_seconds": spread([s[1] for s in seconds]),
        "peak_gib": peak_bytes(device) / GIB,
        "held_gib": before / GIB,
    }


def _matmul_rate(device: torch.device) -> dict[str, Any]:
    """The best rate of large products in bfloat16, a yardstick that no data sheet is needed for."""
    size = 8192 if device.type == "cuda" else 512
    rates = [matmul_rate(size, size, size, torch.bfloat16, str(device)) for _ in range(3)]
    return {"size": size, "best": max(rates)}


def blocks(result: dict[str, Any]) -> list[Block]:
    rows = [("update", "pass s", "optimiser s", "peak GiB", "TFLOP/s", "MFU", "of matmul rate")]
    best = result["matmul_flops_per_second"]["best"]
    for name, row in result["rows"].items():
        if "not_run" in row:
            rows.append((name, row["not_run"], *[""] * 5))
            continue
        rate, mfu = row["flops_per_second"], row["mfu"]
        rows.append(
            (
                name,
                f"{row['pass_seconds']['median']:.2f}",
                f"{row['optimizer_seconds']['median']:.2f}",
                f"{row['peak_gib']:.2f}",
                f"{rate / 1e12:.3g}",
                "" if mfu is None else f"{mfu:.0%}",
                f"{rate / best:.0%}",
            )
        )
    place = result.get("device_name", result["device"])
    return [f"on {place}; target MFU {result['targets']['mfu']:.0%}", rows]


GPU_STEP = Case(
    "one SGPO update at the shape of Qwen2.5-1.5B: memory and MFU (needs a GPU)",
    run,
    blocks,
    check,
)
