"""Peak memory and time of the losses over a real vocabulary, in chunks beside dense."""

from __future__ import annotations

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
# Tensors of tokens x vocabulary that the dense loss holds at its peak, rounded up: logits,
# log-softmax and their gradients, for two models the intermediate products too.
DENSE_COPIES = {"nll": 4, "kl": 8, "jsd": 12}
SHOWN = ("peak_gib", "workspace_gib", "seconds")
LONG = 4096  # tokens above which a case runs once: its time is hardly spread
TARGET = "targets for kl and jsd: 1/4 of the dense peak at 2048 tokens, 1/8 at 16384"


@dataclass(frozen=True)
class Size:
    """``tokens`` of hidden size ``hidden`` over ``vocabulary`` entries, float32."""

    tokens: int
    vocabulary: int = 151_936
    hidden: int = 896  # of Qwen2.5-0.5B

    @property
    def gradient_gib(self) -> float:
        """Size of the gradients that every implementation returns: head and hidden states."""
        return 4 * self.hidden * (self.vocabulary + self.tokens) / GIB


SIZES = (Size(2048), Size(16384))


def run(repeats: int, sizes: Sequence[Size] = SIZES, device: str = "auto") -> dict[str, Any]:
    """Peak memory and time of the losses over 151,936 tokens: chunked and dense.

    nll: mean negative log-likelihood with its gradients to hidden states and head. kl: mean forward
    KL between two sets of hidden states under one head, gradients to the student's side. jsd: the
    same with the Jensen-Shannon divergence. A peak is what a pass adds to its inputs; the workspace
    is the peak without the gradients that every implementation returns. ~: the dense loss did not
    fit, a line through smaller sizes stands for it.
    """
    place, rows = select_device(device), []
    with common.threads(THREADS):
        inputs = Inputs(max(sizes, key=lambda s: s.tokens), place)
        for loss in LOSSES:
            dense = _dense_sizes(loss, sizes, common.free_bytes(place))
            for size in sorted({*sizes, *dense}, key=lambda s: s.tokens):
                names = ["dense"] * (size in dense) + ["chunked"] * (size in sizes)
                times = 1 if size.tokens > LONG else min(repeats, 3)
                rows += _rows(loss, size, names, times, inputs)
    return {**describe_device(place), "threads": THREADS, "target": TARGET, "rows": rows}


def run_gpu(repeats: int) -> dict[str, Any]:
    """The losses of loss_memory on a GPU (needs one).

    Sizes, losses and columns as there. Until they are measured again, kl and jsd are those of
    chunks four times as long as today's.
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
        and to the head, on which both implementations must agree."""
        self.head.weight.grad = None
        student = self.student[:, :tokens].clone().requires_grad_()
        teacher, targets = self.teacher[:, :tokens], self.targets[:, :tokens]
        work = LOSSES[loss][name]
        self.head(student[0, :2])  # thread pools and kernels are there before the clock starts
        before = common.reset_peak(self.device)
        seconds = common.timed(
            lambda: work(self.head, student, teacher, targets).backward(), self.device
        )
        found = {
            "seconds": seconds,
            "peak_gib": (common.peak_bytes(self.device) - before) / GIB,
            "hidden_gradient": float(student.grad.norm()),
            "head_gradient": float(self.head.weight.grad.norm()),
        }
        print(f"{loss} {name} {tokens}: {found['peak_gib']:.2f} GiB, {seconds:.1f} s", flush=True)
        return found


def _rows(
    loss: str, size: Size, names: Sequence[str], repeats: int, inputs: Inputs
) -> list[dict[str, Any]]:
    """A row per implementation, measured in turn."""
    work = {name: partial(inputs.measure, loss, name, size.tokens) for name in names}
    rows = []
    for name, values in common.in_rounds(work, repeats, warmup=0).items():
        row = {"loss": loss, "implementation": name, "shape": asdict(size)}
        row |= {key: spread([v[key] for v in values]) for key in values[0]}
        beyond = [v["peak_gib"] - size.gradient_gib for v in values]
        rows.append(row | {"workspace_gib": spread(beyond)})
        for key in ("hidden_gradient", "head_gradient"):
            value, expected = row[key]["median"], rows[0][key]["median"]
            assert abs(value - expected) < 1e-4 * expected, (key, row, rows[0])
    return rows


