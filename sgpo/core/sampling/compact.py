"""A lean sampler for Qwen2- and Llama-shaped models, on a CPU or a GPU.

``generate`` spends most of a small model's step in Python. This decoder reads the weights of a
Hugging Face model anew in every call (no copy that could go stale), prefills every prompt once
for all of its samples, keeps a preallocated cache, and drops finished rows from the batch.
On a GPU every step has the same shapes, so that one step is captured as a CUDA graph and replayed
until the batch shrinks to its next size. Log-probabilities agree with the model's own forward pass
(tests/sampling/test_sampling.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sgpo.core.cpu_model import Decoder, normalize, rotate, unsupported_setting
from sgpo.core.sampling.sampler import (
    Groups,
    Progress,
    Prompts,
    Sampler,
    SamplingParams,
    draw,
    make_completion,
    reads_stop_text,
    uniform_draws,
)

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
COMPACT_BELOW = 0.8  # share of live rows under which the batch is compacted
STATIC_SLOTS = 16  # the number of slots of a batch with static shapes is a multiple of it
LEAST_ROWS = 16  # of a batch with static shapes, whose sizes are powers of two
STEPS_UNASKED = 8  # a GPU is asked this often how many rows are done: asking waits for it


class CompactSampler(Sampler):
    """``Sampler`` for one device: same distribution as ``generate``, less overhead.

    A sample depends on its place in the call and not on which rows were batched with it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_ids: Sequence[int],
        max_batch: int = 512,
    ) -> None:
        super().__init__(model, tokenizer, stop_ids=stop_ids, max_batch=max_batch)
        unsupported = unsupported_setting(model.config)
        if unsupported is not None:
            raise ValueError(
                f"{unsupported} for the compact sampler; use --set sampler=transformers"
            )
        if model.dtype not in DTYPES:
            raise ValueError(
                f"dtype={model.dtype}: must be {' or '.join(map(str, DTYPES))} for the compact "
                "sampler; load the model so or use --set sampler=transformers"
            )

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
            for j, row in enumerate(rows):
                made = make_completion(row[0], self.stop_ids, self.tokenizer, params, row[1])
                results[part[j // n]].append(made)
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
        log-probabilities; what stands after a stop token or text is undefined."""
        batch = _Batch(decoder, prompts, params.max_tokens, static=_static(noise.device))
        batch.repeat(n)
        head = self.model.get_output_embeddings()
        stop = torch.tensor(sorted(self.stop_ids), device=noise.device)
        out = torch.zeros(noise.shape, dtype=torch.long)
        logprobs = torch.zeros(noise.shape) if params.logprobs and self.own_weights else None
        live = torch.arange(len(noise))
        done = torch.zeros(len(noise), dtype=torch.bool)
        asked_every = STEPS_UNASKED if batch.static else 1
        for t in range(params.max_tokens):
            logits = head(batch.hidden)
            tokens = draw(logits, noise[live, t], params)
            out[live, t] = tokens
            if logprobs is not None:
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                picked = logits.gather(1, tokens[:, None]).squeeze(1)
                logprobs[live, t] = (picked - logits.logsumexp(-1)).to(logprobs.dtype)
            done |= torch.isin(tokens, stop)
            if params.stop_texts:
                done |= reads_stop_text(out[live, : t + 1], params, self.tokenizer)
            if t + 1 == params.max_tokens:
                break
            if t % asked_every == 0:
                alive = int((~done).sum())
                if alive == 0:
                    break
                keep = batch.worth_keeping(done, alive)
                if keep is not None:
                    live, tokens, done = live[keep], tokens[keep], done[keep]
                    batch.select(keep)
            batch.step(tokens)
        reported = [None] * len(out) if logprobs is None else logprobs.tolist()
        return list(zip(out.tolist(), reported, strict=True))


def _static(device: torch.device) -> bool:
    """Whether shapes may not change from step to step: launching costs more than computing."""
    return device.type == "cuda"


class _Batch:
    """Rows that are decoded together, and the keys and values of all their tokens.

    Prompts lie padded on the right in the first slots, new tokens behind them. ``hidden`` [B, H]
    is the final hidden state of each row's last token. There is first one row a prompt.

    With ``static`` shapes a step reads and writes the same memory as the one before it: attention
    covers all slots, those not yet filled hidden by the bias, and the next slot is a tensor. The
    first step of a size runs as it is, the second is captured, that one and the others replayed.
    """

    def __init__(
        self, decoder: Decoder, prompts: Prompts, max_tokens: int, *, static: bool = False
    ) -> None:
        self.decoder, self.static = decoder, static
        width = max(map(len, prompts))
        self.positions = torch.tensor([len(p) for p in prompts])  # of the next token
        ids = torch.tensor([list(p) + [0] * (width - len(p)) for p in prompts])
        x, kept = decoder.run(ids, torch.arange(width))
        self.hidden = decoder.finish(x[torch.arange(len(x)), self.positions - 1])
        self.filled, slots = width, width + max_tokens
        if static:  # the fused kernel takes no other widths of a bias without copying it
            slots += -slots % STATIC_SLOTS
        self.cache = [
            tuple(F.pad(t.transpose(1, 2), (0, 0, 0, slots - width)) for t in pair) for pair in kept
        ]  # [rows, num_kv, slots, head size]
        self.bias = None
        if static or any(len(p) < width for p in prompts):
            slot = torch.arange(slots)
            hidden = (slot >= self.positions[:, None]) & (static | (slot < width))
            bias = torch.zeros(hidden.shape, dtype=x.dtype).masked_fill(hidden, -torch.inf)
            self.bias = bias[:, None].repeat(1, decoder.num_kv, 1)  # [rows, num_kv, slots]
        self.next = torch.tensor([width])  # the first slot that is free
        self._forget_steps()

    def repeat(self, n: int) -> None:
        """``n`` rows next to each other of every present one."""
        self.select(torch.arange(len(self.hidden)).repeat_interleave(n))

    def worth_keeping(self, done: torch.Tensor, alive: int) -> torch.Tensor | None:
        """The rows to go on with, ``alive`` of them not ``done``; None while all may stay."""
        if not self.static:
            return (~done).nonzero().squeeze(1) if alive < COMPACT_BELOW * len(done) else None
        size = max(LEAST_ROWS, 1 << (alive - 1).bit_length())
        return done.long().argsort(stable=True)[:size] if size < len(done) else None

    def select(self, index: torch.Tensor) -> None:
        """Keep the rows of ``index``, in its order."""
        self.hidden, self.positions = self.hidden[index], self.positions[index]
        self.cache = [tuple(self._rows(t, index) for t in pair) for pair in self.cache]
        if self.bias is not None:
            self.bias = self.bias[index]
        self._forget_steps()

    def _rows(self, cache: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        if self.static:
            return cache.index_select(0, index)
        kept = cache.new_empty(len(index), *cache.shape[1:])  # what is not filled is never read
        used = slice(0, self.filled)
        torch.index_select(cache[:, :, used], 0, index, out=kept[:, :, used])
        return kept

    def _forget_steps(self) -> None:
        self.tokens = torch.zeros_like(self.positions)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm = False

    def step(self, tokens: torch.Tensor) -> None:
        """Append ``tokens`` [B] and compute their ``hidden``."""
        if not self.static:
            self.hidden = self._forward(tokens)
            self.positions = self.positions + 1
            self.filled += 1
            return
        self.tokens.copy_(tokens)
        if self.graph is None and self.warm and tokens.is_cuda:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):  # records, does not run
                self._advance()
        if self.graph is None:
            self._advance()
            self.warm = True
        else:
            self.graph.replay()

    def _advance(self) -> None:
        """One step in place."""
        self.bias.index_fill_(2, self.next, 0.0)
        self.hidden.copy_(self._forward(self.tokens))
        self.positions.add_(1)
        self.next.add_(1)

    def _forward(self, tokens: torch.Tensor) -> torch.Tensor:
        decoder = self.decoder
        x = decoder.embed(tokens)
        turns = decoder.turns(self.positions)
        for layer, (keys, values) in zip(decoder.layers, self.cache, strict=True):
            h = F.linear(normalize(x, decoder.eps), layer.qkv, layer.qkv_bias)
            x = torch.addmm(x, self._attend(h, keys, values, turns), layer.output.T)
            gate, up = F.linear(normalize(x, decoder.eps), layer.gate_up).chunk(2, -1)
            x = torch.addmm(x, F.silu(gate).mul_(up), layer.down.T)
        return decoder.finish(x)

    def _attend(self, qkv, keys, values, turns) -> torch.Tensor:
        """Attention [B, H] of the new tokens over the cache, which they extend in place."""
        decoder = self.decoder
        size, turned = decoder.head_size, decoder.num_heads + decoder.num_kv
        heads = qkv.unflatten(-1, (-1, size))
        rotated = rotate(heads[:, :turned], turns)
        # Query heads of one key/value head become queries of one attention: no repeated cache.
        q = rotated[:, : decoder.num_heads].unflatten(1, (decoder.num_kv, -1))
        if self.static:
            keys.index_copy_(2, self.next, rotated[:, decoder.num_heads :, None])
            values.index_copy_(2, self.next, heads[:, turned:, None])
            mask = self.bias[:, :, None]
            return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask).flatten(1)
        # On the CPU two products are faster than the fused kernel, made for many queries.
        keys[:, :, self.filled] = rotated[:, decoder.num_heads :]
        values[:, :, self.filled] = heads[:, turned:]
        k, v = (t.flatten(0, 1)[:, : self.filled + 1] for t in (keys, values))
        scores = torch.bmm(q.flatten(0, 1), k.mT)
        if self.bias is None:
            scores.mul_(size**-0.5)
        else:
            bias = self.bias.flatten(0, 1)[:, None, : self.filled + 1]
            scores = torch.add(bias, scores, alpha=size**-0.5)
        return torch.bmm(torch.softmax(scores, -1), v).view(len(qkv), -1)
