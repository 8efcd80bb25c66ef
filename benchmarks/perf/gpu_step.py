"""One SGPO optimiser update at the shape of Qwen2.5-1.5B, through the trainer's own update.

Two problems with seven autonomous completions and one distilled target each, random ids under
random weights. Each row pulls one lever: ``recomputed`` is training as it is where memory is short,
``kept`` where it is not, in micro-batches that fit (``benchmarks.plan.cost.kept_tokens`` chooses).
Packing instead of padding has no row: sorted by length as micro-batches are, padding takes 1 to 7%
of the tokens.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.perf import common
from benchmarks.perf.common import GIB, Block, spread, timed
from benchmarks.plan.cost import forward_flops, kept_tokens
from sgpo.core import sharding
from sgpo.core.config import TrainConfig
from sgpo.core.distributed import describe_device, leave, select_device
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

    def flops(self, attention_share: float = 0.5) -> float:
        """FLOPs that the passes ask for: a backward pass counts twice, the head on completions
        alone; ``attention_share``: of all pairs of positions, those that count."""

        def forward(prompt: int) -> float:
            length = prompt + self.completion
            return forward_flops(
                self.model, length, self.completion, attention_share=attention_share
            )

        trained = 3 * (self.num_autonomous + 1) * forward(self.prompt)
        return self.num_problems * (trained + forward(self.guided))


UPDATES = {
    "qwen2.5-1.5b": Update(CHECKPOINTS["qwen2.5-1.5b"].shape, 2, 7, 4096, 256, 512, 18_432),
    "tiny": Update(Shape(512, 32, 48, 2, 4, 2, 128, 1e4, True, True), 2, 7, 32, 8, 16, 256),
}
ROWS = {
    "recomputed": {"recompute": True},
    "kept": {},
    "kept, compiled layers": {"compiled": True},
}


def run(repeats: int, shape: str = "qwen2.5-1.5b", device: str = "auto") -> dict[str, Any]:
    """One SGPO update at the shape of Qwen2.5-1.5B: memory and MFU (needs a GPU).

    16 x 4096 completion tokens in bfloat16 over float32 master weights. The pass is the update
    without the optimiser's step; its MFU is the FLOPs that the passes ask for over its seconds and
    the GPU's dense bfloat16 peak, recomputation earns nothing.
    """
    if shape not in UPDATES:
        raise ValueError(f"--shape {shape!r}: must be one of {', '.join(UPDATES)}")
    place, update = select_device(device), UPDATES[shape]
    if place.type == "cpu" and shape != "tiny":
        raise ValueError("gpu_step: not run: needs a GPU (--shape tiny --device cpu runs anywhere)")
    kept, repeats = _kept(update, place), min(repeats, 3)
    rows = {
        name: _measured(update if levers.get("recompute") else kept, place, repeats, **levers)
        for name, levers in ROWS.items()
    }
    flops, described = update.flops(), describe_device(place)
    named = described.get("device_name", "")
    peak = next((value for name, value in PEAKS.items() if name in named), None)
    for row in rows.values():
        if "pass_seconds" in row:
            row["flops_per_second"] = flops / row["pass_seconds"]["median"]
            row["mfu"] = row["flops_per_second"] / peak if peak else None
    size = 8192 if place.type == "cuda" else 256
    return {
        "setting": {"shape": shape, **asdict(update), "precision": "bfloat16"},
        "kept_micro_batch_tokens": kept.micro_batch_tokens,
        **described,
        "completion_tokens": update.num_problems * (update.num_autonomous + 1) * update.completion,
        "model_flops": flops,
        "device_peak_flops_per_second": peak,
        "matmul_flops_per_second": {"size": size, "best": matmul_rate(size, place)},
        "targets": {"mfu": MFU_TARGET},
        "rows": rows,
    }


def matmul_rate(size: int, device: torch.device) -> float:
    """FLOPs per second of the fastest of some large bfloat16 products: a yardstick that no data
    sheet is needed for."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    return 2.0 * size**3 / min(timed(lambda: a @ b, device) for _ in range(10))


def _kept(update: Update, device: torch.device) -> Update:
    """``update`` in the micro-batches whose activations fit this GPU, if any do."""
    if device.type != "cuda":
        return update
    free = common.free_bytes(device)
    longest = update.guided + update.completion
    tokens = kept_tokens(update.model, update.micro_batch_tokens, longest, 2, 1, free)
    print(f"{free / GIB:.0f} GiB free: kept in micro-batches of {tokens} tokens", flush=True)
    return replace(update, micro_batch_tokens=tokens or update.micro_batch_tokens)


class UpdateStep:
    """The update as the trainer does it, again with every call; the seconds of its passes and of
    its optimiser."""

    def __init__(
        self,
        update: Update,
        device: torch.device,
        scratch: str,
        recompute: bool = False,
        compiled: bool = False,
    ) -> None:
        self.device = device
        self.model = build_model(update.model, device)
        if recompute:
            sharding.recompute_activations(self.model)
        if compiled:
            sharding.compile_layers(self.model)
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
                activation_checkpointing=recompute,
            ),
            seed=0,
            run_dir=Path(scratch),
        )
        self.optimizer_step = self.trainer.optimizer.step
        self.trainer.optimizer.step = self._timed_optimizer_step

    def __call__(self) -> tuple[float, float]:
        total = timed(lambda: self.trainer.update(1, self.trajectories, Sums()), self.device)
        return total - self.optimizer_seconds, self.optimizer_seconds

    def _timed_optimizer_step(self) -> None:
        self.optimizer_seconds = timed(self.optimizer_step, self.device)


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
    for name in map(str, range(update.num_problems)):
        prompt, guided = ids(update.prompt), ids(update.guided)
        for i in range(update.num_autonomous):
            right, text = i % 2, ids(update.completion)
            found.append(
                Trajectory(name, Role.AUTONOMOUS, prompt, text, right, advantage=2 * right - 1)
            )
        more = {"weight": 0.5, "second_prompt_ids": guided}
        found.append(Trajectory(name, Role.GUIDED, prompt, ids(update.completion), 1.0, **more))
    return found


def _measured(update: Update, device: torch.device, repeats: int, **levers: bool) -> dict[str, Any]:
    """Seconds and peak of ``repeats`` updates after one that is not timed."""
    if levers.get("compiled") and device.type != "cuda":
        return {"not_run": "needs a GPU"}
    try:
        with tempfile.TemporaryDirectory() as scratch:
            step = UpdateStep(update, device, scratch, **levers)
            step()
            before = common.reset_peak(device)
            seconds = [step() for _ in range(repeats)]
    except torch.OutOfMemoryError:
        return {"not_run": "out of memory"}
    finally:
        leave()  # sharding over one rank has made a process group
    return {
        "pass_seconds": spread([s[0] for s in seconds]),
        "optimizer_seconds": spread([s[1] for s in seconds]),
        "peak_gib": common.peak_bytes(device) / GIB,
        "held_gib": before / GIB,
    }


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
    return [rows, f"On {place}; target MFU {result['targets']['mfu']:.0%}."]
