"""The rows of a table as runs: what every profile makes its methods with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.config import MethodEntry, RunConfig, settings_of
from sgpo.core.config import RolloutConfig, TrainConfig

# Values, or what gives those of a model
Values = Mapping[str, Any] | Callable[[str], Mapping[str, Any]]
Rate = float | Callable[[str], float]  # or what gives that of a model
AUTHORS_ENTROPY = {"entropy_over": "response", "scaling": "authors"}  # authors' code (LUFFY, HPT)


@dataclass(frozen=True)
class Rows:
    """What the runs of a profile share.

    Args:
        base: (model, seed) -> the run that evaluates the base model as it is.
        sft, rl: fields of ``TrainConfig`` of supervised and of RL rows.
        rollout: how every method samples while it trains.
    """

    base: Callable[[str, int], RunConfig]
    sft: Mapping[str, Any]
    rl: Mapping[str, Any]
    rollout: RolloutConfig

    def supervised(
        self,
        key: str,
        label: str,
        split: str,
        num_problems: int,
        num_epochs: int,
        learning_rate: Rate,
        **settings: Any,
    ) -> MethodEntry:
        """SFT on ``num_problems`` expert traces of a part of the training pool, a share of which is
        held out, from the base model."""
        trained = num_problems - round(self.sft["held_out_share"] * num_problems)
        steps = num_epochs * (trained // self.sft["problems_per_step"])

        def config(model: str, seed: int) -> RunConfig:
            base = self.base(model, seed)
            rate = _of(learning_rate, model)
            return replace(
                base,
                method=key,
                data=replace(base.data, split=split),
                settings=settings_of("baselines.sft:SFTConfig", **settings),
                train=TrainConfig(num_steps=steps, learning_rate=rate, **self.sft),
                rollout=self.rollout,
            )

        return MethodEntry(key, label, config)

    def reinforced(
        self,
        key: str,
        label: str,
        kind: str,
        learning_rate: Rate,
        settings: Values | None = None,
        train: Values | None = None,
        **fields: Any,
    ) -> MethodEntry:
        """An RL method, from the warm-up checkpoint, with the same problems and steps for each.
        ``kind``: its settings as ``module:Class``; ``fields``: of the entry."""

        def config(model: str, seed: int) -> RunConfig:
            base = self.base(model, seed)
            own = {"learning_rate": _of(learning_rate, model), **_of(train or {}, model)}
            return replace(
                base,
                method=key,
                init="warmup",
                data=replace(base.data, split="rl"),
                settings=settings_of(kind, **_of(settings or {}, model)),
                train=TrainConfig(**self.rl | own),
                rollout=self.rollout,
            )

        return MethodEntry(key, label, config, **fields)


def _of(value: Any, model: str) -> Any:
    return value(model) if callable(value) else value
