"""A model beside the policy that gives targets and is never trained: frozen, or a moving average.

A method makes a ``Teacher`` in its constructor and keeps it as ``self.teacher``. The trainer finds
it there, loads and places it, spreads it over the ranks as it does the policy, moves it after every
update, and saves it with the resume state.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # settings of methods are listed without it
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Teacher:
    """Targets from other weights than the policy's: ``model``, once the trainer has placed it.

    Args:
        checkpoint: directory or hub name of its weights (``revision``: a commit of it); None for
            those with which the policy starts, on a resumed run too.
        ema: share of the way to the policy's weights that every update moves it; 0 is frozen.
    """

    def __init__(
        self, checkpoint: str | None = None, *, revision: str | None = None, ema: float = 0.0
    ) -> None:
        if not 0 <= ema < 1:
            raise ValueError(f"ema={ema}: must be at least 0 (frozen) and below 1")
        if checkpoint is not None and ema:
            raise ValueError(
                f"ema={ema} with checkpoint={checkpoint!r}: a moving average starts from the "
                "policy's own weights; leave one of the two out"
            )
        self.checkpoint, self.revision, self.ema = checkpoint, revision, ema
        self.model: PreTrainedModel | None = None
        self.scored_tokens = 0  # completion tokens that passed through it on this rank

    def place(self, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Load the weights and lay them out as those of ``policy``, which has not moved yet;
        ValueError when the checkpoint has another tokenizer, or fewer rows in its head."""
        from sgpo.core import sharding
        from sgpo.core.models import cast, checkpoint_directory, load_model, load_tokenizer

        if self.checkpoint is None:
            model = _twin(policy)
        else:
            directory = checkpoint_directory(self.checkpoint, self.revision)
            if load_tokenizer(directory).get_vocab() != tokenizer.get_vocab():
                raise ValueError(
                    f"teacher {self.checkpoint!r}: its tokenizer is not the policy's, so no token "
                    "of it means the same; take a teacher of the same family"
                )
            model = load_model(directory)
            rows = [m.get_output_embeddings().weight.shape[0] for m in (model, policy)]
            if rows[0] < rows[1]:
                raise ValueError(
                    f"teacher {self.checkpoint!r}: its head has {rows[0]} rows and the policy's "
                    f"{rows[1]}; it must have at least as many"
                )
        model.requires_grad_(False).eval()
        if sharding.is_sharded(policy):
            sharding.shard(model, policy.device, policy.sharded_precision)
        else:
            cast(model, policy.device, policy.dtype)
        self.model = model

    def follow(self, policy: PreTrainedModel) -> None:
        """Move towards ``policy`` after its update: w <- (1 - ema) w + ema w_policy."""
        from sgpo.core.sharding import local

        if self.ema:
            with torch.no_grad():
                for own, moved in zip(self.model.parameters(), policy.parameters(), strict=True):
                    local(own).lerp_(local(moved), self.ema)


def _twin(policy: PreTrainedModel) -> PreTrainedModel:
    """A copy of ``policy`` in its present weights; whole, and float32, if it lives in shards."""
    from sgpo.core import sharding

    if not sharding.is_sharded(policy):
        return copy.deepcopy(policy)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, and overwritten
        twin = type(policy)(copy.deepcopy(policy.config))
    state = twin.state_dict()
    for name, tensor in sharding.full_state(policy):
        state[name].copy_(tensor)
    return twin
