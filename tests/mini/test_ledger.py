"""The ledger counts each distilled token once, where it stands and under its problem's type."""

import pytest
import torch

from sgpo.core.types import Problem
from sgpo.mini.ledger import PLACES, Ledger
from sgpo.mini.models import build_tokenizer

TEXTS = (
    "Following the strategy\nOrder Aldric swapped: 12\nGuess \\boxed{(0,7)}",
    "Order Borin swapped: 12\nCombine sum: 12\nFinish triple \\boxed{(0,7)}",
)


def test_every_token_is_counted_once_at_its_place():
    tokenizer = build_tokenizer()
    ledger = Ledger(
        tokenizer, [Problem("p", "", "", kind="Aldric"), Problem("q", "", "", kind="B")]
    )
    rows = [tokenizer(text)["input_ids"] for text in TEXTS]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.arange(width) < torch.tensor([[len(row)] for row in rows])
    kl = torch.arange(2 * width, dtype=torch.float32).reshape(2, width) / 10
    for _ in range(2):
        ledger.add(["p", "q"], ids, mask, kl, kl > 3)
    found = ledger.record()
    assert set(found) == {"Aldric", "B"} and set(found["B"]) == set(PLACES) - {"style"}
    # Following | the strategy \n | Order Aldric swapped : 1 2 \n | Guess ...
    styled = found["Aldric"]
    assert styled["opening"] == {"tokens": 2, "kl": 0.0, "kl_masked": 0.0}
    assert styled["style"]["tokens"] == 6 and styled["style"]["kl"] == pytest.approx(2 * 0.6)
    assert styled["commitment"]["tokens"] == 4 and styled["order"]["tokens"] == 2
    total = sum(place["kl"] for kind in found.values() for place in kind.values())
    masked = sum(place["kl_masked"] for kind in found.values() for place in kind.values())
    assert total == pytest.approx(2 * float(kl[mask].sum()), rel=1e-4)
    assert masked == pytest.approx(2 * float(kl[mask & (kl > 3)].sum()), rel=1e-4)
    assert found["B"]["finish"]["tokens"] == 2 and found["B"]["opening"]["tokens"] == 2
