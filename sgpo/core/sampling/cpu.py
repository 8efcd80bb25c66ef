"""A lean CPU sampler for Qwen2- and Llama-shaped models.

``generate`` spends most of a tiny model's step in Python. This decoder reads the weights of a
Hugging Face model anew in every call (no copy that could go stale), prefills every prompt once
for all of its samples, keeps a preallocated cache, and drops finished rows from the batch.
Log-probabilities agree with the model's own forward pass (tests/test_sampling.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.cpu_model import DTYPES, Decoder, normalize, rotate, unsupported_setting
from sgpo.core.sampling.sampler import (
    Groups,
    Progress,
    Prompts,
    SamplingParams,
    draw,
    make_completion,
    uniform_draws,
)

COMPACT_BELOW = 0.8  # share of live rows under which the batch is compacted


class CompactSampler:
    """``Sampler`` for tiny models on the CPU: same distribution as ``generate``, less overhead.

    Draws are taken from one generator in submission order before decoding starts, so a sample
    depends on its place in the call and not on which rows were batched with it.
    """

    own_weights = False  # see ReplicaSampler

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int],
        max_batch: int = 512,
    ) -> None:
        unsupported = unsupported_setting(model.config)
        if unsupported is not None:
            raise ValueError(f"{unsupported} for the compact sampler; use sampler=transformers")
        if model.dtype not in DTYPES:
            raise ValueError(
                f"dtype={model.dtype}: must be {' or '.join(map(str, DTYPES))} for the compact "
                "sampler; load the model so or use sampler=transformers"
            )
        self.model, self.tokenizer, self.max_batch = model, tokenizer, max_batch
        self.stop_ids = frozenset(stop_ids)
        self._stop = torch.tensor(sorted(self.stop_ids))

    def sync(self, model: PreTrainedModel) -> None:
        self.model = model

    def release(self) -> None:
        """Nothing to release: the weights are the trainer's own."""

    @torch.inference_mode()
    def sample(
        self, prompts: Prompts, n: int, params: SamplingParams, progress: Progress = None
    ) -> Groups:
        """See ``Sampler.sample``."""
        device = self.model.device
        # On a GPU every new tensor belongs there; on the CPU the mode would only cost time.
        place = nullcontext() if device.type == "cpu" else device
        uniforms = uniform_draws(params, len(prompts), n).to(device)
        decoder = Decoder(self.model)
        # Prompts of one length share a batch where possible; results go back by index.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        per_batch = max(1, self.max_batch // n)
        results: Groups = [[] for _ in prompts]
        for start in range(0, len(order), per_batch):
            part = order[start : start + per_batch]
            noise = uniforms[part].reshape(len(part) * n, -1)
            with place:
                rows = self._decode(decoder, [prompts[i] for i in part], n, noise, params)
            made = [make_completion(ids, self.stop_ids, self.tokenizer, lp) for ids, lp in rows]
            for j, i in enumerate(part):
                results[i] = made[j * n : (j + 1) * n]
            if progress:
                progress(len(part) * n)
        return results

    def _decode(
        self,
        decoder: Decoder,
        prompts: list[Sequence[int]],
        n: int,
        noise: torch.Tensor,
        params: SamplingParams,
    ) -> list[tuple[list[int], list[float] | None]]:
        """Raw generated ids of ``len(prompts) * n`` rows and, where they are to be reported, their
        log-probabilities; what stands after a stop token is undefined."""
        batch = _Batch(decoder, prompts, params.max_tokens)
        batch.repeat(n)
        head, stop = self.model.get_output_embeddings(), self._stop.to(noise.device)
        out = torch.zeros(noise.shape, dtype=torch.long)
        logprobs = torch.zeros(noise.shape) if params.logprobs and self.own_weights else None
        live = torch.arange(len(noise))
        done = torch.zeros(len(noise), dtype=torch.bool)
        for t in range(params.max_tokens):
            logits = head(batch.hidden)
            tokens = draw(logits, noise[live, t], params)
            out[live, t] = tokens
            if logprobs is not None:
                picked = logits.gather(1, tokens[:, None]).squeeze(1)
                logprobs[live, t] = (picked - logits.logsumexp(-1)).to(logprobs.dtype)
            done |= torch.isin(tokens, stop)
            alive = int((~done).sum())
            if alive == 0 or t + 1 == params.max_tokens:
                break
            if alive < COMPACT_BELOW * len(live):
                index = (~done).nonzero().squeeze(1)
                live, tokens, done = live[index], tokens[index], done[index]
                batch.select(index)
            batch.step(tokens)
        reported = [None] * len(out) if logprobs is None else logprobs.tolist()
        return list(zip(out.tolist(), reported, strict=True))


