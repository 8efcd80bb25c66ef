"""Peak memory and time of the losses over a real vocabulary, ours beside dense and Liger's."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.perf import common
from benchmarks.perf.common import GIB, Block, spread
from sgpo.core import losses
from sgpo.core.distributed import describe_device, select_device
from sgpo.core.logprobs import PaddedSequences, completion_kl, kl_divergence, token_stats

THREADS = 2
LOSSES = ("nll", "kl", "jsd")
# Tensors of tokens x vocabulary that the dense loss holds at its peak, rounded up: logits,
# log-softmax and their gradients, for two models the intermediate products too.
DENSE_COPIES = {"nll": 4, "kl": 9, "jsd": 16}
SHOWN = ("peak_gib", "workspace_gib", "seconds")
LONG = 4096  # tokens above which a case runs once: its time is hardly spread
LIGER_ROW = 1024  # tokens of a sequence: Liger's policy loss goes one sequence at a time
TARGETS = {"peak of dense": 1 / 8, "time of dense": 1.5}
NO_LIGER = "liger-kernel is not installed: pip install liger-kernel"
SLOW_LIGER = f"Liger's loss is left out above {LONG} tokens on a CPU, where it takes minutes"


@dataclass(frozen=True)
class Size:
    """``tokens`` of hidden size ``hidden`` over ``vocabulary`` entries, float32."""

    tokens: int
    vocabulary: int = 151_936
    hidden: int = 1536

    @property
    def gradient_gib(self) -> float:
        """Size of the gradients that every implementation returns: head and hidden states."""
        return 4 * self.hidden * (self.vocabulary + self.tokens) / GIB


SIZES = (Size(2048), Size(16384))


def run(repeats: int, sizes: Sequence[Size] = SIZES, device: str = "auto") -> dict[str, Any]:
    """Peak memory and time of the losses over 151,936 tokens: chunked, dense, Liger's.

    nll: mean negative log-likelihood with its gradients to hidden states and head. kl: mean forward
    KL between two sets of hidden states under one head, gradients to the student's side. jsd: the
    same with the Jensen-Shannon divergence (Liger's has no counterpart here). A peak is
    what a pass adds to its inputs; the workspace is the peak without the gradients that every
    implementation returns. ~: the dense loss did not fit, a line through smaller sizes stands for
    it. Liger's chunked losses are plain torch; its Triton kernels need a GPU.
    """
    place, rows = select_device(device), []
    with common.threads(THREADS):
        inputs = Inputs(max(sizes, key=lambda s: s.tokens), place)
        for loss in LOSSES:
            dense = [replace(sizes[0], tokens=t) for t in _dense_tokens(loss, sizes, place)]
            for size in sorted({*sizes, *dense}, key=lambda s: s.tokens):
                names = ["dense"] * (size in dense) + ["chunked", "liger"] * (size in sizes)
                times = 1 if size.tokens > LONG else min(repeats, 3)
                known = [name for name in names if (loss, name) in WORK]
                rows += _rows(loss, size, known, times, inputs)
    return {**describe_device(place), "threads": THREADS, "targets": TARGETS, "rows": rows}


def run_gpu(repeats: int) -> dict[str, Any]:
    """The losses of loss_memory on a GPU (needs one).

    Sizes, losses and columns as there.
    """
    return run(repeats, device="cuda")


class Inputs:
    """Head, two sets of hidden states and targets for every size up to ``largest``."""

    def __init__(self, largest: Size, device: torch.device) -> None:
        make = torch.Generator(device).manual_seed(0)
        self.device = device
        self.head = torch.nn.Linear(largest.hidden, largest.vocabulary, bias=False, device="meta")
        self.head.to_empty(device=device)
        with torch.no_grad():
            self.head.weight.normal_(std=0.02, generator=make)
        shape = (1, largest.tokens, largest.hidden)
        self.student, self.teacher = (
            torch.randn(shape, generator=make, device=device) for _ in range(2)
        )
        self.targets = torch.randint(largest.vocabulary, shape[:2], generator=make, device=device)

    def measure(self, loss: str, name: str, tokens: int) -> dict[str, float]:
        """One forward and backward pass over the first ``tokens``: ``peak_gib`` above the inputs
        (the gradients included), ``seconds``, and the norm of the gradients to the hidden states
        and to the head, on which all implementations must agree."""
        self.head.weight.grad = None
        student = self.student[:, :tokens].clone().requires_grad_()
        teacher, targets = self.teacher[:, :tokens], self.targets[:, :tokens]
        self.head(student[0, :2])  # thread pools and kernels are there before the clock starts
        before = common.reset_peak(self.device)
        common.synchronize(self.device)
        began = time.perf_counter()
        WORK[loss, name](self.head, student, teacher, targets).backward()
        common.synchronize(self.device)
        found = {
            "seconds": time.perf_counter() - began,
            "peak_gib": (common.peak_bytes(self.device) - before) / GIB,
            "hidden_gradient": float(student.grad.norm()),
            "head_gradient": float(self.head.weight.grad.norm()),
        }
        shown = f"{found['peak_gib']:.2f} GiB, {found['seconds']:.1f} s"
        print(f"{loss} {name} {tokens}: {shown}", flush=True)
        return found


def _rows(
    loss: str, size: Size, names: Sequence[str], repeats: int, inputs: Inputs
) -> list[dict[str, Any]]:
    """A row per implementation, measured in turn."""
    missing = _no_liger(size, inputs.device)
    able = [name for name in names if not (name == "liger" and missing)]
    work = {name: lambda name=name: inputs.measure(loss, name, size.tokens) for name in able}
    rows = []
    for name, values in common.in_rounds(work, repeats, warmup=0).items():
        row = {"loss": loss, "implementation": name, "shape": asdict(size)}
        row |= {key: spread([v[key] for v in values]) for key in values[0]}
        beyond = [v["peak_gib"] - size.gradient_gib for v in values]
        rows.append(row | {"workspace_gib": spread(beyond)})
        for key in ("hidden_gradient", "head_gradient"):
            value, expected = row[key]["median"], rows[0][key]["median"]
            assert abs(value - expected) < 1e-4 * expected, (key, row, rows[0])
    if len(able) < len(names):
        row = {"loss": loss, "implementation": "liger", "shape": asdict(size)}
        rows.append(row | {"not_run": missing})
    return rows


def _no_liger(size: Size, device: torch.device) -> str | None:
    """Why Liger's loss is not run, or None."""
    if importlib.util.find_spec("liger_kernel") is None:
        return NO_LIGER
    return SLOW_LIGER if device.type == "cpu" and size.tokens > LONG else None


def _dense_tokens(loss: str, sizes: Sequence[Size], device: torch.device) -> list[int]:
    """Where the dense loss is measured: from half of the fewest tokens of ``sizes``, doubled as far
    as it fits; a line through those stands for the rest."""
    available, counts = 0.9 * _available(device), [min(s.tokens for s in sizes) // 2]
    while counts[-1] < max(s.tokens for s in sizes):
        counts.append(2 * counts[-1])

    def gib(tokens: int) -> float:
        size = replace(sizes[0], tokens=tokens)
        return DENSE_COPIES[loss] * tokens * size.vocabulary * 4 / GIB + 2 * size.gradient_gib

    return [tokens for tokens in counts if gib(tokens) < available]


def _available(device: torch.device) -> float:
    """GiB that are free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB
    return common.kernel_bytes("/proc/meminfo", "MemAvailable") / GIB


class _States:
    """What our losses need of a model: hidden states that are given, and a head."""

    config = SimpleNamespace(model_type="hidden states")

    def __init__(self, head: torch.nn.Linear, *states: torch.Tensor) -> None:
        self.head, self.states = head, list(states)

    def base_model(self, **_: Any) -> Any:
        return SimpleNamespace(last_hidden_state=self.states.pop(0))

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head


def _batch(targets: torch.Tensor) -> PaddedSequences:
    positions = torch.arange(targets.shape[1], device=targets.device)[None]
    return PaddedSequences(targets, positions, targets, torch.ones_like(targets, dtype=torch.bool))


def _nll_chunked(head, student, teacher, targets):
    batch = _batch(targets)
    logprobs = token_stats(_States(head, student), batch, entropy="none").logprobs
    return losses.negative_log_likelihood(logprobs=logprobs, completion_mask=batch.completion_mask)


def _kl_chunked(head, student, teacher, targets, direction="forward"):
    model = _States(head, teacher, student)
    return completion_kl(model, _batch(targets), _batch(targets), direction=direction)[0].mean()


def _nll_dense(head, student, teacher, targets):
    return torch.nn.functional.cross_entropy(head(student[0]), targets[0])


def _kl_dense(head, student, teacher, targets, direction="forward"):
    with torch.no_grad():
        target_logits = head(teacher[0])
    return kl_divergence(target_logits, head(student[0]), direction=direction).mean()


def _nll_liger(head, student, teacher, targets):
    """Liger's policy-gradient loss: with advantage 1, on policy, it has the gradient of the mean
    negative log-likelihood (its value is another)."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    function = LigerFusedLinearGRPOLoss(
        beta=0.0, compiled=False, use_ref_model=False, loss_type="grpo"
    )
    rows = targets.view(-1, min(LIGER_ROW, targets.shape[1]))
    ones = torch.ones(rows.shape, device=targets.device)
    hidden = student[0].view(*rows.shape, -1)
    return function(hidden, head.weight, rows, ones, ones[:, 0])[0]


def _kl_liger(head, student, teacher, targets):
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    function = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=False
    )
    weight = head.weight
    return function(student[0], weight, teacher[0], weight.detach(), targets[0])


