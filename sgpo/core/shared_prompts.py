"""Scoring on the CPU that reads every distinct prompt once.

The completions of a group share their prompt: its keys and values are computed once and gathered
for them, and a completion's last token, which predicts nothing, is not read at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from sgpo.core.cpu_model import DTYPES, Decoder, unsupported_setting


def applies_to(model: PreTrainedModel) -> bool:
    """Whether ``hidden_states`` computes what the forward pass of ``model`` would: a Qwen2 or
    Llama on the CPU in float32 or float64, without sharding, activation checkpointing, adapters
    or dropout."""
    if unsupported_setting(model.config) is not None:
        return False
    weight, first = model.get_input_embeddings().weight, model.base_model.layers[0]
    attention, mlp = first.self_attn, first.mlp
    projections = (
        attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
        mlp.gate_proj, mlp.up_proj, mlp.down_proj,
    )  # fmt: skip
    return (
        weight.device.type == "cpu"
        and weight.dtype in DTYPES
        and not isinstance(weight, DTensor)
        and not model.is_gradient_checkpointing
        and not (model.training and model.config.attention_dropout)
        and all(type(projection) is torch.nn.Linear for projection in projections)
    )


def hidden_states(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    prompt_lengths: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
) -> torch.Tensor:
    """Final hidden states [N, H] that predict the N unmasked completion tokens, row by row.

    Args:
        model: one that ``applies_to`` accepts.
        input_ids: [B, L], each row starting with its prompt of ``prompt_lengths`` [B] >= 1 ids;
            what follows the prompt is not read.
        completion_ids, completion_mask: [B, T], padded on the right.
    """
    prompts = _distinct(input_ids, prompt_lengths)
    decoder = Decoder(model)
    # Padding stands on the right, where causal attention alone keeps it out of sight.
    hidden, kept = decoder.run(prompts.input_ids, torch.arange(prompts.input_ids.shape[1]))
    last = hidden[torch.arange(len(hidden)), prompts.lengths - 1]
    hidden = last.index_select(0, prompts.row_of)[:, None]
    steps = completion_ids.shape[1] - 1
    if steps:
        following, _ = decoder.run(
            completion_ids[:, :-1],
            prompt_lengths[:, None] + torch.arange(steps),
            [tuple(t.index_select(0, prompts.row_of) for t in pair) for pair in kept],
            _visible(prompt_lengths, prompts.input_ids.shape[1], steps),
        )
        hidden = torch.cat([hidden, following], 1)
    return decoder.finish(hidden[completion_mask])


@dataclass(frozen=True)
class _Prompts:
    """Distinct prompts: ``input_ids`` [P, L] padded on the right, ``lengths`` [P], and the prompt
    of each sequence, ``row_of`` [B]."""

    input_ids: torch.Tensor
    lengths: torch.Tensor
    row_of: torch.Tensor


def _distinct(input_ids: torch.Tensor, prompt_lengths: torch.Tensor) -> _Prompts:
    rows: dict[tuple[int, ...], int] = {}
    row_of = [
        rows.setdefault(tuple(ids[:length]), len(rows))
        for ids, length in zip(input_ids.tolist(), prompt_lengths.tolist(), strict=True)
    ]
    prompts = [torch.tensor(prompt) for prompt in rows]
    return _Prompts(
        torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True),
        torch.tensor([len(prompt) for prompt in prompts]),
        torch.tensor(row_of),
    )


def _visible(prompt_lengths: torch.Tensor, slots: int, steps: int) -> torch.Tensor:
    """The ``mask`` of ``Decoder.run`` for ``steps`` completion positions behind prompts padded to
    ``slots``."""
    own = torch.ones(1, steps, steps, dtype=torch.bool).tril()
    seen = (torch.arange(slots) < prompt_lengths[:, None])[:, None].expand(-1, steps, -1)
    if bool(seen.all()):  # one mask for the whole batch
        seen = seen[:1]
    return torch.cat([seen, own.expand(len(seen), -1, -1)], -1)[:, None]
