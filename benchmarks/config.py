"""What a study and each of its runs consist of. Values live in ``benchmarks.profiles``."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
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
from sgpo.core.files import sha256_of, write_text
from sgpo.core.runlog import package_versions

_USER_METHOD = "sgpo_user_method_"  # modules of method files
SUITE_VERSION = 1  # raised when a change makes scores incomparable with older ones
# Hashing larger weights would take longer than a few seconds; their size is taken instead.
MAX_HASHED_BYTES = 2 * 2**30


@dataclass(frozen=True)
class DataConfig:
    """Where problems come from and which part of the training pool a run sees.

    Args:
        source: ``mini``, the world of the run's seed, or a prepared training set as
            ``DIRECTORY@HASH``.
        split: ``warmup`` a third of the pool, ``rl`` the rest, ``all`` both, ``none`` no training.
        expert_gap: mini world: probability that the expert leaves out an intermediate step.
    """

    source: str = "mini"
    split: Literal["warmup", "rl", "all", "none"] = "rl"
    expert_gap: float = 0.0

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

    Args:
        prompt: name of a ``PromptSpec``.
        settings: the method's own config dataclass; None for ``base``.
        train, rollout: None where nothing is trained.
        pretrain_steps: shortens the pretraining of a mini base model; None for its own number.
        device: ``auto`` is a GPU where there is one.
        precision: of passes and sampling; weights, gradient sums and optimiser stay float32.
        checkpoint: the base model, a name on the hub (at ``revision``) or a local directory; None
            for a model of the mini world.
        vllm: set-up of the engine, most of it outside the run's address.
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


def of_a_world(config: RunConfig) -> bool:
    """Whether the run's seed is a world of the miniature, which draws model and problems too."""
    return config.data.source == "mini"


def addressed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's config, as JSON types, is part of its address: all but settings of the engine
    that change no result, so that a run can continue with others."""
    kept = {key: value for key, value in config.items() if key != "vllm"}
    engine = addressed_settings(config.get("vllm", {}))
    return kept | ({"vllm": engine} if engine else {})


def digest_of_file(file: Path) -> str:
    """sha256 of a file, or its size where that is above ``MAX_HASHED_BYTES``."""
    state = file.stat()
    return _digest(file, state.st_size, state.st_mtime_ns)


@functools.cache
def _digest(file: Path, size: int, _changed: int) -> str:
    return sha256_of(file) if size <= MAX_HASHED_BYTES else f"{size} bytes, not hashed"


def weights_record(directory: Path) -> dict[str, str]:
    """File name -> digest of every safetensors file."""
    return {file.name: digest_of_file(file) for file in sorted(directory.glob("*.safetensors"))}


def named_weights(config: RunConfig) -> dict[str, dict[str, str]]:
    """Setting -> ``weights_record`` of every local directory of weights that ``config`` names (the
    base model, a teacher): other weights under the same path are another run."""
    settings = dataclasses.asdict(config.settings) if config.settings else {}
    named = {f"settings.{name}": value for name, value in settings.items()}
    named["checkpoint"] = config.checkpoint
    places = {name: Path(v).expanduser() for name, v in named.items() if isinstance(v, str)}
    found = {name: weights_record(path) for name, path in places.items() if path.is_dir()}
    return {name: record for name, record in found.items() if record}


def address_of(
    config: Mapping[str, Any],
    *,
    method_source: str | None,
    parent: str | None,
    packages: Mapping[str, str] | None,
    suite_version: int | None,
    weights: Mapping[str, Any],
) -> str:
    """The content address of a run.

    Args:
        config: ``to_dict`` of its ``RunConfig``.
        method_source: sha256 of a user's method file.
        parent: address of the run that it starts from.
        packages: versions of those that decide numbers.
        weights: ``named_weights``.
    """
    parts = {
        "method_source": method_source,
        "config": addressed(config),
        "parent": parent,
        "packages": packages,
        "suite_version": suite_version,
    }
    return config_hash(parts | ({"weights": weights} if weights else {}))


@dataclass(frozen=True)
class Cell:
    """A run in the grid: its config and the run that leaves the weights it starts from."""

    config: RunConfig
    parent: Cell | None = None

    @cached_property
    def hash(self) -> str:
        """Its address. A change of this suite that changes a number raises ``SUITE_VERSION``."""
        source = user_method_file(self.config.settings)
        return address_of(
            to_dict(self.config),
            method_source=sha256_of(source) if source else None,
            parent=self.parent.hash if self.parent else None,
            packages=package_versions(),
            suite_version=SUITE_VERSION,
            weights=named_weights(self.config),
        )

    @property
    def run_id(self) -> str:
        config = self.config
        return f"{config.model}-{config.method}-s{config.seed}-{self.hash}"


@dataclass(frozen=True)
class Model:
    """A base model of a study. ``parameters``: its number of weights, None until one of its runs
    has ended. ``extra``: it serves experiments of its own only."""

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
    """A method by its label in tables. ``extra``: it serves experiments of its own and stays out of
    the main comparison. ``file``: of a user's own."""

    key: str
    label: str
    extra: bool = dataclasses.field(default=False, kw_only=True)
    file: str | None = dataclasses.field(default=None, kw_only=True)


