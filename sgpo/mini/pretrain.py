"""Pretraining of the mini base models, cached on disk by what went into them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from sgpo.mini import suites, text
from sgpo.mini.models import ModelSpec, build_model, model_spec
from sgpo.mini.text import WriterHabits
from sgpo.mini.tokenizer import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    PAD,
    SPECIALS,
    USER,
    build_tokenizer,
)

Progress = Callable[[int, int, float], None]  # step, steps, loss in nats per token
IGNORED = -100
RECIPE = 1  # raise when the training loop below changes what it computes


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining settings; the number of steps is the model's own (``ModelSpec``)."""

    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    weight_decay: float = 0.1
    guided_share: float = 0.5
    betas: tuple[float, float] = (0.9, 0.98)
    short_share: float = 0.45  # of the steps, the first: short lists, where tables are learned
    short_levels: tuple[float, ...] = (10, 1, 1, 0, 0, 0)  # weights of levels 1 to 6
    all_levels: tuple[float, ...] = (3, 3, 3, 2, 2, 1)
    long_chunk: float = 0.25  # the longest quarter of a batch is padded on its own
    seed: int = 0


DEFAULT = PretrainConfig()


def _encoder() -> dict[str, int]:
    return {piece: i for i, piece in enumerate((*SPECIALS, *text.vocabulary()))}


def draw_batch(
    config: PretrainConfig,
    habits: WriterHabits,
    rng: random.Random,
    vocab: dict[str, int],
    *,
    short: bool,
) -> list[tuple[list[int], int]]:
    """One batch of (ids, prompt length): chat-formatted texts from the training partition.

    ``short`` draws by ``config.short_levels``, else by ``config.all_levels``.
    """
    weights = config.short_levels if short else config.all_levels
    batch = []
    for i in range(config.batch_size):
        guided = i < config.guided_share * config.batch_size
        level = rng.choices(range(1, 7), weights=weights)[0]
        task = suites.random_task(rng, level, "train")
        user, completion = text.pretraining_example(task, guided, rng, habits)
        prompt = [USER, *user, END, ASSISTANT]
        ids = [vocab[piece] for piece in (*prompt, *completion, END)]
        batch.append((ids, len(prompt)))
    return batch


def _pad(rows: list[tuple[list[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded input_ids and labels, int64 (B, T); prompt and padding are ``IGNORED``."""
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    for row, (ids, prompt_length) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, prompt_length : len(ids)] = torch.tensor(ids[prompt_length:])
    return input_ids, labels


def pretrain(
    spec: ModelSpec, config: PretrainConfig = DEFAULT, progress: Progress | None = None
) -> torch.nn.Module:
    """A model trained from scratch on the world's text, in eval mode, float32, on the CPU.

    Loss is the mean over completion tokens only. ``progress`` is called after every step.
    """
    vocab = _encoder()
    rng = random.Random(f"pretrain-{config.seed}")
    model = build_model(spec, config.seed).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    habits = WriterHabits(knowledge=spec.knowledge)
    steps = spec.pretrain_steps
    warmup = min(config.warmup_steps, steps)

    def lr_factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor)
    for step in range(steps):
        batch = draw_batch(config, habits, rng, vocab, short=step < config.short_share * steps)
        rows = sorted(batch, key=lambda row: len(row[0]))
        total = sum(len(ids) - prompt_length for ids, prompt_length in rows)
        cut = int(len(rows) * (1 - config.long_chunk))
        loss_value = 0.0
        for chunk in (rows[:cut], rows[cut:]):
            input_ids, labels = _pad(chunk, vocab[PAD])
            # Right padding needs no attention mask: causal attention never looks right.
            logits = model(input_ids=input_ids, use_cache=False).logits
            loss = F.cross_entropy(
                logits[:, :-1].flatten(0, 1),
                labels[:, 1:].flatten(),
                ignore_index=IGNORED,
                reduction="sum",
            )
            (loss / total).backward()
            loss_value += float(loss.detach()) / total
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        if progress is not None:
            progress(step + 1, steps, loss_value)
    return model.eval()


def content_hash(spec: ModelSpec, config: PretrainConfig) -> str:
    """Twelve hex digits over what the model would see and how it would be trained.

    The world enters by a sample of its text and its tokenizer, so that an edit of a comment keeps
    the cache and an edit of what is written does not. ``RECIPE`` stands for the training loop.
    """
    sample = replace(config, batch_size=2048)
    habits = WriterHabits(knowledge=spec.knowledge)
    texts = draw_batch(sample, habits, random.Random("content-hash"), _encoder(), short=False)
    payload = json.dumps(
        {
            "recipe": RECIPE,
            "model": spec.architecture(),
            "pretrain": asdict(config),
            "texts": texts,
            "tokenizer": build_tokenizer().backend_tokenizer.to_str(),
            "template": CHAT_TEMPLATE,
        },
        sort_keys=True,
    )
    return hashlib.sha256(payload.encode()).hexdigest()[:12]


def ensure_base_model(
    key: str,
    cache_dir: Path,
    progress: Progress | None = None,
    config: PretrainConfig = DEFAULT,
    num_steps: int | None = None,
) -> Path:
    """The directory of a pretrained base model with its tokenizer, training it if need be.

    ``num_steps`` overrides the model's own number of pretraining steps (a quick check of the
    wiring); the model it makes is cached apart.

    The directory is an ordinary Hugging Face checkpoint (safetensors) named by model and content
    hash. It is written beside its final name and renamed, so what is found under that name is
    complete.

    Raises:
        ValueError: for an unknown key, or fewer than one step.
    """
    spec = model_spec(key)
    if num_steps is not None:
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: pretraining needs at least 1 step")
        spec = replace(spec, pretrain_steps=num_steps)
    final = Path(cache_dir) / f"{key}-{content_hash(spec, config)}"
    if final.is_dir():
        return final
    model = pretrain(spec, config, progress)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=final.parent))
    try:
        model.save_pretrained(scratch)
        build_tokenizer().save_pretrained(scratch)
        for file in scratch.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if not final.is_dir():  # another process may have been first; its model is the same
            scratch.rename(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final
