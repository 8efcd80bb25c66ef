"""Base models: a foundation per architecture, then one short lesson a world.

The foundation knows what all worlds share: the arithmetic, how to carry out any plan that a prompt
names, and how to read from the vector of a type's name which choices writers make for it. It learns
that in throwaway worlds that change every few steps. A base model is the foundation with the
vectors of its world's types and after the lesson of that world: how its writers go about each type,
how faithfully they follow a strategy, how often they refer to it. Both are cached on disk under a
hash of what went into them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from sgpo.core.files import whole_directory
from sgpo.core.logprobs import completion_hidden, pad_sequences
from sgpo.mini.models import ASSISTANT, END, PIECES, USER, build_model, build_tokenizer
from sgpo.mini.sets import LEVELS, random_task
from sgpo.mini.specs import BASES, ModelSpec, model_spec
from sgpo.mini.world import NAMES, SLOTS, World, draw_world, throwaway_world
from sgpo.mini.writing import writer_text

Progress = Callable[[int, int, float], None]  # step, steps, loss in nats per token
IDS = {piece: i for i, piece in enumerate(PIECES)}
DIGITS = torch.tensor([piece.isdigit() for piece in PIECES])
CODE_SCALE = 0.5
RECIPE = 3  # raise when the training loops below change what they compute


@dataclass(frozen=True)
class FoundationConfig:
    """Drills are short worked lists, until the digits are learned (``goal``, nats a digit, running
    mean) and at most ``max_drills`` steps; then ``text_steps`` of every kind of text, then
    ``settling_steps`` of which the share ``settling_guided`` is guided. A throwaway world lasts
    ``world_steps``."""

    batch_size: int = 64
    learning_rate: float = 3e-3
    max_drills: int = 900
    goal: float = 0.2
    text_steps: int = 500
    settling_steps: int = 200
    settling_guided: float = 0.8
    world_steps: int = 4
    level_weights: tuple[float, ...] = (3, 3, 3, 2, 2, 2)
    guided_share: float = 0.5
    seed: int = 0


@dataclass(frozen=True)
class LessonConfig:
    """Every step has each type once in an unguided text, and ``guided`` guided ones."""

    steps: int = 120
    learning_rate: float = 6e-3
    guided: int = 12
    level_weights: tuple[float, ...] = (2, 1, 1, 2, 2, 1)


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
        prompts = [tuple(text.ids[: text.prompt]) for text in texts]
        batch = pad_sequences(prompts, [tuple(text.ids[text.prompt :]) for text in texts])
        batch = batch.to(self.model.device)
        hidden = completion_hidden(self.model, batch)
        logprobs = self.model.get_output_embeddings()(hidden).log_softmax(-1)
        targets = batch.targets[batch.completion_mask]
        wanted = torch.nn.functional.one_hot(targets, len(PIECES)).float()
        is_digit = DIGITS.to(targets.device)[targets]
        soft, start = [], 0
        for text in texts:
            for place, distribution in text.soft.items():
                row = start + place - text.prompt
                soft += [(row, i, p) for i, p in distribution.items()]
            start += len(text.ids) - text.prompt
        rows, columns, values = map(torch.tensor, zip(*soft, strict=True))
        wanted[rows] = 0.0
        wanted[rows, columns] = values.to(wanted.device)
        is_digit[rows] = False
        return -(wanted * logprobs).sum(-1), is_digit


@torch.no_grad()
def write_types(model: PreTrainedModel, world: World, sign: int = 1) -> None:
    """Add to the vectors of the types' names what the world's writers choose (or, with ``sign`` -1,
    take it away): a vector of each option, weighted by its log-probability. The options' vectors
    are drawn once for all worlds, so that a foundation can learn to read them."""
    words = model.get_input_embeddings().weight
    draws = torch.Generator().manual_seed(0)
    options = torch.randn(sum(map(len, SLOTS)), words.shape[1], generator=draws)
    logs = [[[math.log(p) for p in prior] for prior in t.priors] for t in world.types]
    weights = torch.tensor(
        [[log - sum(prior) / len(prior) for prior in t for log in prior] for t in logs]
    )
    vectors = sign * CODE_SCALE * model.config.initializer_range * weights @ options
    words[[IDS[f" {name}"] for name in NAMES]] += vectors.to(words)


def lay_foundation(
    spec: ModelSpec,
    config: FoundationConfig = FoundationConfig(),
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A model trained from scratch in throwaway worlds, float32, in eval mode."""
    learner = Learner(build_model(spec, config.seed), device)
    rng = random.Random(f"foundation-{config.seed}")
    digit_loss = math.log(10)
    for i in range(config.max_drills):
        world = throwaway_world(f"drill-{config.seed}-{i // config.world_steps}")
        texts = [_drill(world, rng) for _ in range(config.batch_size)]
        loss, digits = learner.step(texts, config.learning_rate * min(1.0, (i + 1) / 30))
        digit_loss = 0.9 * digit_loss + 0.1 * digits
        if progress:
            progress(i + 1, config.max_drills, loss)
        if digit_loss < config.goal:
            break
    _texts(learner, config, rng, "text", config.text_steps, config.guided_share, 0.1, progress)
    # Mostly guided and with an optimiser of its own: of the three choices that a strategy names,
    # the last is the last that a model comes to follow.
    learner, rng = Learner(learner.model, device), random.Random(f"settle-{config.seed}")
    steps, share = config.settling_steps, config.settling_guided
    _texts(learner, config, rng, "settle", steps, share, 0.0, progress)
    return learner.model.eval()


