"""Qwen2- and Llama-shaped models as plain tensor algebra, for scoring and sampling on the CPU.

A tiny model spends most of a forward pass in many small operations. Here projections are fused, the
weight of a norm is folded into the projection behind it, and two gradients are written by hand. The
weights stay those of the Hugging Face model and receive its gradients; values agree with its own
forward pass up to the order of summation. Scoring reads every distinct prompt once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

SUPPORTED = ("qwen2", "llama")
DTYPES = (torch.float32, torch.float64)

KeysValues = tuple[torch.Tensor, torch.Tensor]


def unsupported_setting(config: Any) -> str | None:
    """The first setting of a model's ``config`` that is not computed here, and what it must be."""
    rope = getattr(config, "rope_parameters", None) or {}
    bias = config.model_type == "llama" and getattr(config, "attention_bias", False)
    for name, value, *supported in (
        ("model_type", config.model_type, *SUPPORTED),
        ("rope_type", rope.get("rope_type", "default"), "default"),
        ("hidden_act", getattr(config, "hidden_act", None), "silu"),
        ("attention_bias", bool(bias), False),
        ("mlp_bias", bool(getattr(config, "mlp_bias", False)), False),
        ("use_sliding_window", bool(getattr(config, "use_sliding_window", False)), False),
    ):
        if value not in supported:
            return f"{name}={value!r}: must be {' or '.join(map(repr, supported))}"
    return None


