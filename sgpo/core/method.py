"""What a training method is: three hooks, and a few more that are looked up and never required.

README.md in this directory has the signature and an example of every one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from transformers import PreTrainedModel

from sgpo.core.rollout import Rollout
from sgpo.core.types import LossOutput, Problem, Trajectory

Totals = dict[str, float]
REQUIRED = ("collect", "totals", "loss")
SHOWABLE = ("strategy", "solution", "sample")  # of the problem, the expert, the policy itself


class Method(Protocol):
    """One way of turning problems into a loss.

    Optional, by name: ``begin(model, num_steps, rollout_config, tokenizer)`` before the first step;
    ``more_problems(trajectories, wanted)`` for dynamic sampling; ``separate(trajectories)``, the
    step's trajectories and those for an update of their own after them; ``after_update(model)``;
    ``state()`` with ``load_state(state)`` for what must outlive a kill; and the attributes
    ``teacher``, a ``sgpo.core.teacher.Teacher``, and ``shows``, see ``shown_in_prompts``.
    """

    def collect(self, problems: Sequence[Problem], rollout: Rollout) -> list[Trajectory]:
        """The step's training data: sample, grade, weigh. Runs before any update of the step."""
        ...

    def totals(self, trajectories: Sequence[Trajectory]) -> Totals:
        """Denominators of each loss component over a whole update, counted before the trainer
        splits it, so that the split changes nothing. Values add up over ranks."""
        ...

    def loss(
        self, model: PreTrainedModel, trajectories: Sequence[Trajectory], totals: Totals
    ) -> LossOutput:
        """The micro-batch's share of the update's loss, and its metrics."""
        ...


def call_optional(method: Any, hook: str, *arguments: Any, default: Any = None) -> Any:
    """What ``hook`` returns; ``default`` where ``method`` has none."""
    return getattr(method, hook)(*arguments) if hasattr(method, hook) else default


def check_hooks(method: Any) -> None:
    """ValueError when ``method``, or a class of methods, lacks a required hook or has one of a pair
    without the other."""
    name = (method if isinstance(method, type) else type(method)).__name__
    missing = [hook for hook in REQUIRED if not callable(getattr(method, hook, None))]
    if missing:
        raise ValueError(f"{name}: has no {missing[0]}; a method needs {', '.join(REQUIRED)}")
    have, lack = ("state", "load_state") if hasattr(method, "state") else ("load_state", "state")
    if hasattr(method, have) and not hasattr(method, lack):
        raise ValueError(f"{name}: has {have} without {lack}; define both, or neither")


def shown_in_prompts(method: Any) -> tuple[str, ...]:
    """What prompts of ``method`` show beside the question, by its attribute ``shows``: of
    ``SHOWABLE``. Such prompts must fit the context, and strategies must be there.

    Raises:
        ValueError: it names something else.
    """
    shows = tuple(getattr(method, "shows", ()))
    unknown = [name for name in shows if name not in SHOWABLE]
    if unknown:
        raise ValueError(
            f"{type(method).__name__}.shows: holds {unknown[0]!r}; it is a tuple of "
            f"{', '.join(SHOWABLE)}"
        )
    return shows


def check_collected(method: Any, trajectories: Any) -> list[Trajectory]:
    """What ``collect`` returned, as a list; ValueError when it cannot be trained on."""
    name = f"{type(method).__name__}.collect"
    found = list(trajectories) if isinstance(trajectories, (list, tuple)) else [trajectories]
    for t in found:
        if not isinstance(t, Trajectory):
            kind = type(t).__name__
            raise ValueError(f"{name}: returned a {kind}; a list of Trajectory is right")
        if not t.completion_ids:
            raise ValueError(
                f"{name}: a trajectory of problem {t.problem_id!r} has no completion; leave it out"
            )
    return found


def saved_state(method: Any) -> Any:
    """What ``state`` returns, as JSON has it; ValueError when it holds something that JSON does
    not."""
    state = call_optional(method, "state")
    try:
        return json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{type(method).__name__}.state: {error}; it may hold lists, dicts with text keys, "
            "text, finite numbers, booleans and None"
        ) from error


def restore_state(method: Any, state: Any) -> None:
    """Hand ``state`` back to ``load_state``; ValueError when the method does not take it."""
    try:
        call_optional(method, "load_state", state)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{type(method).__name__}.load_state: does not take what state() left "
            f"({type(error).__name__}: {error}); delete the run's directory to start it again"
        ) from error
