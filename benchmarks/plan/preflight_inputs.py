"""The inputs of a study on published checkpoints, looked up before anything is downloaded: weights,
context, training set, benchmarks. Each obstacle is one line; see ``benchmarks.plan.preflight``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.config import Cell, RunConfig
from benchmarks.data.checkpoints import CHECKPOINTS, Shape
from benchmarks.data.hub import fetch_dataset
from benchmarks.data.problems import STRATEGIES, data_source, prepared_problems
from benchmarks.data.suites import SUITES, local_file
from benchmarks.plan.cost import PROMPT_ROOM
from benchmarks.plan.gpu_plan import shape_of
from benchmarks.plan.hardware import Hardware
from sgpo.core.models import checkpoint_directory, context_length, read_config, rope_settings


def checkpoint(config: RunConfig, hardware: Hardware) -> list[str]:
    """An incomplete directory, or one of the hub that cannot be fetched from here."""
    name = config.checkpoint
    if Path(name).expanduser().is_dir():
        try:
            checkpoint_directory(name)
        except ValueError as error:
            return [str(error)]
        return _rope(config)
    if is_cached(name, config.revision):
        return []
    if hardware.offline:
        return [
            f"checkpoint {name!r}: not in the hub's cache and HF_HUB_OFFLINE is set; unset it, or "
            "give a local directory with --set checkpoint=DIRECTORY"
        ]
    gated = any(c.gated and c.name == name for c in CHECKPOINTS.values())
    if gated and not hardware.token:
        return [
            f"checkpoint {name!r} is gated and no token is set: accept its terms on the hub and "
            "set HF_TOKEN, give a local directory with --set checkpoint=DIRECTORY, or leave it out "
            "with --models"
        ]
    return []


def is_cached(name: str, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def _rope(config: RunConfig) -> list[str]:
    """A local copy of the profile's model whose position encoding is another one."""
    known, directory = CHECKPOINTS.get(config.model), Path(config.checkpoint).expanduser()
    content = read_config(directory)
    shape = shape_of(config)
    if known is None or shape.num_parameters != known.shape.num_parameters:
        return []
    theta = rope_settings(content)["rope_theta"]
    if theta == known.shape.rope_theta and context_length(content) >= known.shape.context:
        return []
    return [
        f"checkpoint {config.checkpoint!r}: rope_theta={theta:g} and {context_length(content)} "
        f"positions, {known.name} has rope_theta={known.shape.rope_theta:g} and "
        f"{known.shape.context}: fetch its config.json again"
    ]


def context(shape: Shape, config: RunConfig) -> list[str]:
    """Completions that leave no room for a prompt."""
    engine = config.vllm.max_model_len if config.sampler == "vllm" else None
    found = []
    if engine is not None and engine > shape.context:
        found.append(
            f"vllm.max_model_len={engine}: {config.model} was made for {shape.context} positions; "
            "lower it"
        )
    limit = min(shape.context, engine or shape.context)
    lengths = {"evaluation.max_tokens": config.evaluation.max_tokens}
    if config.rollout is not None:
        lengths["rollout.max_tokens"] = config.rollout.max_tokens
    for name, length in lengths.items():
        room = limit - min(PROMPT_ROOM, limit // 2)  # small contexts are those of tests
        if length > room:
            found.append(
                f"{name}={length}: leaves fewer than {limit - room} of {limit} positions for the "
                f"prompt; lower it to {room}"
                + (" or raise vllm.max_model_len" if limit < shape.context else "")
            )
    return found


def training_sets(left: Sequence[Cell]) -> list[str]:
    """Training sets that are missing, changed, without strategies or too small; each is read once
    however many runs share it."""
    wanted: dict[tuple, RunConfig] = {}
    for config in (cell.config for cell in left):
        if config.train is not None and config.data.source != "mini":
            guided = getattr(config.settings, "num_guided", 0) > 0
            step = config.train.problems_per_step
            wanted.setdefault((config.data.source, config.data.split, guided, step), config)
    return [line for config in wanted.values() for line in _training_set(config)]


def _training_set(config: RunConfig) -> list[str]:
    name, separator, digits = config.data.source.rpartition("@")
    if not separator or not (Path(name) / "report.json").is_file():
        where = name or config.data.source
        return [
            f"data.source={config.data.source!r}: no prepared training set there; make it with "
            f"`sgpo data prepare --out {where}` (README, One GPU), or name another one"
        ]
    actual = data_source(Path(name))
    if actual != config.data.source:
        return [
            f"data.source={config.data.source!r}: the files there are {actual} now "
            "(strategies added?); name that, or restore them"
        ]
    guided = getattr(config.settings, "num_guided", 0) > 0
    if guided and not (Path(name) / STRATEGIES).is_file():
        return [
            f"{name}: no {STRATEGIES}, and {config.method} needs strategies; run `sgpo strategies "
            f"--data {name}` first, or leave the method out with --methods"
        ]
    count = len(prepared_problems(Path(name), config.data.split))
    if count < config.train.problems_per_step:
        return [
            f"{name}: {count} problems in split {config.data.split!r}, a step of {config.method} "
            f"takes {config.train.problems_per_step}; prepare more, or lower "
            "train.problems_per_step"
        ]
    return []


def benchmarks(left: Sequence[Cell]) -> list[str]:
    """Test sets that would be missed only after the training."""
    keys = dict.fromkeys(k for c in left for k in c.config.evaluation.suites if k in SUITES)
    missing = [key for key in keys if not _is_here(key)]
    if not missing:
        return []
    return [
        f"benchmark {', '.join(missing)}: neither below SGPO_DATA_DIR nor in the hub's cache; run "
        "`sgpo data check` once, which fetches and checks them"
    ]


def _is_here(key: str) -> bool:
    if local_file(key) is not None:
        return True
    try:
        fetch_dataset(SUITES[key].hub[0], offline=True)
    except ValueError:
        return False
    return True