@dataclass(frozen=True)
class Layer:
    """Fused weights of one decoder layer, [out, in]. ``qkv`` and ``gate_up`` carry the weight of
    the norm before them; query and key heads are ordered for ``rotate``."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Decoder:
    """The decoder stack of a supported model, its present weights fused once for several passes:
    ``num_heads`` query and ``num_kv`` key/value heads of ``head_size``."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, self.body = model.config, model.base_model
        self.num_heads, self.num_kv = config.num_attention_heads, config.num_key_value_heads
        self.head_size = self.body.layers[0].self_attn.head_dim
        self.eps = config.rms_norm_eps
        self.layers = [_fuse(layer) for layer in self.body.layers]

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings [..., H]; as in the model, the padding row receives no gradient."""
        return self.body.embed_tokens(ids)

    def turns(self, positions: torch.Tensor) -> torch.Tensor:
        """Complex [..., 1, head size / 2]: what ``rotate`` takes for ``positions`` [...]; angles in
        float32 whatever the model's dtype, as transformers has them."""
        angle = positions[..., None, None].float() * self.body.rotary_emb.inv_freq.float()
        turn = torch.complex(angle.cos(), angle.sin())
        return turn.to(self.body.norm.weight.dtype.to_complex())  # bfloat16's is complex64

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """The final norm: hidden states that the language-model head takes."""
        return normalize(x, self.eps) * self.body.norm.weight

    def run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        prefix: list[KeysValues] | None = None,
        mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[KeysValues]]:
        """Hidden states [B, T, H] of ``ids`` [B, T] at ``positions`` ([B,] T), before the final
        norm, and the keys and values of every layer, each [B, T, num_kv, head_size].

        ``prefix``: keys and values that stand before ``ids`` in every layer. It needs ``mask``
        [B or 1, 1, T, prefix + T], True where a position attends to a slot; without, attention is
        causal.
        """
        assert (prefix is None) == (mask is None)
        x = self.embed(ids)
        turns = self.turns(positions)
        kept = []
        for i, layer in enumerate(self.layers):
            q, k, v = self._project(layer, normalize(x, self.eps), turns)
            kept.append((k, v))
            if prefix is not None:
                k, v = torch.cat([prefix[i][0], k], 1), torch.cat([prefix[i][1], v], 1)
            attended = F.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                attn_mask=mask,
                is_causal=mask is None,
                enable_gqa=self.num_heads != self.num_kv,
            )
            x = x + F.linear(attended.transpose(1, 2).flatten(2), layer.output)
            gate_up = F.linear(normalize(x, self.eps), layer.gate_up)
            x = x + F.linear(_SwiGLU.apply(gate_up), layer.down)
        return x, kept

    def _project(
        self, layer: Layer, x: torch.Tensor, turns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys (both rotated) and values, [B, T, heads, head size]."""
        qkv = F.linear(x, layer.qkv, layer.qkv_bias).unflatten(-1, (-1, self.head_size))
        q_k, v = qkv.split([self.num_heads + self.num_kv, self.num_kv], 2)
        q, k = rotate(q_k, turns).split([self.num_heads, self.num_kv], 2)
        return q, k, v


def _fuse(layer: torch.nn.Module) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    size = attention.head_dim

    def qkv(name: str) -> torch.Tensor:
        q, k, v = (getattr(p, name) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
        return torch.cat([_interleave(q, size), _interleave(k, size), v])

    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    return Layer(
        qkv=qkv("weight") * layer.input_layernorm.weight,
        qkv_bias=None if attention.q_proj.bias is None else qkv("bias"),
        output=attention.o_proj.weight,
        gate_up=gate_up * layer.post_attention_layernorm.weight,
        down=mlp.down_proj.weight,
    )


def _interleave(rows: torch.Tensor, size: int) -> torch.Tensor:
    """Rows [heads * size, ...] with the two coordinates of each rotation side by side, as one
    complex number; checkpoints keep them half a head apart. Products of queries and keys do not
    change."""
    return rows.unflatten(0, (-1, 2, size // 2)).transpose(1, 2).flatten(0, 2)


def rotate(heads: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Query and key heads [..., heads, size] with their positions: pairs of neighbours multiplied
    as complex numbers by ``turns`` [..., 1, size / 2]."""
    wide = heads.float() if heads.dtype == torch.bfloat16 else heads
    pairs = torch.view_as_complex(wide.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).to(heads.dtype)


def normalize(x: torch.Tensor, eps: float) -> torch.Tensor:
    """``x / sqrt(mean(x^2) + eps)`` over the last dimension."""
    if torch.is_grad_enabled():
        return _Normalize.apply(x, eps)
    if x.dtype == torch.bfloat16:  # in float32, as the models do
        return normalize(x.float(), eps).to(x.dtype)
    return x * _reciprocal_rms(x, eps)  # apply() takes longer than this when sampling


def _reciprocal_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


# Each of these spares autograd most of the intermediate tensors of its formula.


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> torch.Tensor:
        scale = _reciprocal_rms(x, eps)
        normalized = x * scale
        ctx.save_for_backward(normalized, scale)
        return normalized

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        normalized, scale = ctx.saved_tensors
        along = (grad * normalized).mean(-1, keepdim=True)
        return torch.addcmul(grad, normalized, along, value=-1).mul_(scale), None


class _SwiGLU(torch.autograd.Function):
    """``silu(gate) * up`` of [..., 2 F], gate and up side by side."""

    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, -1)
        active = F.silu(gate)
        ctx.save_for_backward(gate_up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        gate_up, active = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        out = torch.empty_like(gate_up)
        grad_gate, grad_up = out.chunk(2, -1)
        torch.mul(grad, active, out=grad_up)
        torch.mul(grad, up, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return out


def applies_to(model: PreTrainedModel) -> bool:
    """Whether ``hidden_states`` computes what ``model`` would: a Qwen2 or Llama on the CPU in
    float32 or float64, without sharding, activation checkpointing, adapters or dropout."""
    if unsupported_setting(model.config) is not None:
        return False
    weight, first = model.get_input_embeddings().weight, model.base_model.layers[0]
    attention, mlp = first.self_attn, first.mlp
    projections = [getattr(attention, f"{name}_proj") for name in "qkvo"]
    projections += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
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

    ``input_ids`` [B, L]: each row starts with its prompt of ``prompt_lengths`` [B] ids, and what
    follows is not read. ``completion_ids``, ``completion_mask`` [B, T]: padded on the right.
    """
    # Padding stands on the right, where causal attention alone keeps it out of sight.
    prompts, lengths, row_of = _distinct(input_ids, prompt_lengths)
    decoder = Decoder(model)
    hidden, kept = decoder.run(prompts, torch.arange(prompts.shape[1]))
    last = hidden[torch.arange(len(hidden)), lengths - 1]
    hidden = last.index_select(0, row_of)[:, None]
    steps = completion_ids.shape[1] - 1
    if steps:
        following, _ = decoder.run(
            completion_ids[:, :-1],
            prompt_lengths[:, None] + torch.arange(steps),
            [tuple(t.index_select(0, row_of) for t in pair) for pair in kept],
            _visible(prompt_lengths, prompts.shape[1], steps),
        )
        hidden = torch.cat([hidden, following], 1)
    return decoder.finish(hidden[completion_mask])


def _distinct(
    input_ids: torch.Tensor, prompt_lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The P distinct prompts: ids [P, L] padded on the right, lengths [P], and the prompt of each
    sequence [B]."""
    rows: dict[tuple[int, ...], int] = {}
    row_of = [
        rows.setdefault(tuple(ids[:length]), len(rows))
        for ids, length in zip(input_ids.tolist(), prompt_lengths.tolist(), strict=True)
    ]
    prompts = [torch.tensor(prompt) for prompt in rows]
    padded = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    return padded, torch.tensor([len(prompt) for prompt in prompts]), torch.tensor(row_of)


def _visible(prompt_lengths: torch.Tensor, slots: int, steps: int) -> torch.Tensor:
    """``Decoder.run``'s ``mask`` of ``steps`` completion positions behind ``slots`` of prompts."""
    own = torch.ones(1, steps, steps, dtype=torch.bool).tril()
    seen = (torch.arange(slots) < prompt_lengths[:, None])[:, None].expand(-1, steps, -1)
    if bool(seen.all()):  # one mask for the whole batch
        seen = seen[:1]
    return torch.cat([seen, own.expand(len(seen), -1, -1)], -1)[:, None]
