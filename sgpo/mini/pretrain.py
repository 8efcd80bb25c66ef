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
from sgpo.mini.models import (
    ASSISTANT,
    CHAT_TEMPLATE,
    END,
    PAD,
    SPECIALS,
    USER,
    ModelSpec,
    build_model,
    build_tokenizer,
    model_spec,
)
from sgpo.mini.text import WriterHabits

Progress = Callable[[int, int, float], None]  # step, steps, loss in nats per token
IGNORED = -100
RECIPE = 1  # raise when the training loop below changes what it computes


@dataclass(frozen=True)
class PretrainConfig:
    """Pretraining settings: lessons, then text; the steps of text are the model's own.

    Lessons are short worked lists without strategies or guesses. They go on until the digits are
    learned (``lesson_goal``, nats per digit, running mean) and at most ``max_lessons`` steps:
    when a tiny model gets hold of the addition table varies by hundreds of steps between seeds,
    and a base that has not got hold of it is of no use.
    """

    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 30
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    max_lessons: int = 900
    lesson_goal: float = 0.1
    guided_share: float = 0.5
    level_weights: tuple[float, ...] = (3, 3, 3, 2, 2, 1)  # of levels 1 to 6, in the text
    long_chunk: float = 0.25  # the longest quarter of a batch is padded on its own
    seed: int = 0


DEFAULT = PretrainConfig()
LESSON_HABITS = WriterHabits(continue_unguided=1.0, knowledge=0.0)
LESSON_LEVELS = (1, 0, 0, 0, 0, 0)
GOAL_MEMORY = 0.9  # decay of the running mean that is held against the goal


def _encoder() -> dict[str, int]:
    return {piece: i for i, piece in enumerate((*SPECIALS, *text.vocabulary()))}


def draw_batch(
    config: PretrainConfig,
    habits: WriterHabits,
    rng: random.Random,
    vocab: dict[str, int],
    *,
    lesson: bool,
) -> list[tuple[list[int], int]]:
    """One batch of (ids, prompt length): chat-formatted texts from the training partition.

    A lesson has ``LESSON_HABITS`` and short lists; ``habits`` are those of the text.
    """
    weights = LESSON_LEVELS if lesson else config.level_weights
    guided_texts = 0 if lesson else round(config.guided_share * config.batch_size)
    batch = []
    for i in range(config.batch_size):
        level = rng.choices(range(1, 7), weights=weights)[0]
        task = suites.random_task(rng, level, "train")
        user, completion = text.pretraining_example(
            task, i < guided_texts, rng, LESSON_HABITS if lesson else habits
        )
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


class _Learner:
    """A model with its optimiser; ``step`` trains on one batch."""

    def __init__(self, spec: ModelSpec, config: PretrainConfig, device: torch.device | str) -> None:
        self.vocab = _encoder()
        self.config = config
        self.model = build_model(spec, config.seed).train().to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=config.betas, weight_decay=config.weight_decay
        )
        self.digit = torch.zeros(len(self.vocab), dtype=torch.bool)
        self.digit[[i for piece, i in self.vocab.items() if piece.isdigit()]] = True
        self.digit = self.digit.to(device)

    def step(self, batch: list[tuple[list[int], int]], lr_factor: float) -> tuple[float, float]:
        """Mean loss in nats over the completion tokens and over the digits among them."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * lr_factor
        rows = sorted(batch, key=lambda row: len(row[0]))
        tokens = sum(len(ids) - prompt_length for ids, prompt_length in rows)
        cut = round(len(rows) * (1 - self.config.long_chunk))
        loss_sum, digit_sum, digits = 0.0, 0.0, 0
        for chunk in (rows[:cut], rows[cut:]):
            input_ids, labels = (t.to(self.digit.device) for t in _pad(chunk, self.vocab[PAD]))
            # Right padding needs no attention mask: causal attention never looks right.
            logits = self.model(input_ids=input_ids, use_cache=False).logits[:, :-1]
            kept = labels[:, 1:] != IGNORED
            targets = labels[:, 1:][kept]
            losses = F.cross_entropy(logits[kept], targets, reduction="none")
            (losses.sum() / tokens).backward()
            is_digit = self.digit[targets]
            loss_sum += float(losses.detach().sum())
            digit_sum += float(losses.detach()[is_digit].sum())
            digits += int(is_digit.sum())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_sum / tokens, digit_sum / digits


def pretrain(
    spec: ModelSpec,
    config: PretrainConfig = DEFAULT,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> torch.nn.Module:
    """A model trained from scratch on the world's text, in eval mode, float32, on ``device``.

    Loss is the mean over completion tokens only. ``progress`` is called after every step with the
    steps done of ``max_lessons`` plus those of text; lessons that end early count as done.
    """
    learner = _Learner(spec, config, device)
    rng = random.Random(f"pretrain-{config.seed}")
    habits = WriterHabits(knowledge=spec.knowledge, style=spec.style)
    total = config.max_lessons + spec.pretrain_steps

    def report(done: int, loss: float) -> None:
        if progress is not None:
            progress(done, total, loss)

    digit_loss = math.log(10)
    for i in range(config.max_lessons):
        batch = draw_batch(config, habits, rng, learner.vocab, lesson=True)
        loss, digits = learner.step(batch, min(1.0, (i + 1) / config.warmup_steps))
        digit_loss = GOAL_MEMORY * digit_loss + (1 - GOAL_MEMORY) * digits
        report(i + 1, loss)
        if digit_loss < config.lesson_goal:
            break
    for i in range(spec.pretrain_steps):
        batch = draw_batch(config, habits, rng, learner.vocab, lesson=False)
        loss, _ = learner.step(batch, 0.5 * (1 + math.cos(math.pi * i / spec.pretrain_steps)))
        report(config.max_lessons + i + 1, loss)
    return learner.model.eval()


def content_hash(spec: ModelSpec, config: PretrainConfig) -> str:
    """Twelve hex digits over what the model would see and how it would be trained.

    The world enters by a sample of its text and its tokenizer, so that an edit of a comment keeps
    the cache and an edit of what is written does not. ``RECIPE`` stands for the training loop.
    """
    sample = replace(config, batch_size=2048)
    habits = WriterHabits(knowledge=spec.knowledge, style=spec.style)
    texts = draw_batch(sample, habits, random.Random("content-hash"), _encoder(), lesson=False)
    payload = json.dumps(
        {
            "recipe": [RECIPE, asdict(LESSON_HABITS), LESSON_LEVELS, GOAL_MEMORY],
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
    device: torch.device | str = "cpu",
) -> Path:
    """The directory of a pretrained base model with its tokenizer, training it if need be.

    ``num_steps`` bounds the steps, half of them lessons, for a quick check of the wiring; the
    model it makes is cached apart. ``device`` is where it trains; it does not enter the address.

    The directory is an ordinary Hugging Face checkpoint (safetensors) named by model and content
    hash. It is written beside its final name and renamed, so what is found under that name is
    complete.

    Raises:
        ValueError: for an unknown key, or fewer than one step.
    """
    spec = model_spec(key)
    if spec.pretrain_rate != DEFAULT.learning_rate:
        config = replace(config, learning_rate=spec.pretrain_rate)
    if num_steps is not None:
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps}: pretraining needs at least 1 step")
        lessons = min(config.max_lessons, num_steps // 2)
        spec = replace(spec, pretrain_steps=num_steps - lessons)
        config = replace(config, max_lessons=lessons)
    final = Path(cache_dir) / f"{key}-{content_hash(spec, config)}"
    if final.is_dir():
        return final
    model = pretrain(spec, config, progress, device)
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
