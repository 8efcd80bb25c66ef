"""Log-probabilities, entropies and divergences of models against dense computations."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import build_model, build_tokenizer, chunks_of

from sgpo.core.logprobs import TopK, completion_kl, kl_divergence, pad_sequences, token_stats
from sgpo.core.scoring import micro_batches, own_logprobs
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
@pytest.mark.parametrize("chunk", [3, 4096])
def test_chunked_equals_dense_with_gradients(family, tied, chunk):
    model = build_model(family, tie_word_embeddings=tied)
    batch = pad_sequences(PROMPTS, COMPLETIONS)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    with chunks_of(chunk):
        stats = token_stats(model, batch, entropy="loss")
        (stats.logprobs * weights + 0.3 * stats.entropy * weights).sum().backward()
        metric = token_stats(model, batch)
    assert metric.logprobs.requires_grad and not metric.entropy.requires_grad
    torch.testing.assert_close(metric.entropy, stats.entropy.detach(), **CLOSE)
    chunked, total = gradients(model), 0.0
    model.zero_grad()
    for row, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        n, logits = len(completion), dense_logits(model, prompt, completion)
        distribution = torch.distributions.Categorical(logits=logits)
        logprobs = distribution.log_prob(torch.tensor(completion))
        entropy = distribution.entropy()
        torch.testing.assert_close(stats.logprobs[row, :n], logprobs, **CLOSE)
        torch.testing.assert_close(stats.entropy[row, :n], entropy, **CLOSE)
        assert not stats.logprobs[row, n:].any() and not stats.entropy[row, n:].any()
        total = total + ((logprobs + 0.3 * entropy) * weights[row, :n]).sum()
    total.backward()
    torch.testing.assert_close(chunked, gradients(model), rtol=1e-4, atol=1e-5)
    assert chunked.abs().max() > 1e-2


def test_padding_ids_and_amount_change_nothing():
    model = build_model("llama")
    together = pad_sequences([*PROMPTS, (2,) * 30], [*COMPLETIONS, (5,) * 12])
    assert together.completion_mask.sum(1).tolist() == [2, 7, 1, 12]
    for other in (0, 4, 9):  # what stands in the padding is never looked at
        for row, (p, c) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            together.input_ids[row, len(p) + len(c) :] = other
        rows = token_stats(model, together).logprobs
        for row, (p, c) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
            alone = token_stats(model, pad_sequences([p], [c])).logprobs[0]
            torch.testing.assert_close(rows[row, : len(c)], alone, **CLOSE)


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
    assert teacher is None or teacher.scored_tokens == 10
    assert found.max() > 0.05 and not found[~batches[0].completion_mask].any()
    for row, completion in enumerate(COMPLETIONS):
        target = dense_logits(teacher.model if teacher else model, guided[row], completion)
        own = dense_logits(model, PROMPTS[row], completion)
        for t, token in enumerate(completion):
            sides = [side[t].double().softmax(-1).tolist() for side in (target, own)]
            expected = by_hand(*sides, direction, top_k)
            assert float(found[row, t].detach()) == pytest.approx(expected, abs=2e-5)
            picked = math.log(sides[1][token])
            assert float(logprobs[row, t].detach()) == pytest.approx(picked, abs=2e-5)


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


def test_divergences_at_their_edges():
    make = torch.Generator().manual_seed(0)
    one, other = (5 * torch.randn(50, 9, generator=make, dtype=torch.float64) for _ in range(2))
    there = kl_divergence(one, other, direction="jensen_shannon")
    torch.testing.assert_close(there, kl_divergence(other, one, direction="jensen_shannon"))
    assert 0.3 < there.max() <= math.log(2)
    assert kl_divergence(one, one, direction="jensen_shannon").abs().max() < 1e-12
    # A row of the vocabulary that is -inf on both sides contributes nothing.
    target = torch.tensor([[math.log(0.9), math.log(0.1), -math.inf]])
    other = torch.tensor([[math.log(0.5), math.log(0.5), -math.inf]])
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    value = kl_divergence(target, other, direction="forward")
    assert value.item() == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="beta=1: must be above 0 and below 1"):
        kl_divergence(one, one, direction="jensen_shannon", beta=1)


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
        prompts = [max(len(t.prompt_ids), len(t.second_prompt_ids or ())) for t in batch]
        widths = [p + len(t.completion_ids) for p, t in zip(prompts, batch, strict=True)]
        assert max(widths) * len(batch) <= 128 or len(batch) == 1
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
