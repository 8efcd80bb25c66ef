"""Configuration: frozen dataclasses, canonical JSON, a hash, and typed overrides
``dotted.key=value``. Values come from the Python functions in ``benchmarks.profiles`` alone."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import operator
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

ConfigT = TypeVar("ConfigT")
_ADDED = "omitted at its default"
_OPERATIONAL = "changes no result"

# Allowed mean |difference| in nats between the engine's and the trainer's log-probabilities of
# the probe's tokens. Measured on random models: 1e-5 in float32, 6e-3 in bfloat16; stale or
# half-loaded weights give 0.5 and more.
PROBE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}

EXIT_HUNG = 75  # exit code of a process whose engine hangs in native code


def added(default: Any) -> Any:
    """A dataclass field that ``to_dict`` leaves out while it holds ``default``: a new setting then
    does not change the address of the runs that do not use it."""
    return dataclasses.field(default=default, metadata={_ADDED: True})


def operational(default: Any) -> Any:
    """A dataclass field that says how a run is carried out and changes no result beyond rounding:
    ``to_dict`` keeps it, the run's address does not hold it."""
    return dataclasses.field(default=default, metadata={_OPERATIONAL: True})


@dataclass(frozen=True)
class TrainConfig:
    """The part of the recipe that the one training loop reads.

    Args:
        num_steps: optimiser steps over ``problems_per_step`` problems each.
        updates_per_step: the step's problems are split into this many consecutive updates;
            above 1, log-probabilities of the sampling policy are recomputed before the first.
        learning_rate: peak rate of AdamW; rises over ``warmup_share`` of the steps, then follows
            ``decay``: constant, or down to 0 at the last step.
        grad_clip: maximal gradient norm.
        skip_above: an update whose gradient norm before the clip exceeds this is skipped and
            counted; None: none is.
        nonfinite_patience: an update whose loss or gradient is not finite is skipped and counted;
            the run ends with so many in a row.
        held_out_share: of the problems, drawn by the seed, that are not trained on. The loss on
            them is measured after every epoch, and the run ends with the weights of the lowest.
        micro_batch_tokens: padded tokens in one forward pass; changes memory, not results.
        checkpoint_every: steps between resume states; part of a run's address although it changes
            no result, because the published runs have it there.
        collapse_patience: consecutive steps of reward 0 with entropy below
            ``collapse_entropy`` nats after which a run is stopped and marked diverged.
        activation_checkpointing: recompute activations in the backward pass; saves memory,
            costs about a third more time, changes no result.
        compile_layers: compile the model's layers, on a GPU in bfloat16 where activations are kept;
            up to a minute at the start, then a fifth less time in passes, changes rounding alone.
        budget_steps: the run ends with the weights after this step, and later ones are trained to
            be looked at; None, or fewer steps than that: it ends with those of the last.
        samples_per_problem: a step may draw this many samples times ``problems_per_step``, whatever
            problems it takes them from; None for no limit.
    """

    num_steps: int
    problems_per_step: int
    learning_rate: float
    updates_per_step: int = 1
    warmup_share: float = 0.0
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    micro_batch_tokens: int = 4096
    checkpoint_every: int = 20
    collapse_patience: int = 10
    collapse_entropy: float = 0.02
    activation_checkpointing: bool = added(False)
    compile_layers: bool = added(False)
    samples_per_problem: int | None = added(None)
    decay: Literal["constant", "linear", "cosine"] = added("constant")
    skip_above: float | None = added(None)
    nonfinite_patience: int = added(1)
    held_out_share: float = added(0.0)
    budget_steps: int | None = added(None)

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(
            self,
            "num_steps problems_per_step learning_rate updates_per_step grad_clip skip_above "
            "micro_batch_tokens checkpoint_every collapse_patience nonfinite_patience "
            "samples_per_problem budget_steps",
        )
        require(self, "learning_rate", below=math.inf)
        require(self, "warmup_share", least=0, most=1)
        require(self, "held_out_share", least=0, below=1)
        require(self, "weight_decay", least=0)
        if self.budget_steps is not None and self.decay != "constant":
            raise ValueError(
                f"decay={self.decay}: falls to 0 at the last step, and budget_steps="
                f"{self.budget_steps} ends the run with the weights of another; take constant"
            )
        if self.budget_steps is not None and self.held_out_share:
            raise ValueError(
                f"budget_steps={self.budget_steps}: the run ends with these weights, and with "
                f"held_out_share={self.held_out_share} with others; set one of the two"
            )
        if self.problems_per_step % self.updates_per_step:
            raise ValueError(
                f"updates_per_step={self.updates_per_step}: must divide "
                f"problems_per_step={self.problems_per_step}"
            )


