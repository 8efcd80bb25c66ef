"""A language-model head applied to a few tokens at a time, in both passes.

The logits of all tokens never exist together: the forward pass keeps none, the backward pass
computes those of a chunk again, turns them into their gradient, and adds that to one gradient of
the head. Peak memory grows with the chunk and not with tokens x vocabulary; the price is one more
application of the head. On a GPU, where reading and writing logits takes longer than what is
computed from them, that is compiled into few passes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

MAX_TOKENS = 4096  # in a chunk, however small the vocabulary
# Numbers in a chunk's logits. On the CPU 128 MiB in float32, 220 tokens at V = 152k. Elsewhere
# 256 MiB in bfloat16, 883 tokens: the head's gradient is read and written once a chunk, which has
# to stay short beside the chunk's matrix products.
MAX_LOGITS = {"cpu": 2**25, "elsewhere": 2**27}

# function(logits [n, V] in the head's type, *further) -> per-token results, each [n] float32
PerToken = Callable[..., tuple[torch.Tensor, ...]]
# gradient(logits, upstream [n, results], *further) -> gradient to the logits [n, V] in their type
Gradient = Callable[..., torch.Tensor]
# prepare(*chunks of the further tensors) -> what stands behind the logits of both, no gradient
Prepare = Callable[..., tuple[torch.Tensor, ...]]


def per_token(
    function: PerToken,
    head: torch.nn.Linear,
    hidden: torch.Tensor,
    *others: torch.Tensor,
    gradient: Gradient | None = None,
    prepare: Prepare | None = None,
    shorter: int = 1,
) -> list[torch.Tensor]:
    """Results [N] of ``function`` on the logits of ``hidden`` [N, H] and on ``others`` [N, ...];
    gradients flow to ``hidden`` and to the weight of ``head``. What fits into one chunk goes
    through plain autograd, but on a GPU.

    Args:
        head: a linear layer without bias; of a sharded model, gathered.
        gradient: the derivative of ``function`` in fewer passes over the logits than autograd's.
            With it both are compiled on a GPU: functions of a module, or ``functools.partial`` of
            such with settings by name.
        prepare: makes of a chunk of ``others`` what is not to be kept of all tokens.
        shorter: by how much to shorten chunks for a ``function`` that holds more than the logits.
    """
    size = chunk_size(head.weight, shorter)
    prepare = prepare or (lambda *chunks: chunks)
    fused = gradient is not None and _fuses(hidden)
    if len(hidden) <= size and not fused:
        return list(function(head(hidden), *prepare(*others)))
    assert type(head) is torch.nn.Linear and head.bias is None, f"not a plain head: {head}"
    parts = (function, gradient or _by_autograd(function), prepare, fused)
    return list(_Chunked.apply(parts, size, head.weight, hidden, *others))


def chunk_size(weight: torch.Tensor, shorter: int = 1) -> int:
    """Tokens at a time, of a head with this ``weight``."""
    limit = MAX_LOGITS["cpu" if weight.device.type == "cpu" else "elsewhere"]
    return min(MAX_TOKENS, max(1, limit // (shorter * weight.shape[0])))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, parts, size, weight, hidden, *others):
        function, _, prepare, fused = ctx.parts = parts
        ctx.size = size
        ctx.save_for_backward(weight, hidden, *others)
        compute = _compiled(function) if fused else function
        results: list[torch.Tensor] = []
        for i, (chunk, *rest) in enumerate(_split(size, hidden, *others)):
            values = compute(_logits(chunk, weight), *prepare(*rest))
            _place(results, values, i * size, len(hidden))
        with torch.enable_grad():  # which results carry a gradient: seen on one token
            one = _logits(hidden[:1], weight).requires_grad_()
            probed = function(one, *prepare(*(t[:1] for t in others)))
        still = [r for r, p in zip(results, probed, strict=True) if not p.requires_grad]
        ctx.mark_non_differentiable(*still)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        weight, hidden, *others = ctx.saved_tensors
        _, gradient, prepare, fused = ctx.parts
        gradient = _compiled(gradient) if fused else gradient
        to_weight, to_hidden = ctx.needs_input_grad[2:4]
        # Sums over chunks are at least float32, whatever the weights are in.
        exact = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=exact) if to_weight else None
        grad_hidden = torch.empty_like(hidden)
        split = _split(ctx.size, hidden, grad_hidden, torch.stack(grads, 1), *others)
        for chunk, into, upstream, *rest in split:
            grad = gradient(_logits(chunk, weight), upstream, *prepare(*rest))
            if to_hidden:
                torch.mm(grad, weight, out=into)
            if to_weight:
                _add_product(grad_weight, grad.t(), chunk)
        return (
            *(None, None),
            grad_weight.to(weight.dtype) if to_weight else None,
            grad_hidden if to_hidden else None,
            *(None for _ in others),
        )


def _fuses(hidden: torch.Tensor) -> bool:
    """Whether what is computed from logits is to be compiled: where launching and memory cost."""
    return hidden.is_cuda


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` compiled for chunks of any length, of one vocabulary."""
    from torch._dynamo import maybe_mark_dynamic  # seconds to import

    plain = getattr(function, "func", function)
    compiled = _compiled_once(plain)
    settings = getattr(function, "keywords", {})

    def call(*tensors: torch.Tensor) -> Any:
        for tensor in tensors:
            maybe_mark_dynamic(tensor, 0)
        return compiled(*tensors, **settings)

    return call


@functools.cache
def _compiled_once(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """``total += a @ b``, rounded to the type of ``total`` alone where the device can."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total += a @ b


def _place(
    results: list[torch.Tensor], values: tuple[torch.Tensor, ...], start: int, total: int
) -> None:
    """Copies ``values`` [n] to ``results`` [total] from ``start`` on. Kept as they are, they would
    pin the heap between the large tensors, and the process would grow with every chunk."""
    if not results:
        results += [value.new_empty(total) for value in values]
    for result, value in zip(results, values, strict=True):
        result[start : start + len(value)] = value


def _by_autograd(function: PerToken) -> Gradient:
    def gradient(logits: torch.Tensor, upstream: torch.Tensor, *others: torch.Tensor):
        with torch.enable_grad():
            results = function(logits.requires_grad_(), *others)
        live = [i for i, result in enumerate(results) if result.requires_grad]
        wanted = [results[i] for i in live], [upstream[:, i] for i in live]
        return torch.autograd.grad(wanted[0], logits, wanted[1])[0]

    return gradient


def _logits(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(hidden.detach(), weight.detach())


def _split(size: int, *tensors: torch.Tensor):
    return zip(*(t.split(size) for t in tensors), strict=True)
