"""What each token is for: the classifier and the ledger against the world's own ground truth."""

import random

import pytest
import torch

from sgpo.core.types import Problem
from sgpo.mini.ledger import PLACES, Ledger
from sgpo.mini.models import END, build_tokenizer
from sgpo.mini.probes import MiniTokenClassifier
from sgpo.mini.sets import random_task
from sgpo.mini.world import draw_world
from sgpo.mini.writing import STYLE_LINE, TOKEN_CLASSES, token_classes, writer_text

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
