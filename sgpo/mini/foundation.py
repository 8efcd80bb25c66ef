"""Base models of the second edition: a foundation per architecture, then one short lesson a world.

The foundation knows what all worlds share: the arithmetic, and how to carry out any plan that a
prompt names. It learns that in throwaway worlds that change every few steps, so that it knows where
in a text a type's plan is decided and takes to another mapping quickly. A base model is the
foundation after the lesson of its world: which choices its writers make for each type, how
faithfully they follow a strategy, how often they refer to it. Both are cached on disk under a hash
of what went into them.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from sgpo.core.files import whole_directory
from sgpo.mini.models import (
    ASSISTANT,
    END,
    PAD,
    SPECIALS,
    USER,
    ModelSpec,
    build_model,
    build_tokenizer,
    model_spec,
)
from sgpo.mini.sets import LEVELS, random_task
from sgpo.mini.world import NAMES, World, draw_world, throwaway_world
from sgpo.mini.writing import vocabulary, writer_text

Progress = Callable[[int, int, float], None]  # step, steps, loss in nats per token
PIECES = (*SPECIALS, *vocabulary())
IDS = {piece: i for i, piece in enumerate(PIECES)}
RECIPE = 1  # raise when the training loops below change what they compute


@dataclass(frozen=True)
class FoundationConfig:
    """Drills are short worked lists, until the digits are learned (``goal``, nats a digit, running
    mean) and at most ``max_drills`` steps; then ``text_steps`` of every kind of text. A throwaway
    world lasts ``world_steps``."""

    batch_size: int = 64
    learning_rate: float = 3e-3
    max_drills: int = 900
    goal: float = 0.2
    text_steps: int = 640
    world_steps: int = 140
    level_weights: tuple[float, ...] = (3, 3, 3, 2, 2, 1)
    guided_share: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class LessonConfig:
    """Every step has each type once in an unguided text, and ``guided`` guided ones."""

    steps: int = 240
    learning_rate: float = 3e-3
    guided: int = 24
    level_weights: tuple[float, ...] = (4, 3, 1, 1, 0, 0)


@dataclass(frozen=True)
class Text:
    """``ids`` of a chat turn and its answer, of which the first ``prompt`` teach nothing; ``soft``:
    place in ``ids`` -> probability of each id there, where the writer decides."""

    ids: list[int]
    prompt: int
    soft: dict[int, dict[int, float]]


def encode(world: World, level: int, guided: bool, rng: random.Random, kind: str = "") -> Text:
    """One text of the world's writers about a task of the training partition."""
    task = random_task(rng, level, "train", kind)
    user, completion, soft = writer_text(world, task, guided, rng)
    prompt = [USER, *user, END, ASSISTANT]
    ids = [IDS[piece] for piece in (*prompt, *completion, END)]
    return Text(
        ids,
        len(prompt),
        {
            len(prompt) + place: {IDS[piece]: p for piece, p in distribution.items()}
            for place, distribution in soft.items()
        },
    )


class Learner:
    """A model with its optimiser; ``step`` trains on one batch."""

    def __init__(self, model: PreTrainedModel, device: torch.device | str) -> None:
        self.model = model.train().to(device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.1
        )

    def step(self, texts: Sequence[Text], rate: float) -> tuple[float, float]:
        """Mean loss in nats over the answers' tokens, and over the digits that follow from others.

        Cross-entropy against the writer's whole distribution where the writer decides, against the
        word written elsewhere.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        ordered = sorted(texts, key=lambda text: len(text.ids))
        tokens = sum(len(text.ids) - text.prompt for text in texts)
        cut = round(0.75 * len(texts))  # the longest quarter is padded on its own
        loss_sum, digit_sum, digits = 0.0, 0.0, 0
        for chunk in filter(None, (ordered[:cut], ordered[cut:])):
            losses, is_digit = self._losses(chunk)
            (losses.sum() / tokens).backward()
            loss_sum += float(losses.detach().sum())
            digit_sum += float(losses.detach()[is_digit].sum())
            digits += int(is_digit.sum())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss_sum / tokens, digit_sum / max(1, digits)

    def _losses(self, texts: Sequence[Text]) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of every answer token, float [N], and whether it is a digit that was not drawn."""
        width = max(len(text.ids) for text in texts)
        inputs = torch.full((len(texts), width), IDS[PAD])
        where, targets, soft = [], [], []
        for row, text in enumerate(texts):
            inputs[row, : len(text.ids)] = torch.tensor(text.ids)
            for place in range(text.prompt, len(text.ids)):
                soft += [(len(targets), i, p) for i, p in text.soft.get(place, {}).items()]
                where.append(row * width + place - 1)
                targets.append(text.ids[place])
        device = self.model.device
        # Right padding needs no attention mask: causal attention never looks right.
        hidden = self.model.base_model(input_ids=inputs.to(device), use_cache=False)[0]
        hidden = hidden.flatten(0, 1)[torch.tensor(where, device=device)]
        logprobs = self.model.get_output_embeddings()(hidden).log_softmax(-1)
        wanted = torch.nn.functional.one_hot(torch.tensor(targets), len(PIECES)).float()
        rows, columns, values = zip(*soft, strict=True)
        drawn = torch.tensor(rows)
        wanted[drawn] = 0.0
        wanted[drawn, torch.tensor(columns)] = torch.tensor(values)
        is_digit = torch.tensor([PIECES[i].isdigit() for i in targets])
        is_digit[drawn] = False
        return -(wanted.to(device) * logprobs).sum(-1), is_digit.to(device)


