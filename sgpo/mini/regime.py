"""Is the miniature informative? The six conditions, measured per base model before any RL run.

1 guessing pays at most 1%; 2 the base is in the window where exploration alone falls short and
guidance helps; 3 where the guided-to-unguided KL mass lies (reported); 4 a strategy works by its
content; 5 the default budget does not saturate; 6 the default expert gap leaves the SFT warm-up
near the base. Conditions 5 and 6 need trained runs: the study measures those and asks here.

Answers are compared as text with the gold answer, since the world writes pairs in one form only.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sgpo.core.prompts import PROMPT_SPECS
from sgpo.core.sampling import CompactSampler, SamplingParams
from sgpo.core.types import Completion, Problem
from sgpo.mini.probes import kl_profile
from sgpo.mini.problems import TYPES
from sgpo.mini.suites import training_problems
from sgpo.mini.text import is_right

MAX_TOKENS = 96  # the longest text of the world has 74
EXPERT_GAPS = (0.0, 0.05, 0.1, 0.2, 0.3)

Sample = Callable[[Sequence[Problem], bool, int], list[list[Completion]]]
"""(problems, guided, n) -> n completions a problem at temperature 1."""


@dataclass(frozen=True)
class Condition:
    """One requirement on the world: what was measured and whether it holds."""

    name: str
    value: float
    requirement: str
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "requirement": self.requirement,
            "passed": self.passed,
        }


def at_most(name: str, value: float, limit: float) -> Condition:
    return Condition(name, value, f"<= {limit:g}", value <= limit)


def at_least(name: str, value: float, limit: float) -> Condition:
    return Condition(name, value, f">= {limit:g}", value >= limit)


def within(name: str, value: float, low: float, high: float) -> Condition:
    return Condition(name, value, f"{low:g} to {high:g}", low <= value <= high)


def balanced_subset(problems: Sequence[Problem], per_type: int) -> list[Problem]:
    """The first ``per_type`` problems of each type, in the given order."""
    counts: dict[str, int] = defaultdict(int)
    out = []
    for problem in problems:
        counts[problem.kind] += 1
        if counts[problem.kind] <= per_type:
            out.append(problem)
    return out


def with_foreign_strategies(problems: Sequence[Problem], seed: int = 0) -> list[Problem]:
    """Each problem with the strategy of a problem of another type."""
    rng = random.Random(seed)
    donors = [p for p in problems if p.strategy]
    out = []
    for problem in problems:
        donor = rng.choice([d for d in donors if d.kind != problem.kind])
        out.append(replace(problem, strategy=donor.strategy))
    return out


def pass_rates(problems: Sequence[Problem], samples: Sequence[Sequence[Completion]]) -> list[float]:
    """Share of right completions of each problem, in [0, 1]."""
    return [
        mean(float(is_right(c.text, problem.answer)) for c in row)
        for problem, row in zip(problems, samples, strict=True)
    ]


def rates_by_type(problems: Sequence[Problem], rates: Sequence[float]) -> dict[str, float]:
    """Mean pass rate of each type that occurs."""
    return _group_means([p.kind for p in problems], rates)


def rates_by_level(problems: Sequence[Problem], rates: Sequence[float]) -> dict[str, float]:
    """Mean pass rate of each level that occurs; levels as text."""
    return _group_means([str(p.level) for p in problems], rates)


def _group_means(names: Sequence[str], rates: Sequence[float]) -> dict[str, float]:
    groups: dict[str, list[float]] = defaultdict(list)
    for name, rate in zip(names, rates, strict=True):
        groups[name].append(rate)
    return {name: mean(groups[name]) for name in sorted(groups)}


def guess_rates(
    problems: Sequence[Problem], samples: Sequence[Sequence[Completion]]
) -> tuple[float, float]:
    """(share of all completions that are right by a guess, share of guesses that are right)."""
    verdicts = [
        is_right(c.text, problem.answer)
        for problem, row in zip(problems, samples, strict=True)
        for c in row
        if "Guess" in c.text
    ]
    total = sum(len(row) for row in samples)
    hits = sum(verdicts)
    return hits / total, hits / len(verdicts) if verdicts else 0.0


def base_conditions(
    blind: float,
    unguided: Sequence[float],
    by_type: Mapping[str, float],
    guided: float,
    foreign: float,
) -> list[Condition]:
    """Conditions 1, 2 and 4 from measured rates; ``unguided`` has one pass rate a problem."""
    rare = mean(float(rate < 1 / 12) for rate in unguided)
    return [
        at_most("1 right by a blind guess", blind, 0.01),
        within("2 unguided pass rate", mean(unguided), 0.05, 0.30),
        at_most("2 hardest type, unguided", min(by_type.values()), 0.03),
        at_least("2 easiest type, unguided", max(by_type.values()), 0.40),
        at_least("2 guided pass rate", guided, 0.60),
        at_least("2 problems below 1/12, unguided", rare, 0.25),
        at_most("4 foreign strategy / own strategy", foreign / guided if guided else 1.0, 0.5),
    ]


def saturation_condition(final_training_reward: float) -> Condition:
    """Condition 5: the reward at which SFT+GRPO ends its default budget, in [0, 1]."""
    return within("5 final training reward of SFT+GRPO", final_training_reward, 0.4, 0.8)


def model_sampler(model: Any, tokenizer: Any, seed: int = 0) -> Sample:
    """A ``Sample`` on the compact CPU decoder; each call has its own draws."""
    spec = PROMPT_SPECS["mini"]
    sampler = CompactSampler(model, tokenizer, stop_ids=spec.stop_ids(tokenizer))
    calls = iter(range(seed * 1000, (seed + 1) * 1000))

    def sample(problems: Sequence[Problem], guided: bool, n: int) -> list[list[Completion]]:
        prompts = [spec.prompt_ids(tokenizer, p, guided=guided) for p in problems]
        return sampler.sample(prompts, n, SamplingParams(MAX_TOKENS, seed=next(calls)))

    return sample


def measure(
    model_dir: Path | str,
    *,
    per_type: int = 12,
    unguided_samples: int = 48,
    guided_samples: int = 12,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Conditions 1 to 4 of one base model at temperature 1, as plain JSON values.

    Measured on ``per_type`` RL training problems of each of the 16 types. "Below 1/12" is judged
    problem by problem from ``unguided_samples`` samples, so single problems near the limit may
    fall on either side. ``conditions`` has what must hold, ``reported`` what is only told:
    condition 3 (the KL profile), the rate of right guesses, pass rates by type and level.
    """
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    model = model.eval().to(device)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    sample = model_sampler(model, tokenizer, seed)
    problems = balanced_subset(training_problems("rl", expert_gap=0.0), per_type)
    assert len({p.kind for p in problems}) == len(TYPES)

    unguided = sample(problems, False, unguided_samples)
    guided = sample(problems, True, guided_samples)
    foreign_problems = with_foreign_strategies(problems, seed)
    foreign = sample(foreign_problems, True, guided_samples)

    rates = pass_rates(problems, unguided)
    by_type = rates_by_type(problems, rates)
    guided_rates = pass_rates(problems, guided)
    blind, right_guesses = guess_rates(problems, unguided)
    conditions = base_conditions(
        blind, rates, by_type, mean(guided_rates), mean(pass_rates(problems, foreign))
    )
    profile = kl_profile(model, tokenizer, problems, guided)
    return {
        "conditions": [condition.to_json() for condition in conditions],
        "reported": {
            "problems": len(problems),
            "unguided_samples": unguided_samples,
            "guided_samples": guided_samples,
            "right_guesses": right_guesses,
            "unguided_by_type": by_type,
            "guided_by_type": rates_by_type(problems, guided_rates),
            "unguided_by_level": rates_by_level(problems, rates),
            "kl": vars(profile) if profile else None,
        },
    }