@dataclass(frozen=True)
class RolloutConfig:
    """How the policy is sampled while training. ``top_p`` below 1 biases the ratio slightly: the
    trainer's log-probabilities stay those of the full softmax. At a temperature other than 1 they
    would be another policy's, so it is refused."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 0.95

    def __post_init__(self) -> None:
        check_decoding(self)
        if self.temperature != 1:
            raise ValueError(
                f"temperature={self.temperature}: must be 1 in training, where samples are scored "
                "under the softmax at temperature 1; evaluation has a temperature of its own"
            )


@dataclass(frozen=True)
class VLLMSettings:
    """Where the engine runs and what it may use. All but ``dtype`` and ``max_model_len`` may change
    between two attempts at one run: its address does not hold them.

    Args:
        dtype: of the engine's weights and cache; ``auto``: bfloat16 on a GPU, float32 on a CPU,
            and for a server the dtype it was started with, taken to be bfloat16 by the probe.
        max_model_len: longest prompt with completion, in tokens; None for the model's own limit.
        max_num_seqs: sequences decoded at once.
        gpu_memory_utilization: share of a GPU's memory that the engine may fill. The trainer
            needs the rest; with ``sleep`` it gets nearly all of it between rollouts.
        sleep: drop the engine's weights and cache from GPU memory between rollouts (vLLM's
            level 2). Without effect on a CPU and on a server.
        enforce_eager: no compilation and no CUDA graphs; always so on a CPU.
        stall_seconds: give up when no completion finishes, or no weight load ends, within this
            time. It must exceed the time of the longest completion.
        probe_tolerance: see ``PROBE_TOLERANCE``; None for the value of the dtype.
        server: base URL of a running server, e.g. ``http://localhost:8000``; None runs the
            engine in this process.
        sync_dir: with ``server``: a directory that both sides see, through which weights travel;
            None for a temporary one in shared memory, which serves one machine.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = operational(256)
    gpu_memory_utilization: float = operational(0.35)
    sleep: bool = operational(True)
    enforce_eager: bool = operational(False)
    stall_seconds: float = operational(1800.0)
    probe_tolerance: float | None = operational(None)
    server: str | None = operational(None)
    sync_dir: str | None = operational(None)

    def __post_init__(self) -> None:
        check_fields(self)
        require_positive(self, "max_num_seqs stall_seconds max_model_len probe_tolerance")
        require(self, "gpu_memory_utilization", above=0, most=1)
        if self.server is not None and not self.server.startswith(("http://", "https://")):
            raise ValueError(f"server={self.server!r}: must be a URL such as http://localhost:8000")


def check_decoding(config: Any) -> None:
    """ValueError unless ``max_tokens``, ``temperature`` and ``top_p`` can be sampled with."""
    check_fields(config)
    require_positive(config, "max_tokens temperature")
    require(config, "top_p", above=0, most=1)


def require_clip(config: Any) -> None:
    """ValueError unless ``clip_low`` and ``clip_high`` are half-widths of a trust region."""
    require(config, "clip_low", least=0, most=1)
    require(config, "clip_high", least=0)


def require_positive(config: Any, names: str) -> None:
    """``require`` above 0."""
    require(config, names, above=0)


@dataclass(frozen=True)
class GroupConfig:
    """Of a clipped policy gradient on groups: ``num_samples`` per problem and step; ``clip_low`` /
    ``clip_high``: half-widths of the trust region."""

    num_samples: int = 12  # paper (2606.24064): "same total sample budget"
    clip_low: float = 0.2  # as SFT+GRPO (2606.24064)
    clip_high: float = 0.28  # as SFT+GRPO (2606.24064)

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "num_samples", least=2)
        require_clip(self)

    @property
    def clip(self) -> dict[str, float]:
        """As keywords."""
        return {"clip_low": self.clip_low, "clip_high": self.clip_high}


_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "above": (operator.gt, "above"),
    "least": (operator.ge, "at least"),
    "below": (operator.lt, "below"),
    "most": (operator.le, "at most"),
}


def require(config: Any, names: str, **bounds: float) -> None:
    """ValueError naming the first of the space-separated fields that is neither None nor within all
    ``bounds``: above, least, below, most."""
    for name in names.split():
        value = getattr(config, name)
        if value is not None and not all(_BOUNDS[k][0](value, b) for k, b in bounds.items()):
            allowed = " and ".join(f"{_BOUNDS[k][1]} {b}" for k, b in bounds.items())
            raise ValueError(f"{name}={value}: must be {allowed}")


def check_fields(config: Any) -> None:
    """ValueError naming the first field of the dataclass ``config`` whose value its annotation does
    not allow: a ``Literal`` that does not list it, another type, or NaN. A config calls it first in
    its ``__post_init__``."""
    for name, kind in _hints(type(config)).items():
        value = getattr(config, name)
        options = typing.get_args(kind) if typing.get_origin(kind) in _UNIONS else (kind,)
        if value != value:
            raise ValueError(f"{name}={value}: NaN is not a setting")
        if not any(_allows(option, value) for option in options):
            raise ValueError(f"{name}={value!r}: must be {' or '.join(map(_named, options))}")


_UNIONS = (types.UnionType, typing.Union)
_hints = functools.cache(typing.get_type_hints)