def lay_foundation(
    spec: ModelSpec,
    config: FoundationConfig = FoundationConfig(),
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A model trained from scratch in throwaway worlds, float32, in eval mode."""
    learner = Learner(build_model(spec, config.seed, vocabulary()), device)
    rng = random.Random(f"foundation-{config.seed}")
    total, digit_loss = config.max_drills + config.text_steps, math.log(10)
    for i in range(config.max_drills):
        world = throwaway_world(f"drill-{config.seed}-{i // config.world_steps}")
        texts = [_drill(world, rng) for _ in range(config.batch_size)]
        loss, digits = learner.step(texts, config.learning_rate * min(1.0, (i + 1) / 30))
        digit_loss = 0.9 * digit_loss + 0.1 * digits
        if progress:
            progress(i + 1, total, loss)
        if digit_loss < config.goal:
            break
    for i in range(config.text_steps):
        world = throwaway_world(f"text-{config.seed}-{i // config.world_steps}")
        texts = []
        for j in range(config.batch_size):
            level = rng.choices(list(LEVELS), weights=config.level_weights)[0]
            texts.append(encode(world, level, j < config.guided_share * config.batch_size, rng))
        cosine = 0.5 * (1 + math.cos(math.pi * i / config.text_steps))
        loss, _ = learner.step(texts, config.learning_rate * (0.1 + 0.9 * cosine))
        if progress:
            progress(config.max_drills + i + 1, total, loss)
    return learner.model.eval()


def _drill(world: World, rng: random.Random) -> Text:
    """A short unguided text that does not end in a guess."""
    while True:
        text = encode(world, 1, False, rng)
        if IDS["Guess"] not in text.ids:
            return text


def teach(
    model: PreTrainedModel,
    world: World,
    config: LessonConfig = LessonConfig(),
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """``model``, a foundation, after the lesson of ``world``; changed in place, in eval mode."""
    learner = Learner(model, device)
    rng = random.Random(f"lesson-{world.seed}")
    for i, texts in enumerate(_lesson(world, config, rng)):
        rate = config.learning_rate * min(1.0, (i + 1) / 10) * (1 - i / config.steps)
        loss, _ = learner.step(texts, rate)
        if progress:
            progress(i + 1, config.steps, loss)
    return learner.model.eval()


def _lesson(world: World, config: LessonConfig, rng: random.Random) -> Iterator[list[Text]]:
    for _ in range(config.steps):
        levels = rng.choices(list(LEVELS), weights=config.level_weights, k=len(NAMES))
        texts = [
            encode(world, level, False, rng, kind)
            for level, kind in zip(levels, NAMES, strict=True)
        ]
        levels = rng.choices(list(LEVELS), weights=config.level_weights, k=config.guided)
        yield texts + [encode(world, level, True, rng) for level in levels]


def ensure_world_model(
    key: str, seed: int, cache: Path, progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Path:  # fmt: skip
    """The checkpoint directory of a mini model in the world of ``seed``, made if it is absent, its
    foundation too; an ordinary Hugging Face checkpoint with its tokenizer.

    Raises:
        ValueError: for an unknown model.
    """
    spec, foundation, lesson = model_spec(key), FoundationConfig(), LessonConfig()
    world = draw_world(seed)
    base = cache / f"{key}-foundation-{_digest(spec, foundation)}"
    if not base.is_dir():
        _store(lay_foundation(spec, foundation, progress, device), base)
    path = cache / f"{key}-world-{seed}-{_digest(spec, foundation, lesson, world)}"
    if not path.is_dir():
        model = AutoModelForCausalLM.from_pretrained(
            base, local_files_only=True, use_safetensors=True
        )
        _store(teach(model, world, lesson, progress, device), path)
    return path


def _store(model: PreTrainedModel, path: Path) -> None:
    with whole_directory(path) as folder:
        model.save_pretrained(folder)
        build_tokenizer(vocabulary()).save_pretrained(folder)


def _digest(spec: ModelSpec, *parts: FoundationConfig | LessonConfig | World) -> str:
    """Twelve hex digits over architecture, recipe and what the texts say."""
    rng = random.Random("digest")
    sample = [
        asdict(encode(throwaway_world("digest"), level, guided, rng))
        for level in LEVELS
        for guided in (False, True) * 50
    ]
    content = [RECIPE, spec.architecture(), [asdict(part) for part in parts], sample, PIECES]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
