"""Log-probabilities, entropies and divergences against dense computations without any chunking."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import build_model, build_tokenizer, chunks_of

from sgpo.core.logprobs import TopK, completion_kl, kl_divergence, pad_sequences, token_stats
from sgpo.core.scoring import micro_batches, own_logprobs, padded
from sgpo.core.teacher import Teacher
from sgpo.core.types import Role, Trajectory

PROMPTS = [(2, 5, 6, 4, 3), (2, 7, 3), (2, 8, 9, 10, 11, 12, 4, 3)]
COMPLETIONS = [(9, 4), (5, 6, 7, 8, 9, 10, 4), (13,)]
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def dense_logits(model, prompt, completion):
    return model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_chunked_equals_dense_with_gradients(family, tied, chunk):
    model = build_model(family, tie_word_embeddings=tied)
    batch = pad_sequences(PROMPTS, COMPLETIONS)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    with chunks_of(chunk):
        stats = token_stats(model, batch, entropy="loss")
        (stats.logprobs * weights + 0.3 * stats.entropy * weights).sum().backward()
    chunked = gradients(model)
    model.zero_grad()
    total = 0.0
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        n = len(completion)
        distribution = torch.distributions.Categorical(
            logits=dense_logits(model, prompt, completion)
        )
        logprobs = distribution.log_prob(torch.tensor(completion))
        entropy = distribution.entropy()
        torch.testing.assert_close(stats.logprobs[row, :n], logprobs, **CLOSE)
        torch.testing.assert_close(stats.entropy[row, :n], entropy, **CLOSE)
        assert not stats.logprobs[row, n:].any() and not stats.entropy[row, n:].any()
        total = total + ((logprobs + 0.3 * entropy) * weights[row, :n]).sum()
    total.backward()
    torch.testing.assert_close(chunked, gradients(model), rtol=1e-4, atol=1e-5)
    assert chunked.abs().max() > 1e-2


def test_entropy_as_a_metric_carries_no_graph():
    model = build_model()
    batch = pad_sequences(PROMPTS, COMPLETIONS)
    with chunks_of(2):
        stats = token_stats(model, batch, entropy="metric")
    assert not stats.entropy.requires_grad and stats.logprobs.requires_grad
    with_graph = token_stats(model, batch, entropy="loss")
    torch.testing.assert_close(stats.entropy, with_graph.entropy.detach(), **CLOSE)
    assert token_stats(model, batch, entropy="none").entropy is None
    uniform = math.log(model.config.vocab_size)
    assert 0 < stats.entropy[0, 0] < uniform


def test_padding_ids_and_amount_change_nothing():
    model = build_model("llama")
    alone = [
        token_stats(model, pad_sequences([p], [c])).logprobs[0, : len(c)]
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    ]
    together = pad_sequences([*PROMPTS, (2,) * 30], [*COMPLETIONS, (5,) * 12])
    mask = together.completion_mask
    assert mask.sum(1).tolist() == [2, 7, 1, 12]
    for other in (0, 4, 9):  # what stands in the padding is never looked at
        ids = together.input_ids.clone()
        for row, (p, c) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            ids[row, len(p) + len(c) :] = other
        changed = type(together)(ids, together.positions, together.targets, mask)
        rows = token_stats(model, changed).logprobs
        for row, expected in enumerate(alone):
            torch.testing.assert_close(rows[row, : len(expected)], expected, **CLOSE)


@pytest.mark.parametrize("teacher", [None, Teacher()], ids=["itself", "other-weights"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("top_k", [None, TopK(5), TopK(5, of="student", tail=False)])
def test_divergence_under_two_prompts_against_float64(direction, top_k, teacher):
    model = build_model()
    guided = [(2, 20, 21, *p[1:]) for p in PROMPTS]
    if teacher is not None:
        teacher.place(build_model(seed=3), build_tokenizer())
        teacher.scored_tokens = 0
    batches = [pad_sequences(p, COMPLETIONS) for p in (PROMPTS, guided)]
    settings = {"direction": direction, "beta": 0.3, "top_k": top_k, "teacher": teacher}
    found, logprobs = completion_kl(model, *batches, **settings)
    with chunks_of(2):
        chunked, _ = completion_kl(model, *batches, **settings)
    torch.testing.assert_close(found, chunked, rtol=1e-5, atol=1e-6)
    assert teacher is None or teacher.scored_tokens == 2 * 10
    assert found.max() > 0.05 and not found[~batches[0].completion_mask].any()
    for row, completion in enumerate(COMPLETIONS):
        target = dense_logits(teacher.model if teacher else model, guided[row], completion)
        own = dense_logits(model, PROMPTS[row], completion)
        picked = F.log_softmax(own, -1)[range(len(completion)), list(completion)]
        torch.testing.assert_close(logprobs[row, : len(completion)], picked, **CLOSE)
        for t in range(len(completion)):
            sides = [side[t].double().softmax(-1).tolist() for side in (target, own)]
            expected = by_hand(*sides, direction, top_k)
            assert float(found[row, t].detach()) == pytest.approx(expected, abs=2e-5)


def by_hand(p, q, direction, top_k):
    if top_k is not None:
        order = sorted(range(len(p)), key=lambda i: -(q if top_k.of == "student" else p)[i])
        p, q = ([side[i] for i in order[: top_k.k]] for side in (p, q))
        if top_k.tail:
            p, q = p + [1 - sum(p)], q + [1 - sum(q)]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    if direction == "jensen_shannon":
        middle = [0.3 * x + 0.7 * y for x, y in zip(p, q, strict=True)]
        return 0.3 * kl(p, middle) + 0.7 * kl(q, middle)
    return kl(p, q) if direction == "forward" else kl(q, p)


def test_jensen_shannon_is_zero_on_equals_bounded_and_symmetric_at_a_half():
    make = torch.Generator().manual_seed(0)
    one, other = (5 * torch.randn(50, 9, generator=make, dtype=torch.float64) for _ in range(2))
    there = kl_divergence(one, other, direction="jensen_shannon")
    torch.testing.assert_close(there, kl_divergence(other, one, direction="jensen_shannon"))
    assert 0.3 < there.max() <= math.log(2)
    assert kl_divergence(one, one, direction="jensen_shannon").abs().max() < 1e-12
    with pytest.raises(ValueError, match="beta=1: must be above 0 and below 1"):
        kl_divergence(one, other, direction="jensen_shannon", beta=1)


def test_divergence_ignores_symbols_that_both_sides_exclude():
    """A vocabulary row masked to -inf on both sides has probability 0 and contributes nothing."""
    target = torch.tensor([[math.log(0.9), math.log(0.1), -math.inf]])
    other = torch.tensor([[math.log(0.5), math.log(0.5), -math.inf]])
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    value = kl_divergence(target, other, direction="forward")
    assert value.item() == pytest.approx(expected, abs=1e-6)


def trajectory(index: int, prompt, completion) -> Trajectory:
    return Trajectory(f"p{index}", Role.AUTONOMOUS, tuple(prompt), tuple(completion), 1.0)


def test_micro_batches_hold_everything_once_within_the_budget():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 40, (50, 2), generator=generator).tolist()
    rows = [trajectory(i, [2] * p, [5] * c) for i, (p, c) in enumerate(lengths)]
    rows.append(trajectory(99, [2] * 90, [5] * 90).with_(second_prompt_ids=(2,) * 120))
    batches = list(micro_batches(rows, 128))
    assert sorted(t.problem_id for b in batches for t in b) == sorted(t.problem_id for t in rows)
    for batch in batches:
        width = max(
            max(len(t.prompt_ids), len(t.second_prompt_ids or ())) + len(t.completion_ids)
            for t in batch
        )
        assert width * len(batch) <= 128 or len(batch) == 1
    assert len(batches) < len(rows) / 2  # short ones do share


def test_own_logprobs_come_back_in_the_order_given():
    model = build_model()
    rows = [trajectory(i, p, c) for i, (p, c) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True))]
    rows[0] = rows[0].with_(second_prompt_ids=(2, 20, *PROMPTS[0][1:]))
    for budget in (1, 20, 10_000):
        for values, t in zip(own_logprobs(model, rows, budget), rows, strict=True):
            logits = dense_logits(model, t.prompt_ids, t.completion_ids)
            expected = F.log_softmax(logits, -1)[range(len(t.completion_ids)), t.completion_ids]
            torch.testing.assert_close(values, expected.detach(), **CLOSE)
            assert not values.requires_grad
    assert own_logprobs(model, [], 100) == []


def test_second_prompts_are_padded_apart():
    rows = [trajectory(0, [2, 3], [5]).with_(second_prompt_ids=(2, 20, 3))]
    assert padded(rows).input_ids.tolist() == [[2, 3, 5]]
    assert padded(rows, second_prompt=True).input_ids.tolist() == [[2, 20, 3, 5]]
