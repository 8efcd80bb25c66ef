"""The head in chunks: the dense result and gradient, at a peak that grows with the chunk alone."""

import weakref
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny import chunks_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sgpo.core import chunked_head
from sgpo.core.chunked_head import per_token
from sgpo.core.logprobs import SHORTER, PaddedSequences, completion_kl, token_stats

ROWS, HIDDEN = 4000, 8  # of the head
BETA = 0.3


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while they live."""

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen or size == 0:
            return
        self.seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self.gone, key, size)

    def gone(self, key, size):
        self.seen.discard(key)
        self.live -= size


class Head:
    """As much of a model as the losses look at: hidden states that are given, and a head."""

    config = SimpleNamespace(model_type="hidden states")

    def __init__(self, head, *states):
        self.head, self.states = head, list(states)

    def base_model(self, **_):
        return SimpleNamespace(last_hidden_state=self.states.pop(0))

    def get_output_embeddings(self):
        return self.head


def inputs(tokens, hidden=HIDDEN):
    """A head, student and teacher states [2, T, H], targets and mask [2, T - 1], weights like
    them. The mask drops a third of the tokens."""
    make = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(hidden, ROWS, bias=False)
    with torch.no_grad():
        head.weight.normal_(generator=make)
    student, teacher = (torch.randn(2, tokens // 2 + 1, hidden, generator=make) for _ in range(2))
    targets = torch.randint(ROWS, (2, tokens // 2), generator=make)
    mask = torch.rand(targets.shape, generator=make) < 0.67
    weights = torch.randn(targets.shape, generator=make)
    return head, student.requires_grad_(), teacher, targets, mask, weights


def ours(name, head, student, teacher, targets, mask, weights, apart=False):
    """A weighted sum of the per-token values of a loss; ``apart``: taught by another model."""
    positions = torch.arange(targets.shape[1], device=targets.device).expand_as(targets)
    batch = PaddedSequences(targets, positions, targets, mask)
    if name == "nll":
        return (token_stats(Head(head, student), batch).logprobs * weights).sum()
    if name == "entropy":
        return (token_stats(Head(head, student), batch, entropy="loss").entropy * weights).sum()
    model, other = Head(head, teacher, student), None
    if apart:
        other = SimpleNamespace(model=Head(head, teacher), scored_tokens=0)
        model = Head(head, student)
    how = {"direction": name, "beta": BETA, "teacher": other}
    divergence, logprobs = completion_kl(model, batch, batch, **how)
    return ((divergence + 0.1 * logprobs) * weights).sum()


def kl(p, q):
    # torch's kl_div(input, target) is KL(target || input).
    return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)


def dense(name, head, student, teacher, targets, mask, weights):
    """The same of textbook formulas on all logits at once."""
    own = torch.log_softmax(head(student[:, :-1]), -1)
    values = own.gather(-1, targets[..., None]).squeeze(-1)
    if name == "entropy":
        values = -(own.exp() * own).sum(-1)
    elif name != "nll":
        with torch.no_grad():
            target = torch.log_softmax(head(teacher[:, :-1]), -1)
        if name == "jensen_shannon":
            middle = (BETA * target.exp() + (1 - BETA) * own.exp()).log()
            divergence = BETA * kl(target, middle) + (1 - BETA) * kl(own, middle)
        else:
            divergence = kl(target, own)
        values = divergence + 0.1 * values
    return (values * weights * mask).sum()


def peak(loss, name, tokens, hidden=HIDDEN):
    """Peak bytes of one forward and backward pass."""
    arguments = inputs(tokens, hidden)
    with LiveBytes() as mode:
        mode.seen |= {t.untyped_storage()._cdata for t in (arguments[0].weight, *arguments[1:])}
        loss(name, *arguments).backward()
    return mode.peak


@pytest.mark.parametrize("place", chunked_head.MAX_LOGITS)
@pytest.mark.parametrize(
    ("name", "apart", "tokens", "share"),
    [
        ("nll", False, 16384, 1 / 8),
        ("entropy", False, 16384, 1 / 8),
        ("jensen_shannon", False, 2048, 1 / 4),
        ("jensen_shannon", False, 16384, 1 / 8),
        ("forward", True, 2048, 1 / 4),
        ("forward", True, 16384, 1 / 8),
    ],
)
def test_losses_keep_the_memory_of_the_chunks(monkeypatch, apart, name, tokens, share, place):
    """As of 152k entries and a hidden size of 1536, whose gradients count: tokens, hidden size and
    chunk in the same proportions, a sixteenth of each. Ours skips the third that is masked."""
    limit = chunked_head.MAX_LOGITS[place] * ROWS // 151_936 // 16
    monkeypatch.setitem(chunked_head.MAX_LOGITS, "cpu", limit)
    found = peak(partial(ours, apart=apart), name, tokens // 16 * 3 // 2, 1536 // 16)
    assert found < share * peak(dense, name, tokens // 16, 1536 // 16)


def picked(logits, targets):
    return (logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(1),)


@pytest.mark.parametrize("name", ["nll", "forward", "jensen_shannon"])
def test_compiled_as_on_a_gpu_it_is_the_same(monkeypatch, name):
    """What the compiler traces, on the CPU and without its code generator."""
    monkeypatch.setattr(chunked_head, "_fuses", lambda hidden: True)
    traced = []

    def trace(graph, example):
        traced.append(graph)
        return graph.forward

    compiled = cache(partial(torch.compile, backend=trace))
    monkeypatch.setattr(chunked_head, "_compiled_once", compiled)
    results = []
    for loss in (ours, dense):
        head, student, *others = inputs(200)
        with chunks_of(30):
            value = loss(name, head, student, *others)
        value.backward()
        results.append((value.detach(), student.grad, head.weight.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    # A function and its gradient; a chunk of one token, and the other ones.
    assert 2 <= len(traced) <= 4


def test_half_precision_sums_the_heads_gradient_in_float32():
    """Hidden states of one sign: what each chunk adds soon lies below the rounding of a sum kept
    in bfloat16. In float32 the error of many chunks stays that of one."""

    def grads(dtype, chunk):
        head, student, _, targets, *_ = inputs(1024)
        head, student = head.to(dtype), student.detach().abs().to(dtype)
        with chunks_of(chunk):
            (logprobs,) = per_token(picked, head, student[0, :-1], targets[0])
        logprobs.sum().backward()
        return head.weight.grad.double()

    exact = grads(torch.float32, 1000)
    whole = (grads(torch.bfloat16, 1000) - exact).norm() / exact.norm()
    parts = (grads(torch.bfloat16, 2) - exact).norm() / exact.norm()
    assert 1e-4 < whole < 2e-2 and parts < 1.2 * whole, (whole, parts)


def test_the_chunk_follows_the_vocabulary_and_a_small_one_goes_whole(monkeypatch):
    seen = []

    def note(logits):
        seen.append(len(logits))
        return (logits.sum(-1),)

    def sizes(tokens, rows):
        seen.clear()
        head = torch.nn.Linear(1, rows, bias=False)
        with torch.no_grad():
            per_token(note, head, torch.ones(tokens, 1))
        return seen[:-1] if len(seen) > 1 else seen  # less the token that is tried at the end

    assert sizes(4096, 68) == [4096]  # a whole micro-batch of the mini study
    assert sizes(5000, 68) == [4096, 904]
    assert chunked_head.chunk_size(torch.empty(68, 1), SHORTER) == 4096
    monkeypatch.setitem(chunked_head.MAX_LOGITS, "cpu", 1000)
    assert sizes(25, 100) == [10, 10, 5]
    assert sizes(2, 5000) == [1, 1]