def _allows(kind: Any, value: Any) -> bool:
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    if kind is Any or not isinstance(kind, type):
        return True
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _named(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    plain = {type(None): "None", int: "a whole number", float: "a number"}
    return plain.get(kind) or f"of type {getattr(kind, '__name__', kind)}"


def to_dict(config: Any) -> Any:
    """``config`` as plain JSON types; infinities become the string ``"inf"``. Fields made with
    ``added`` are left out at their default."""
    if dataclasses.is_dataclass(config):
        return {
            f.name: to_dict(getattr(config, f.name))
            for f in dataclasses.fields(config)
            if not (f.metadata.get(_ADDED) and getattr(config, f.name) == f.default)
        }
    if isinstance(config, dict):
        return {key: to_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_dict(value) for value in config]
    if isinstance(config, float) and math.isinf(config):
        return "inf" if config > 0 else "-inf"
    return config


def canonical_json(value: Any) -> str:
    """One byte-exact JSON text per value: sorted keys, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(value: Any) -> str:
    """First 8 hex digits of the sha256 of ``canonical_json(value)``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:8]


def addressed_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """The part of ``to_dict`` of VLLMSettings that changes results; empty at its defaults, as
    ``to_dict`` of a run's config leaves settings out that are all at theirs."""
    dropped = {f.name for f in dataclasses.fields(VLLMSettings) if f.metadata.get(_OPERATIONAL)}
    kept, plain = (
        {name: value for name, value in settings.items() if name not in dropped}
        for settings in (stored, to_dict(VLLMSettings()))
    )
    return {} if kept == plain else kept


def apply_overrides(config: ConfigT, overrides: typing.Sequence[str]) -> ConfigT:
    """``config`` with every ``dotted.key=value`` applied, values parsed to the field's type.

    Raises:
        ValueError: no ``=``, an unknown key (the nearest one is named), a key that is given twice,
            or a value that the field's type does not take.
    """
    seen: set[str] = set()
    for item in overrides:
        key, separator, text = item.partition("=")
        if not separator:
            raise ValueError(f"override {item!r}: must look like key=value")
        if key not in dotted_names(config):
            raise ValueError(unknown_override(key, dotted_names(config)))
        if key in seen:
            raise ValueError(f"override {item!r}: {key} is given twice; keep one of the two")
        seen.add(key)
        config = _override(config, key.split("."), text, key)
    return config


# What others call our settings.
_SYNONYMS = {
    "lr": "learning_rate", "delta": "kl_threshold", "threshold": "kl_threshold",
    "kl": "kl_threshold", "epochs": "num_steps", "steps": "num_steps", "max_steps": "num_steps",
    "batch": "problems_per_step", "batch_size": "problems_per_step",
    "num_generations": "num_samples", "group_size": "num_samples", "samples": "num_samples",
    "temp": "temperature", "clip": "grad_clip", "max_grad_norm": "grad_clip",
    "gradient_clip": "grad_clip", "max_length": "max_tokens", "max_new_tokens": "max_tokens",
    "alpha": "alpha_base", "dtype": "precision", "gpu": "device", "engine": "sampler",
}  # fmt: skip


def unknown_override(key: str, names: typing.Sequence[str]) -> str:
    """The line for a ``key`` that is none of ``names``, with those it may mean: what others call
    so, else whose last part holds its last part, else the one that is spelled most alike."""
    end = key.rpartition(".")[2].lower()
    ends = {name: name.rpartition(".")[2] for name in dict.fromkeys(names)}
    found = [name for name, last in ends.items() if last in (end, _SYNONYMS.get(end))]
    found = found or [name for name, last in ends.items() if len(end) > 2 and end in last]
    found = found or difflib.get_close_matches(key, names, 1)
    meant = f"did you mean {' or '.join(map(repr, found[:3]))}?"
    return f"unknown override key {key!r}; {meant if found else '`sgpo config METHOD` shows all'}"


def _override(config: Any, path: list[str], text: str, full_key: str) -> Any:
    if len(path) > 1:
        value = _override(getattr(config, path[0]), path[1:], text, full_key)
    else:
        value = _parse(text, _hints(type(config))[path[0]], full_key)
    return dataclasses.replace(config, **{path[0]: value})


def dotted_names(config: Any, prefix: str = "") -> list[str]:
    """Every key that ``apply_overrides`` takes for ``config``."""
    if not dataclasses.is_dataclass(config):
        return []
    names = []
    for f in dataclasses.fields(config):
        inner = dotted_names(getattr(config, f.name), f"{prefix}{f.name}.")
        names += inner or [prefix + f.name]
    return names


def _parse(text: str, kind: Any, key: str) -> Any:
    options = typing.get_args(kind) if typing.get_origin(kind) in _UNIONS else (kind,)
    if text.lower() == "none" and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    values = {"true": True, "false": False} if kind is bool else {}
    if typing.get_origin(kind) is typing.Literal:
        values = {str(value): value for value in typing.get_args(kind)}
    if values:
        name = text.lower() if kind is bool else text
        if name not in values:
            raise ValueError(f"{key}={text!r}: must be one of {', '.join(values)}")
        return values[name]
    if kind not in (int, float, str):
        raise ValueError(f"{key}: is not a single value; set one of its fields")
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{key}={text!r}: must be of type {kind.__name__}") from None
    if value != value:
        raise ValueError(f"{key}={text!r}: NaN is not a setting")
    return value
