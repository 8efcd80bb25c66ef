"""What a study and each of its runs consist of. Values live in ``benchmarks.profiles``."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sgpo.core.config import (
    RolloutConfig,
    TrainConfig,
    VLLMSettings,
    added,
    addressed_settings,
    check_decoding,
    check_fields,
    config_hash,
    require,
    require_positive,
    to_dict,
)
from sgpo.core.files import sha256_of
from sgpo.core.runlog import package_versions

_USER_METHOD = "sgpo_user_method_"  # modules of method files
SUITE_VERSION = 1  # raised when a change makes scores incomparable with older ones


@dataclass(frozen=True)
class DataConfig:
    """Where problems come from and which part of the training pool a run sees.

    Args:
        source: ``mini``, the embedded world; or a prepared training set as ``DIRECTORY@HASH``
            (``benchmarks.data.problems.data_source`` makes it), so that its content is part of the
            run's address.
        split: ``warmup`` a third of the pool, ``rl`` the rest, ``all`` both, ``none`` no training.
        expert_gap: mini world: probability that the expert leaves out an intermediate step.
        strategy: mini world: the strategies are those that the extraction kept, or bad ones: of
            another type, with one wrong choice, with every choice open, with the answer in them.
    """

    source: str = "mini"
    split: Literal["warmup", "rl", "all", "none"] = "rl"
    expert_gap: float = 0.0
    strategy: Literal["kept", "wrong_type", "wrong_choice", "open", "leak"] = added("kept")

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "expert_gap", least=0, most=1)


@dataclass(frozen=True)
class EvalConfig:
    """Decoding at evaluation, and which problem sets with how many samples each.

    Args:
        suites: benchmark keys; ``minidev`` is the development set.
        problem_limit: first problems of each set only; None for all.
        sample_limit: at most this many samples a problem; None for the benchmark's own k.
        files: problems of the user's own as ``PATH@HASH``; the file's name is the benchmark's key.
    """

    suites: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.6  # paper
    top_p: float = 0.95  # paper
    problem_limit: int | None = None
    sample_limit: int | None = None
    files: tuple[str, ...] = added(())

    def __post_init__(self) -> None:
        check_decoding(self)
        require_positive(self, "problem_limit sample_limit")


@dataclass(frozen=True)
class RunConfig:
    """One run: train ``method`` from ``init`` on ``data``, then evaluate the last weights.

    ``settings`` is the method's own config dataclass (None for ``base``), ``train`` and
    ``rollout`` are None where nothing is trained. ``prompt`` names a ``PromptSpec``.
    ``pretrain_steps`` shortens the pretraining of a mini base model; None for its own number.
    ``device``: ``auto`` is a GPU where there is one. ``precision``: type of forward and backward
    passes and of sampling; weights, gradient sums and the optimiser stay float32.
    ``checkpoint``: the base model, a name on the hub or a local directory, with its hub
    ``revision``; None for a model of the mini world. ``vllm``: set-up of the engine where
    ``sampler`` is ``vllm``, most of it outside the run's address (``VLLMSettings``).
    """

    profile: str
    model: str
    method: str
    seed: int
    init: Literal["base", "warmup"]
    prompt: str
    sampler: Literal["compact", "transformers", "vllm"]
    data: DataConfig
    evaluation: EvalConfig
    settings: Any = None
    train: TrainConfig | None = None
    rollout: RolloutConfig | None = None
    pretrain_steps: int | None = None
    device: Literal["cpu", "cuda", "auto"] = added("cpu")
    precision: Literal["float32", "bfloat16"] = added("float32")
    checkpoint: str | None = added(None)
    revision: str | None = added(None)
    vllm: VLLMSettings = added(VLLMSettings())

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "seed", least=0)
        require_positive(self, "pretrain_steps")


def addressed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's config, as JSON types, is part of its address: all but settings of the engine
    that change no result. After a stall or with too little memory a run continues with others."""
    kept = {key: value for key, value in config.items() if key != "vllm"}
    engine = addressed_settings(config.get("vllm", {}))
    return kept | ({"vllm": engine} if engine else {})


