"""A world small enough to test training in milliseconds: tokenizer, models, grader, trainer.

Nothing here is learnable on purpose. The grader is a fixed pseudo-random function of gold answer
and completion, so that groups have mixed rewards from the first step on.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from sgpo.core import chunked_head, losses
from sgpo.core.config import RolloutConfig, TrainConfig
from sgpo.core.distributed import Ranks
from sgpo.core.logprobs import completion_kl
from sgpo.core.prompts import PromptSpec
from sgpo.core.rollout import Rollout
from sgpo.core.sampling import CompactSampler
from sgpo.core.scoring import padded, step_totals
from sgpo.core.teacher import Teacher
from sgpo.core.trainer import Trainer
from sgpo.core.types import LossOutput, Problem
from sgpo.core.verifier import Verdict

SPECIALS = ["<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = [f"w{i}" for i in range(14)]
STRATEGY_WORDS = [f"s{i}" for i in range(5)]
VOCABULARY = [*SPECIALS, *WORDS, *STRATEGY_WORDS]
END = SPECIALS.index("<|end|>")
MAX_TOKENS = 8
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + ' <|end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPEC = PromptSpec("tiny", "", "{strategy} {question}", "", "<|end|>")


def method_of(name: str, **settings: Any) -> Any:
    """The method of ``baselines/NAME.py``, or SGPO, with these settings and defaults otherwise."""
    module = import_module("sgpo.method" if name == "sgpo" else f"baselines.{name}")
    (kind,) = (k for k in vars(module) if k.lower() == name.replace("_", ""))
    return getattr(module, kind)(getattr(module, f"{kind}Config")(**settings))


# Every method of the study, in a size that a test can afford. HPT's gate lies inside the range of
# correct samples that occur, so that both of its branches run.
METHODS: dict[str, Callable[[], Any]] = {
    "sft": partial(method_of, "sft"),
    "luffy": partial(method_of, "luffy", max_tokens=MAX_TOKENS, num_samples=5),
    "hpt": partial(method_of, "hpt", max_tokens=MAX_TOKENS, num_samples=6, gate=2),
    "relift": partial(method_of, "relift", num_samples=3, buffer_size=2),
    "sgpo": partial(method_of, "sgpo", num_autonomous=4, num_guided=4),
    "opsd_initial": partial(
        method_of, "opsd", num_samples=6, direction="jensen_shannon", teacher="initial"
    ),
    **{k: partial(method_of, k, num_samples=5) for k in ("srft", "chord")},
    **{
        k: partial(method_of, k, num_samples=6) for k in ("grpo", "opsd", "dapo", "dr_grpo", "sdpo")
    },
}


class Hooked:
    """Every optional hook at once: policy gradient on the groups with both rewards, drawn until
    there are enough, and a pull to a moving average that grows with the updates counted so far."""

    def __init__(self, ema: float = 0.3) -> None:
        self.teacher, self.updates, self.num_steps = Teacher(ema=ema), 0, 0

    def begin(self, model, num_steps, rollout_config, tokenizer):
        assert rollout_config.max_tokens == MAX_TOKENS and tokenizer is not None
        self.num_steps = num_steps

    def collect(self, problems, rollout):
        groups = rollout.groups(problems, 4)
        mixed = [g for g in groups if 0 < sum(t.reward for t in g) < len(g)]
        return losses.with_advantages(mixed, losses.group_centered)

    def more_problems(self, trajectories, wanted):
        return wanted - len({t.problem_id for t in trajectories})

    def totals(self, trajectories):
        return step_totals(trajectories)

    def loss(self, model, trajectories, totals):
        batch = padded(trajectories).to(model.device)
        kl, logprobs = completion_kl(
            model, batch, batch, direction="jensen_shannon", teacher=self.teacher
        )
        advantages = logprobs.new_tensor([t.advantage for t in trajectories])[:, None]
        pull = 0.2 + self.updates / self.num_steps
        values = pull * kl - logprobs * advantages
        mask, tokens = batch.completion_mask, totals["tokens"]
        loss = losses.reduce_tokens(values, mask, reduction="token_mean", denominator=tokens)
        return LossOutput(loss, {"kl_mean": (float(kl.detach().sum()), float(mask.sum()))})

    def after_update(self, model):
        self.updates += 1

    def state(self):
        return {"updates": self.updates}

    def load_state(self, state):
        self.updates = state["updates"]


@functools.cache
def teacher_directory() -> str:
    """Another random model with its tokenizer, on disk as long as the process lives. Written by
    hand: ``save_pretrained`` writes on the first rank alone."""
    directory = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    model = build_model(seed=5)
    (directory / "config.json").write_text(model.config.to_json_string())
    save_model(model, str(directory / "model.safetensors"), metadata={"format": "pt"})
    build_tokenizer().save_pretrained(directory)
    return str(directory)


# What must survive a kill and run on two ranks: a teacher of its own and every hook as well.
RESUMED = METHODS | {
    "opd": lambda: method_of("opd", teacher=teacher_directory(), num_samples=4),
    "hooked": Hooked,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<|unk|>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(family: str = "qwen2", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model with grouped-query attention; ``initializer_range`` is large so that its
    distributions are far from uniform."""
    kind, make = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }[family]
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.35,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": END,
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make(kind(**{**settings, **changes})).eval()
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:  # zeros and ones would hide their omission
                parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def build_double(family: str = "qwen2", **changes: Any) -> PreTrainedModel:
    """A float64 model. Its norms are torch's, because transformers' round to float32."""
    model = build_model(family, **changes).double()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__.endswith("RMSNorm"):
                norm = torch.nn.RMSNorm(child.weight.shape, eps=model.config.rms_norm_eps)
                norm.weight = child.weight
                setattr(module, name, norm)
    return model