def _dense_sizes(loss: str, sizes: Sequence[Size], free: int) -> list[Size]:
    """Where the dense loss is measured: from half of the fewest tokens of ``sizes``, doubled as far
    as it fits into 90% of ``free`` bytes; a line through those stands for the rest."""
    fewest, most = (pick(s.tokens for s in sizes) for pick in (min, max))
    counts = [fewest // 2]
    while counts[-1] < most:
        counts.append(2 * counts[-1])
    found = [replace(sizes[0], tokens=tokens) for tokens in counts]

    def need(size: Size) -> float:
        logits = 4 * size.tokens * size.vocabulary
        return DENSE_COPIES[loss] * logits + 2 * GIB * size.gradient_gib

    return [size for size in found if need(size) < 0.9 * free]


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


def _kl_chunked(head, student, teacher, targets, *, direction):
    model = _States(head, teacher, student)
    return completion_kl(model, _batch(targets), _batch(targets), direction=direction)[0].mean()


def _nll_dense(head, student, teacher, targets):
    return torch.nn.functional.cross_entropy(head(student[0]), targets[0])


def _kl_dense(head, student, teacher, targets, *, direction):
    with torch.no_grad():
        target_logits = head(teacher[0])
    return kl_divergence(target_logits, head(student[0]), direction=direction).mean()


def _divergence(direction: str) -> dict[str, Callable[..., torch.Tensor]]:
    return {
        "dense": partial(_kl_dense, direction=direction),
        "chunked": partial(_kl_chunked, direction=direction),
    }


LOSSES: dict[str, dict[str, Callable[..., torch.Tensor]]] = {
    "nll": {"dense": _nll_dense, "chunked": _nll_chunked},
    "kl": _divergence("forward"),
    "jsd": _divergence("jensen_shannon"),
}


def blocks(result: dict[str, Any]) -> list[Block]:
    """Every row, beside the dense loss at its size: measured, or (~) on the line through those."""
    table = [("loss", "tokens", "implementation", "peak GiB", "workspace GiB", "seconds",
              "peak/dense", "workspace/dense", "time/dense")]  # fmt: skip
    for row in result["rows"]:
        tokens = row["shape"]["tokens"]
        dense = [
            r for r in result["rows"] if (r["loss"], r["implementation"]) == (row["loss"], "dense")
        ]
        ratios = [
            "" if row in dense else _beside(dense, key, tokens, row[key]["median"]) for key in SHOWN
        ]
        values = [f"{row[key]['median']:.2f}" for key in SHOWN]
        table.append((row["loss"], str(tokens), row["implementation"], *values, *ratios))
    place = result.get("device_name", f"the CPU, {result['threads']} threads")
    shapes = [row["shape"] for row in result["rows"]]
    known, hidden = {s["tokens"] for s in shapes}, shapes[0]["hidden"]
    missing = [f" {s.tokens} tokens: not run." for s in SIZES if s.tokens not in known]
    return [table, f"On {place}, hidden size {hidden}; {TARGET}.{''.join(missing)}"]


def _beside(dense: Sequence[dict[str, Any]], key: str, tokens: int, value: float) -> str:
    """``value`` over that of the dense loss at ``tokens``; nothing where no line can be drawn."""
    known = {row["shape"]["tokens"]: row[key]["median"] for row in dense}
    if tokens in known:
        return f"{value / known[tokens]:.2f}"
    if len(known) < 2:
        return ""
    slope, start = np.polyfit(list(known), list(known.values()), 1)
    return f"~{value / (start + slope * tokens):.2f}"
