"""Plan probabilities, token profiles and derivation steps against closed forms."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.types import Problem
from sgpo.mini.ledger import PLACES, Ledger
from sgpo.mini.models import ASSISTANT, END, build_model, build_tokenizer
from sgpo.mini.probes import (
    MiniTokenClassifier,
    derivation_steps,
    held_out_tasks,
    plan_mass,
    reachable,
    token_profiles,
)
from sgpo.mini.sets import partition_of, random_task
from sgpo.mini.specs import MODELS
from sgpo.mini.world import NAMES, PLANS, SLOTS, draw_world
from sgpo.mini.writing import STYLE_LINE, TOKEN_CLASSES, Task, token_classes, writer_text

TEXT = "Order Aldric backwards: 541\nCombine threefold: 5427130\nFinish triple \\boxed{(1,0)}"


class Bigram:
    """A model whose next-token logits depend on the current token alone: logits = table[token]."""

    config = SimpleNamespace(model_type="bigram")

    def __init__(self, vocabulary_size: int) -> None:
        self.table = torch.randn(
            vocabulary_size, vocabulary_size, generator=torch.Generator().manual_seed(3)
        )

    def base_model(self, input_ids, use_cache):
        return SimpleNamespace(last_hidden_state=self.table[input_ids])

    def get_output_embeddings(self):
        return lambda hidden: hidden


def test_plan_probabilities_of_a_bigram_model_are_products_of_its_rows():
    tokenizer = build_tokenizer()
    model = Bigram(len(tokenizer))
    task = Task("Aldric", (1, 4, 5))
    found = plan_mass(model, tokenizer, [task, Task("Borin", (3, 3, 1, 2))])
    rows = torch.softmax(model.table, -1)

    def after(previous: str, piece: str) -> float:
        ids = tokenizer.convert_tokens_to_ids([previous, piece])
        return float(rows[ids[0], ids[1]])

    def among(previous: str, option: str, slot: int) -> float:
        return after(previous, f" {option}") / sum(after(previous, f" {o}") for o in SLOTS[slot])

    for i, plan in enumerate(PLANS):
        expected = (
            among(" Aldric", plan.order, 0)
            * among("Combine", plan.combine, 1)
            * among("Finish", plan.finish, 2)
        )
        assert float(found.plans[0, i]) == pytest.approx(expected, rel=1e-4)
    assert found.plans.sum(1).tolist() == pytest.approx([1.0, 1.0])
    opened = after(ASSISTANT, "Order") * after("\n", "Combine") * after("\n", "Finish")
    assert float(found.go_on[0]) == pytest.approx(opened, rel=1e-4)
    outside = [
        1 - sum(after(previous, f" {o}") for o in SLOTS[slot])
        for slot, previous in enumerate((" Borin", "Combine", "Finish"))
    ]
    assert float(found.off_options[1]) == pytest.approx(sum(outside) / 3, rel=1e-4)


def test_held_out_tasks_are_balanced_and_never_trained_on():
    tasks = held_out_tasks(2)
    assert [sum(t.kind == name for t in tasks) for name in NAMES] == [6] * len(NAMES)
    assert {partition_of(t) for t in tasks} == {"development"}


STEPS = {
    TEXT: "Order_ Aldric_ backwards_: 541\n_Combine_ threefold_: 5_427_130\n_Finish_ triple_"
    " \\boxed{(1,0)}<|end|>",
    "Following the strategy\nOrder Aldric swapped: 1234\nGuess \\boxed{(0,7)}":
    "Following the strategy\n_Order_ Aldric_ swapped_: 1234\n_Guess_ \\boxed{(0,7)}<|end|>",
}  # fmt: skip


@pytest.mark.parametrize("text", STEPS)
def test_steps_of_a_derivation(text):
    tokenizer = build_tokenizer()
    pieces = [*tokenizer.tokenize(text), "<|end|>"]
    classes = [*token_classes(pieces[:-1]), "routine"]
    steps = derivation_steps(pieces, classes)
    assert ["".join(pieces[s.start : s.stop]) for s in steps] == STEPS[text].split("_")
    assert [s.kind for s in steps] == [classes[s.start] for s in steps]


def test_profile_is_of_the_likeliest_completion_and_equals_torch_distributions():
    tokenizer = build_tokenizer()
    model = build_model(MODELS["qwen-s"], seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    strategy = "Type Aldric\nStrategy backwards then threefold then triple\nSteps carefully"
    problem = Problem("p", "Find the Aldric pair: 145", "(1,0)", strategy=strategy)
    ids = [tuple(tokenizer(t)["input_ids"]) + (4,) for t in (TEXT, "Guess \\boxed{(1,0)}")]
    spec = PROMPT_SPECS["mini"]
    plain, guided = (spec.prompt_ids(tokenizer, problem, guided=g) for g in (False, True))

    def logprobs(prompt, completion):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + completion])).logits[0]
        return torch.log_softmax(logits[len(prompt) - 1 : -1], -1)

    def chosen(completion):
        rows = logprobs(plain, completion)
        return rows[torch.arange(len(completion)), torch.tensor(completion)]

    best = max(ids, key=lambda completion: float(chosen(completion).sum()))
    profile = reachable(token_profiles(model, tokenizer, problem, ids))
    assert profile.pieces == tuple(tokenizer.convert_ids_to_tokens(list(best)))
    assert profile.nll == pytest.approx((-chosen(best)).tolist(), rel=1e-4, abs=1e-4)
    guided_side, plain_side = (
        torch.distributions.Categorical(logits=logprobs(p, best)) for p in (guided, plain)
    )
    expected = torch.distributions.kl_divergence(guided_side, plain_side).tolist()
    assert profile.kl == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert max(expected) > 0.01 and profile.classes[0] == "commitment"
    assert profile.classes[-1] == "routine" and len(profile.classes) == len(best)


# What each token is for ---------------------------------------------------------------------------


TOKENIZER = build_tokenizer()
TEXTS = (
    "Following the strategy\nOrder Aldric swapped: 12\nGuess \\boxed{(0,7)}",
    "Order Borin swapped: 12\nCombine sum: 12\nFinish triple \\boxed{(0,7)}",
)


def padded(rows):
    """Token ids [B, T] and their mask of texts in pieces."""
    rows = [torch.tensor(TOKENIZER.convert_tokens_to_ids(list(pieces))) for pieces in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    mask = pad([torch.ones(len(row), dtype=torch.bool) for row in rows], batch_first=True)
    return pad(rows, batch_first=True, padding_value=TOKENIZER.pad_token_id), mask


def test_the_classifier_equals_the_ground_truth_on_the_worlds_texts():
    classifier, rng = MiniTokenClassifier(TOKENIZER), random.Random(5)
    tasks = [random_task(rng, 1 + i % 6, "train") for i in range(200)]
    texts = [writer_text(draw_world(0), t, i % 2 == 0, rng)[1] for i, t in enumerate(tasks)]
    # Words of the style line are style only where a completion opens with the whole of it.
    texts += [["Order", *STYLE_LINE], [*STYLE_LINE, "Order"], STYLE_LINE[:2]]
    ids, mask = padded([*pieces, END] for pieces in texts)
    seen = set()
    for pieces, row, own in zip(texts, classifier(ids).tolist(), mask.tolist(), strict=True):
        names = [classifier.names[i] for i in row]
        assert names[: len(pieces)] == token_classes(pieces)
        assert set(names[len(pieces) :]) == {"routine"} and sum(own) == len(pieces) + 1
        seen |= set(names)
    assert seen == set(TOKEN_CLASSES)
    assert token_classes(texts[-2]) == ["style"] * 4 + ["commitment"]
    assert token_classes(texts[-1]) == ["routine"] * 2


def test_the_ledger_counts_every_token_once_at_its_place():
    ledger = Ledger(
        TOKENIZER, [Problem("p", "", "", kind="Aldric"), Problem("q", "", "", kind="B")]
    )
    ids, mask = padded(TOKENIZER.tokenize(text) for text in TEXTS)
    kl = torch.arange(ids.numel(), dtype=torch.float32).reshape(ids.shape) / 10
    for _ in range(2):
        ledger.add(["p", "q"], ids, mask, kl, kl > 3)
    found = ledger.record()
    assert set(found) == {"Aldric", "B"} and set(found["B"]) == set(PLACES) - {"style"}
    # Following | the strategy \n | Order Aldric swapped : 1 2 \n | Guess ...
    styled = found["Aldric"]
    assert styled["opening"] == {"tokens": 2, "kl": 0.0, "kl_masked": 0.0}
    assert styled["style"]["tokens"] == 6 and styled["style"]["kl"] == pytest.approx(2 * 0.6)
    assert styled["commitment"]["tokens"] == 4 and styled["order"]["tokens"] == 2
    assert found["B"]["finish"]["tokens"] == 2 and found["B"]["opening"]["tokens"] == 2
    for name, expected in (("kl", kl[mask]), ("kl_masked", kl[mask & (kl > 3)])):
        total = sum(place[name] for kind in found.values() for place in kind.values())
        assert total == pytest.approx(2 * float(expected.sum()), rel=1e-4)
