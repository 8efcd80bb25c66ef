"""Peak memory and time of the two losses over a real vocabulary: ours in chunks, dense, Liger's.

``nll``: mean negative log-likelihood with its gradients to hidden states and head. ``kl``: mean
forward KL between two sets of hidden states under one head, gradients to the student's side.
Inputs are made once; a measurement's peak is what it adds to them. The gradients of head and hidden
states, which all implementations return, are part of it: no implementation can be below them.
``workspace_gib`` is the peak without them, which is what chunks can save.

Where the dense loss does not fit, it is measured at sizes that do, a line is fitted through their
peaks and seconds, and what the line says is marked as fitted. Liger's chunked losses are plain
torch and run on a CPU; its Triton kernels need a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.perf.common import Block, Case, spread, synchronize, threads
from sgpo.core import losses
from sgpo.core.distributed import describe_device, select_device
from sgpo.core.logprobs import PaddedSequences, completion_kl, kl_divergence, token_stats

GIB = 2**30
THREADS = 2
LOSSES = ("nll", "kl")
# Tensors of tokens x vocabulary that the dense loss holds at its peak, rounded up: logits,
# log-softmax and their gradients, for the KL of two models the intermediate products too.
DENSE_COPIES = {"nll": 4, "kl": 9}
COMPARED = ("peak_gib", "workspace_gib", "seconds")
LONG = 4096  # tokens above which a case runs once: its time is hardly spread
LIGER_ROW = 1024  # tokens of a sequence: Liger's policy loss goes one sequence at a time
MEMORY_TARGET, TIME_TARGET = 1 / 8, 1.5
NO_LIGER = "liger-kernel is not installed: pip install liger-kernel"


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
    """Every loss, implementation and size, up to three times where it is short."""
    place, rows = select_device(device), []
    with threads(THREADS):
        inputs = Inputs(max(sizes, key=lambda s: s.tokens), place)
        for loss in LOSSES:
            dense = [replace(sizes[0], tokens=t) for t in _dense_tokens(loss, sizes, place)]
            for size in sorted({*sizes, *dense}, key=lambda s: s.tokens):
                names = [n for n in ("chunked", "liger") if size in sizes]
                names = ["dense", *names] if size in dense else names
                rows += _rounds(loss, size, names, min(repeats, 1 if size.tokens > LONG else 3),
                                inputs)  # fmt: skip
    return {
        **describe_device(place),
        "threads": THREADS,
        "targets": {"peak of dense": MEMORY_TARGET, "time of dense": TIME_TARGET},
        "rows": rows,
        "compared": [_compared(r, rows) for r in rows if Size(**r["shape"]) in sizes],
    }


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
        ids = torch.randint(largest.vocabulary, shape[:2], generator=make, device=device)
        self.targets = ids

    def measure(self, loss: str, name: str, tokens: int) -> dict[str, float]:
        """One forward and backward pass over the first ``tokens``: ``peak_gib`` above the inputs
        (the gradients included), ``seconds``, and the norm of the gradients to the hidden states
        and to the head, on which all implementations must agree."""
        self.head.weight.grad = None
        student = self.student[:, :tokens].clone().requires_grad_()
        teacher, targets = self.teacher[:, :tokens], self.targets[:, :tokens]
        self.head(student[0, :2])  # thread pools and kernels are there before the clock starts
        before = reset_peak(self.device)
        synchronize(self.device)
        began = time.perf_counter()
        WORK[loss, name](self.head, student, teacher, targets).backward()
        synchronize(self.device)
        return {
            "seconds": time.perf_counter() - began,
            "peak_gib": (peak_bytes(self.device) - before) / GIB,
            "hidden_gradient": float(student.grad.norm()),
            "head_gradient": float(self.head.weight.grad.norm()),
        }


def reset_peak(device: torch.device) -> int:
    """Bytes in use on a GPU, or by this process; the peak counts from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide in the next peak
    # The process's own high-water mark: that of getrusage also knows the parent's memory.
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use since ``reset_peak``."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith(f"{field}:")) * 1024


