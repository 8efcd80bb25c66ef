"""One loss over a real vocabulary, dense, in our chunks or Liger's: forward and backward, measured.

``python -m benchmarks.perf.loss_work LOSS IMPLEMENTATION SHAPE DEVICE`` prints what ``measure``
returns as JSON; a process of its own, so that its peak is nobody else's.

``nll``: mean negative log-likelihood with its gradients to hidden states and head. ``kl``: mean
forward KL between two sets of hidden states under one head, gradients to the student's side.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from sgpo.core import losses
from sgpo.core.distributed import select_device
from sgpo.core.logprobs import PaddedSequences, completion_kl, kl_divergence, token_stats

GIB = 2**30
THREADS = 2
LIGER_ROW = 1024  # tokens of a sequence: Liger's policy loss goes one sequence at a time


@dataclass(frozen=True)
class Shape:
    """``tokens`` of hidden size ``hidden`` over ``vocabulary`` entries, float32."""

    tokens: int
    vocabulary: int = 151_936
    hidden: int = 1536

    @property
    def gradient_gib(self) -> float:
        """Size of the gradients that every implementation returns: head and hidden states."""
        return 4 * self.hidden * (self.vocabulary + self.tokens) / GIB


def measure(loss: str, name: str, shape: Shape, device: torch.device) -> dict[str, float]:
    """One forward and backward pass on ``THREADS`` threads: ``peak_gib`` above the inputs (the
    gradients included), ``seconds``, and the norm of the gradients to the hidden states and to
    the head, on which all implementations must agree."""
    torch.set_num_threads(THREADS)
    head, student, teacher, targets = _inputs(shape, device)
    head(student[0, :2])  # thread pools and kernels are there before the clock starts
    before = reset_peak(device)
    began = time.perf_counter()
    WORK[loss, name](head, student, teacher, targets).backward()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    return {
        "peak_gib": (peak_bytes(device) - before) / GIB,
        "seconds": seconds,
        "hidden_gradient": float(student.grad.norm()),
        "head_gradient": float(head.weight.grad.norm()),
    }


def _inputs(shape: Shape, device: torch.device) -> tuple[torch.nn.Linear, *tuple[Any, ...]]:
    make = torch.Generator(device).manual_seed(0)
    head = torch.nn.Linear(shape.hidden, shape.vocabulary, bias=False, device="meta")
    head.to_empty(device=device)
    with torch.no_grad():
        head.weight.normal_(std=0.02, generator=make)
        student, teacher = (
            torch.randn(1, shape.tokens, shape.hidden, generator=make, device=device)
            for _ in range(2)
        )
    targets = torch.randint(shape.vocabulary, (1, shape.tokens), generator=make, device=device)
    return head, student.requires_grad_(), teacher, targets


def reset_peak(device: torch.device) -> int:
    """Bytes in use on a GPU, or by this process; the peak counts from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # The process's own high-water mark: that of getrusage also knows the parent's memory.
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since ``reset_peak``."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith(f"{field}:")) * 1024


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


def _kl_chunked(head, student, teacher, targets):
    model = _States(head, teacher, student)
    return completion_kl(model, _batch(targets), _batch(targets), direction="forward")[0].mean()


def _nll_dense(head, student, teacher, targets):
    return torch.nn.functional.cross_entropy(head(student[0]), targets[0])


def _kl_dense(head, student, teacher, targets):
    with torch.no_grad():
        target_logits = head(teacher[0])
    return kl_divergence(target_logits, head(student[0]), direction="forward").mean()


def _nll_liger(head, student, teacher, targets):
    """Liger's policy-gradient loss: with advantage 1, on policy, it has the gradient of the mean
    negative log-likelihood (its value is another)."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    function = LigerFusedLinearGRPOLoss(
        beta=0.0, compiled=False, use_ref_model=False, loss_type="grpo"
    )
    row = min(LIGER_ROW, targets.shape[1])
    rows = targets.view(-1, row)
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
}


if __name__ == "__main__":
    loss, name, shape, device = sys.argv[1:]
    print(json.dumps(measure(loss, name, Shape(**json.loads(shape)), select_device(device))))