WORK: dict[tuple[str, str], Callable[..., torch.Tensor]] = {
    ("nll", "dense"): _nll_dense,
    ("nll", "chunked"): _nll_chunked,
    ("nll", "liger"): _nll_liger,
    ("kl", "dense"): _kl_dense,
    ("kl", "chunked"): _kl_chunked,
    ("kl", "liger"): _kl_liger,
    ("jsd", "dense"): partial(_kl_dense, direction="jensen_shannon"),
    ("jsd", "chunked"): partial(_kl_chunked, direction="jensen_shannon"),
}


def blocks(result: dict[str, Any]) -> list[Block]:
    """Every row, beside the dense loss at its size: measured, or (~) on the line through those."""
    table = [("loss", "tokens", "implementation", "peak GiB", "workspace GiB", "seconds",
              "peak/dense", "workspace/dense", "time/dense")]  # fmt: skip
    rows = result["rows"]
    for row in rows:
        tokens = row["shape"]["tokens"]
        start = (row["loss"], str(tokens), row["implementation"])
        if "not_run" in row:
            table.append((*start, "not run", *[""] * 5))
            continue
        dense = [r for r in rows if (r["loss"], r["implementation"]) == (row["loss"], "dense")]
        ratios = [
            "" if row in dense else _beside(dense, key, tokens, row[key]["median"]) for key in SHOWN
        ]
        table.append((*start, *(f"{row[key]['median']:.2f}" for key in SHOWN), *ratios))
    place = result.get("device_name", f"the CPU, {result['threads']} threads")
    targets = result["targets"]
    notes = {row["not_run"] for row in rows if "not_run" in row}
    return [
        table,
        f"On {place}; targets {targets['peak of dense']:.3g} of the dense peak, "
        f"{targets['time of dense']} of its time. "
        + "".join(f"{note}. " for note in sorted(notes)),
    ]


def _beside(dense: Sequence[dict[str, Any]], key: str, tokens: int, value: float) -> str:
    """``value`` over that of the dense loss at ``tokens``; nothing where no line can be drawn."""
    known = {row["shape"]["tokens"]: row[key]["median"] for row in dense}
    if tokens in known:
        return f"{value / known[tokens]:.2f}"
    if len(known) < 2:
        return ""
    slope, start = np.polyfit(list(known), list(known.values()), 1)
    return f"~{value / (start + slope * tokens):.2f}"