@dataclass(frozen=True)
class MethodEntry(Method):
    """A method with how its runs are configured.

    Args:
        config: (model, seed) -> ``RunConfig``.
        models: restricts the grid to these model keys; None for all models of the study.
        also_on: further models (the study's or its extra ones) -> number of seeds there.
        parent: the method whose checkpoint its runs start from.
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

    ``extra_models`` carry only the methods that name them; ``overrides`` are in its runs already.
    What is kept of it and of its runs is a ``benchmarks.store.records.Study``.
    """

    name: str
    models: tuple[Model, ...]
    methods: tuple[MethodEntry, ...]
    seeds: tuple[int, ...]
    benchmarks: tuple[Benchmark, ...]
    extra_models: tuple[Model, ...] = ()
    overrides: tuple[str, ...] = ()

    def cells(self) -> list[Cell]:
        """The grid in the order of dependence, first seeds first. A mini base model has a run in
        every world, another one a single run."""
        cells: dict[tuple[str, str, int], Cell] = {}
        for index, seed in enumerate(self.seeds):
            for model in self.models + self.extra_models:
                for entry in self.methods:
                    if index >= entry.num_seeds(self, model.key):
                        continue
                    once = entry.key == "base" and not of_a_world(entry.config(model.key, seed))
                    if not once or not index:
                        self._add(cells, entry, model.key, 0 if once else seed)
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


def settings_of(kind: str, **values: Any) -> Any:
    """A method's settings by the name ``module:Class``: a profile names them, so that what it holds
    can be listed without torch, which takes seconds to import and which settings do not use."""
    module, _, name = kind.partition(":")
    with _late("torch"):
        return getattr(importlib.import_module(module), name)(**values)


class _Late(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        real = importlib.import_module(self.__name__)
        vars(self).update(vars(real))
        return getattr(real, name)


@contextmanager
def _late(name: str) -> Iterator[None]:
    """Modules that are imported inside, and use nothing of the module ``name`` on the way, import
    it when they do."""
    stub = _Late(name)
    sys.modules.setdefault(name, stub)
    try:
        yield
    finally:
        if sys.modules.get(name) is stub:
            del sys.modules[name]


def build_method(config: RunConfig, tokenizer: Any = None, problems: Sequence[Any] = ()) -> Any:
    """The ``Method`` of a run: the class ``X`` beside ``XConfig``, or ``METHOD`` of a user's file.
    With the mini world's ``tokenizer`` SGPO logs its KL by that world's token classes, and keeps a
    ledger of it by the types of the training ``problems``."""
    from sgpo.method import SGPOConfig
    from sgpo.mini.ledger import Ledger
    from sgpo.mini.probes import MiniTokenClassifier

    kind = type(config.settings)
    name = kind.__name__.removesuffix("Config")
    method = getattr(sys.modules[kind.__module__], "METHOD" if name == "CONFIG" else name)
    if kind is SGPOConfig and tokenizer is not None and of_a_world(config):
        ledger = Ledger(tokenizer, problems) if problems else None
        return method(config.settings, MiniTokenClassifier(tokenizer), ledger)
    file = user_method_file(config.settings)
    return _own(file, method, config.settings) if file else method(config.settings)


def user_method_file(settings: Any) -> Path | None:
    """The file that the settings' class was loaded from by ``load_method_file``, else None."""
    module = type(settings).__module__
    return Path(sys.modules[module].__file__) if module.startswith(_USER_METHOD) else None


def load_method_file(path: Path) -> ModuleType:
    """The module of a user's method file.

    It must define ``CONFIG`` (a frozen dataclass with defaults) and ``METHOD`` (a class that
    takes one and implements ``sgpo.core.method.Method``), and may define ``LABEL``.

    Raises:
        ValueError: no such file, it does not run, or a name or hook is missing.
    """
    from sgpo.core.method import check_hooks

    where = f"method file {str(path)!r}"
    if not path.is_file():
        raise ValueError(f"{where}: no such file")
    if path.suffix != ".py":
        raise ValueError(f"{where}: is no Python file (.py)")
    name = _USER_METHOD + path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _own(path, spec.loader.exec_module, module)
    for needed in ("CONFIG", "METHOD"):
        if not hasattr(module, needed):
            raise ValueError(
                f"{where}: defines no {needed}; README.md, Add your method, has a whole file"
            )
    config = module.CONFIG
    if not dataclasses.is_dataclass(config) or config.__module__ != name:
        # The class says which method a run uses and whose source enters its address.
        raise ValueError(
            f"{where}: CONFIG must be a dataclass defined in the file; to reuse another one's "
            "fields, subclass it there: class CONFIG(GRPOConfig)"
        )
    missing = dataclasses.MISSING
    for field in dataclasses.fields(config):
        if field.init and field.default is missing and field.default_factory is missing:
            raise ValueError(f"{where}: CONFIG field {field.name!r} needs a default")
    try:
        check_hooks(module.METHOD)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    _own(path, module.CONFIG)
    return module


def _own(path: Path, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call of the user's own code returns.

    Raises:
        ValueError: it raises; with the last line in the user's file and where the traceback lies.
    """
    try:
        return call(*arguments)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        log = Path(tempfile.gettempdir()) / f"sgpo-{path.stem}-{os.getpid()}.txt"
        write_text(log, "".join(traceback.format_exception(error)))
        frames = traceback.extract_tb(error.__traceback__)
        inside = [f for f in frames if Path(f.filename).resolve() == path.resolve()]
        place = f"line {inside[-1].lineno}, in {inside[-1].name}: " if inside else ""
        place = place.replace(", in <module>", "")
        what = " ".join(str(error).split())
        if isinstance(error, SyntaxError):
            place, what = f"line {error.lineno}: ", error.msg
        raise ValueError(
            f"method file {str(path)!r}: {place}{type(error).__name__}: {what} (traceback: {log})"
        ) from error