@dataclass(frozen=True)
class Cell:
    """A run in the grid: its config and the run that leaves the weights it starts from."""

    config: RunConfig
    parent: Cell | None = None

    @cached_property
    def hash(self) -> str:
        """Content address: ``addressed`` config, the parent's address, the source of a user's
        method and the package versions that decide numbers. Anything else that changes a number
        raises ``SUITE_VERSION``."""
        source = user_method_file(self.config.settings)
        return config_hash(
            {
                "method_source": sha256_of(source) if source else None,
                "config": addressed(to_dict(self.config)),
                "parent": self.parent.hash if self.parent else None,
                "packages": package_versions(),
                "suite_version": SUITE_VERSION,
            }
        )

    @property
    def run_id(self) -> str:
        config = self.config
        return f"{config.model}-{config.method}-s{config.seed}-{self.hash}"


@dataclass(frozen=True)
class Model:
    """A base model of a study. ``extra``: it serves experiments of its own only. ``parameters``:
    its number of weights, None until one of its runs has ended."""

    key: str
    label: str
    family: str
    parameters: int | None = None
    extra: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A test set of ``num_problems`` problems, ``k`` samples each; ``file``: of a user's own."""

    key: str
    label: str
    num_problems: int
    k: int
    file: str | None = None


@dataclass(frozen=True)
class Method:
    """A method of a study by its label in tables. ``extra`` methods serve experiments of their
    own and stay out of the main comparison."""

    key: str
    label: str
    extra: bool = dataclasses.field(default=False, kw_only=True)
    file: str | None = dataclasses.field(default=None, kw_only=True)  # of a user's own method


@dataclass(frozen=True)
class MethodEntry(Method):
    """A method with how its runs are configured.

    ``config(model, seed)`` returns the ``RunConfig``. ``models`` restricts the grid to these model
    keys; None for all models of the study. ``also_on``: further models (the study's or its extra
    ones) -> number of seeds there. ``parent`` is the method whose checkpoint its runs start from.
    """

    config: Callable[[str, int], RunConfig]
    models: tuple[str, ...] | None = None
    also_on: Mapping[str, int] = dataclasses.field(default_factory=dict)
    parent: str = "sft"

    def num_seeds(self, study: Plan, model: str) -> int:
        """How many of the study's seeds are planned on ``model``."""
        main = [m.key for m in study.models]
        if model in (main if self.models is None else self.models):
            return len(study.seeds)
        return min(len(study.seeds), self.also_on.get(model, 0))


@dataclass(frozen=True)
class Plan:
    """A grid of models x methods x seeds and the benchmarks it is judged on.

    ``extra_models`` carry only the methods that name them. What is kept of it and of its runs is a
    ``benchmarks.store.records.Study``.
    """

    name: str
    models: tuple[Model, ...]
    methods: tuple[MethodEntry, ...]
    seeds: tuple[int, ...]
    benchmarks: tuple[Benchmark, ...]
    extra_models: tuple[Model, ...] = ()

    def cells(self) -> list[Cell]:
        """The grid in the order of dependence, first seeds first; base models have one run."""
        cells: dict[tuple[str, str, int], Cell] = {}
        for index, seed in enumerate(self.seeds):
            for model in self.models + self.extra_models:
                for entry in self.methods:
                    if entry.key == "base" and index:
                        continue
                    if index >= entry.num_seeds(self, model.key):
                        continue
                    self._add(cells, entry, model.key, 0 if entry.key == "base" else seed)
        return list(cells.values())

    def _add(self, cells: dict, entry: MethodEntry, model: str, seed: int) -> Cell:
        key = (model, entry.key, seed)
        if key not in cells:
            config = entry.config(model, seed)
            parent = None
            if config.init == "warmup":
                parent = self._add(cells, self.entry(entry.parent), model, seed)
            cells[key] = Cell(config, parent)
        return cells[key]

    def entry(self, key: str) -> MethodEntry:
        """The method of a key; ValueError that lists the known ones."""
        for entry in self.methods:
            if entry.key == key:
                return entry
        shown = f"`sgpo list methods --profile {self.name}`"
        raise ValueError(unknown("method", key, [e.key for e in self.methods], shown))


def unknown(what: str, name: str, known: Sequence[str], shown: str) -> str:
    """The line for a name that is not ``known``: the nearest one, or what shows them all."""
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"unknown {what} {name!r}; did you mean {near[0]!r}? {shown} shows all"
    few = f"must be one of {', '.join(known)}" if len(known) <= 12 else f"{shown} shows all"
    return f"unknown {what} {name!r}: {few}"


