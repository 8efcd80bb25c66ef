"""``--set`` on a whole study: values put into every run that has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.config import Benchmark, Model, Plan, RunConfig
from benchmarks.data.checkpoints import CHECKPOINTS
from benchmarks.data.problems import source_problems
from benchmarks.profiles.variants import derived
from sgpo.core.config import apply_overrides, dotted_names, unknown_override

# Keys that say which run it is, with the options that they have instead, and those of one run.
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
_WEIGHTS = ("checkpoint", "revision")


def _keys(overrides: Sequence[str]) -> list[str]:
    return [item.partition("=")[0] for item in overrides]


def check_overrides(overrides: Sequence[str], *, one_run: bool = False) -> None:
    """ValueError for keys that say which run it is: those have options of their own, other ones
    where ``one_run`` is asked for."""
    options = _IDENTITY | (_OF_ONE_RUN if one_run else {})
    for item, key in zip(overrides, _keys(overrides), strict=True):
        if key in options:
            raise ValueError(f"override {item!r}: {key} is not an override, use {options[key]}")


def check_reaches(overrides: Sequence[str], configs: Sequence[RunConfig]) -> None:
    """ValueError for an override that is no KEY=VALUE, or of which no run of ``configs`` has the
    key."""
    names = list(dict.fromkeys(name for config in configs for name in dotted_names(config)))
    for item, key in zip(overrides, _keys(overrides), strict=True):
        if "=" not in item:
            apply_overrides(configs[0], [item])  # raises
        if key not in names:
            raise ValueError(unknown_override(key, names))


def check_budgets(study: Plan, overrides: Sequence[str]) -> None:
    """ValueError when an override leaves methods of one table with unequal samples a problem."""
    touched = [o for o, key in zip(overrides, _keys(overrides), strict=True) if key in _BUDGET]
    drawn: dict[str, int] = {}
    for entry in study.methods if touched else ():
        config = entry.config(study.models[0].key, study.seeds[0])
        counts = (getattr(config.settings, key.removeprefix("settings."), 0) for key in _BUDGET)
        if config.init == "warmup":
            drawn[entry.key] = sum(counts)
    drawn = {key: count for key, count in drawn.items() if count}
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
    keys = _keys(overrides)

    def change(plain: RunConfig) -> RunConfig:
        known = {*dotted_names(plain)} - (set() if plain.model == only else {*_WEIGHTS})
        mine = [item for item, key in zip(overrides, keys, strict=True) if key in known]
        changed = apply_overrides(plain, mine)
        if "revision" not in keys and changed.checkpoint != plain.checkpoint:
            changed = replace(changed, revision=None)  # it is the other checkpoint's
        return changed if "train.problems_per_step" in keys else _small_steps(changed)

    model, seed = only or study.models[0].key, study.seeds[0]
    check_reaches(overrides, [entry.config(model, seed) for entry in study.methods])
    changed = replace(study, methods=tuple(derived(entry, change) for entry in study.methods))
    for entry in changed.methods:
        entry.config(model, seed)  # a wrong value is found before the first run
    if only is not None:
        changed = replace(changed, models=_standing_in(changed, only))
    return changed


def _only_model(study: Plan, overrides: Sequence[str], models: Sequence[str] | None) -> str | None:
    """The model that another checkpoint is for; None where no override asks for one."""
    wanted = [o for o, key in zip(overrides, _keys(overrides), strict=True) if key in _WEIGHTS]
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


def _standing_in(study: Plan, key: str) -> tuple[Model, ...]:
    """The models of ``study``, that of ``key`` named after the checkpoint that stands in its place:
    it must not pass for the model of the profile.

    Raises:
        ValueError: the checkpoint is of another family, whose prompts are others. Of an unknown
            name on the hub nothing can be said before the download.
    """
    from sgpo.core.models import read_config  # imports torch, which a plain plan needs not

    (model,) = [m for m in study.models if m.key == key]
    name = study.methods[0].config(key, study.seeds[0]).checkpoint
    if name is None:
        raise ValueError("checkpoint=none: must be a directory or a name on the hub")
    directory = Path(name).expanduser()
    if directory.is_dir():
        kind = read_config(directory).get("model_type")
    else:
        kind = {c.name: c.family for c in CHECKPOINTS.values()}.get(name, model.family)
    if kind != model.family:
        raise ValueError(
            f"checkpoint={name}: model_type={kind!r}, {key} is of the family {model.family!r} and "
            "prompted as such; put it in the place of a model of its own family with --models"
        )
    label = model.label
    if key not in CHECKPOINTS or name != CHECKPOINTS[key].name:
        label = f"{directory.name} in place of {label}"
    return tuple(replace(m, label=label) if m is model else m for m in study.models)


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


@functools.cache
def _num_problems(source: str, split: str) -> int:
    """0 for a set that cannot be read: ``plan.preflight`` says why, beside what else is wrong."""
    try:
        return len(source_problems(source, split))
    except ValueError:
        return 0


def small_sets(configs: Sequence[RunConfig]) -> list[str]:
    """A line for every part of a training set of which a step of some run takes all."""
    small = [c for c in configs if c.train and c.train.problems_per_step == _most_in_a_step(c)]
    lines = (
        f"{c.data.source}, {c.data.split}: a small set, each step takes "
        f"{c.train.problems_per_step} problems (train.problems_per_step)"
        for c in small
    )
    return list(dict.fromkeys(lines))


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
