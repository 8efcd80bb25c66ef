"""A language-model head applied to a few tokens at a time, in both passes.

The logits of all tokens never exist together: the forward pass keeps none, the backward pass
computes those of a chunk again, turns them into their gradient, and adds that to one gradient of
the head. Peak memory grows with the chunk and not with tokens x vocabulary; the price is one more
application of the head.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.autograd.function import once_differentiable

MAX_TOKENS = 4096  # in a chunk, however small the vocabulary
# Numbers in a chunk's logits. On the CPU 128 MiB in float32, 220 tokens at V = 152k. Elsewhere
# 512 MiB, 883 tokens: the head's gradient is read and written once a chunk, which has to stay
# short beside the chunk's matrix products.
MAX_LOGITS = {"cpu": 2**25, "elsewhere": 2**27}

# function(logits [n, V] float32, *chunks of the further tensors) -> per-token results, each [n]
PerToken = Callable[..., tuple[torch.Tensor, ...]]
# gradient(logits, upstream [n, results], *chunks) -> gradient to the logits [n, V]; may overwrite
# the logits
Gradient = Callable[..., torch.Tensor]


def per_token(
    function: PerToken,
    head: torch.nn.Linear,
    hidden: torch.Tensor,
    *others: torch.Tensor,
    gradient: Gradient | None = None,
    shorter: int = 1,
) -> list[torch.Tensor]:
    """Results [N] of ``function`` on the logits of ``hidden`` [N, H] and on ``others`` [N, ...];
    gradients flow to ``hidden`` and to the weight of ``head``. What fits into one chunk goes
    through plain autograd.

    Args:
        head: a linear layer without bias; of a sharded model, gathered.
        gradient: the derivative of ``function`` in fewer passes over the logits than autograd's.
        shorter: by how much to shorten chunks for a ``function`` that holds more than the logits.
    """
    size = chunk_size(head.weight, shorter)
    if len(hidden) <= size:
        return list(function(head(hidden).float(), *others))
    assert type(head) is torch.nn.Linear and head.bias is None, f"not a plain head: {head}"
    return list(_Chunked.apply(function, gradient, size, head.weight, hidden, *others))


def chunk_size(weight: torch.Tensor, shorter: int = 1) -> int:
    """Tokens at a time, of a head with this ``weight``."""
    limit = MAX_LOGITS["cpu" if weight.device.type == "cpu" else "elsewhere"]
    return min(MAX_TOKENS, max(1, limit // (shorter * weight.shape[0])))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, gradient, size, weight, hidden, *others):
        ctx.gradient, ctx.size = gradient or _by_autograd(function), size
        ctx.save_for_backward(weight, hidden, *others)
        results: list[torch.Tensor] = []
        for i, (chunk, *rest) in enumerate(_split(size, hidden, *others)):
            _place(results, function(_logits(chunk, weight), *rest), i * size, len(hidden))
        with torch.enable_grad():  # which results carry a gradient: seen on one token
            one = _logits(hidden[:1], weight).requires_grad_()
            probed = function(one, *(t[:1] for t in others))
        still = [r for r, p in zip(results, probed, strict=True) if not p.requires_grad]
        ctx.mark_non_differentiable(*still)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        weight, hidden, *others = ctx.saved_tensors
        to_weight, to_hidden = ctx.needs_input_grad[3:5]
        # Sums over chunks are at least float32, whatever the weights are in.
        exact = torch.promote_types(weight.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight, dtype=exact) if to_weight else None
        grad_hidden = torch.empty_like(hidden)
        split = _split(ctx.size, hidden, grad_hidden, torch.stack(grads, 1), *others)
        for chunk, into, upstream, *rest in split:
            grad = ctx.gradient(_logits(chunk, weight), upstream, *rest).to(weight.dtype)
            if to_hidden:
                torch.mm(grad, weight, out=into)
            if to_weight and exact == weight.dtype:
                grad_weight.addmm_(grad.t(), chunk)
            elif to_weight:
                grad_weight += grad.t() @ chunk
        return (
            *(None, None, None),
            grad_weight.to(weight.dtype) if to_weight else None,
            grad_hidden if to_hidden else None,
            *(None for _ in others),
        )


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
    return torch.nn.functional.linear(hidden.detach(), weight.detach()).float()


def _split(size: int, *tensors: torch.Tensor):
    return zip(*(t.split(size) for t in tensors), strict=True)
