"""``--set`` on a whole study: values put into every run that has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.config import Benchmark, Model, Plan, RunConfig
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.problems import source_problems
from benchmarks.profiles.variants import derived
from sgpo.core.config import apply_overrides, dotted_names, unknown_override

_IDENTITY = {
    "profile": "--profile",
    "model": "--models",
    "method": "--methods",
    "seed": "--seeds",
    "init": "another method",
    "evaluation.suites": "--problems, which adds a benchmark",
    "evaluation.files": "--problems",
}
_OF_ONE_RUN = {"model": "--model", "method": "--method", "seed": "--seed"}
_BUDGET = ("settings.num_samples", "settings.num_autonomous", "settings.num_guided")
# Weights are those of one model: under another one's name and prompt they would be a wrong row.
_OF_ONE_MODEL = ("checkpoint", "revision")


def check_overrides(overrides: Sequence[str], *, one_run: bool = False) -> None:
    """ValueError for keys that say which run it is: those have options of their own, other ones
    where ``one_run`` is asked for."""
    options = _IDENTITY | (_OF_ONE_RUN if one_run else {})
    for item in overrides:
        key = item.partition("=")[0]
        if key in options:
            raise ValueError(f"override {item!r}: {key} is not an override, use {options[key]}")


def check_budgets(study: Plan, overrides: Sequence[str]) -> None:
    """ValueError when an override leaves methods of one table with unequal samples a problem."""
    touched = [o for o in overrides if o.partition("=")[0] in _BUDGET]
    if not touched:
        return
    drawn: dict[str, int] = {}
    for entry in study.methods:
        config = entry.config(study.models[0].key, study.seeds[0])
        own = getattr(config.settings, "num_samples", None)
        if own is None:
            parts = [getattr(config.settings, n, 0) for n in ("num_autonomous", "num_guided")]
            own = sum(parts)
        if config.init == "warmup" and own:
            drawn[entry.key] = own
    if len(set(drawn.values())) > 1:
        counts = ", ".join(f"{key} {count}" for key, count in drawn.items())
        raise ValueError(
            f"override {touched[0]!r}: methods would draw unequal samples a problem ({counts}); "
            "set settings.num_samples to the sum of settings.num_autonomous and "
            "settings.num_guided, or try one method with `sgpo train`"
        )


def overridden(study: Plan, overrides: Sequence[str], models: Sequence[str] | None = None) -> Plan:
    """Every override in every method that has its key, another checkpoint in the one of the
    selected ``models`` (None: all) alone.

    Raises:
        ValueError: no method has the key, a wrong value, another checkpoint for more than one
            model, or one of another family.
    """
    check_overrides(overrides)
    only = _only_model(study, overrides, models)
    model = only or study.models[0].key
    allowed: dict[str, list[str]] = {}
    known: list[str] = []
    for entry in study.methods:
        plain = entry.config(model, study.seeds[0])
        names = dotted_names(plain)
        known += names
        allowed[entry.key] = [o for o in overrides if o.partition("=")[0] in names]
        apply_overrides(plain, allowed[entry.key])  # a wrong value is found before the first run
    for item in overrides:
        key, separator, _ = item.partition("=")
        if not separator:
            apply_overrides(plain, [item])
        if key not in known:
            raise ValueError(unknown_override(key, list(dict.fromkeys(known))))

    def change(mine: list[str], plain: RunConfig) -> RunConfig:
        if only not in (None, plain.model):
            mine = [o for o in mine if o.partition("=")[0] not in _OF_ONE_MODEL]
        given = [o.partition("=")[0] for o in mine]
        changed = _unpinned(plain, apply_overrides(plain, mine), mine)
        return changed if "train.problems_per_step" in given else _small_steps(changed)

    methods = (derived(e, partial(change, allowed[e.key])) for e in study.methods)
    changed = replace(study, methods=tuple(methods))
    if only is not None:
        _check_family(study, changed.methods[0].config(only, study.seeds[0]))
    return replace(changed, benchmarks=limited(changed), models=_relabelled(study, changed))


def _small_steps(config: RunConfig) -> RunConfig:
    """``config`` with no more problems in a step than its prepared training set has."""
    most = _most_in_a_step(config)
    if not most or most >= config.train.problems_per_step:
        return config
    return replace(config, train=replace(config.train, problems_per_step=most))


def _most_in_a_step(config: RunConfig) -> int:
    """How many problems a step can take at most; 0 where nothing says."""
    train = config.train
    if train is None or config.data.source == "mini":
        return 0
    count = _num_problems(config.data.source, config.data.split)
    most = count - round(train.held_out_share * count)
    return most - most % train.updates_per_step


def small_sets(configs: Sequence[RunConfig]) -> list[str]:
    """A line for every part of a training set of which a step of some run takes all."""
    small = [c for c in configs if c.train and c.train.problems_per_step == _most_in_a_step(c)]
    lines = (
        f"{c.data.source}, {c.data.split}: a small set, each step takes "
        f"{c.train.problems_per_step} problems (train.problems_per_step)"
        for c in small
    )
    return list(dict.fromkeys(lines))


@functools.cache
def _num_problems(source: str, split: str) -> int:
    """0 for a set that cannot be read: ``plan.preflight`` says why, beside what else is wrong."""
    try:
        return len(source_problems(source, split))
    except ValueError:
        return 0


def check_reaches(overrides: Sequence[str], configs: Sequence[RunConfig]) -> None:
    """ValueError for an override of which no run of ``configs`` has the key: in a study another
    method has it, here it would change nothing."""
    names = [name for config in configs for name in dotted_names(config)]
    for key in (item.partition("=")[0] for item in overrides):
        if key not in names:
            raise ValueError(unknown_override(key, names))


def _only_model(study: Plan, overrides: Sequence[str], models: Sequence[str] | None) -> str | None:
    """The model that another checkpoint is for; None where no override asks for one."""
    wanted = [o for o in overrides if o.partition("=")[0] in _OF_ONE_MODEL]
    if not wanted:
        return None
    known = [m.key for m in study.models]
    chosen = list(dict.fromkeys(known if models is None else models))
    if len(chosen) != 1 or chosen[0] not in known:
        raise ValueError(
            f"override {wanted[0]!r}: weights are those of one model; say in whose place with "
            f"--models and one of {', '.join(known)}"
        )
    return chosen[0]


def _unpinned(plain: RunConfig, changed: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """``changed`` without the revision of the checkpoint that an override has replaced."""
    given = any(o.partition("=")[0] == "revision" for o in overrides)
    if given or changed.checkpoint == plain.checkpoint:
        return changed
    return replace(changed, revision=None)


def _check_family(study: Plan, config: RunConfig) -> None:
    """ValueError if the checkpoint is of another family than the model in whose place it stands.
    Of an unknown name on the hub nothing can be said before the download."""
    from sgpo.core.models import read_config  # imports torch, which a plain plan needs not

    family = next(m.family for m in study.models if m.key == config.model)
    if config.checkpoint is None:
        raise ValueError("checkpoint=none: must be a directory or a name on the hub")
    directory = Path(config.checkpoint).expanduser()
    if directory.is_dir():
        kind = read_config(directory).get("model_type")
    else:
        families = {c.name: c.family for c in CHECKPOINTS.values()}
        kind = families.get(config.checkpoint, family)
    if kind != family:
        raise ValueError(
            f"checkpoint={config.checkpoint}: model_type={kind!r}, {config.model} is of the family "
            f"{family!r} and prompted as such; put it in the place of a model of its own family "
            "with --models"
        )


def _relabelled(study: Plan, changed: Plan) -> tuple[Model, ...]:
    """The models of ``changed``, named after the checkpoint that an override put in their place:
    a stand-in must not pass for the model of the profile."""
    entry, models = changed.methods[0], []
    for model in study.models:
        config = entry.config(model.key, study.seeds[0])
        if config.checkpoint != study.methods[0].config(model.key, study.seeds[0]).checkpoint:
            label = f"{Path(config.checkpoint).name} in place of {model.label}"
            model = replace(model, label=label)
        models.append(model)
    return tuple(models)


def limited(study: Plan) -> tuple[Benchmark, ...]:
    """The benchmarks with the sizes that the first method's evaluation limits leave: the plan must
    promise what the runs will hold."""
    limits = study.methods[0].config(study.models[0].key, study.seeds[0]).evaluation
    return tuple(
        replace(
            b,
            num_problems=min(b.num_problems, limits.problem_limit or b.num_problems),
            k=min(b.k, limits.sample_limit or b.k),
        )
        for b in study.benchmarks
    )