def build_problems(count: int = 12) -> list[Problem]:
    """Questions of two to four words with strategies and expert traces of different lengths."""
    problems = []
    for i in range(count):
        words = [WORDS[(i * 5 + j * 3) % len(WORDS)] for j in range(2 + i % 3)]
        trace = [WORDS[(i + j) % len(WORDS)] for j in range(2 + i % 4)]
        problems.append(
            Problem(
                id=f"p{i}",
                question=" ".join(words),
                answer=WORDS[i % len(WORDS)],
                strategy=" ".join(STRATEGY_WORDS[(i + j) % 5] for j in range(1 + i % 2)),
                expert=" ".join(trace),
            )
        )
    return problems


def grader(pairs, *, truncated=None) -> list[Verdict]:
    """About two in five samples are right, decided by a hash, truncated or not; an expert trace
    (graded without flags) is always right."""
    if truncated is None:
        return [Verdict(True, "correct", text) for _, text in pairs]
    verdicts = []
    for gold, text in pairs:
        right = hashlib.sha256(f"{gold}|{text}".encode()).digest()[0] < 110
        verdicts.append(Verdict(right, "correct" if right else "wrong", text))
    return verdicts


TRAIN = TrainConfig(
    num_steps=3,
    problems_per_step=4,
    learning_rate=1e-2,
    checkpoint_every=2,
    micro_batch_tokens=256,
    samples_per_problem=12,
)


def build_rollout(model: PreTrainedModel, seed: int = 7, grade=grader, **changes: Any) -> Rollout:
    tokenizer = build_tokenizer()
    settings = {
        "model": model,
        "sampler": CompactSampler(model, tokenizer, stop_ids=SPEC.stop_ids(tokenizer)),
        "tokenizer": tokenizer,
        "prompt_spec": SPEC,
        "config": RolloutConfig(max_tokens=MAX_TOKENS),
        "seed": seed,
        "grader": grade,
    }
    return Rollout(**{**settings, **changes})


def build_trainer(
    method: Any,
    run_dir: Path,
    *,
    model: PreTrainedModel | None = None,
    seed: int = 7,
    grade=grader,
    problems: list[Problem] | None = None,
    ranks: Ranks | None = None,
    **changes: Any,
) -> Trainer:
    """A trainer on the tiny world; ``changes`` go to its ``TrainConfig``."""
    model = model if model is not None else build_model()
    return Trainer(
        model=model,
        method=method,
        rollout=build_rollout(model, seed, grade),
        problems=build_problems() if problems is None else problems,
        config=replace(TRAIN, **changes),
        seed=seed,
        run_dir=run_dir,
        ranks=ranks or Ranks(),
    )


class Killed(BaseException):
    """Stands for kill -9: nothing in the trainer may catch it."""


def die() -> None:
    raise Killed


def at_step(step: int, trainer: Trainer, action: Callable[[], None]) -> Trainer:
    """``trainer``, whose grader calls ``action`` when it is asked about samples of ``step``."""
    grade = trainer.rollout.grader

    def watched(pairs, **flags):
        if trainer.rollout.step == step:
            action()
        return grade(pairs, **flags)

    trainer.rollout.grader = watched
    return trainer


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The stored records of a run without the clock."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(s).items() if k != "seconds"} for s in lines]


def weights_of(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def collected(method, model=None, seed=7, problems=None, grade=None):
    """The trajectories of one step on a tiny model."""
    model = model or build_model()
    rollout = build_rollout(model, seed, **({"grade": grade} if grade else {}))
    rollout.begin_step(1)
    if getattr(method, "teacher", None):
        method.teacher.place(model, rollout.tokenizer)
    if hasattr(method, "begin"):
        method.begin(model, TRAIN.num_steps, rollout.config, rollout.tokenizer)
    return method.collect(problems or build_problems(4), rollout), model


def gradient(method, model, batches, totals, sums=None):
    """Summed loss and the flat gradient over micro-batches; ``sums`` gets those of the metrics."""
    model.zero_grad()
    loss = 0.0
    for batch in batches:
        output = method.loss(model, batch, totals)
        if output.loss.requires_grad:
            output.loss.backward()
        loss += float(output.loss.detach())
        if sums is not None:
            sums.add_all(output.sums)
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return loss, torch.cat([g.flatten() for g in grads])


def chunks_of(size: int):
    """Inside, the head is applied to ``size`` tokens at a time."""
    return mock.patch.object(chunked_head, "chunk_size", lambda *_: size)


def dense_logprobs(model, prompt, completion, *, entropy=False):
    """Token log-probabilities of one completion, by the shortest code there is."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    logprobs = F.log_softmax(logits, -1)
    picked = logprobs[range(len(completion)), list(completion)]
    return (picked, -(logprobs.exp() * logprobs).sum(-1)) if entropy else picked