def _texts(
    learner: Learner,
    config: FoundationConfig,
    rng: random.Random,
    name: str,
    steps: int,
    guided_share: float,
    last_rate: float,
    progress: Progress | None,
) -> None:
    """Steps over texts of all levels in throwaway worlds, at a rate that falls along half a cosine
    to ``last_rate`` of the first."""
    for i in range(steps):
        world = throwaway_world(f"{name}-{config.seed}-{i // config.world_steps}")
        write_types(learner.model, world)
        texts = []
        for j in range(config.batch_size):
            level = rng.choices(list(LEVELS), weights=config.level_weights)[0]
            texts.append(encode(world, level, j < guided_share * config.batch_size, rng))
        cosine = 0.5 * (1 + math.cos(math.pi * i / steps))
        rate = config.learning_rate * (last_rate + (1 - last_rate) * cosine)
        loss, _ = learner.step(texts, rate)
        write_types(learner.model, world, sign=-1)
        if progress:
            progress(i + 1, steps, loss)


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
    write_types(model, world)
    learner, rng = Learner(model, device), random.Random(f"lesson-{world.seed}")
    for i in range(config.steps):
        levels = rng.choices(list(LEVELS), weights=config.level_weights, k=len(NAMES))
        pairs = zip(levels, NAMES, strict=True)
        texts = [encode(world, level, False, rng, kind) for level, kind in pairs]
        levels = rng.choices(list(LEVELS), weights=config.level_weights, k=config.guided)
        texts += [encode(world, level, True, rng) for level in levels]
        rate = config.learning_rate * min(1.0, (i + 1) / 10) * (1 - i / config.steps)
        loss, _ = learner.step(texts, rate)
        if progress:
            progress(i + 1, config.steps, loss)
    return learner.model.eval()


def ensure_world_model(
    key: str, seed: int, cache: Path, progress: Progress | None = None, *,
    num_steps: int | None = None, device: torch.device | str = "cpu",
) -> Path:  # fmt: skip
    """The checkpoint directory of a mini model in the world of ``seed``, made if it is absent, its
    foundation too, where ``BASES`` lacks them; an ordinary Hugging Face checkpoint with its
    tokenizer.

    ``num_steps`` bounds the steps of the foundation, half of them drills, and of the lesson, for a
    quick check of the wiring. ``device`` is where it trains; it does not enter the address.

    Raises:
        ValueError: for an unknown model, or fewer than one step.
    """
    if num_steps is not None and num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: pretraining needs at least 1 step")
    spec, world = model_spec(key), draw_world(seed)
    foundation = replace(FoundationConfig(), learning_rate=spec.rate)
    lesson = replace(LessonConfig(), learning_rate=2 * spec.rate)
    if num_steps is not None:
        drills = min(foundation.max_drills, num_steps // 2)
        foundation = replace(
            foundation,
            max_drills=drills,
            text_steps=num_steps - drills,
            settling_steps=min(foundation.settling_steps, num_steps),
        )
        lesson = replace(lesson, steps=min(lesson.steps, num_steps))
    base = cache / f"{key}-foundation-{_digest(spec, foundation)}"
    if not base.is_dir():
        laid = _brought(base.name, spec) or lay_foundation(spec, foundation, progress, device)
        _store(laid, base)
    path = cache / f"{key}-world-{seed}-{_digest(spec, foundation, lesson, world)}"
    if not path.is_dir():
        model = _brought(path.name, spec)
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(
                base, local_files_only=True, use_safetensors=True
            )
            teach(model, world, lesson, progress, device)
        _store(model, path)
    return path


def _brought(name: str, spec: ModelSpec) -> PreTrainedModel | None:
    """The model ``name`` whose weights came with the suite; None for another one."""
    weights = BASES / f"{name}.safetensors"
    if not weights.is_file():
        return None
    model = build_model(spec, 0)
    load_model(model, weights)
    return model


def _store(model: PreTrainedModel, path: Path) -> None:
    with whole_directory(path) as folder:
        model.save_pretrained(folder)
        build_tokenizer().save_pretrained(folder)


def _digest(spec: ModelSpec, *parts: FoundationConfig | LessonConfig | World) -> str:
    """Twelve hex digits over architecture, recipe and what the texts say."""
    content = [RECIPE, spec.architecture(), [asdict(part) for part in parts], _sample(), PIECES]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


@functools.cache
def _sample() -> list[dict[str, Any]]:
    """Texts of every kind: what the writers would write after a change of their code."""
    rng = random.Random("digest")
    return [
        vars(encode(throwaway_world("digest"), level, guided, rng))
        for level in LEVELS
        for guided in (False, True) * 50
    ]