class _Batch:
    """Rows that are decoded together, and the keys and values of all their tokens.

    Prompts lie padded on the right in the first slots, new tokens behind them. ``hidden`` [B, H]
    is the final hidden state of each row's last token. There is first one row a prompt.
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int) -> None:
        self.decoder = decoder
        width = max(map(len, prompts))
        self.positions = torch.tensor([len(p) for p in prompts])  # of the next token
        ids = torch.tensor([list(p) + [0] * (width - len(p)) for p in prompts])
        x, kept = decoder.run(ids, torch.arange(width))
        self.hidden = decoder.finish(x[torch.arange(len(x)), self.positions - 1])
        self.filled, slots = width, width + max_tokens
        self.cache = [
            tuple(F.pad(t.transpose(1, 2), (0, 0, 0, max_tokens)) for t in pair) for pair in kept
        ]  # [rows, num_kv, slots, head size]
        self.bias = None
        if any(len(p) < width for p in prompts):
            slot = torch.arange(slots)
            padding = (slot >= self.positions[:, None]) & (slot < width)
            bias = torch.zeros(padding.shape, dtype=x.dtype).masked_fill(padding, -torch.inf)
            self.bias = bias[:, None].repeat(1, decoder.num_kv, 1)  # [rows, num_kv, slots]

    def repeat(self, n: int) -> None:
        """``n`` rows next to each other of every present one."""
        self.select(torch.arange(len(self.hidden)).repeat_interleave(n))

    def select(self, index: torch.Tensor) -> None:
        """Keep the rows of ``index``, in its order."""
        self.hidden, self.positions = self.hidden[index], self.positions[index]
        self.cache = [tuple(t.index_select(0, index) for t in pair) for pair in self.cache]
        if self.bias is not None:
            self.bias = self.bias[index]

    def step(self, tokens: torch.Tensor) -> None:
        """Append ``tokens`` [B] and compute their ``hidden``."""
        decoder = self.decoder
        x = decoder.embed(tokens)
        turns = decoder.turns(self.positions)
        for layer, (keys, values) in zip(decoder.layers, self.cache, strict=True):
            h = F.linear(normalize(x, decoder.eps), layer.qkv, layer.qkv_bias)
            x = torch.addmm(x, self._attend(h, keys, values, turns), layer.output.T)
            gate, up = F.linear(normalize(x, decoder.eps), layer.gate_up).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.down.T)
        self.hidden = decoder.finish(x)
        self.positions = self.positions + 1
        self.filled += 1

    def _attend(
        self,
        qkv: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        turns: torch.Tensor,
    ) -> torch.Tensor:
        """Attention [B, H] of the new tokens over the cache, which they extend in place.

        Two batched products are faster here than the fused kernel, which is made for many queries.
        """
        decoder = self.decoder
        size, end, turned = decoder.head_size, self.filled + 1, decoder.num_heads + decoder.num_kv
        heads = qkv.unflatten(-1, (-1, size))
        rotated = rotate(heads[:, :turned], turns)
        keys[:, :, self.filled] = rotated[:, decoder.num_heads :]
        values[:, :, self.filled] = heads[:, turned:]
        # Query heads of one key/value head become queries of one attention: no repeated cache.
        group = decoder.num_heads // decoder.num_kv
        q = rotated[:, : decoder.num_heads].reshape(-1, group, size)
        k, v = (t.flatten(0, 1)[:, :end] for t in (keys, values))
        scores = torch.bmm(q, k.mT)
        if self.bias is None:
            scores.mul_(size**-0.5)
        else:
            scores = torch.add(self.bias.flatten(0, 1)[:, None, :end], scores, alpha=size**-0.5)
        return torch.bmm(torch.softmax(scores, -1), v).view(len(qkv), -1)
