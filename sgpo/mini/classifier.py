"""The mini world's token classes as a tensor lookup, for metrics logged during training."""

from __future__ import annotations

from typing import Any

import torch

from sgpo.mini.text import STYLE_LINE, TOKEN_CLASSES, token_classes, vocabulary


class MiniTokenClassifier:
    """``sgpo.mini.text.token_classes`` on padded token ids, without a Python loop over tokens.

    ``names`` are ``TOKEN_CLASSES``. The class of a token is read off a table, except that the
    words of the style line are ``style`` where a completion opens with that line. Special tokens
    and padding are ``routine``.
    """

    names: tuple[str, ...] = TOKEN_CLASSES

    def __init__(self, tokenizer: Any) -> None:
        self.table = torch.full((len(tokenizer),), self.names.index("routine"))
        for piece in vocabulary():
            (name,) = token_classes([piece])
            self.table[tokenizer.convert_tokens_to_ids(piece)] = self.names.index(name)
        self.style_line = torch.tensor(tokenizer.convert_tokens_to_ids(STYLE_LINE))

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Index into ``names`` of every token of completions [B, T], int64 [B, T]."""
        self.table = self.table.to(token_ids.device)
        self.style_line = self.style_line.to(token_ids.device)
        classes = self.table[token_ids]
        length = len(self.style_line)
        opening = token_ids[:, :length]
        if opening.shape[1] == length:
            opens = (opening == self.style_line).all(1, keepdim=True)
            style = self.names.index("style")
            classes[:, :length] = torch.where(opens, style, classes[:, :length])
        return classes