def build_method(config: RunConfig, tokenizer: Any = None) -> Any:
    """The ``Method`` object of a run; a method that lives in a user's file is loaded from it.

    With the mini world's ``tokenizer`` SGPO logs its KL by the world's token classes.
    """
    from baselines.chord import CHORD, CHORDConfig
    from baselines.dapo import DAPO, DAPOConfig
    from baselines.dr_grpo import DrGRPO, DrGRPOConfig
    from baselines.grpo import GRPO, GRPOConfig
    from baselines.hpt import HPT, HPTConfig
    from baselines.luffy import LUFFY, LUFFYConfig
    from baselines.opd import OPD, OPDConfig
    from baselines.opsd import OPSD, OPSDConfig
    from baselines.relift import ReLIFT, ReLIFTConfig
    from baselines.sdpo import SDPO, SDPOConfig
    from baselines.sft import SFT, SFTConfig
    from baselines.srft import SRFT, SRFTConfig
    from sgpo.method import SGPO, SGPOConfig
    from sgpo.mini.probes import MiniTokenClassifier

    classes = {SFTConfig: SFT, GRPOConfig: GRPO, LUFFYConfig: LUFFY, HPTConfig: HPT,
               OPSDConfig: OPSD, SRFTConfig: SRFT, DAPOConfig: DAPO, DrGRPOConfig: DrGRPO,
               ReLIFTConfig: ReLIFT, CHORDConfig: CHORD, SDPOConfig: SDPO,
               OPDConfig: OPD}  # fmt: skip
    kind = type(config.settings)
    if kind is SGPOConfig:
        of_the_world = tokenizer is not None and config.data.source == "mini"
        return SGPO(config.settings, MiniTokenClassifier(tokenizer) if of_the_world else None)
    if kind in classes:
        return classes[kind](config.settings)
    return sys.modules[kind.__module__].METHOD(config.settings)


def user_method_file(settings: Any) -> Path | None:
    """The file that the settings' class was loaded from by ``load_method_file``, else None."""
    module = type(settings).__module__
    if not module.startswith(_USER_METHOD):
        return None
    return Path(sys.modules[module].__file__)


def load_method_file(path: Path) -> Any:
    """The module of a user's method file.

    It must define ``CONFIG`` (a frozen dataclass with defaults) and ``METHOD`` (a class that
    takes one and implements ``sgpo.core.method.Method``), and may define ``LABEL``.

    Raises:
        ValueError: no such file, it does not run, or a name or hook is missing.
    """
    from sgpo.core.method import check_hooks

    if not path.is_file():
        raise ValueError(f"method file {str(path)!r}: no such file")
    if path.suffix != ".py":
        raise ValueError(f"method file {str(path)!r}: is no Python file (.py)")
    name = _USER_METHOD + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        raise ValueError(f"method file {_place(error, path)}") from error
    for needed in ("CONFIG", "METHOD"):
        if not hasattr(module, needed):
            raise ValueError(f"method file {str(path)!r}: defines no {needed}")
    config = module.CONFIG
    if not dataclasses.is_dataclass(config) or config.__module__ != name:
        # The class says which method a run uses and whose source enters its address.
        raise ValueError(
            f"method file {str(path)!r}: CONFIG must be a dataclass defined in the file; to reuse "
            "another one's fields, subclass it there: class CONFIG(GRPOConfig)"
        )
    required = [f.name for f in dataclasses.fields(config) if _has_no_default(f)]
    if required:
        raise ValueError(f"method file {str(path)!r}: CONFIG field {required[0]!r} needs a default")
    try:
        check_hooks(module.METHOD)
    except ValueError as error:
        raise ValueError(f"method file {str(path)!r}: {error}") from error
    return module


def _place(error: Exception, path: Path) -> str:
    """Where in ``path`` an error arose, and what it says."""
    line = getattr(error, "lineno", None)
    frames = traceback.extract_tb(error.__traceback__)
    line = line or next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)
    what = getattr(error, "msg", None) or str(error)
    return f"{str(path)!r}: line {line}: {type(error).__name__}: {what}"


def _has_no_default(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.init and field.default is missing and field.default_factory is missing