def _rounds(
    loss: str, size: Size, names: Sequence[str], repeats: int, inputs: Inputs
) -> list[dict[str, Any]]:
    """A row per implementation, measured in turn."""
    missing = {"liger": _no_liger(size, inputs.device)}
    found: dict[str, list[dict[str, float]]] = {n: [] for n in names if not missing.get(n)}
    for _ in range(repeats):
        for name, values in found.items():
            values.append(inputs.measure(loss, name, size.tokens))
            print(f"{loss} {name} {size.tokens}: {values[-1]['peak_gib']:.2f} GiB, "
                  f"{values[-1]['seconds']:.1f} s", flush=True)  # fmt: skip
    rows = []
    for name in names:
        row = {"loss": loss, "implementation": name, "shape": asdict(size)}
        if name not in found:
            rows.append(row | {"not_run": missing[name]})
            continue
        row |= {key: spread([v[key] for v in found[name]]) for key in found[name][0]}
        beyond = [v["peak_gib"] - size.gradient_gib for v in found[name]]
        rows.append(row | {"workspace_gib": spread(beyond)})
    measured = [r for r in rows if "not_run" not in r]
    for row in measured[1:]:
        for key in ("hidden_gradient", "head_gradient"):
            value, expected = row[key]["median"], measured[0][key]["median"]
            assert abs(value - expected) < 1e-4 * expected, (key, row, measured[0])
    return rows


def _no_liger(size: Size, device: torch.device) -> str | None:
    """Why Liger's loss is not run, or None."""
    if importlib.util.find_spec("liger_kernel") is None:
        return NO_LIGER
    if device.type == "cpu" and size.tokens > LONG:
        return f"Liger's loss is left out above {LONG} tokens on a CPU, where it takes minutes"
    return None


def _dense_tokens(loss: str, sizes: Sequence[Size], device: torch.device) -> list[int]:
    """Where the dense loss is measured: at the sizes' own tokens as far as they fit; if one does
    not, also at half of the fewest and at the most that fit, to fit a line."""
    available = _available(device)

    def fits(tokens: int) -> bool:
        size = replace(sizes[0], tokens=tokens)
        logits = tokens * size.vocabulary * 4 / GIB
        return DENSE_COPIES[loss] * logits + 2 * size.gradient_gib < 0.9 * available

    wanted = [s.tokens for s in sizes]
    if all(map(fits, wanted)):
        return wanted
    largest = min(wanted)
    while fits(2 * largest) and 2 * largest < max(wanted):
        largest *= 2
    return sorted(t for t in {*wanted, min(wanted) // 2, largest} if fits(t))


def _available(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("MemAvailable")) * 1024 / GIB


def _compared(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """``row`` beside the dense loss at its size, measured or from the fitted line."""
    result = {key: row[key] for key in ("loss", "implementation")}
    result |= {"tokens": row["shape"]["tokens"]}
    if "not_run" in row:
        return result | {"not_run": row["not_run"]}
    dense = [r for r in rows if (r["loss"], r["implementation"]) == (row["loss"], "dense")]
    own = next((r for r in dense if r["shape"] == row["shape"]), None)
    for key in COMPARED:
        points = [(r["shape"]["tokens"], r[key]["median"]) for r in dense]
        if own is None and len(points) < 2:
            continue
        expected = own[key]["median"] if own else at(points, result["tokens"])
        result |= {f"dense {key}": expected, f"{key} / dense": row[key]["median"] / expected}
    return result | {"dense is fitted": own is None}


def at(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at ``x`` of the least-squares line through two ``points`` (x, y) or more."""
    slope, start = np.polyfit(*zip(*points, strict=True), 1)
    return float(start + slope * x)


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
}


def blocks(result: dict[str, Any]) -> list[Block]:
    rows = [("loss", "tokens", "implementation", "peak GiB", "workspace GiB", "seconds",
             "peak/dense", "workspace/dense", "time/dense")]  # fmt: skip
    compared = {(c["loss"], c["implementation"], c["tokens"]): c for c in result["compared"]}
    for row in result["rows"]:
        tokens = row["shape"]["tokens"]
        start = (row["loss"], str(tokens), row["implementation"])
        if "not_run" in row:
            rows.append((*start, "not run", *[""] * 5))
            continue
        beside = compared.get((row["loss"], row["implementation"], tokens), {})
        mark = "~" if beside.get("dense is fitted") else ""
        ratios = [beside.get(f"{key} / dense") for key in COMPARED]
        rows.append(
            (
                *start,
                *(f"{row[key]['median']:.2f}" for key in COMPARED),
                *("" if ratio is None else f"{mark}{ratio:.2f}" for ratio in ratios),
            )
        )
    notes = ["~: the dense loss did not fit here; a line through smaller sizes stands for it"]
    notes += sorted({r["not_run"] for r in result["rows"] if "not_run" in r})
    targets = result["targets"]
    place = result.get("device_name", f"the CPU, {result['threads']} threads")
    return [
        f"on {place}; targets {targets['peak of dense']:.3g} of the dense peak, "
        f"{targets['time of dense']} of its time",
        rows,
        *notes,
    ]


LOSS_MEMORY = Case(
    "peak memory and time of the losses over 151,936 tokens: chunked, dense, Liger's", run, blocks
)
