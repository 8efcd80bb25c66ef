"""A lean CPU sampler for Qwen2- and Llama-shaped models.

``generate`` spends most of a tiny model's step in Python. This decoder reads the weights of a
Hugging Face model as they are (no copy that could go stale), prefills every distinct prompt once
for all of its samples, keeps a preallocated cache, and drops finished rows from the batch.
Log-probabilities agree with the model's own forward pass (tests/test_sampling.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.sampling import SamplingParams, make_completion
from sgpo.core.types import Completion

SUPPORTED = ("qwen2", "llama")
COMPACT_BELOW = 0.8  # share of live rows under which the batch is compacted


class CompactSampler:
    """``Sampler`` for tiny models on the CPU: same distribution as ``generate``, less overhead.

    Draws are taken from one generator in submission order before decoding starts, so a sample
    depends on its place in the call and not on which rows were batched with it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int],
        max_batch: int = 512,
    ) -> None:
        _refuse_unsupported(model.config)
        self.model, self.tokenizer, self.max_batch = model, tokenizer, max_batch
        self.stop_ids = frozenset(stop_ids)
        self._stop = torch.tensor(sorted(self.stop_ids))

    def sync(self, model: PreTrainedModel) -> None:
        self.model = model

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        n: int,
        params: SamplingParams,
        progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See ``Sampler.sample``."""
        generator = torch.Generator().manual_seed(params.seed)
        uniforms = torch.rand(len(prompts), n, params.max_tokens, generator=generator)
        weights = _Weights(self.model)
        # Prompts of one length share a batch where possible; results go back by index.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        per_batch = max(1, self.max_batch // n)
        results: list[list[Completion]] = [[] for _ in prompts]
        for start in range(0, len(order), per_batch):
            part = order[start : start + per_batch]
            noise = uniforms[part].reshape(len(part) * n, -1)
            rows = self._decode(weights, [prompts[i] for i in part], n, noise, params)
            for j, i in enumerate(part):
                results[i] = [
                    make_completion(row, self.stop_ids, self.tokenizer)
                    for row in rows[j * n : (j + 1) * n]
                ]
            if progress:
                progress(len(part) * n)
        return results

    def _decode(
        self,
        weights: _Weights,
        prompts: list[Sequence[int]],
        n: int,
        noise: torch.Tensor,
        params: SamplingParams,
    ) -> list[list[int]]:
        """Raw generated ids of ``len(prompts) * n`` rows; ids after a stop token are undefined."""
        width = max(map(len, prompts))
        pads = torch.tensor([width - len(p) for p in prompts])
        ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts])
        cache = _Cache(weights, len(prompts), width + params.max_tokens)
        hidden = weights.forward(ids, cache, pads, 0)[:, -1]
        cache.repeat(n)
        hidden, pads = hidden.repeat_interleave(n, 0), pads.repeat_interleave(n, 0)
        out = torch.zeros(noise.shape, dtype=torch.long)
        live = torch.arange(len(noise))
        done = torch.zeros(len(noise), dtype=torch.bool)
        for t in range(params.max_tokens):
            tokens = draw(weights.logits(hidden), noise[live, t], params)
            out[live, t] = tokens
            done |= torch.isin(tokens, self._stop)
            alive = int((~done).sum())
            if alive == 0 or t + 1 == params.max_tokens:
                break
            if alive < COMPACT_BELOW * len(live):
                index = (~done).nonzero().squeeze(1)
                live, tokens, pads = live[index], tokens[index], pads[index]
                done = done[index]
                cache.select(index)
            hidden = weights.forward(tokens[:, None], cache, pads, width + t)[:, -1]
        return out.tolist()


def _refuse_unsupported(config: Any) -> None:
    """ValueError naming the first setting of ``config`` that this decoder does not compute."""
    if config.model_type not in SUPPORTED:
        raise ValueError(
            f"CompactSampler reads {' and '.join(SUPPORTED)} models, not "
            f"{config.model_type!r}; use sampler=transformers"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    bias = config.model_type == "llama" and getattr(config, "attention_bias", False)
    for name, value, supported in (
        ("rope_type", rope.get("rope_type", "default"), "default"),
        ("hidden_act", config.hidden_act, "silu"),
        ("attention_bias", bool(bias), False),
        ("mlp_bias", bool(getattr(config, "mlp_bias", False)), False),
        ("use_sliding_window", bool(getattr(config, "use_sliding_window", False)), False),
    ):
        if value != supported:
            raise ValueError(
                f"CompactSampler supports {name}={supported!r}, not {value!r}; "
                "use sampler=transformers"
            )


def draw(logits: torch.Tensor, uniform: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """Token ids [B] drawn from ``softmax(logits / temperature)`` cut to its nucleus.

    Inverse-CDF sampling: ``uniform`` [B] in [0, 1) decides. The nucleus is the smallest set of
    most probable tokens whose mass reaches ``top_p``; the token that crosses it stays in.
    """
    probs = torch.softmax(logits / params.temperature, dim=-1)
    if params.top_p < 1:
        probs, order = probs.sort(dim=-1, descending=True)
        before = probs.cumsum(-1) - probs
        probs = probs.masked_fill(before >= params.top_p, 0.0)
    cdf = probs.cumsum(-1)
    target = uniform[:, None] * cdf[:, -1:]
    choice = torch.searchsorted(cdf, target, right=True)
    # Rounding may push the target onto the last step of the CDF; stay on a token with mass.
    last = (probs > 0).long().cumsum(-1).argmax(-1, keepdim=True)
    choice = torch.minimum(choice, last)
    return (order.gather(1, choice) if params.top_p < 1 else choice).squeeze(1)


class _Cache:
    """Keys and values of every layer, [rows, kv heads, slots, head size], slots left-aligned."""

    def __init__(self, weights: _Weights, rows: int, slots: int) -> None:
        shape = (rows, weights.num_kv, slots, weights.head_dim)
        make = weights.embed.new_zeros
        self.layers = [(make(shape), make(shape)) for _ in weights.layers]

    def repeat(self, n: int) -> None:
        self.layers = [
            (k.repeat_interleave(n, 0), v.repeat_interleave(n, 0)) for k, v in self.layers
        ]

    def select(self, index: torch.Tensor) -> None:
        self.layers = [(k.index_select(0, index), v.index_select(0, index)) for k, v in self.layers]


class _Weights:
    """The decoder-only transformer behind a Qwen2 or Llama model, as plain tensor algebra."""

    def __init__(self, model: PreTrainedModel) -> None:
        config, body = model.config, model.model
        self.num_heads, self.num_kv = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = body.layers[0].self_attn.head_dim
        self.eps = config.rms_norm_eps
        self.embed, self.norm = body.embed_tokens.weight, body.norm.weight
        self.head = model.lm_head.weight
        self.inv_freq = body.rotary_emb.inv_freq
        self.layers = []
        for layer in body.layers:
            attn, mlp = layer.self_attn, layer.mlp
            qkv = [attn.q_proj, attn.k_proj, attn.v_proj]
            bias = None
            if attn.q_proj.bias is not None:
                bias = torch.cat([p.bias for p in qkv])
            self.layers.append(
                {
                    "norm1": layer.input_layernorm.weight,
                    "norm2": layer.post_attention_layernorm.weight,
                    "qkv": torch.cat([p.weight for p in qkv]),
                    "qkv_bias": bias,
                    "o": attn.o_proj.weight,
                    "gate_up": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
                    "down": mlp.down_proj.weight,
                }
            )

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.head)

    def forward(
        self, ids: torch.Tensor, cache: _Cache, pads: torch.Tensor, slot: int
    ) -> torch.Tensor:
        """Final hidden states [rows, new, H] of ``ids`` written at ``slot``.. of the cache.

        ``pads`` [rows]: empty slots on the left; rotary positions start behind them.
        """
        rows, new = ids.shape
        end = slot + new
        positions = (torch.arange(slot, end)[None] - pads[:, None]).clamp(min=0)
        angle = positions[..., None].float() * self.inv_freq
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]  # [rows, 1, new, head_dim / 2]
        slots = torch.arange(end)
        mask = (slots[None, None] >= pads[:, None, None]) & (
            slots[None, None] <= torch.arange(slot, end)[None, :, None]
        )  # [rows, new, end]
        if new > 1:  # a padded query sees itself, else its softmax would be over nothing
            mask |= torch.eye(new, end, dtype=torch.bool)[None]
        x = F.embedding(ids, self.embed)
        for layer, (keys, values) in zip(self.layers, cache.layers, strict=True):
            h = F.rms_norm(x, x.shape[-1:], layer["norm1"], self.eps)
            x = x + self._attend(h, layer, keys, values, cos, sin, mask, slot, end)
            h = F.rms_norm(x, x.shape[-1:], layer["norm2"], self.eps)
            gate, up = F.linear(h, layer["gate_up"]).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, layer["down"])
        return F.rms_norm(x[:, -1:], x.shape[-1:], self.norm, self.eps)

    def _attend(self, h, layer, keys, values, cos, sin, mask, slot, end):
        """Attention of the new positions over the cache, which it extends in place."""
        rows, new, _ = h.shape
        heads, kv, size = self.num_heads, self.num_kv, self.head_dim
        qkv = F.linear(h, layer["qkv"], layer["qkv_bias"])
        qkv = qkv.view(rows, new, heads + 2 * kv, size).transpose(1, 2)
        rotated = _rotate(qkv[:, : heads + kv], cos, sin)
        keys[:, :, slot:end] = rotated[:, heads:]
        values[:, :, slot:end] = qkv[:, heads + kv :]
        # Query heads of one key/value head become queries of one attention: no repeated cache.
        q = rotated[:, :heads].reshape(rows, kv, (heads // kv) * new, size)
        wide = mask[:, None].repeat(1, 1, heads // kv, 1) if new > 1 else mask[:, None]
        out = F.scaled_dot_product_attention(
            q, keys[:, :, :end], values[:, :, :end], attn_mask=wide
        )
        out = out.view(rows, heads, new, size).transpose(1, 2).reshape(rows, new, heads * size)
        return F.linear(out, layer["o"])


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding in the half-split layout of Qwen2 and Llama checkpoints."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
