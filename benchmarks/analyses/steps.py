"""Figure 5: where the KL mass and the SFT loss of solved examples lie, at the warm-up checkpoint.

The rule, stated before any number was seen: problems are taken in the order of the RL split; 8
autonomous and 4 guided completions are sampled of each, as training does; a problem counts when
none of the 8 and at least one of the 4 is correct. Its reachable target (Eq. 4) is looked at. The
example shown is the first such problem of seed 0; the aggregate is over the first 200.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.analyses import AnalysisTask
from benchmarks.data.sources import training_problems
from sgpo.core.models import load_model, load_tokenizer
from sgpo.core.prompts import prompt_spec
from sgpo.core.rollout import Rollout
from sgpo.core.sampling import make_sampler
from sgpo.core.seeding import derive_seed
from sgpo.core.types import Problem, Trajectory
from sgpo.mini.probes import TokenProfile, derivation_steps, reachable, token_profiles
from sgpo.mini.writing import TOKEN_CLASSES

NUM_AUTONOMOUS, NUM_GUIDED = 8, 4  # the paper's groups
WANTED = 200
BATCH = 32  # problems sampled at a time
DELTA = 1.0  # nats; the paper's threshold of Eq. 5
DIGITS = 5


def analyse(
    task: AnalysisTask, directories: dict[str, Path], progress: Callable[[int, int], None]
) -> dict[str, Any]:
    """``example``: the first problem that meets the rule, token by token, None if none does;
    ``problems``: one record each of up to 200, see :func:`by_class`; ``looked_at``: how many
    problems of the split were sampled for that."""
    (cell,) = task.inputs
    model, tokenizer = load_model(directories["sft"]), load_tokenizer(directories["sft"])
    spec = prompt_spec(cell.config.prompt, tokenizer)
    stop_ids = spec.stop_ids(tokenizer)
    rollout = Rollout(
        model=model,
        sampler=make_sampler(cell.config.sampler, model, tokenizer, stop_ids=stop_ids),
        tokenizer=tokenizer,
        prompt_spec=spec,
        config=cell.config.rollout,
        seed=derive_seed(cell.config.seed, "analysis", "steps"),
    )
    example: dict[str, Any] | None = None
    records: list[dict[str, Any]] = []
    looked_at = 0
    pool = training_problems(replace(cell.config.data, split="rl"), cell.config.seed)
    for problem, alone, guided in _sampled(rollout, pool):
        progress(len(records), WANTED)
        looked_at += 1
        if meets_rule(alone, guided):
            right = [t.completion_ids for t in guided if t.reward]
            profile = reachable(token_profiles(model, tokenizer, problem, right))
            example = example or example_record(problem, profile, len(right))
            records.append(by_class(problem, profile))
        if len(records) == WANTED:
            break
    progress(WANTED, WANTED)
    return {
        "example": example,
        "problems": records,
        "looked_at": looked_at,
        "delta": DELTA,
        "num_autonomous": NUM_AUTONOMOUS,
        "num_guided": NUM_GUIDED,
    }


def _sampled(
    rollout: Rollout, pool: Sequence[Problem]
) -> Iterator[tuple[Problem, Sequence[Trajectory], Sequence[Trajectory]]]:
    """Each problem with its autonomous and its guided completions."""
    for step, start in enumerate(range(0, len(pool), BATCH)):
        batch = pool[start : start + BATCH]
        rollout.begin_step(step)
        alone = rollout.groups(batch, NUM_AUTONOMOUS)
        yield from zip(batch, alone, rollout.groups(batch, NUM_GUIDED, guided=True), strict=True)


def meets_rule(autonomous: Sequence[Trajectory], guided: Sequence[Trajectory]) -> bool:
    """None of the autonomous and at least one of the guided completions is correct."""
    return not any(t.reward for t in autonomous) and any(t.reward for t in guided)


def example_record(problem: Problem, profile: TokenProfile, num_right: int) -> dict[str, Any]:
    """The example with its steps, everything that a figure of it shows."""
    return {
        "problem_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "strategy": problem.strategy,
        "guided_right": num_right,
        "pieces": list(profile.pieces),
        "classes": list(profile.classes),
        "kl": [round(v, DIGITS) for v in profile.kl],
        "nll": [round(v, DIGITS) for v in profile.nll],
        "steps": [
            {"kind": s.kind, "start": s.start, "stop": s.stop}
            for s in derivation_steps(profile.pieces, profile.classes)
        ],
    }


def by_class(problem: Problem, profile: TokenProfile) -> dict[str, Any]:
    """Token count, KL, KL of tokens up to delta and SFT loss (nats, sums) of each token class, as
    lists in the order of ``TOKEN_CLASSES``."""
    columns = {name: [0.0] * len(TOKEN_CLASSES) for name in ("tokens", "kl", "kl_kept", "nll")}
    for name, kl, nll in zip(profile.classes, profile.kl, profile.nll, strict=True):
        index = TOKEN_CLASSES.index(name)
        kept = kl if kl <= DELTA else 0.0
        for column, value in zip(columns.values(), (1, kl, kept, nll), strict=True):
            column[index] += value
    rounded = {name: [round(v, DIGITS) for v in values] for name, values in columns.items()}
    return {"problem_id": problem.id, "kind": problem.kind, **rounded}
